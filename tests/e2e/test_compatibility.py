"""docs/compatibility.md, line by line: every command in the column "here" does what the page says."""

import re
from pathlib import Path

import psycopg2
import pytest
from harness.world import query

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
ANYTHING = object()
NOT_ALLOWED = ("42501", "IMPERSONATION_NOT_ALLOWED")
NOT_MAPPED = ("42704", "IMPERSONATION_NOT_MAPPED")
NO_USER = ("22023", "IMPERSONATION_NOT_SUPPORTED")
ADMIN = "administrator"

# By section: what each command answers (rows, None for none, or an error), and as whom the session runs after it. Where
# an administrator runs it, it says so in place of that.
EXPECTED = {
    "Granting and revoking": [(None, ADMIN), (None, ADMIN), (None, ADMIN), (ANYTHING, ADMIN), (None, ADMIN)],
    "Immuta Query Engine": [(None, "analyst"), (None, "analyst"), (None, "bob"),
                            ([("Okta", "jdoe@mycompany.com", "session")], "bob"), (None, "analyst"),
                            ([(None,)], "analyst")],
    "Redshift": [(None, "alice"), ([("alice",)], "alice"), (None, "analyst"), (NO_USER, "analyst")],
    "Synapse": [(None, "alice"), ([("jdoe",)], "alice"), (NO_USER, "alice"), (None, "analyst")],
    "Snowflake": [([(True,)], "analyst"), (None, "alice"), (None, "analyst")],
    "Trino and Starburst": [(None, "alice"), ([("jdoe",)], "alice"), (None, "analyst"), (NOT_MAPPED, "analyst"),
                            ([("jdoe",)], "alice")],
    "Databricks": [(None, "alice"), ([("alice",)], "alice"), (None, "analyst"), ([("off",)], "analyst")],
    "ReadonlyREST": [(ANYTHING, ADMIN), ([(True,)], ADMIN), (NOT_ALLOWED, "analyst")],
    "Trino's rule file": [(ANYTHING, ADMIN), (ANYTHING, ADMIN), (NOT_ALLOWED, "analyst")],
}


def sections():
    """The commands of each section, in their order."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]:
        title, _, body = section.partition("\n")
        rows = [line for line in body.splitlines() if line.startswith("|")][2:]
        found[title] = []
        for row in rows:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
            assert len(cells) == 3, row
            [command] = re.findall(r"^`(.+)`$", cells[1])
            found[title].append((cells[0], command))
    return found


SECTIONS = sections()


def test_the_page_and_this_test_speak_of_the_same():
    assert {title: len(rows) for title, rows in SECTIONS.items()} == {
        title: len(rows) for title, rows in EXPECTED.items()}


@pytest.fixture
def analyst(world):
    world.sql("CREATE ROLE analyst LOGIN PASSWORD 'analyst' IN ROLE immuta_impersonation; "
              "ALTER ROLE analyst SET bodata.allow_session_impersonation = on; "
              "ALTER ROLE analyst SET bodata.single_impersonation_user = off; "
              "SELECT immuta.create_user('jdoe', postgres_role => 'alice'), "
              "immuta.create_user('asmith', postgres_role => 'bob'), "
              "immuta.create_user('jdoe@mycompany.com', 'Okta', 'bob')")
    yield lambda **extra: world.connect("analyst", "analyst", **extra)
    world.sql("DELETE FROM immuta.impersonation_rule; "
              "SELECT immuta.drop_user('jdoe'), immuta.drop_user('asmith'), immuta.drop_user('jdoe@mycompany.com', 'Okta')")
    world.sql("DROP ROLE analyst")


@pytest.mark.parametrize("title", EXPECTED)
def test_each_line(world, analyst, title):
    connection = analyst()
    connection.autocommit = True
    for (there, command), (answer, who) in zip(SECTIONS[title], EXPECTED[title]):
        if "sessionUser" in there:
            connection.close()
            connection = analyst(options="-c immuta.immuta_user=jdoe")
            connection.autocommit = True
        used = world.admin if who == ADMIN else connection
        try:
            rows = query(used, command)
        except psycopg2.Error as error:
            assert (error.pgcode, error.diag.message_detail) == answer, f"{command}: {error}"
        else:
            assert answer is ANYTHING or answer is None or rows == answer, command
            assert not isinstance(answer, tuple), command
        if who != ADMIN:
            assert query(connection, "SELECT current_user") == [(who,)], command
            if who == "alice":
                assert query(connection, "SELECT count(*) FROM app.flights") == [(100,)]
    connection.close()


def test_granting_and_revoking_reach_running_sessions(world, analyst):
    connection = analyst()
    connection.autocommit = True
    query(connection, "SET immuta.immuta_user = 'jdoe'")
    query(world.admin, "ALTER GROUP immuta_impersonation DROP USER analyst")
    with pytest.raises(psycopg2.Error) as error:
        query(connection, "SELECT 1")
    assert (error.value.pgcode, error.value.diag.message_detail) == NOT_ALLOWED
    query(world.admin, "GRANT immuta_impersonation TO analyst")
    assert query(connection, "SELECT current_user") == [("alice",)]
    query(connection, "RESET immuta.immuta_user")
    connection.close()


def test_a_connection_of_a_user_who_cannot_be(world, analyst):
    for name in ("nobody", "NULL"):
        with pytest.raises(psycopg2.OperationalError, match="IMPERSONATION_NOT_"):
            analyst(options=f"-c immuta.immuta_user={name}")
    connection = analyst(options="-c immuta.immuta_user=jdoe")
    connection.autocommit = True
    for end in ("RESET immuta.immuta_user", "DISCARD ALL"):
        query(connection, end)
        assert query(connection, "SELECT current_user") == [("alice",)]
    connection.close()
