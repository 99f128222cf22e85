"""Errors of PostgreSQL pass through our hooks with every field: CONTEXT, position, names of schema, table, column,
type and constraint. A guarded frame around them would lose these (and add a backtrace, as the server runs with
RUST_BACKTRACE set)."""

import pytest
from harness.fixtures import VERSION
from scene import Session, check_error, token_of

NESTED = "DO $$ BEGIN INSERT INTO app.parents VALUES (1, -1); END $$"

# Statement, and the fields that must be there: code, then letter and text.
ERRORS = [
    ("SELECT nosuchcolumn FROM app.flights", "42703", {"P": "8"}),
    ("SELECT * FROM nosuchtable", "42P01", {"P": "15"}),
    ("CREATE TABLE alice.z (a nosuchtype)", "42704", {"P": "25"}),
    ("SELECT 1 +", "42601", {"P": "11"}),
    ("SELECT 'x'::int", "22P02", {"P": "8"}),
    ("SELECT nosuchfunction(1)", "42883", {"P": "8", "D": "There is no function of that name."} if int(VERSION) >= 19 else {
        "P": "8", "H": "No function matches the given name and argument types. You might need to add explicit type casts."}),
    ("INSERT INTO app.parents VALUES (1, -1)", "23514",
     {"s": "app", "t": "parents", "n": "parents_born", "D": "Failing row contains (1, -1)."}),
    ("INSERT INTO app.parents VALUES (1, NULL)", "23502", {"s": "app", "t": "parents", "c": "born"}),
    ("INSERT INTO app.parents VALUES (1, 1), (1, 2)", "23505",
     {"s": "app", "t": "parents", "n": "parents_key", "D": "Key (id)=(1) already exists."}),
    ("SELECT 'too long'::app.short", "23514", {"s": "app", "d": "short", "n": "short_length"}),
    ("DO $$ BEGIN PERFORM 1/0; END $$", "22012",
     {"W": 'SQL statement "SELECT 1/0"\nPL/pgSQL function inline_code_block line 1 at PERFORM'}),
    (NESTED, "23514", {"n": "parents_born", "W": 'SQL statement "INSERT INTO app.parents VALUES (1, -1)"\n'
                                                 "PL/pgSQL function inline_code_block line 1 at SQL statement"}),
    ("DO $$ BEGIN EXECUTE 'SELECT nosuchcolumn'; END $$", "42703",
     {"p": "8", "q": "SELECT nosuchcolumn",
      "W": "PL/pgSQL function inline_code_block line 1 at EXECUTE"}),
    ("DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'P0123', DETAIL = 'd', HINT = 'h', COLUMN = 'c', "
     "CONSTRAINT = 'n', DATATYPE = 't', TABLE = 't', SCHEMA = 's'; END $$", "P0123",
     {"M": "mine", "D": "d", "H": "h", "c": "c", "n": "n", "d": "t", "t": "t", "s": "s"}),
    ("COPY app.flights FROM STDIN", "57014", {"W": "COPY flights, line 1"}),
    ("SELECT * FROM private.nothing", "42P01", {"P": "15"}),
]


@pytest.mark.parametrize("attack", ERRORS, ids=lambda attack: attack[0][:60])
def test_fields_of_errors(world, session, attack):
    """As a superuser whose session has nothing to do with impersonation, and as alice: the same fields but for
    rows that she may not see."""
    statement, code, fields = attack
    plain = Session(world, session.mode, "postgres", world.server.superuser_password)
    expected = plain.run(statement).error
    plain.close()
    assert expected["C"] == code
    for letter, text in fields.items():
        assert expected.get(letter) == text, expected
    session.begin()
    session.ok("SAVEPOINT s")
    if "COPY" in statement:
        # Row policies do not go with COPY FROM.
        session.refused(statement, "0A000")
        session.ok("ROLLBACK TO s")
        session.refused("COPY alice.seen FROM STDIN", "57014")
        session.ok("ROLLBACK TO s")
    else:
        error = session.run(statement).error
        check_error(error)
        assert error == expected
        session.ok("ROLLBACK TO s")
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


@pytest.mark.parametrize("statement, shown", [
    ("INSERT INTO app.parents VALUES (1, -1)", "23514 parents_born parents app"),
    ("SELECT 1/0", "22012   "),
    ("INSERT INTO app.parents VALUES (7, 1), (7, 1)", "23505 parents_key parents app"),
    ("SELECT 'too long'::app.short", "23514 short_length  app")])
def test_stacked_diagnostics(session, statement, shown):
    session.begin()
    session.ok("CREATE FUNCTION pg_temp.diagnose(statement text) RETURNS text LANGUAGE plpgsql AS $$ "
               "DECLARE s text; c text; t text; n text; w text; BEGIN EXECUTE statement; RETURN ''; "
               "EXCEPTION WHEN OTHERS THEN GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, c = CONSTRAINT_NAME, "
               "t = TABLE_NAME, n = SCHEMA_NAME, w = PG_EXCEPTION_CONTEXT; "
               "IF w NOT LIKE '%at EXECUTE%' THEN RETURN 'no context'; END IF; "
               "RETURN concat_ws(' ', s, c, t, n); END $$")
    quoted = statement.replace("'", "''")
    assert session.value(f"SELECT pg_temp.diagnose('{quoted}')") == shown
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


def test_deferred_constraints(session):
    """A foreign key that is checked at COMMIT reports itself; one that can be checked lets the transaction go."""
    session.begin()
    session.ok("INSERT INTO app.children VALUES (1, 4711)")
    error = session.run("COMMIT").error
    check_error(error)
    assert (error["C"], error["n"], error["t"], error["s"]) == ("23503", "children_parent", "children", "app")
    assert error["D"] == 'Key (parent)=(4711) is not present in table "parents".'
    session.leaves_nothing()
    session.begin()
    session.ok("INSERT INTO app.children VALUES (2, 2)")
    session.ok("INSERT INTO app.parents VALUES (2, 1)")
    session.ok("SET CONSTRAINTS ALL IMMEDIATE")
    session.is_alice()
    session.ok("COMMIT")
    session.world.sql("TRUNCATE app.parents, app.children")
    session.leaves_nothing()


def test_many_errors_in_a_row(session):
    """An error leaves the hooks by longjmp: what they count is put back, in a transaction and across them."""
    session.begin()
    assert session.rows("SELECT * FROM alice.fails(200)") == [("200",)]
    session.is_alice()
    for _ in range(50):
        session.ok("SAVEPOINT s")
        session.refused("SELECT app.flights_in_plpgsql(), 1 / (id - id) FROM app.flights", "22012")
        session.ok("ROLLBACK TO s")
    session.is_alice()
    session.ok("COMMIT")
    for _ in range(50):
        session.begin()
        session.refused("DO $$ BEGIN PERFORM count(*), 1/0 FROM app.flights; END $$", "22012")
        session.ok("ROLLBACK")
    session.leaves_nothing()


@pytest.fixture(scope="module", autouse=True)
def fails(world):
    world.sql("CREATE FUNCTION alice.fails(n int) RETURNS int LANGUAGE plpgsql AS $$ "
              "DECLARE caught int := 0; BEGIN "
              "FOR i IN 1..n LOOP BEGIN PERFORM 1 / (id - id) FROM app.flights; "
              "EXCEPTION WHEN division_by_zero THEN caught := caught + 1; END; "
              "BEGIN PERFORM set_config('role', 'none', false); "
              "EXCEPTION WHEN insufficient_privilege THEN NULL; END; "
              "BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN insufficient_privilege THEN NULL; END; "
              "END LOOP; RETURN caught; END $$")
    yield
    world.sql("DROP FUNCTION alice.fails(int)")


def test_notices_pass(session):
    session.begin()
    answer = session.ok("DO $$ BEGIN RAISE NOTICE 'hello' USING DETAIL = 'd'; END $$")
    assert [(n["M"], n["D"], "inline_code_block" in n["W"]) for n in answer.notices] == [("hello", "d", True)]
    session.ok("COMMIT")
    assert token_of(session.world, "alice") not in str(answer)
    session.leaves_nothing()
