"""A server whose library can be made to fail (feature `inject`): everything is recorded, to every sink, and whatever can be
switched on is."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.fixtures import TALKATIVE, VERSION, logs_no_secret, no_process_crashed, pytest_report_header  # noqa: E402,F401
from harness.server import Server  # noqa: E402
from harness.world import World, prepare  # noqa: E402

OPTIONS = ("bodata.audit_sink=log,file,table", "bodata.allow_session_impersonation=on", "bodata.apply_role_settings=on",
           "bodata.application_name_template=%u", "bodata.audit_nested=on", "bodata.audit_query_text=full")

SQL = """
CREATE FUNCTION app.arm(text) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$ SELECT set_config('bodata.inject', $1, false) $$;
ALTER ROLE alice SET work_mem = '7MB';
CREATE ROLE names LOGIN PASSWORD 'names' IN ROLE immuta_impersonation;
CREATE ROLE boss LOGIN PASSWORD 'boss' IN ROLE immuta_admin;
CREATE ROLE keeper CREATEROLE;
CREATE TABLE app.orders (id int); GRANT ALL ON app.orders TO keeper WITH GRANT OPTION; GRANT USAGE ON SCHEMA app TO keeper WITH GRANT OPTION;
SELECT immuta.set_system_account('keeper');
SELECT immuta.create_user('ann'), immuta.set_password('bob', 'of bob');
GRANT immuta_subscriber TO alice;
CREATE TABLE app.people (id int, name text, ssn text); INSERT INTO app.people VALUES (1, 'CANARY', 'CANARY');
GRANT SELECT (id), UPDATE (id) ON app.people TO alice;
INSERT INTO immuta.mask_parameters VALUES (1, 'salt');
INSERT INTO immuta.masks SELECT 'app.people'::regclass, n, immuta_internal.check_mask('app.people'::regclass, n, m)
FROM (VALUES (2::smallint, 'left(name, 1)'), (3::smallint, 'immuta.mask_hash(ssn, immuta_internal.mask_ref(1))')) v (n, m);
-- Masks and their parameters are read in anew.
CREATE FUNCTION app.forgets_masks() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$ UPDATE immuta.mask_parameters SET salt = salt; UPDATE immuta.masks SET mask = mask $$;
CREATE FUNCTION app.catches() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN PERFORM 1/(id - id) FROM app.flights; EXCEPTION WHEN division_by_zero THEN RETURN 'caught'; END;
END $$;
"""


@pytest.fixture(scope="session")
def world():
    with Server(VERSION, "inject", options=[*TALKATIVE, *OPTIONS]) as server:
        prepare(server)
        server.psql(input=SQL, dbname="immuta")
        world = World(server)
        world.shared = {user: world.token(user) for user in ("alice", "bob")}
        yield world
        no_process_crashed(world)
        logs_no_secret(world)
