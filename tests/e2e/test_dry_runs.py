"""An administrator tests what a user may do: no code of theirs, or of anybody's, runs as that user for it.

Threats: 43 (docs/threats.md).
"""

import pytest
from conftest import refuses
from harness.world import query

# What mallory, who is an administrator of the extension and may make objects, puts in the planner's way. Each function
# raises an error if it runs as alice.
PLANTED = """
CREATE FUNCTION m.spy() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN IF current_user = 'alice' THEN RAISE EXCEPTION 'ran: %', (SELECT min(body) FROM private.notes); END IF; RETURN 1; END $$;
CREATE FUNCTION m.wait() RETURNS int STABLE LANGUAGE sql AS 'SELECT m.spy()';
CREATE FUNCTION m.with_default(a int = m.spy()) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION m.is_fine(text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN m.spy() > 0; END';
CREATE DOMAIN m.checked AS text CHECK (m.is_fine(VALUE));
CREATE FUNCTION m.same(text, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN m.spy() > 0; END';
CREATE OPERATOR m.=== (FUNCTION = m.same, LEFTARG = text, RIGHTARG = text, RESTRICT = eqsel, NEGATOR = OPERATOR(m.!==));
CREATE OPERATOR m.!== (FUNCTION = pg_catalog.textne, LEFTARG = text, RIGHTARG = text, RESTRICT = neqsel,
                       NEGATOR = OPERATOR(m.===));
CREATE TYPE m.colour AS ENUM ('red');
CREATE FUNCTION m.to_json(m.colour) RETURNS json STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM m.spy(); RETURN '1'; END $$;
CREATE CAST (m.colour AS json) WITH FUNCTION m.to_json(m.colour);
CREATE FUNCTION m.apart(int, int) RETURNS float8 IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN m.spy(); END';
CREATE TYPE m.span AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = m.apart);
CREATE TABLE m.spans AS SELECT m.span(i, i + 5) AS v, 'UA'::text AS carrier FROM generate_series(1, 50) i;
CREATE FUNCTION m.helper(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN m.spy(); END';
GRANT SELECT ON m.spans TO alice;
"""

ATTACKS = {
    "immutable function": "SELECT m.spy()",
    "stable function": "SELECT 1 FROM m.spans WHERE length(carrier) = m.wait()",
    "default of a parameter": "SELECT m.with_default()",
    "domain of a literal": "SELECT 'x'::m.checked",
    "operator": "SELECT 'a' OPERATOR(m.===) 'b'",
    "operator on statistics": "SELECT 1 FROM m.spans WHERE carrier OPERATOR(m.===) 'UA'",
    "negator of an operator": "SELECT 1 FROM m.spans WHERE carrier OPERATOR(m.!==) 'UA'",
    "cast": "SELECT 'red'::m.colour::json",
    "cast that a function of JSON finds": "SELECT 1 FROM m.spans WHERE carrier = to_json('red'::m.colour)::text",
    "range on statistics": "SELECT 1 FROM m.spans WHERE v && '[3,9)'::m.span",
    "name that a superuser's function looks up": "SELECT app.superusers()",
}


@pytest.fixture
def mallory(world):
    world.sql("CREATE ROLE mallory LOGIN PASSWORD 'mallory' IN ROLE immuta_admin; CREATE SCHEMA m AUTHORIZATION mallory; "
              "GRANT USAGE ON SCHEMA m TO PUBLIC; "
              "CREATE FUNCTION app.superusers() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper(1); END'")
    connection = world.connect("mallory", "mallory")
    connection.autocommit = True
    query(connection, PLANTED)
    query(connection, "SET search_path = m, public")
    world.sql("ANALYZE m.spans")
    yield connection
    connection.close()
    world.sql("DROP FUNCTION app.superusers(); DROP SCHEMA m CASCADE; DROP ROLE mallory")


@pytest.mark.parametrize("statement", ATTACKS.values(), ids=ATTACKS.keys())
def test_nobodys_code_runs_as_the_user(mallory, statement):
    # Whatever PostgreSQL looks up only once it has looked up.
    query(mallory, f"EXPLAIN {statement}")
    [(allowed, sqlstate, message, plan)] = query(
        mallory, "SELECT allowed, sqlstate, message, plan FROM immuta.test_access('alice', %s)", (statement,))
    assert "note" not in f"{message}{plan}"
    assert (allowed, sqlstate) == (None, "0A000") and "cannot be tested" in message


def test_functions_of_superusers_are_called(world, mallory):
    """Extensions and row policies need them."""
    world.sql("CREATE FUNCTION app.tenant() RETURNS text STABLE LANGUAGE sql AS 'SELECT current_user::text'")
    try:
        assert query(mallory, "SELECT allowed FROM immuta.test_access('alice', "
                              "'SELECT 1 FROM spans WHERE carrier = app.tenant()')") == [(True,)]
    finally:
        world.sql("DROP FUNCTION app.tenant()")


@pytest.mark.parametrize("call", [
    "SELECT immuta_internal.explained('alice', 'bim', 'SELECT 1', 'public')",
    "SELECT immuta_internal.record_dry_run('alice', 'bim', 'DELETE FROM app.flights', NULL)"])
def test_what_it_is_made_of_is_nobodys(world, mallory, call):
    """Or a dry run could be made without a record, and a record without a dry run."""
    with refuses("42501"):
        query(mallory, call)
    assert world.sql("SELECT proname FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a "
                     "WHERE proname IN ('explained', 'record_dry_run') AND a.grantee <> p.proowner") == []
