# A whole Rails application, its ApplicationRecord that of docs/integrations/examples/rails_app.rb.
require "action_controller/railtie"
require "active_record/railtie"

class Application < Rails::Application
  config.root = ENV["HOME"]
  config.eager_load = true
  config.cache_classes = true
  config.hosts.clear
  config.secret_key_base = "x" * 64
  config.logger = Logger.new($stderr)
  config.log_level = :warn # at debug it would show the tokens
  config.consider_all_requests_local = false
end

# Of the guide's program, to the letter.
eval(File.read(ENV["GUIDE"])[/^class ApplicationRecord.*?^end$/m])

class Flight < ApplicationRecord
  self.table_name = "app.flights"
end

class Order < ApplicationRecord
  self.table_name = "app.orders"
end

class ApplicationController < ActionController::API
  around_action { |_, action| ApplicationRecord.as_user(request.authorization.to_s.delete_prefix("Bearer "), &action) }

  rescue_from ActiveRecord::StatementInvalid do |error|
    state = error.cause.result&.error_field(PG::Result::PG_DIAG_SQLSTATE)
    render json: { error: state }, status: state == "28000" ? 401 : 500
  end
end

class FlightsController < ApplicationController
  def index
    render json: Flight.group(:carrier).count
  end

  # Creates, changes, fails in a nested transaction, leaves things behind.
  def work
    before = Order.where("id > ?", 0).pluck(:carrier)
    order = Order.create!(carrier: before.first, note: "mine")
    order.update!(note: "changed")
    begin
      Order.transaction(requires_new: true) do
        Order.delete_all
        Order.connection.execute("SELECT 1 / (count(*) - count(*)) FROM app.orders")
      end
    rescue ActiveRecord::StatementInvalid
      raise unless Order.find(order.id).note == "changed"
    end
    order.destroy!
    left = Order.connection.select_value("SELECT current_setting('work_mem')")
    Order.connection.execute("SELECT set_config('work_mem', '5MB', false)")
    Order.connection.execute("CREATE TEMP TABLE left_behind (a int)")
    render json: { user: Order.connection.select_value("SELECT current_user"), orders: before.tally, left: left }
  end

  def fail
    Order.connection.execute("SELECT 1 / (count(*) - count(*)) FROM app.orders")
  end

  def slow
    Order.connection.execute("SET LOCAL statement_timeout = '50ms'")
    Order.connection.execute("SELECT pg_sleep(20)")
  end
end

ENV["DATABASE_URL"] = "postgresql://#{ENV["PGUSER"]}:#{ENV["PGPASSWORD"]}@#{ENV["PGHOST"]}:#{ENV["PGPORT"]}/#{ENV["PGDATABASE"]}?pool=2"
Application.initialize!
Application.routes.draw do
  get "flights" => "flights#index"
  %w[work fail slow].each { |name| get name => "flights##{name}" }
end

require "rack/handler/webrick"
Rack::Handler::WEBrick.run(Application, Host: "127.0.0.1", Port: ENV["PORT"].to_i, AccessLog: [], Logger: WEBrick::Log.new(nil, 0)) do |server|
  trap("TERM") { server.shutdown }
end
