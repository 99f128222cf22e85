"""What a service login sets without a token, by a function, so that only what came of it tells whether it may; and what it
costs to find that out at every statement."""

import pytest
from harness.fixtures import refuses
from harness.world import query


@pytest.fixture
def connect(world):
    made = []

    def make(session_settings=None):
        if session_settings is not None:
            world.sql("ALTER ROLE svc SET bodata.session_settings = %s", (session_settings,))
        connection = world.connect()
        connection.autocommit = True
        made.append(connection)
        return connection

    yield make
    world.sql("ALTER ROLE svc RESET bodata.session_settings")
    for connection in made:
        connection.close()


@pytest.mark.parametrize("listed, name, value, is_kept", [
    ("app.tenant", "app.tenant", "blue", True), ("App.Tenant", "app.tenant", "blue", True),
    ("DateStyle, app.*", "app.tenant", "blue", True), ("app.t*", "app.tenant", "blue", True),
    ("app.t*", "app.other", "blue", False), ("app.tenant", "app.other", "blue", False),
    ("app*", "app.tenant", "blue", False), ("default_transaction_*", "default_transaction_x.y", "blue", False),
    ("plpgsql.variable_conflict", "plpgsql.variable_conflict", "use_column", True),
    ("work_*", "work_mem", "5MB", True), ("WORK_MEM", "work_mem", "5MB", True), ("app.*", "work_mem", "5MB", False),
    ("DateStyle", "work_mem", "5MB", False), ("work_mem, app.tenant", "work_mem", "5MB", True),
    ("", "immuta.impersonation_iamid", "okta", True)])
def test_what_is_listed_is_kept(connect, listed, name, value, is_kept):
    connection = connect(listed)
    current = f"SELECT coalesce(current_setting('{name}', true), '')"
    before = query(connection, current)[0][0]
    for _ in range(2):
        query(connection, "SELECT set_config(%s, %s, false)", (name, value))
        assert query(connection, current)[0][0] == (value if is_kept else before)
        query(connection, "SELECT 1")
    assert query(connection, current)[0][0] == (value if is_kept else before)
    if is_kept:
        query(connection, f"RESET {name}")
        query(connection, f"SET {name} = '{value}'")
        query(connection, f"BEGIN; RESET {name}")
        query(connection, "SELECT set_config(%s, %s, true)", (name, value))
        assert query(connection, current)[0][0] == value
        query(connection, "ROLLBACK")
    else:
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(connection, f"SET {name} = '{value}'")


def test_a_setting_that_comes_and_goes(world, connect):
    """PostgreSQL frees what it made for a name when a module turns out to own it."""
    connection = connect("plpgsql.*, app.tenant")
    for name, value in (("plpgsql.extra_warnings", "none"), ("app.tenant", "blue")):
        query(connection, "SELECT set_config(%s, %s, false)", (name, value))
    query(connection, "SELECT immuta.check_token('loads a language')")
    for name, value in (("plpgsql.extra_warnings", "all"), ("app.tenant", "green")):
        query(connection, "SELECT set_config(%s, %s, false)", (name, value))
        assert query(connection, f"SHOW {name}") == [(value,)]


def cpu_time(connection):
    """Of its backend, in nanoseconds: what else the machine does counts less than on a clock."""
    with open(f"/proc/{connection.info.backend_pid}/schedstat") as file:
        return int(file.read().split()[0])


def test_it_costs_a_statement_little(world, connect):
    """Listing all settings sorts them since PostgreSQL 16, which took several times as long as the rest."""
    service, plain = connect(), world.connect("plain", "plain-password")
    plain.autocommit = True
    best = {service: 1e9, plain: 1e9}
    for _ in range(40):
        for connection in best:
            with connection.cursor() as cursor:
                began = cpu_time(connection)
                for _ in range(50):
                    cursor.execute("SELECT 1")
                best[connection] = min(best[connection], cpu_time(connection) - began)
    plain.close()
    assert best[service] < 4.5 * best[plain]
