"""What may be a mask: each rule closes a way on which a mask showed what it hides.

Threats: 65 (docs/threats.md).
"""

import pytest
from conftest import run
from harness.fixtures import VERSION, refuses

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
CREATE FUNCTION data.no_temp(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.no_path(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = ''
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.temp_twice(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_temp, pg_catalog, pg_temp
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.users_path(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = "$user", pg_temp
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.subscribers_path(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, play, pg_temp
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.open_path(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = data_open, pg_temp
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.missing_path(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = nowhere, pg_temp
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.quoted_path(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = 'pg_catalog, pg_temp'
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.closed_path(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = data, PG_CATALOG, "pg_temp"
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.definer(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'BEGIN RETURN left($1, 1); END';
CREATE FUNCTION data.queries(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC SELECT max(x) FROM unnest(ARRAY[$1]) x; END;
CREATE FUNCTION data.subquery(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (SELECT left($1, 1));
CREATE FUNCTION data.statements(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE BEGIN ATOMIC SELECT $1; SELECT left($1, 1); END;
CREATE FUNCTION data.atomic(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE BEGIN ATOMIC SELECT left($1, 1); END;
CREATE FUNCTION data.looks(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN length(helper($1)) > 0; END';
CREATE DOMAIN data.looked_at AS text CHECK (data.looks(VALUE)); CREATE DOMAIN data.not_looked_at AS text;
CREATE FUNCTION data.returns_domain(text) RETURNS data.looked_at LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN left($1, 1);
CREATE FUNCTION data.transition(text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN helper($2); END';
CREATE AGGREGATE data.aggregate(text) (SFUNC = data.transition, STYPE = text, PARALLEL = SAFE);
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
    ("b", "data.no_temp(b)", "42P17"), ("b", "data.no_path(b)", "42P17"), ("b", "data.temp_twice(b)", "42P17"), ("b", "data.users_path(b)", "42P17"),
    ("b", "data.subscribers_path(b)", "42P17"), ("b", "data.open_path(b)", "42P17"), ("b", "data.missing_path(b)", "42P17"),
    ("b", "data.quoted_path(b)", "42P17"), ("b", "data.definer(b)", "42P17"),
    ("b", "data.queries(b)", "0A000"), ("b", "data.subquery(b)", "0A000"), ("b", "data.statements(b)", "0A000"), ("b", "data.returns_domain(b)::text", "0A000"),
    ("b", "(SELECT left(data.aggregate(x), 1) FROM (VALUES (b)) v (x))", "0A000"),
    ("b", "(SELECT data.aggregate(x) OVER () FROM (VALUES (b)) v (x))", "0A000"),
    ("b", "b::data.looked_at::text", "0A000"), ("b", "(ARRAY[b]::data.looked_at[])[1]::text", "0A000"), ("w", "left(b, 1)", "42703"), ("w", "v", "0A000"),
    ("at", "date_trunc('day', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'", "42P17"), ("at", "at AT TIME ZONE v AT TIME ZONE INTERVAL '0'", "42P17"),
    ("at", "timezone('EST', d::timestamp)", "42P17"), ("at", "date_trunc('day', at, 'CST')", "42P17"),
    ("v", "v::bytea::text", "42P17"), ("v", "left(num::float8::text, 2)", "42P17"), ("v", "num::float4::varchar", "42P17"), ("v", "point(num::float8, 1)::text", "42P17"),
    ("v", "xmlserialize(content xmlelement(name a, v) AS text)", "42P17"),
    ("v", "(SELECT x FROM XMLTABLE('/a' PASSING ('<a>1</a>'::xml) COLUMNS x text PATH '.'))", "42P17"),
    ("v", "textin(float8out(num::float8))", "42P17"), ("v", "byteaout(v::bytea)::text", "42P17"),
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
if int(VERSION) >= 16:
    REFUSED += [("at", "(SELECT min(x) FROM generate_series(at, at, '1 day', 'EST') x)", "42P17"), ("at", "date_add(at, '1 day', 'EST')", "42P17"),
                ("v", "json_object('a': num::float8)::text", "42P17")]
if int(VERSION) >= 17:
    REFUSED += [("v", "json_value(j, '$.x' RETURNING data.looked_at)::text", "42P17"),
                ("v", "(SELECT x FROM json_table(j, '$' COLUMNS (x data.looked_at PATH '$.x')))::text", "42P17")]
ALLOWED = [
    ("b", "data.fixed(b)"), ("b", "data.parsed(b)"), ("b", "left(b, 1) || '*'"), ("b", "NULL"), ("b", "''"),
    ("b", "CASE WHEN n > 2 THEN b ELSE NULL END"), ("b", "regexp_replace(b, '[0-9]', '#', 'g')"), ("b", "(SELECT max(x) FROM unnest(ARRAY[b, c]) x)"),
    ("b", "data.closed_path(b)"), ("b", "data.atomic(b)"), ("b", "b::data.not_looked_at::text"), ("w", "'CANARY-constant'"), ("b", "'x'::data.looked_at::text"),
    ("v", "encode(v::bytea, 'hex')"), ("v", "num::text"),
    ("at", "date_trunc('day', at AT TIME ZONE INTERVAL '0') AT TIME ZONE INTERVAL '0'"), ("d", "date_trunc('year', d::timestamp)::date"),
    ("num", "round(num, -2)"), ("k", "k / 1000 * 1000"), ("v", "'much longer than its column'"), ("w", "NULL"),
    ("b", "immuta.mask_hash(b, immuta_internal.mask_ref(1))"), ("b", "k::text"), ("b", "(masked).c"),
]


@pytest.fixture(scope="module")
def functions(masked):
    masked.server.psql(input="CREATE SCHEMA data_open AUTHORIZATION data_owner; GRANT CREATE ON SCHEMA data_open TO PUBLIC; SET ROLE data_owner;" + FUNCTIONS, dbname=masked.dbname)
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
        SET LOCAL transform_null_equals = on;;"""
    if int(VERSION) < 19:
        planted += "SET LOCAL standard_conforming_strings = off;;"
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
            $$date_trunc('day', at AT TIME ZONE INTERVAL '0') AT TIME ZONE INTERVAL '0'$$)""")
    for zone in ("UTC", "+10", "-10", "+13:37", "UTC+13:37", "UTC-10", "<Etc/UTC>-10"):
        seen = run(sessions(), f"SET LOCAL timezone = '{zone}';; SELECT at = '2020-05-05 00:00+00' FROM data.times2")
        assert seen.rows == [(True,)], seen.text
    masked.sql("DROP TABLE data.times, data.times2")


LOOSE = "CREATE OR REPLACE FUNCTION data.changing(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS 'BEGIN RETURN left($1, 1); END'"
FIXED = LOOSE.replace(" AS '", " SET search_path = pg_catalog, pg_temp AS '")
CHANGES = {
    "by name": ("data.changing(b)", LOOSE, FIXED), "inside another": ("data.calls_changing(b)", LOOSE, FIXED),
    "SET": ("data.changing(b)", "ALTER FUNCTION data.changing(text) SET search_path = pg_catalog", FIXED),
    "RESET": ("data.changing(b)", "ALTER FUNCTION data.changing(text) RESET ALL", FIXED),
    "SECURITY DEFINER": ("data.changing(b)", "ALTER FUNCTION data.changing(text) SECURITY DEFINER", FIXED),
    "VOLATILE": ("data.changing(b)", "ALTER FUNCTION data.changing(text) VOLATILE", FIXED),
    "a constraint": ("left(b::data.changing_domain::text, 1)", "ALTER DOMAIN data.changing_domain ADD CONSTRAINT looks CHECK (data.looks(VALUE))",
                     "ALTER DOMAIN data.changing_domain DROP CONSTRAINT looks"),
    "a schema": ("data.by_schema(b)", "GRANT CREATE ON SCHEMA data_closed TO PUBLIC", "REVOKE CREATE ON SCHEMA data_closed FROM PUBLIC"),
}


@pytest.fixture(scope="module")
def changing(functions):
    functions.sql(FIXED + """;
        CREATE FUNCTION data.calls_changing(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN data.changing($1);
        CREATE DOMAIN data.changing_domain AS text; CREATE SCHEMA data_closed; GRANT USAGE ON SCHEMA data_closed TO PUBLIC;
        CREATE FUNCTION data.by_schema(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = data_closed, pg_temp
            AS 'BEGIN RETURN left($1, 1); END';
        CREATE TABLE data.changed (id int, b text); INSERT INTO data.changed VALUES (1, 'CANARY'); GRANT SELECT (id) ON data.changed TO mallory""")
    yield functions
    functions.sql("DROP TABLE data.changed")


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_allowed_is_looked_at_again(changing, sessions, name):
    """A mask whose function or domain was changed since is used no more, in sessions that read it in before, too."""
    mask, change, back = CHANGES[name]
    changing.sql("""DELETE FROM immuta.masks WHERE table_oid = 'data.changed'::regclass;
        INSERT INTO immuta.masks SELECT 'data.changed'::regclass, 2, immuta_internal.check_mask('data.changed'::regclass, 2::smallint, %s)""", (mask,))
    planted = """CREATE FUNCTION play.left(text, int) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN 'z'; END$$;;
        CREATE FUNCTION play.helper(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN 'z'; END$$;;
        SET LOCAL search_path = play, pg_catalog;; """
    assert run(sessions(), planted + "SELECT b FROM data.changed").rows == [("C",)]
    changing.sql(change)
    try:
        seen = run(sessions(), planted + "SELECT b FROM data.changed")
        assert (seen.sqlstate, seen.code) == ("42501", "MASKED_COLUMN") and seen.hint and "CANARY" not in seen.text
        assert run(sessions(), "SELECT id FROM data.changed").rows == [(1,)]
    finally:
        changing.sql(back)
    assert run(sessions(), planted + "SELECT b FROM data.changed").rows == [("C",)]


def test_nothing_temporary_comes_first(changing, sessions):
    """Why a path must end with pg_temp: else types that a function names are looked for there before."""
    changing.sql("""DELETE FROM immuta.masks WHERE table_oid = 'data.changed'::regclass;
        CREATE FUNCTION data.casts(text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
            AS 'BEGIN RETURN left($1::text, 1); END';
        INSERT INTO immuta.masks SELECT 'data.changed'::regclass, 2, immuta_internal.check_mask('data.changed'::regclass, 2::smallint, 'data.casts(b)')""")
    planted = "CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (play.leak(VALUE));; "
    seen = run(sessions(), planted + "SELECT b FROM data.changed")
    assert seen.rows == [("C",)] and "CANARY" not in seen.text
    changing.sql("ALTER FUNCTION data.casts(text) SET search_path = pg_catalog")
    seen = run(sessions(), planted + "SELECT b FROM data.changed")
    assert seen.sqlstate == "42501" and "CANARY" not in seen.text


def test_masks_are_no_place_for_users(masked, sessions):
    for statement in ("INSERT INTO immuta.masks VALUES (1, 1, 'b')", "UPDATE immuta.mask_parameters SET salt = ''", "DELETE FROM immuta.masks",
                      "SELECT immuta_internal.check_mask(1, 1::smallint, 'b')", "TRUNCATE immuta.masks"):
        assert run(sessions(), statement).sqlstate == "42501"
