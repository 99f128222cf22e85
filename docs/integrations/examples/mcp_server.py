"""An MCP server that lets an agent query the database, as the user for whom it works and never as more than that."""

import os

import psycopg
from mcp.server.mcpserver import MCPServer
from psycopg_pool import ConnectionPool

server = MCPServer("flights")
pool = ConnectionPool(min_size=1, max_size=4, open=True)  # PGHOST, PGUSER, PGPASSWORD ... name the service login
ROWS = 200


def token():
    """Of the user: given to this process when it is started for them. A server for many takes it from each request."""
    return os.environ["IMPERSONATION_TOKEN"]


@server.tool()
def query(sql: str) -> str:
    """Runs one SQL query on the flights database and returns its rows. It can only read what the user may read."""
    try:
        with pool.connection() as connection, connection.transaction(force_rollback=True):
            connection.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (token(),))
            connection.execute("SET LOCAL transaction_read_only = on")
            connection.execute("SET LOCAL statement_timeout = '10s'")
            # Sent by the extended protocol, which takes one statement: no COMMIT can come along.
            cursor = connection.cursor(binary=True).execute(sql)
            if cursor.description is None:
                return "no rows"
            names = [column.name for column in cursor.description]
            return "\n".join("\t".join(map(str, row)) for row in (names, *cursor.fetchmany(ROWS)))
    except psycopg.Error as error:
        # The agent reads what is wrong, and the hint, and tries again.
        return f"{error.sqlstate}: {error}"


if __name__ == "__main__":
    server.run()
