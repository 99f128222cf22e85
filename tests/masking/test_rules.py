"""What may be a mask: each rule closes a way on which a mask showed what it hides."""

import pytest
from conftest import run
from harness.fixtures import refuses

FUNCTIONS = """
CREATE FUNCTION data.loose(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT left($1, 1)';
CREATE FUNCTION data.loose_plpgsql(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.fixed(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.parsed(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN left($1, 1);
CREATE FUNCTION data.calls_loose(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN data.loose($1);
CREATE FUNCTION data.reads(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE BEGIN ATOMIC SELECT max(b) FROM data.u; END;
CREATE FUNCTION data.unsafe(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN left($1, 1);
CREATE FUNCTION data.volatile(text) RETURNS text LANGUAGE sql PARALLEL SAFE RETURN left($1, 1);
CREATE OPERATOR data.!! (RIGHTARG = text, FUNCTION = data.loose);
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA data TO PUBLIC;
"""

# column of data.types or data.t, mask, SQLSTATE
REFUSED = [
    ("b", "data.loose(b)", "42P17"), ("b", "data.loose_plpgsql(b)", "42P17"), ("b", "data.calls_loose(b)", "42P17"),
    ("b", "OPERATOR(data.!!) b", "42P17"), ("b", "(SELECT data.loose(b))", "42P17"), ("b", "CASE WHEN data.loose(b) = '' THEN b END", "42P17"),
    ("b", "data.reads(b)", "0A000"), ("b", "(SELECT note FROM data.u LIMIT 1)", "0A000"), ("b", "(SELECT b FROM data.v LIMIT 1)", "0A000"),
    ("b", "(WITH x AS (SELECT FROM data.u) SELECT 'x'::text FROM x LIMIT 1)", "0A000"),
    ("b", "data.unsafe(b)", "42P17"), ("b", "data.volatile(b)", "42P17"),
    ("b", "random()::text", "42P17"), ("b", "now()::text", "42P17"), ("b", "current_user", "42P17"), ("b", "current_setting('x')", "42P17"),
    ("at", "date_trunc('day', at)", "42P17"), ("b", "to_char(k, '9')", "42P17"),
    ("b", "'x' || k", "42P17"), ("b", "format('%s', b)", "42P17"), ("d", "at::date", "42P17"), ("b", "CURRENT_DATE::text", "42P17"),
    ("b", "t::text", "42703"), ("b", "masked::text", "42P17"), ("b", "ctid::text", "0A000"),
    ("b", "tableoid::int::text", "0A000"),
    ("b", "max(b)", "42803"), ("b", "lag(b) OVER ()", "42P20"), ("b", "unnest(ARRAY[b])", "0A000"),
    ("b", "nothing", "42703"), ("b", "b); SELECT (1", "42601"), ("b", "b, b", "22023"), ("b", "b AS x", "22023"), ("b", "b FROM data.u", "22023"),
    ("b", "", "22023"), ("b", "(masked)::text", "42P17"), ("b", "$1", "42P02"), ("k", "point(1, 2)", "22023"), ("k", "'x'", "22P02"), ("row", "42", "22023"),
    ("b", "immuta_internal.mask_ref(1)::text", "42501"), ("b", "immuta.mask_hash(b, coalesce(immuta_internal.mask_ref(1)))", "42501"),
    ("b", "immuta.mask_hash(b, immuta_internal.mask_ref(id))", "42501"), ("b", "immuta.mask_hash(b, '1')", "42501"),
]
ALLOWED = [
    ("b", "data.fixed(b)"), ("b", "data.parsed(b)"), ("b", "left(b, 1) || '*'"), ("b", "NULL"), ("b", "''"),
    ("b", "CASE WHEN n > 2 THEN b ELSE NULL END"), ("b", "regexp_replace(b, '[0-9]', '#', 'g')"), ("b", "(SELECT max(x) FROM unnest(ARRAY[b, c]) x)"),
    ("at", "date_trunc('day', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"), ("d", "date_trunc('year', d::timestamp)::date"),
    ("num", "round(num, -2)"), ("k", "k / 1000 * 1000"), ("v", "'much longer than its column'"), ("w", "NULL"),
    ("b", "immuta.mask_hash(b, immuta_internal.mask_ref(1))"), ("b", "k::text"), ("b", "(masked).c"),
]


@pytest.fixture(scope="module")
def functions(masked):
    masked.server.psql(input="SET ROLE data_owner;" + FUNCTIONS, dbname=masked.dbname)
    return masked


def check(world, column, mask):
    table = "data.t" if column in "bk" else "data.types"
    return world.sql("SELECT immuta_internal.check_mask(attrelid, attnum, %s) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s",
                     (mask, table, column))[0][0]


@pytest.mark.parametrize("column, mask, sqlstate", REFUSED, ids=[f"{c}: {m}" for c, m, _ in REFUSED])
def test_refused(functions, column, mask, sqlstate):
    with refuses(sqlstate) as seen:
        check(functions, column, mask)
    if seen.detail in ("MASK_NOT_ALLOWED", "MASKED_COLUMN"):
        assert seen.hint
    else:
        assert sqlstate.startswith("42") or sqlstate in ("22P02", "0A000")


@pytest.mark.parametrize("column, mask", ALLOWED, ids=[f"{c}: {m}" for c, m in ALLOWED])
def test_allowed(functions, column, mask):
    written = check(functions, column, mask)
    assert check(functions, column, written) == written


def test_where_there_is_no_column(masked):
    for table, column in ((0, 1), ("data.t", 0), ("data.t", -1), ("data.t", 2), ("data.t", 99), ("data.t_pkey", 1)):
        with refuses("22023", "MASK_NOT_ALLOWED"):
            masked.sql("SELECT immuta_internal.check_mask(coalesce(to_regclass(%s)::oid, 0), %s::smallint, 'NULL')", (str(table), column))


def test_a_text_means_the_same_whoever_reads_it(masked, sessions):
    """Literals, names and settings: the reader's count for nothing."""
    masked.sql("""CREATE TABLE data.texts (id int, b text, at timestamptz);
        INSERT INTO data.texts VALUES (1, 'CANARY', '2077-07-17'); GRANT SELECT (id) ON data.texts TO mallory;
        SET datestyle = 'german'; SET timezone = 'Asia/Tokyo'; SET search_path = data;
        INSERT INTO immuta.masks SELECT 'data.texts'::regclass, 3, immuta_internal.check_mask('data.texts'::regclass, 3::smallint, '''03.02.2001 00:00+00''');
        INSERT INTO immuta.masks SELECT 'data.texts'::regclass, 2, immuta_internal.check_mask('data.texts'::regclass, 2::smallint, 'left(b, 1)');
        RESET datestyle; RESET timezone; RESET search_path""")
    planted = """CREATE FUNCTION play.left(text, int) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN $1; END$$;;
        CREATE FUNCTION play.left(text, bigint) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN $1; END$$;;
        CREATE DOMAIN play.text AS pg_catalog.text;; CREATE TABLE pg_temp.text (x int);;
        SET LOCAL search_path = play, pg_temp, pg_catalog;; SET LOCAL datestyle = 'ISO, DMY';; SET LOCAL timezone = 'America/New_York';;
        SET LOCAL standard_conforming_strings = off;; SET LOCAL transform_null_equals = on;;"""
    # In a new session: nothing was read in before.
    connection = masked.connect("mallory", "mallory-password")
    seen = run(connection, planted + "SELECT b, at = '2001-02-03 00:00+00' FROM data.texts")
    connection.close()
    assert seen.rows == [("C", True)] and "CANARY" not in seen.text
    masked.sql("DROP TABLE data.texts")


def test_what_depends_on_settings_would_tell(masked, sessions):
    """Why a mask must be immutable: by the time zone one learns the time of day. What is allowed does not move with it."""
    masked.sql("""CREATE TABLE data.times (at timestamptz); INSERT INTO data.times VALUES ('2020-05-05 13:37:00+00'); GRANT SELECT ON data.times TO data_owner;
        CREATE TABLE data.times2 (id int, at timestamptz); INSERT INTO data.times2 VALUES (1, '2020-05-05 13:37:00+00'); GRANT SELECT (id) ON data.times2 TO mallory;
        INSERT INTO immuta.masks SELECT 'data.times2'::regclass, 2, immuta_internal.check_mask('data.times2'::regclass, 2::smallint,
            $$date_trunc('day', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'$$)""")
    for zone in ("UTC", "+10", "-10", "+13:37"):
        seen = run(sessions(), f"SET LOCAL timezone = '{zone}';; SELECT at = '2020-05-05 00:00+00' FROM data.times2")
        assert seen.rows == [(True,)], seen.text
    masked.sql("DROP TABLE data.times, data.times2")


def test_masks_are_no_place_for_users(masked, sessions):
    for statement in ("INSERT INTO immuta.masks VALUES (1, 1, 'b')", "UPDATE immuta.mask_parameters SET salt = ''", "DELETE FROM immuta.masks",
                      "SELECT immuta_internal.check_mask(1, 1::smallint, 'b')", "TRUNCATE immuta.masks"):
        assert run(sessions(), statement).sqlstate == "42501"
