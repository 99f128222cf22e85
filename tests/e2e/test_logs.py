"""G5 where everything is recorded: the log with every setting that makes it talk, plans, statistics, activity. With the
other libraries loaded before ours and after it.

Threats: 28, 29 (docs/threats.md).
"""

import random
import re
import secrets

import psycopg2
import pytest
from harness import companions, debian
from harness.fixtures import TALKATIVE, VERSION
from harness.server import Server
from harness.wire import Wire
from harness.world import SERVICE, World, prepare, query

OTHERS = "pg_stat_statements,auto_explain"


@pytest.fixture(scope="module")
def pgaudit():
    """Why it cannot be had; None if it is there."""
    try:
        companions.pgaudit(VERSION)
        return None
    except debian.Unavailable as fault:
        return str(fault)


@pytest.fixture(scope="module", params=[("last", "log"), ("first", "log"), ("last", "notice"), ("first", "notice")],
                ids="-".join)
def loud(request, pgaudit):
    """What the other libraries log at a level that reaches clients, they get as well."""
    order, level = request.param
    others = OTHERS if pgaudit else f"{OTHERS},pgaudit"
    libraries = f"{others},immuta_ext" if order == "last" else f"immuta_ext,{others}"
    server = Server(VERSION, "loud", options=[
        *TALKATIVE, f"shared_preload_libraries={libraries}", "auto_explain.log_min_duration=0",
        "auto_explain.log_nested_statements=on", "auto_explain.log_analyze=on", f"auto_explain.log_level={level}",
        "pg_stat_statements.track=all", "pg_stat_statements.track_utility=on",
        "compute_query_id=on", "log_min_messages=debug1", "log_min_error_statement=debug1", "client_min_messages=log",
        "pgaudit.log=all", "pgaudit.log_parameter=on", "pgaudit.log_client=on", f"pgaudit.log_level={level}",
        f"dynamic_library_path=$libdir:{companions.folder(VERSION)}"])
    with server:
        prepare(server)
        world = World(server)
        world.sql("CREATE EXTENSION pg_stat_statements")
        world.heard = []
        yield world
        world.admin.close()


class Listening(Wire):
    """Keeps what the server tells besides its answers."""

    def __init__(self, world):
        self.heard = world.heard
        super().__init__("127.0.0.1", world.server.port, *SERVICE, world.dbname)

    def read(self, until="Z"):
        answer = super().read(until)
        self.heard += answer.notices
        return answer


@pytest.fixture(scope="module")
def by_session():
    """Loaded when a session is made, not with the server."""
    with Server(VERSION, "loud-session", options=TALKATIVE, preload="session") as server:
        prepare(server)
        world = World(server)
        yield world
        world.admin.close()


@pytest.fixture
def wire(loud):
    wire = Listening(loud)
    yield wire
    wire.close()


@pytest.fixture
def seen(loud):
    """Everything that was written down, or told to the client, since the test began."""
    loud.sql("SELECT pg_stat_statements_reset()")
    begin = loud.server.logged()
    loud.heard.clear()

    def read():
        statements = loud.sql("SELECT query FROM pg_stat_statements")
        activity = loud.sql("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        return loud.server.log(begin) + str(statements) + str(activity) + str(loud.heard)

    return read


def secret(kind="s3cret"):
    return f"{kind}-{secrets.token_hex(8)}"


# {} is the secret. Accepted or refused, with an error before it, in it, or after it.
STATEMENTS = [
    "SET LOCAL bodata.impersonation_token = '{}'",
    "SET LOCAL bodata.impersonation_token TO '{}'",
    "SET LOCAL BODATA.Impersonation_Token='{}'",
    "SET LOCAL bodata.impersonation_token = \"{}\"",
    "SET LOCAL bodata.impersonation_token = {}",
    "SET bodata.impersonation_token = '{}'",
    "SET LOCAL bodata.impersonation_token = E'{}'",
    "SET LOCAL bodata.impersonation_token = 'x''{}'",
    "SET LOCAL bodata.impersonation_token = U&'{}'",
    "SELECT set_config('bodata.impersonation_token', '{}', true)",
    "SELECT set_config('bodata.impersonation_token', $${}$$, true)",
    "SELECT set_config('bodata.impersonation_token', $q${}$q$, true)",
    "SELECT set_config('bodata.impersonation_token', '{}', true), nosuchcolumn",
    "SELECT set_config('bodata.impersonation_token', \"{}\", true)",
    "SELECT set_config('bodata.impersonation_token', '{}', true), 1/0",
    "SELECT set_config('bodata.impersonation_token', '{}', true) FROM app.flights",
    "SELECT set_config('bodata.impersonation_token', '{}', true",
    "SELECT set_config('bodata.impersonation_token', '{}",
    "DO $$ BEGIN PERFORM set_config('bodata.impersonation_token', '{}', true); END $$",
    "PREPARE p AS SELECT set_config('bodata.impersonation_token', '{}', true)",
    "EXPLAIN SELECT set_config('bodata.impersonation_token', '{}', true)",
    "/* '{}' */ SET LOCAL bodata.impersonation_token = '{}' -- {}",
    "SELECT immuta.authenticate('alice', '{}')",
    "SELECT immuta.authenticate_api_key('{}')",
    "SELECT immuta.check_token('{}')",
    "SELECT immuta.authenticate('alice', '{}', nosuchcolumn)",
    "SELECT immuta.set_password('alice', '{}')",
]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("mode", ["simple", "extended", "in a failed transaction", "before an error", "after one"])
def test_statements(loud, wire, seen, statement, mode):
    hidden = secret("tok")
    sql = statement.replace("{}", hidden)
    wire.query("BEGIN")
    if mode == "extended":
        wire.query_extended(sql)
    elif mode == "in a failed transaction":
        wire.query("SELECT 1/0")
        wire.query(sql)
    elif mode == "before an error":
        wire.query(f"{sql}; SELECT 1/0")
    elif mode == "after one":
        wire.query(f"SELECT nosuchcolumn; {sql}")
    else:
        wire.query(sql)
    assert hidden not in seen()
    wire.query("ROLLBACK")
    assert hidden not in seen()


@pytest.mark.parametrize("statement, values", [
    ("SELECT set_config('bodata.impersonation_token', $1, true)", ("{}",)),
    ("SELECT set_config($1, $2, true)", ("bodata.impersonation_token", "{}")),
    ("SELECT immuta.authenticate($1, $2)", ("alice", "{}")), ("SELECT immuta.authenticate_api_key($1)", ("{}",)),
    ("SELECT immuta.check_token($1)", ("{}",)),
    ("SELECT $1::text FROM app.flights", ("{}",))])
def test_parameters(loud, wire, seen, statement, values):
    hidden = secret()
    wire.query_extended(statement, *(value.replace("{}", hidden) for value in values))
    assert hidden not in seen()


def test_what_works_is_hidden_as_well(loud, wire, seen):
    """A real token, key and password, and the statements of an administrator."""
    password = secret("pw")
    loud.sql("SELECT immuta.set_password('alice', %s)", (password,))
    key = loud.value("SELECT immuta.create_api_key('alice')")
    answers = [wire.query(f"SELECT immuta.authenticate('alice', '{password}')->>'token'"),
               wire.query(f"SELECT immuta.authenticate_api_key('{key}')->>'token'")]
    tokens = [answer.rows[0][0] for answer in answers]
    for token in tokens:
        answer = wire.query(f"BEGIN; SET LOCAL bodata.impersonation_token = '{token}'; "
                            "SELECT count(*) FROM app.flights; COMMIT")
        assert answer.rows == [("100",)]
        wire.query("BEGIN")
        wire.query_extended("SELECT set_config('bodata.impersonation_token', $1, true)", token)
        assert wire.query("SELECT count(*) FROM app.flights").rows == [("100",)]
        wire.query("COMMIT")
    loud.sql("SELECT immuta.revoke_token(%s)", (tokens[0],))
    shown = seen()
    for hidden in (password, key, *tokens):
        assert hidden not in shown


def test_large_statements_one_after_the_other(loud, wire, seen):
    """The memory of one message is used again for the next: what was masked in one says nothing of another."""
    hidden = secret("tok")
    for number in range(400):
        # Sums that are this long are slow, or too deep.
        padding = ("  " if number % 20 else "+1") * random.Random(number).randrange(3500, 32000)
        answer = wire.query(f"SELECT 1/0, set_config('bodata.impersonation_token', '{hidden}', true), 1{padding}")
        assert answer.error["C"] in ("22012", "54001")
    assert hidden not in seen()


def test_memory_does_not_grow_with_what_is_masked(loud):
    """What a mask replaced is given back although no error empties the context that errors and messages have."""
    connection = psycopg2.connect(**loud.server.dsn(dbname=loud.dbname))
    connection.autocommit = True

    def used():
        for _ in range(200):
            query(connection, "SELECT 'bodata.impersonation_token', 'x'")
            query(connection, "DO $$ BEGIN RAISE NOTICE 'SET bodata.impersonation_token = ''x'''; END $$")
        return query(connection, "SELECT used_bytes FROM pg_backend_memory_contexts WHERE name = 'ErrorContext'")

    used()
    assert used() == used()
    connection.close()


@pytest.mark.parametrize("preload", ["shared", "session"])
@pytest.mark.parametrize("message", ["SELECT length('{}')", "SELEC '{}'", "SELECT nosuchcolumn, '{}'", "SELECT '{}', 1/0"])
def test_the_first_message_of_a_session(loud, by_session, preload, message):
    """Before any hook has seen anything: a service login's is masked, that of all others is not."""
    world = loud if preload == "shared" else by_session
    for login, is_masked in ((SERVICE, True), (("plain", "plain-password"), False),
                             (("postgres", world.server.superuser_password), False)):
        begin, literal = world.server.logged(), secret()
        wire = Wire("127.0.0.1", world.server.port, *login, world.dbname)
        wire.query(message.format(literal))
        wire.close()
        assert (literal not in world.server.log(begin)) is is_masked, login[0]


def test_pgaudit_is_loaded(loud, wire, seen, pgaudit):
    """What it says is masked as other texts are, not hidden."""
    if pgaudit:
        pytest.skip(f"pgaudit is not to be had: {pgaudit}")
    wire.query("SELECT 1")
    assert "AUDIT: SESSION,1,1,READ,SELECT,********" in seen() and loud.heard
    begin = loud.server.logged()
    loud.sql("SELECT 'a literal of an administrator'")
    assert "READ,SELECT,,,SELECT 'a literal of an administrator'" in loud.server.log(begin)


def test_pgaudits_objects_and_masks(loud, pgaudit):
    """It goes by the rights that are checked, and on what is masked none are."""
    if pgaudit:
        pytest.skip(f"pgaudit is not to be had: {pgaudit}")
    loud.sql("""CREATE TABLE app.people (id int, ssn text); CREATE ROLE looks; GRANT SELECT (ssn) ON app.people TO looks;
        CREATE ROLE reads_masks LOGIN PASSWORD 'reads-password' IN ROLE immuta_subscriber; ALTER ROLE reads_masks SET pgaudit.role = 'looks';
        GRANT USAGE ON SCHEMA app TO reads_masks; GRANT SELECT (id) ON app.people TO reads_masks;
        INSERT INTO immuta.masks VALUES ('app.people'::regclass, 2, $$'mask'::text$$)""")
    try:
        for grant, is_seen in (("SELECT", False), ("GRANT SELECT (ssn) ON app.people TO reads_masks", True)):
            loud.sql(grant)
            connection = loud.connect("reads_masks", "reads-password")
            begin = loud.server.logged()
            query(connection, "SELECT id, ssn FROM app.people")
            connection.close()
            assert bool(re.search("AUDIT: OBJECT,[0-9]+,1,READ,SELECT,TABLE,app.people", loud.server.log(begin))) is is_seen
    finally:
        loud.sql("DELETE FROM immuta.masks; DROP OWNED BY looks, reads_masks; DROP TABLE app.people; DROP ROLE looks, reads_masks")


def test_statistics_do_not_grow_with_tokens(loud, wire):
    def count():
        return loud.value("SELECT count(*) FROM pg_stat_statements")

    def present(form):
        wire.query("BEGIN")
        wire.query(form.format(loud.token()))
        wire.query("SELECT count(*) FROM app.flights")
        wire.query("COMMIT")

    count()
    for form in ("SET LOCAL bodata.impersonation_token = '{}'",
                 "SELECT set_config('bodata.impersonation_token', '{}', true)"):
        present(form)
        before = count()
        for _ in range(20):
            present(form)
        assert count() == before


def test_the_log_keeps_what_is_no_secret(loud, wire, seen):
    wire.query(f"BEGIN; SET LOCAL bodata.impersonation_token = '{loud.token()}'")
    wire.query("SELECT 'a literal of alice', count(*) FROM app.flights")
    wire.query("COMMIT")
    loud.sql("SELECT 'a literal of an administrator'")
    shown = loud.server.log()
    assert "SELECT 'a literal of alice', count(*)" in shown and "a literal of an administrator" in shown
    assert "SET LOCAL bodata.impersonation_token = '********'" in shown


def test_clients_see_errors_as_ever(loud, wire):
    """What is masked in the log is no different for the client, unless it quotes the secret itself."""
    answer = wire.query(f"BEGIN; SET LOCAL bodata.impersonation_token = '{loud.token()}'; SELECT nosuchcolumn")
    assert answer.error["M"] == 'column "nosuchcolumn" does not exist' and answer.error["P"]
    wire.query("ROLLBACK")
    connection = psycopg2.connect(**loud.server.dsn("plain", "plain-password", loud.dbname))
    for sql, message in (("SELECT 'it''s' + nosuchcolumn", 'column "nosuchcolumn" does not exist'),
                         ("SELECT 'x'::int", 'invalid input syntax for type integer: "x"'),
                         ("SELECT * FROM app.flights WHERE impersonation_token = 1",
                          "permission denied")):
        with pytest.raises(psycopg2.Error) as raised:
            query(connection, sql)
        assert message in str(raised.value) or "impersonation_token" in sql
        connection.rollback()
    connection.close()
