"""What masks do not hide, or cost: docs/limitations.md, line by line.

Threats: 66 (docs/threats.md).
"""

import re

import pytest
from conftest import run
from harness.fixtures import VERSION, refuses
from harness.world import query


def test_by_the_owners_authority(sessions):
    """As with row policies: who owns a view or a definer function sees for all who use it."""
    for statement in ("SELECT b FROM data.owners", "SELECT * FROM data.definer()"):
        assert "CANARY" in run(sessions(), statement).text


def test_triggers(masked, sessions):
    """A trigger's function is handed whole rows, and runs as whoever changes them."""
    masked.sql("GRANT TRIGGER ON data.t TO mallory")
    made = ("CREATE FUNCTION play.sees() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE '%', old; RETURN new; END$$;; "
            "CREATE TRIGGER sees BEFORE UPDATE ON data.t FOR EACH ROW EXECUTE FUNCTION play.sees();; UPDATE data.t SET c = 'x' WHERE id = 1")
    assert "CANARY" in run(sessions(), made).text
    masked.sql("REVOKE TRIGGER ON data.t FROM mallory")
    seen = run(sessions(), made)
    assert seen.sqlstate == "42501" and "CANARY" not in seen.text


def test_a_grant_by_hand(masked, sessions):
    masked.sql("GRANT SELECT (b) ON data.t TO PUBLIC")
    assert "CANARY" in run(sessions(), "SELECT b FROM data.t").text
    masked.sql("REVOKE SELECT (b) ON data.t FROM PUBLIC")
    assert "CANARY" not in run(sessions(), "SELECT b FROM data.t").text


def test_the_order_of_rows(masked, sessions):
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.ordered (id int, b text);
        INSERT INTO data.ordered SELECT i, 'CANARY-' || (1000 - i) FROM generate_series(1, 50) i;
        CREATE INDEX ON data.ordered (b) INCLUDE (id); GRANT SELECT (id) ON data.ordered TO mallory; RESET ROLE;
        INSERT INTO immuta.masks VALUES ('data.ordered'::regclass, 2, '''mask-''::text'); VACUUM ANALYZE data.ordered""", dbname=masked.dbname)
    seen = run(sessions(), "SET LOCAL enable_seqscan = off;; SELECT id FROM data.ordered")
    assert [row[0] for row in seen.rows] == list(range(50, 0, -1))
    masked.sql("DROP TABLE data.ordered")


def test_a_partition_key(masked, sessions):
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.keyed (id int, b text) PARTITION BY LIST (b);
        CREATE TABLE data.keyed_x PARTITION OF data.keyed FOR VALUES IN ('CANARY-x');
        CREATE TABLE data.keyed_y PARTITION OF data.keyed FOR VALUES IN ('CANARY-y');
        INSERT INTO data.keyed VALUES (1, 'CANARY-x'), (2, 'CANARY-y'); GRANT SELECT (id) ON data.keyed TO mallory; RESET ROLE;
        INSERT INTO immuta.masks VALUES ('data.keyed'::regclass, 2, '''mask-''::text')""", dbname=masked.dbname)
    plan = run(sessions(), "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT b FROM data.keyed WHERE id = 2")
    of_y = next(line for (line,) in plan.rows if "keyed_y" in line)
    assert "rows=1" in of_y, plan.text
    assert "CANARY" not in run(sessions(), "SELECT b FROM data.keyed WHERE id = 2").text
    masked.sql("DROP TABLE data.keyed")


def test_estimates_tell_nothing(masked, sessions):
    """How many values there are is no more in the plan than which: also of children, and of several columns."""
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.counted (id int, c int, b int) PARTITION BY RANGE (id);
        CREATE TABLE data.counted_1 PARTITION OF data.counted FOR VALUES FROM (0) TO (1000);
        CREATE TABLE data.counted_2 (b int, id int, c int); ALTER TABLE data.counted ATTACH PARTITION data.counted_2 FOR VALUES FROM (1000) TO (10000);
        INSERT INTO data.counted SELECT i, i % 2, i % 7 FROM generate_series(1, 9999) i; CREATE STATISTICS data.both (ndistinct) ON c, b FROM data.counted;
        GRANT SELECT (id, c) ON data.counted TO mallory; GRANT SELECT (id, c, b) ON data.counted TO excepted; RESET ROLE;
        INSERT INTO immuta.masks VALUES ('data.counted'::regclass, 3, 'b - b % 1000000'); ANALYZE data.counted""", dbname=masked.dbname)
    for columns, count in [("b", 7), ("c, b", 14)]:
        for settings in ("", "SET LOCAL enable_partitionwise_aggregate = on;; "):
            explain = f"{settings}EXPLAIN SELECT {columns} FROM data.counted GROUP BY {columns}"
            assert f"rows={count} " in run(sessions("excepted"), explain).text
            seen = run(sessions(), explain)
            assert seen.sqlstate is None and f"rows={count} " not in seen.text and "rows=" in seen.text, seen.text
    masked.sql("DROP TABLE data.counted")


def test_widths_tell_nothing(masked, sessions):
    """How long values are: also in partitions, in what masks read, and in what that is computed from."""
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.wide (id int, b text, read text, made text GENERATED ALWAYS AS (read || read) STORED)
            PARTITION BY RANGE (id);
        CREATE TABLE data.wide_1 PARTITION OF data.wide FOR VALUES FROM (0) TO (100);
        CREATE TABLE data.wide_2 (made text GENERATED ALWAYS AS (read || read) STORED, read text, b text, id int);
        ALTER TABLE data.wide ATTACH PARTITION data.wide_2 FOR VALUES FROM (100) TO (1000);
        GRANT SELECT (id) ON data.wide TO mallory; GRANT SELECT ON data.wide TO excepted;
        INSERT INTO data.wide SELECT i, repeat('x', 100), repeat('y', 70) FROM generate_series(1, 999) i; RESET ROLE;
        INSERT INTO immuta.masks VALUES ('data.wide'::regclass, 2, 'left(b, 1)'); ANALYZE data.wide""", dbname=masked.dbname)

    def widths(user, table="data.wide"):
        plan = run(sessions(user), f"EXPLAIN SELECT wide.b FROM {table} wide JOIN data.u USING (id)").text
        return set(map(int, re.findall("Scan on wide.* width=([0-9]+)", plan)))

    for mask, width in (("left(b, 1)", 32), ("left(read, 1)", 32), ("left(made, 1)", 32), ("left(read || made, 1)", 64)):
        masked.sql("UPDATE immuta.masks SET mask = %s WHERE table_oid = 'data.wide'::regclass", (mask,))
        assert widths("mallory") == {4 + width}, mask
    assert widths("excepted") == {4 + 101}
    masked.sql("DROP TABLE data.wide")


def test_what_explain_measures(masked, sessions):
    """Values are carried as they are to where masks are computed: memory tells their lengths, not those of masks."""
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.carried (id int, b text); GRANT SELECT (id) ON data.carried TO mallory;
        INSERT INTO data.carried SELECT i, repeat('x', CASE WHEN i <= 50 THEN 10 ELSE 1000 END) FROM generate_series(1, 100) i; RESET ROLE;
        INSERT INTO immuta.masks VALUES ('data.carried'::regclass, 2, 'left(b, 1)'); ANALYZE data.carried""", dbname=masked.dbname)

    def memory(condition):
        plan = run(sessions(), "SET LOCAL enable_mergejoin = off;; SET LOCAL enable_nestloop = off;; EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) "
                               f"SELECT c.b FROM data.carried c JOIN generate_series(1, 100000) g ON g = c.id WHERE {condition}").text
        return int(re.search("Memory Usage: ([0-9]+)kB", plan)[1])

    assert memory("c.id > 50") > memory("c.id <= 50") + 40
    masked.sql("DROP TABLE data.carried")


def test_estimates_tell_nothing_of_what_masks_read(masked, sessions):
    """Nor of what generated columns that they read are made of; what is told of other columns stays."""
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.banded (id int, c int, d int, salary int, band text, made int GENERATED ALWAYS AS (salary * 2) STORED);
        INSERT INTO data.banded SELECT i, i % 10, i % 10, i % 77, 'x' FROM generate_series(1, 9999) i; CREATE STATISTICS data.of_both (ndistinct) ON c, d FROM data.banded;
        CREATE STATISTICS data.of_secret (ndistinct) ON c, salary FROM data.banded; GRANT SELECT (id, c, d) ON data.banded TO mallory; RESET ROLE;
        INSERT INTO immuta.masks VALUES ('data.banded'::regclass, 5, 'CASE WHEN salary > 30 THEN ''high''::text ELSE ''low''::text END');
        ANALYZE data.banded""", dbname=masked.dbname)
    explain = "EXPLAIN SELECT band, count(c), count(d) FROM data.banded GROUP BY band"
    for mask in ("salary", "made"):
        masked.sql("UPDATE immuta.masks SET mask = replace(mask, 'salary', %s) WHERE table_oid = 'data.banded'::regclass", (mask,))
        seen = run(sessions(), explain)
        assert seen.sqlstate is None and "rows=77 " not in seen.text and "rows=" in seen.text, seen.text
    both = run(sessions(), "EXPLAIN SELECT c, d, max(band) FROM data.banded GROUP BY c, d")
    assert "rows=10 " in both.text, both.text
    masked.sql("GRANT SELECT (salary, made) ON data.banded TO mallory")
    masked.sql("UPDATE immuta.masks SET mask = replace(mask, 'made', 'salary') WHERE table_oid = 'data.banded'::regclass")
    assert "rows=77 " in run(sessions(), explain).text
    masked.sql("DROP TABLE data.banded")


@pytest.mark.skipif(int(VERSION) < 15, reason="there is no MERGE before 15")
def test_estimates_of_who_sees_no_masks(masked):
    """MERGE writes columns, and those of partitions are no masked ones."""
    masked.server.psql(input="""CREATE TABLE data.merged (id int, c int) PARTITION BY RANGE (id);
        CREATE TABLE data.merged_1 PARTITION OF data.merged FOR VALUES FROM (0) TO (10000);
        INSERT INTO data.merged SELECT i, i % 7 FROM generate_series(1, 9999) i; ANALYZE data.merged""", dbname=masked.dbname)
    [*plan] = masked.sql("EXPLAIN MERGE INTO data.merged t USING (VALUES (1)) v (i) ON t.c = v.i "
                         "WHEN MATCHED THEN UPDATE SET c = 1 WHEN NOT MATCHED THEN INSERT (id, c) VALUES (1, 1)")
    [rows] = {int(rows) for line, in plan if "Seq Scan" in line for rows in re.findall("rows=([0-9]+)", line)}
    assert 1000 < rows < 2000, plan
    masked.sql("DROP TABLE data.merged")


def test_existence(masked, sessions):
    """Whoever may write a masked column learns by its unique key whether a value is there."""
    masked.sql("GRANT INSERT (k) ON data.t TO mallory")
    assert run(sessions(), "INSERT INTO data.t (id, k) VALUES (100, 770003)").sqlstate == "23505"
    assert run(sessions(), "INSERT INTO data.t (id, k) VALUES (100, 1)").sqlstate is None
    masked.sql("REVOKE INSERT (k) ON data.t FROM mallory")
    seen = run(sessions(), "INSERT INTO data.t (id, k) VALUES (100, 770003)")
    assert (seen.sqlstate, seen.code) == ("42501", "MASKED_COLUMN")


def test_equal_values_have_equal_masks(masked, sessions):
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.hashed (id int, b text);
        INSERT INTO data.hashed VALUES (1, 'CANARY'), (2, 'CANARY'), (3, 'other'), (4, NULL); GRANT SELECT (id) ON data.hashed TO mallory; RESET ROLE;
        INSERT INTO immuta.masks VALUES ('data.hashed'::regclass, 2, 'immuta.mask_hash(b, immuta_internal.mask_ref(1))')""", dbname=masked.dbname)
    one, two, three, four = (row[0] for row in run(sessions(), "SELECT b FROM data.hashed ORDER BY id").rows)
    assert one == two != three and len(one) == 64 and four is None
    masked.sql("DROP TABLE data.hashed")


def test_a_mask_that_raises(masked, sessions):
    """An expression of one's own can fail, and PostgreSQL's error names the value: no method of ours does."""
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.raises (id int, b text); INSERT INTO data.raises VALUES (1, 'CANARY');
        GRANT SELECT (id) ON data.raises TO mallory; RESET ROLE;
        INSERT INTO immuta.masks SELECT 'data.raises'::regclass, 2, immuta_internal.check_mask('data.raises'::regclass, 2::smallint, 'round(b::numeric)::text')""",
                        dbname=masked.dbname)
    seen = run(sessions(), "SELECT b FROM data.raises")
    assert seen.sqlstate == "22P02" and "CANARY" in seen.text
    masked.sql("DROP TABLE data.raises")


def test_a_function_that_runs_queries(masked, sessions):
    """PostgreSQL plans the query of a function with the values that it is given, and shows plans to whoever asks for them."""
    masked.server.psql(input="""SET ROLE data_owner; CREATE TABLE data.planned (id int, b text); INSERT INTO data.planned VALUES (1, 'CANARY');
        CREATE FUNCTION data.runs_queries(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
            AS 'BEGIN RETURN (SELECT left(max(x), 1) FROM unnest(ARRAY[$1]) x); END';
        GRANT SELECT (id) ON data.planned TO mallory; RESET ROLE;
        INSERT INTO immuta.masks SELECT 'data.planned'::regclass, 2,
            immuta_internal.check_mask('data.planned'::regclass, 2::smallint, 'data.runs_queries(b)')""", dbname=masked.dbname)
    seen = run(sessions(), "SET LOCAL client_min_messages = log;; SET LOCAL debug_print_plan = on;; SELECT b FROM data.planned")
    assert seen.rows == [("C",)]
    assert str(list(b"CANARY"))[1:-1].replace(",", "") in seen.text
    masked.sql("DROP TABLE data.planned; DROP FUNCTION data.runs_queries(text)")


def test_a_schema_on_the_path_that_is_opened_to_one(masked, sessions):
    """What subscribers may create as such is looked at, what is granted to one of them is not."""
    masked.sql("""CREATE SCHEMA data_one; GRANT USAGE ON SCHEMA data_one TO PUBLIC; CREATE TABLE data.opened (id int, b text);
        INSERT INTO data.opened VALUES (1, 'CANARY'); GRANT SELECT (id) ON data.opened TO mallory;
        CREATE FUNCTION data_one.short(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = data_one, pg_temp
            AS 'BEGIN RETURN left($1, 1::smallint); END';
        INSERT INTO immuta.masks SELECT 'data.opened'::regclass, 2, immuta_internal.check_mask('data.opened'::regclass, 2::smallint, 'data_one.short(b)')""")
    planted = """CREATE FUNCTION data_one.left(text, smallint) RETURNS text LANGUAGE plpgsql AS
        $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN 'z'; END$$;; SELECT b FROM data.opened"""
    seen = run(sessions(), planted)
    assert seen.sqlstate == "42501" and "CANARY" not in seen.text
    masked.sql("GRANT CREATE ON SCHEMA data_one TO mallory")
    assert "leaked CANARY" in run(sessions(), planted).text
    masked.sql("GRANT CREATE ON SCHEMA data_one TO PUBLIC")
    seen = run(sessions(), planted)
    assert (seen.sqlstate, seen.code) == ("42501", "MASKED_COLUMN") and "CANARY" not in seen.text
    masked.sql("DROP TABLE data.opened; DROP SCHEMA data_one CASCADE")


def test_columns_that_are_not_listed(sessions):
    """information_schema shows columns on which there is some privilege; the catalogs, and drivers, show all."""
    names = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'data' AND table_name = 't'"
    assert {name for (name,) in run(sessions(), names).rows} == {"id", "n", "c"}
    names = "SELECT attname FROM pg_attribute WHERE attrelid = 'data.t'::regclass AND attnum > 0 AND NOT attisdropped"
    assert {name for (name,) in run(sessions(), names).rows} == {"id", "n", "c", "b", "k"}


def test_sets_of_sql_are_not_inlined(masked, sessions):
    masked.sql("CREATE FUNCTION data.inlined() RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT id FROM data.t'; GRANT EXECUTE ON FUNCTION data.inlined() TO PUBLIC")
    explain = "EXPLAIN (COSTS off) SELECT * FROM data.inlined()"
    assert "Function Scan" in run(sessions(), explain).text
    assert "Function Scan" not in run(sessions("data_owner"), explain).text
    masked.sql("DROP FUNCTION data.inlined()")


def test_what_needs_the_whole_table(masked, sessions):
    """As with all columns that are excluded: partitions by name, COPY of views and partitioned tables, pg_dump."""
    partitioned = ("COPY data.p TO STDOUT",) if int(VERSION) < 19 else ()
    for statement in ("SELECT b FROM data.p1", *partitioned, "COPY data.v TO STDOUT", "SELECT ctid FROM data.t"):
        assert run(sessions(), statement).sqlstate == "42501"
    done = masked.server.run_client("pg_dump", "-t", "data.r", masked.dbname, check=False, user="mallory", password="mallory-password")
    assert done.returncode != 0 and "CANARY" not in done.stdout + done.stderr


def test_where_rows_are_changed(masked, as_alice):
    with refuses("42501", "MASKED_COLUMN") as seen:
        query(as_alice, "UPDATE data.t SET c = 'x' WHERE b = 'y'")
    assert "column \"b\" of table \"t\" is masked" in seen.message
