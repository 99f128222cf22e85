# Rails' ActiveRecord: what an around_action of the ApplicationController would do, on a small server.
require "json"
require "webrick"
require "active_record"

ActiveRecord::Base.establish_connection(adapter: "postgresql", host: ENV["PGHOST"], port: ENV["PGPORT"], pool: 5,
                                        database: ENV["PGDATABASE"], username: ENV["PGUSER"], password: ENV["PGPASSWORD"])

class ApplicationRecord < ActiveRecord::Base
  self.abstract_class = true

  # around_action { |_, action| ApplicationRecord.as_user(token, &action) }
  def self.as_user(token)
    connection_pool.with_connection do
      transaction do
        connection.execute("SET LOCAL bodata.impersonation_token = #{connection.quote(token)}")
        yield
      end
    end
  end
end

class Flight < ApplicationRecord
  self.table_name = "app.flights"
end

server = WEBrick::HTTPServer.new(Port: ENV["PORT"], BindAddress: "127.0.0.1", AccessLog: [], Logger: WEBrick::Log.new(nil, 0))
server.mount_proc "/flights" do |request, response|
  scheme, token = request["Authorization"].to_s.split
  response.status, response.content_type = 401, "application/json"
  response.body = { error: "sign in again" }.to_json
  next unless scheme == "Bearer"

  begin
    response.body = ApplicationRecord.as_user(token) { Flight.group(:carrier).count }.to_json
    response.status = 200
  rescue ActiveRecord::StatementInvalid => error
    raise unless error.cause.result.error_field(PG::Result::PG_DIAG_SQLSTATE) == "28000"
  end
end
trap("TERM") { server.shutdown }
server.start
