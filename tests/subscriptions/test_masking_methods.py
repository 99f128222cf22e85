"""Each method of masking on each type of columns that it fits, by what a masked user reads; and a refusal for all others."""

import json
import re

import pytest
from conftest import Office, clean, reads, refuses
from harness.world import impersonate, query

# Type and a value of it. Among them the least, the greatest and those that are no numbers.
VALUES = {
    "text": "Grace Hopper", "varchar": "Grace", "varchar(5)": "Grace", "char(8)": "Grace", "uuid": "12345678-1234-1234-1234-123456789abc",
    "bytea": r"\x0102", "int2": "-32768", "int4": "-2147483648", "int8": "9223372036854775807", "numeric": "NaN", "numeric(6,2)": "-9999.99",
    "float4": "3.4e38", "float8": "-1.7976931348623157e308", "date": "4714-11-24 BC", "timestamp": "infinity",
    "timestamptz": "294276-12-31 23:59:59+00", "boolean": "t", "jsonb": '{"a": 1}', "json": "[1]", "inet": "10.0.0.1", "int4[]": "{1,2}",
    "point": "(1,2)", "interval": "1 day", "time": "12:00", "bit(3)": "101", "sales.short": "abc", "sales.mood": "calm", "sales.required": "x",
    "int4range": "[1,5)",
}
CONSTANTS = {
    "text": "it's", "varchar": "-", "varchar(5)": "-----", "char(8)": "-", "uuid": "00000000-0000-0000-0000-000000000000", "bytea": r"\x00",
    "int2": 0, "int4": -1, "int8": 9223372036854775807, "numeric": 1.5, "numeric(6,2)": 0, "float4": 0, "float8": 1e300, "date": "1900-01-01",
    "timestamp": "1900-01-01 00:00:00", "timestamptz": "1900-01-01 00:00:00+00", "boolean": False, "jsonb": {"hidden": True}, "json": [], "inet": "0.0.0.0",
    "int4[]": "{}", "point": "(0,0)", "interval": "0", "time": "00:00", "bit(3)": "000", "sales.short": "-", "sales.mood": "angry",
    "sales.required": "-", "int4range": "empty",
}
METHODS = {
    "hash": ({}, "text varchar varchar(5) char(8) uuid bytea int2 int4 int8"),
    "partial": ({"prefix": 1, "suffix": 1}, "text varchar varchar(5) char(8)"),
    "regex": ({"pattern": "[a-z]", "replacement": "xy", "flags": "g"}, "text varchar varchar(5) char(8)"),
    "round": ({"to": 100}, "int2 int4 int8 numeric numeric(6,2) float4 float8"),
    "round ": ({"unit": "year"}, "date timestamp timestamptz"),
}


@pytest.fixture(scope="module")
def typed(connected):
    office = Office(connected)
    office.world.sql("GRANT data_owner TO immuta_system")
    office.ddl("CREATE DOMAIN sales.short AS varchar(5); CREATE TYPE sales.mood AS ENUM ('calm', 'angry');"
               "CREATE DOMAIN sales.required AS text NOT NULL CHECK (length(VALUE) < 5)")
    names = {type_name: f"c{at}" for at, type_name in enumerate(VALUES)}
    office.ddl("CREATE TABLE sales.typed (id int, " + ", ".join(f"{name} {t} NOT NULL" for t, name in names.items()) + ")")
    office.ddl("INSERT INTO sales.typed VALUES (1, " + ", ".join(f"'{value}'" for value in VALUES.values()) + ")")
    office.sql("SELECT immuta.register_data_source('sales.typed'), immuta.create_user('ann'), immuta.subscribe('ann', 'sales.typed')")
    yield office, names
    office.close()
    clean(connected)
    connected.sql("REVOKE data_owner FROM immuta_system")


def masked(typed, method, parameters, type_name):
    """What ann reads of a column of that type, as text."""
    office, names = typed
    try:
        office.sql("SELECT immuta.create_masking_policy('m', %s, %s, columns => ARRAY[%s])",
                   (method, json.dumps(parameters), f"sales.typed.{names[type_name]}"))
        return look(office, names[type_name])
    finally:
        office.sql("SELECT immuta.drop_masking_policy('m')")


def look(office, name):
    return reads(office, "ann", f"SELECT {name}::text FROM sales.typed")[0][0]


@pytest.mark.parametrize("type_name", VALUES)
def test_null_on_every_type(typed, type_name):
    assert masked(typed, "null", {}, type_name) is None


@pytest.mark.parametrize("type_name", VALUES)
def test_a_constant_on_every_type(typed, type_name):
    office, _ = typed
    constant = CONSTANTS[type_name]
    text = constant if isinstance(constant, str) else json.dumps(constant)
    shown = masked(typed, "constant", {"value": constant}, type_name)
    assert shown == office.world.value(f"SET TimeZone = UTC; SELECT %s::{type_name}::text", (text,))


@pytest.mark.parametrize("method,type_name", [(m, t) for m, (_, types) in METHODS.items() for t in types.split()])
def test_what_fits(typed, method, type_name):
    shown = masked(typed, method.strip(), METHODS[method][0], type_name)
    number = {"int2": "-32700", "int4": "-2147483600", "int8": "9223372036854775800", "numeric": "NaN", "numeric(6,2)": "-9900.00"}
    if method == "hash":
        length = {"varchar(5)": 5, "char(8)": 8, "uuid": 32, "bytea": 66}.get(type_name, 64)
        if type_name in ("int2", "int4", "int8"):
            assert 0 <= int(shown) < 2 ** (8 * int(type_name[3]) - 1)
        else:
            assert re.fullmatch(r"(\\x)?[0-9a-f]+", shown.replace("-", "")) and len(shown.replace("-", "")) == length
    elif method == "partial":
        assert shown == {"text": "G**********r"}.get(type_name, "G***e")
    elif method == "regex":
        assert shown == {"text": "Gxyxyxyxy Hxyxyxyxyxy", "varchar(5)": "Gxyxy", "varchar": "Gxyxyxyxy", "char(8)": "Gxyxyxyx"}[type_name]
    else:
        # What is too great or no number gives NULL, and no error.
        assert shown == number.get(type_name)


@pytest.mark.parametrize("method,type_name", [(m, t) for m, (_, types) in METHODS.items() for t in VALUES if t not in types.split()])
def test_what_does_not_fit(typed, method, type_name):
    if (method, type_name) in [("hash", "sales.short"), ("partial", "sales.short"), ("regex", "sales.short")]:
        assert len(masked(typed, method, METHODS[method][0], type_name)) <= 5
        return
    with refuses("0A000" if type_name == "sales.required" and "round" not in method else "22023"):
        masked(typed, method.strip(), METHODS[method][0], type_name)


def test_values_that_are_rounded(typed):
    office, _ = typed
    office.ddl("CREATE TABLE sales.rounded (id int, i int, n numeric(8,3), f float8, d date, t timestamp, z timestamptz);"
               "INSERT INTO sales.rounded VALUES (1, 54321, -54321.987, 54321.987, '1980-05-17', '1980-05-17 13:14:15', '1980-05-17 23:14:15-05')")
    office.sql("SELECT immuta.register_data_source('sales.rounded'), immuta.subscribe('ann', 'sales.rounded')")
    for column, parameters, wanted in [
            ("i", '{"to": 1000}', "54000"), ("i", '{"to": 1}', "54321"), ("n", '{"to": 0.05}', "-54321.950"), ("n", '{"to": 10000}', "-50000.000"),
            ("f", '{"to": 0.5}', "54321.5"), ("d", '{"unit": "month"}', "1980-05-01"), ("d", '{"unit": "decade"}', "1980-01-01"),
            ("t", '{"unit": "hour"}', "1980-05-17 13:00:00"), ("z", '{"unit": "day"}', "1980-05-18 00:00:00+00")]:
        office.sql("SELECT immuta.create_masking_policy('m', 'round', %s, columns => ARRAY[%s], replace => true)",
                   (parameters, f"sales.rounded.{column}"))
        shown = f"({column} AT TIME ZONE INTERVAL '0')::text || '+00'" if column == "z" else f"{column}::text"
        assert reads(office, "ann", f"SELECT {shown} FROM sales.rounded") == [(wanted,)], (column, parameters)
    # Of the last one, by whatever the reader calls UTC: the day is the same.
    service = office.world.connect()
    impersonate(service, office.world.token("ann"))
    for zone in ("UTC", "UTC+13:37", "UTC-10", "<Etc/UTC>-10", "Asia/Tokyo"):
        query(service, f"SET LOCAL timezone = '{zone}'")
        assert query(service, "SELECT extract(epoch FROM z)::bigint FROM sales.rounded") == [(327456000,)], zone
    service.close()
    office.sql("SELECT immuta.drop_masking_policy('m')")


@pytest.mark.parametrize("parameters,values", [
    ({}, {"": "", "a": "*", "abc": "***"}), ({"suffix": 4}, {"1234": "****", "12345": "*2345", "": ""}),
    ({"prefix": 1, "suffix": 1, "fill": "\u2022"}, {"ab": "\u2022\u2022", "abc": "a\u2022c", "\u00e9\u00e8\u00ea": "\u00e9\u2022\u00ea"}),
    ({"prefix": 3}, {"ab": "**", "abcd": "abc*"}), ({"fill": "%", "suffix": 1}, {"abc": "%%c"}), ({"fill": "'", "suffix": 1}, {"abc": "''c"})])
def test_short_values_show_nothing(typed, parameters, values):
    office, names = typed
    office.sql("SELECT immuta.create_masking_policy('m', 'partial', %s, columns => ARRAY[%s])", (json.dumps(parameters), f"sales.typed.{names['text']}"))
    try:
        for value, wanted in values.items():
            office.world.sql(f"UPDATE sales.typed SET {names['text']} = %s", (value,))
            assert look(office, names["text"]) == wanted
    finally:
        office.sql("SELECT immuta.drop_masking_policy('m')")
        office.world.sql(f"UPDATE sales.typed SET {names['text']} = %s", (VALUES["text"],))


def test_what_a_pattern_does_not_match_is_not_shown(typed):
    office, names = typed
    column = f"sales.typed.{names['text']}"
    for unmatched, wanted in ((None, None), ("null", None), ("show", VALUES["text"])):
        parameters = {"pattern": "^[0-9]+$", "replacement": "#"} | ({"unmatched": unmatched} if unmatched else {})
        assert masked(typed, "regex", parameters, "text") == wanted, column


def test_hashes_can_be_joined_in_a_group(typed):
    """The salt is the group's: other groups and policies have another, and a policy that is changed keeps its own."""
    office, names = typed
    column = names["text"]
    create = f"SELECT immuta.create_masking_policy('m', 'hash', %s, columns => '{{sales.typed.{column}}}', replace => true)"
    references = "SELECT reference FROM immuta.masking_policy WHERE name = 'm'"
    seen = {}
    try:
        office.sql("SELECT immuta.create_masking_policy('keeps', 'hash', '{\"group\": \"a\"}', column_tags => '{none}')")
        for group in ('{"group": "a"}', '{"group": "b"}', "{}", '{"group": "a"}'):
            office.sql(create, (group,))
            shown, reference = look(office, column), office.world.value(references)
            assert seen.setdefault(group, (shown, reference)) == (shown, reference)
        office.sql(create, ("{}",))
        before = office.world.value(references)
        office.sql(create, ("{}",))
        assert office.world.value(references) == before
        assert len({reference for _, reference in seen.values()}) == 3
        assert len({shown for shown, _ in seen.values()}) == 3
        salts = office.world.sql("SELECT salt FROM immuta.mask_parameters")
        assert len(salts) == 2 and {len(salt) for (salt,) in salts} == {32}
    finally:
        office.sql("SELECT immuta.drop_masking_policy('m'), immuta.drop_masking_policy('keeps')")
    assert office.world.sql("SELECT * FROM immuta.mask_parameters") == []


def test_an_expression_over_the_table(typed):
    office, names = typed
    assert masked(typed, "expression", {"expression": "upper({column}) || ' ' || id::text -- a comment", "never_fails": True}, "text") == "GRACE HOPPER 1"
    office.sql("SELECT immuta.create_masking_policy('m', 'null', columns => ARRAY[%s], rows => 'id = 2 -- or so')", (f"sales.typed.{names['text']}",))
    try:
        assert look(office, names["text"]) == VALUES["text"]
        # Where it is not known whether a row is to be masked, it is.
        office.sql("SELECT immuta.create_masking_policy('m', 'null', columns => ARRAY[%s], rows => 'id > NULL', replace => true)",
                   (f"sales.typed.{names['text']}",))
        assert look(office, names["text"]) is None
    finally:
        office.sql("SELECT immuta.drop_masking_policy('m')")


def test_rows_of_columns_of_every_type(typed):
    """What decides about a row is looked at as it is: no cast to the type of the column makes it one that may fail."""
    office, names = typed
    for column in (name for of, name in names.items() if of != "sales.required"):
        office.sql("SELECT immuta.create_masking_policy('m', 'null', columns => ARRAY[%s], rows => 'id = 2')", (f"sales.typed.{column}",))
        try:
            assert look(office, column) is not None
        finally:
            office.sql("SELECT immuta.drop_masking_policy('m')")
