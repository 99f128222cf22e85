# ActiveRecord with its pool: see scenario.py.
require "json"
require "active_record"

GIVEN = JSON.parse($stdin.read)
WHERE, TOKENS = GIVEN.values_at("where", "tokens")
CARRIER = { "alice" => "UA", "bob" => "AA", "carol" => "DL" }
TRANSACTIONS = 200

ActiveRecord::Base.establish_connection(adapter: "postgresql", host: WHERE["host"], port: WHERE["port"], pool: 2,
                                        username: WHERE["user"], password: WHERE["password"], database: WHERE["dbname"])

class Order < ActiveRecord::Base
  self.table_name = "app.orders"
end

def sqlstate(error) = error.cause&.result&.error_field(PG::Result::PG_DIAG_SQLSTATE)

def present(user)
  connection = ActiveRecord::Base.connection
  connection.exec_query("SELECT set_config('bodata.impersonation_token', $1, true)", "token",
                        [ActiveRecord::Relation::QueryAttribute.new("token", TOKENS[user], ActiveRecord::Type::String.new)])
end

def fails(state)
  yield
  raise "no error, expected #{state}"
rescue ActiveRecord::ActiveRecordError => error
  raise error unless sqlstate(error) == state
end

def seen(user)
  orders = Order.where("id > ?", 0).to_a
  raise "#{user} sees #{orders.map(&:carrier).uniq} #{orders.size}" unless orders.map(&:carrier) == [CARRIER[user]] * 10
  raise "not found" unless Order.find(orders[0].id) == orders[0]
end

def work(number)
  user = CARRIER.keys[number % 3]
  transaction = lambda do
    Order.transaction do
      present(user)
      seen(user)
      state = ActiveRecord::Base.connection.select_one("SELECT current_user AS who, current_setting('work_mem') AS memory,
        nullif(current_setting('app.left', true), '') AS left, to_regclass('pg_temp.left_behind') AS made")
      raise state.to_s unless state == { "who" => user, "memory" => "4MB", "left" => nil, "made" => nil }
      case number % 10
      when 1
        fails("22012") do
          Order.transaction(requires_new: true) do
            Order.create!(carrier: CARRIER[user])
            Order.connection.execute("SELECT 1 / (count(*) - count(*)) FROM app.orders")
          end
        end
      when 3 then Order.connection.execute("SELECT 1 / (count(*) - count(*)) FROM app.orders")
      when 5
        Order.connection.execute("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)")
        Order.connection.execute("CREATE TEMP TABLE left_behind (a int)")
      when 7
        order = Order.create!(carrier: CARRIER[user], note: "mine")
        order.update!(note: "changed")
        order.destroy!
      when 9
        if number % 50 == 49
          Order.connection.execute("SET LOCAL statement_timeout = '50ms'")
          Order.connection.execute("SELECT pg_sleep(20)")
        end
      end
      seen(user)
    end
  end
  if number % 10 == 3 then fails("22012", &transaction)
  elsif number % 50 == 49 then fails("57014", &transaction)
  else transaction.call
  end
  fails("42501") { Order.count } if number % 20 == 0
end

[0, TRANSACTIONS / 2].each do |from|
  2.times.map do |first|
    Thread.new do
      (from + first...from + TRANSACTIONS / 2).step(2) { |number| work(number) }
      ActiveRecord::Base.clear_active_connections!
    end
  end.each(&:join)
  ActiveRecord::Base.connection_pool.disconnect!
end
puts "done #{TRANSACTIONS}"
