"""Nobody makes a value of type immuta.mask_ref: with one they could hash what they like, and compare.

Threats: 65 (docs/threats.md).
"""

import psycopg
import pytest
from conftest import run
from harness.fixtures import VERSION
from harness.world import impersonate

WAYS = {
    "literal": "SELECT immuta.mask_hash('x', '1')",
    "cast": "SELECT '1'::immuta.mask_ref",
    "cast of text": "SELECT (1::text)::immuta.mask_ref",
    "integer": "SELECT 1::immuta.mask_ref",
    "function of the extension": "SELECT immuta_internal.mask_ref(1)",
    "input function": "SELECT immuta_internal.mask_ref_in('1')",
    "array": "SELECT (ARRAY['1']::immuta.mask_ref[])[1]",
    "array literal": "SELECT ('{1}'::immuta.mask_ref[])[1]",
    "array_fill": "SELECT array_fill('1'::immuta.mask_ref, ARRAY[2])",
    "row": "CREATE TYPE play.pair2 AS (x immuta.mask_ref);; SELECT '(1)'::play.pair2",
    "row constructor": "CREATE TYPE play.pair2 AS (x immuta.mask_ref);; SELECT ROW(1)::play.pair2",
    "domain": "CREATE DOMAIN play.ref AS immuta.mask_ref;; SELECT '1'::play.ref",
    "column": "CREATE TABLE play.refs (x immuta.mask_ref);; INSERT INTO play.refs VALUES ('1')",
    "default": "CREATE TABLE play.refs (x immuta.mask_ref DEFAULT '1')",
    "alter type": "CREATE TABLE play.refs (x int);; INSERT INTO play.refs VALUES (1);; ALTER TABLE play.refs ALTER x TYPE immuta.mask_ref USING x::text::immuta.mask_ref",
    "alter type without USING": "CREATE TABLE play.refs (x int);; ALTER TABLE play.refs ALTER x TYPE immuta.mask_ref",
    "json": "SELECT x FROM json_to_record('{\"x\": 1}') AS r (x immuta.mask_ref)",
    "jsonb": "SELECT x FROM jsonb_to_record('{\"x\": \"1\"}') AS r (x immuta.mask_ref)",
    "json populate": "CREATE TYPE play.pair2 AS (x immuta.mask_ref);; SELECT json_populate_record(NULL::play.pair2, '{\"x\": 1}')",
    "xml": "SELECT x FROM XMLTABLE('/a' PASSING '<a>1</a>'::xml COLUMNS x immuta.mask_ref PATH '.')",
    "plpgsql": "CREATE FUNCTION play.makes() RETURNS immuta.mask_ref LANGUAGE plpgsql AS $$DECLARE r immuta.mask_ref; BEGIN r := 1; RETURN r; END$$;; SELECT play.makes()",
    "plpgsql of text": "CREATE FUNCTION play.makes() RETURNS immuta.mask_ref LANGUAGE plpgsql AS $$BEGIN RETURN '1'; END$$;; SELECT play.makes()",
    "sql": "CREATE FUNCTION play.makes() RETURNS immuta.mask_ref LANGUAGE sql AS 'SELECT 1::int4'",
    "create cast, binary": "CREATE CAST (int AS immuta.mask_ref) WITHOUT FUNCTION",
    "create cast, inout": "CREATE CAST (int AS immuta.mask_ref) WITH INOUT",
    "create cast of one's own type": "CREATE TYPE play.mood AS ENUM ('1');; CREATE CAST (play.mood AS immuta.mask_ref) WITH INOUT;; SELECT 'play.mood'::regtype, ('1'::play.mood)::immuta.mask_ref",
    "internal function": "CREATE FUNCTION play.makes(int) RETURNS immuta.mask_ref LANGUAGE internal AS 'int4up'",
    "variadic": "SELECT immuta.mask_hash('x', (VARIADIC ARRAY['1'])::immuta.mask_ref)",
    "case": "SELECT CASE WHEN true THEN 1 ELSE NULL::immuta.mask_ref END",
    "union": "SELECT NULL::immuta.mask_ref UNION SELECT 1",
    "union of literals": "SELECT NULL::immuta.mask_ref UNION SELECT '1'",
    "greatest": "SELECT greatest(NULL::immuta.mask_ref, '1')",
    "string_to_array": "SELECT string_to_array('1', ',')::immuta.mask_ref[]",
    "prepared": "PREPARE p (immuta.mask_ref) AS SELECT immuta.mask_hash('x', $1);; EXECUTE p ('1')",
    "execute using": "DO $$BEGIN EXECUTE 'SELECT immuta.mask_hash(''x'', $1::text::immuta.mask_ref)' USING '1'; END$$",
    "constant of a view": "CREATE VIEW play.refs AS SELECT '1'::immuta.mask_ref",
    "range": "CREATE TYPE play.refs AS RANGE (SUBTYPE = immuta.mask_ref)",
    "base type": "CREATE TYPE play.ref2 (LIKE = immuta.mask_ref, INPUT = int4in, OUTPUT = int4out)",
    "aggregate": "SELECT max(1)::immuta.mask_ref",
    "soft input": "SELECT pg_input_is_valid('1', 'immuta.mask_ref')",
    "large object": "SELECT convert_from('\\x31', 'UTF8')::immuta.mask_ref",
}


@pytest.mark.parametrize("way", WAYS)
def test_forged(sessions, way):
    seen = run(sessions(), WAYS[way])
    assert seen.sqlstate in ("42501", "42846", "42804", "42883", "42P13", "42P17", "42601", "42704"), seen.text
    assert run(sessions(), "SELECT 1").rows == [(1,)]


def test_forged_by_the_protocol(masked):
    """Text and binary parameters, COPY in both."""
    with psycopg.connect(**masked.server.dsn("mallory", "mallory-password", masked.dbname), autocommit=True) as connection:
        for parameter in ("%s", "%b"):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(f"SELECT immuta.mask_hash('x', {parameter}::immuta.mask_ref)", (1,))
            assert caught.value.sqlstate in ("42501", "42883", "42846")
        oid = connection.execute("SELECT 'immuta.mask_ref'::regtype::oid").fetchone()[0]

        class Reference:
            pass

        class Dumper(psycopg.adapt.Dumper):
            format = psycopg.pq.Format.BINARY

            def dump(self, _):
                return (1).to_bytes(4, "big")

        Dumper.oid = oid
        connection.adapters.register_dumper(Reference, Dumper)
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("SELECT immuta.mask_hash('x', %b)", (Reference(),))
        assert caught.value.sqlstate == "42883"
        connection.execute("CREATE TEMP TABLE refs (x immuta.mask_ref)")
        for options, data in (("", b"1\n"), ("(FORMAT binary)", b"PGCOPY\n\xff\r\n\x00" + bytes(8) + b"\x00\x01\x00\x00\x00\x04\x00\x00\x00\x01\xff\xff")):
            with pytest.raises(psycopg.Error) as caught, connection.cursor().copy(f"COPY refs FROM STDIN {options}") as copy:
                copy.write(data)
            assert caught.value.sqlstate in ("42501", "42883")


def test_without_a_reference_nothing_is_answered(sessions):
    assert run(sessions(), "SELECT immuta.mask_hash('x', NULL), immuta.mask_regex('x', NULL)").rows == [(None, None)]


def test_parameters_that_are_missing(masked, sessions):
    masked.sql("UPDATE immuta.mask_parameters SET id = 99")
    try:
        seen = run(sessions(), "SELECT v FROM data.types")
        assert (seen.sqlstate, seen.code) == ("42501", "MASKED_COLUMN") and seen.hint
        assert run(sessions(), "SELECT id FROM data.types").rows == [(1,)]
    finally:
        masked.sql("UPDATE immuta.mask_parameters SET id = 1")
    assert run(sessions(), "SELECT v FROM data.types").sqlstate is None


def test_other_parameters_count_at_once(masked, sessions):
    first = run(sessions(), "SELECT v FROM data.types").rows
    masked.sql("UPDATE immuta.mask_parameters SET salt = 'another'")
    second = run(sessions(), "SELECT v FROM data.types").rows
    masked.sql("UPDATE immuta.mask_parameters SET salt = 'CANARY-salt'")
    assert first != second and run(sessions(), "SELECT v FROM data.types").rows == first
