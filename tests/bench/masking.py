"""What masks cost a subscriber: instructions per query, without masks in the database, and with one."""

TABLE = "SELECT abalance FROM app.accounts WHERE aid = 4711"
OTHER_COLUMN = "SELECT plain FROM app.masked WHERE aid = 4711"
MASKED_COLUMN = "SELECT abalance FROM app.masked WHERE aid = 4711"

SETUP = """
CREATE ROLE reader LOGIN PASSWORD 'reader' IN ROLE immuta_subscriber;
CREATE ROLE immuta_system CREATEROLE;
CREATE TABLE app.masked AS SELECT aid, abalance, 0 AS plain FROM app.accounts;
ALTER TABLE app.masked ADD PRIMARY KEY (aid);
GRANT USAGE ON SCHEMA app TO reader, immuta_system WITH GRANT OPTION;
GRANT SELECT ON app.masked TO immuta_system WITH GRANT OPTION;
GRANT SELECT ON app.accounts TO reader;
GRANT SELECT (aid, abalance, plain) ON app.masked TO reader;
VACUUM ANALYZE app.masked;
SELECT immuta.set_system_account('immuta_system'), immuta.register_data_source('app.masked');
"""
MASK = """
REVOKE SELECT (abalance) ON app.masked FROM reader;
SELECT immuta.create_masking_policy('balance', 'null', columns => '{app.masked.abalance}');
"""

GOALS = (
    ("a table without masks", TABLE, 1.02),
    ("other columns of a masked table", OTHER_COLUMN, 1.03),
    ("a null mask, prepared", MASKED_COLUMN, 1.40),
)


def prepared(query):
    """As one named statement of the protocol."""
    def run(pgconn, i):
        if i == 0:
            pgconn.prepare(b"q", query.encode())
        result = pgconn.exec_prepared(b"q", [])
        assert result.ntuples == 1, result.error_message

    return run


def simple(query):
    def run(pgconn, _):
        result = pgconn.exec_(query.encode())
        assert result.ntuples == 1, result.error_message

    return run


def cost(server):
    return [server.cost("reader", (prepared if query == MASKED_COLUMN else simple)(query)) for _, query, _ in GOALS]


def measure(server):
    """Whether the goals are reached; on a server of run.py."""
    server.psql(input=SETUP)
    without = cost(server)
    server.psql(input=MASK)
    reached = True
    print("\nMasks: server instructions of one query\n")
    for (what, _, goal), a, b in zip(GOALS, cost(server), without, strict=True):
        reached &= a / b <= goal
        print(f"  {what:<34}{a:>10,.0f}  {a / b:.3f} x without masks in the database  goal {goal:.2f}  {'ok' if a / b <= goal else 'MISSED'}")
    return reached
