"""Short random statements that try to read our tables, in every way that comes to mind: sqlsmith's rarely return a
row of them."""

import re

RELATIONS = {"app.closed": ("id", "body"), "app.columns": ("id", "body", "hidden"),
             "app.rows": ("id", "carrier", "body"),
             "app.parts": ("id", "body"), "app.part_open": ("id", "body"), "app.part_closed": ("id", "body"),
             "app.barrier": ("id", "body"), "app.stored": ("id", "body"), "app.everyone": ("body",),
             "app.reads()": ("id", "body"), "immuta.user_account": ("userid",), "immuta.token": ("digest",)}

# No table here has masks.
MASKED = re.compile(rb"(?!)")

WAYS = (
    "{q}", "TABLE {r}", "COPY ({q}) TO STDOUT", "WITH x AS ({q}) SELECT * FROM x",
    "SELECT count(*), max(a::text) FROM ({q}) x (a)", "SELECT query_to_xml('{Q}', true, false, '')",
    "SELECT row_to_json(x) FROM {r} x", "SELECT x FROM {r} x", "SELECT x.* FROM {r} x FOR UPDATE",
    "DECLARE c CURSOR FOR {q}; FETCH ALL FROM c", "CREATE TEMP TABLE t AS {q}; TABLE t",
    "CREATE TEMP VIEW v AS {q}; TABLE v", "SELECT app.reads_plpgsql({n})", "SELECT app.reads()",
    "DO $$ DECLARE r record; BEGIN FOR r IN {q} LOOP RAISE NOTICE '%', r; END LOOP; END $$",
    "DO $$ DECLARE r record; BEGIN SELECT * INTO r FROM {r} LIMIT 1; RAISE EXCEPTION '%', r; END $$",
    "CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql AS 'SELECT ({Q})::text'; SELECT pg_temp.f()",
    "CREATE FUNCTION alice.f() RETURNS SETOF {r} LANGUAGE sql SECURITY DEFINER AS 'TABLE {r}'; SELECT alice.f()",
    "UPDATE {r} SET {c} = {c} RETURNING *", "DELETE FROM {r} RETURNING {c}",
    "INSERT INTO {r} DEFAULT VALUES RETURNING *", "INSERT INTO {r} SELECT * FROM {r} RETURNING *",
    "SELECT * FROM {r} a NATURAL JOIN {s} b", "{q} UNION ALL SELECT body FROM {s}",
    "SELECT (SELECT max(b::text) FROM {r} y (b)) FROM {s}",
    "SELECT * FROM app.rows r, LATERAL (SELECT * FROM {r} x WHERE x IS NOT NULL) y",
    "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF) {q}",
    "SELECT 1 / length(a::text) FROM ({q}) x (a) WHERE a::text::int > 0",
    "SELECT * FROM {r} TABLESAMPLE system (100)", "SELECT most_common_vals, histogram_bounds FROM pg_stats",
    "SELECT lo_get(oid) FROM pg_largeobject_metadata", "LOCK TABLE {r}; TABLE {r}",
    "SELECT * FROM ROWS FROM (app.reads(), generate_series(1, 3))",
)

BEFORE = (
    "", "", "", "", "SET row_security = off; ", "SET search_path = app; ", "SAVEPOINT s; ROLLBACK TO s; ",
    "RESET ALL; ",
    "SET debug_parallel_query = on; SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0; ",
    "DO $$ BEGIN BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END; END $$; ",
)
# From here on nobody impersonates.
ENDS = (
    "COMMIT; ", "ROLLBACK; ", "COMMIT AND CHAIN; ", "ROLLBACK; BEGIN; ", "COMMIT; DISCARD ALL; ",
)


def statement(random):
    """A message, and whether the user ends their transaction in it before they read."""
    relation = random.choice(list(RELATIONS))
    column = random.choice(RELATIONS[relation])
    query = f"SELECT {column} FROM {relation}"
    other = random.choice(["app.rows", "app.everyone", "app.barrier", "app.closed"])
    text = random.choice(WAYS)
    for mark, value in {"{q}": query, "{Q}": query.replace("'", "''"), "{r}": relation, "{s}": other, "{c}": column,
                        "{n}": str(random.randint(0, 20))}.items():
        text = text.replace(mark, value)
    ends = random.random() < 0.2
    return random.choice(ENDS if ends else BEFORE) + text, ends
