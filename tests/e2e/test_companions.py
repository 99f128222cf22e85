"""Other people's extensions under a token: what users of them do works, with the user's rows and no more. pgAudit,
auto_explain and pg_stat_statements are in `test_logs.py`, postgres_fdw and dblink in the attacks."""

import psycopg2
import pytest
from harness import companions
from harness.fixtures import TALKATIVE, VERSION, logs_no_secret
from harness.server import Server
from harness.world import World, impersonate, prepare, query

pytestmark = pytest.mark.skipif(VERSION != "15", reason="Debian has them for its own PostgreSQL, which is 15")

# Those that Debian has as a source that compiles, and those that it has built.
COMPILED = {"vector": "pgvector", "pg_partman": "pg-partman"}
PACKAGED = {"pg_cron": ["cron"], "postgis": ["postgis-3", "postgis-3-scripts"]}

SQL = {
    "vector": """
        CREATE EXTENSION vector;
        CREATE TABLE app.texts (id int PRIMARY KEY, carrier text, e vector(3));
        INSERT INTO app.texts SELECT i, (ARRAY['UA', 'AA'])[1 + i % 2], ARRAY[i, i % 7, 1]::float4[]::vector FROM generate_series(1, 400) i;
        CREATE INDEX ON app.texts USING hnsw (e vector_l2_ops);
        ALTER TABLE app.texts ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON app.texts TO alice USING (carrier = 'UA'); GRANT SELECT ON app.texts TO alice""",
    "pg_partman": """
        CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
        CREATE TABLE app.events (id bigint, carrier text, at timestamptz NOT NULL) PARTITION BY RANGE (at);
        SELECT partman.create_parent('app.events', 'at', p_interval => '1 day');
        INSERT INTO app.events SELECT i, (ARRAY['UA', 'AA'])[1 + i % 2], now() - i * interval '1 hour' FROM generate_series(0, 47) i;
        ALTER TABLE app.events ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON app.events TO alice USING (carrier = 'UA'); GRANT SELECT ON app.events TO alice""",
    "postgis": """
        CREATE EXTENSION postgis;
        CREATE TABLE app.places (id int, carrier text, at geometry(Point, 4326));
        INSERT INTO app.places SELECT i, (ARRAY['UA', 'AA'])[1 + i % 2], ST_SetSRID(ST_MakePoint(i % 10, i / 10), 4326) FROM generate_series(1, 100) i;
        CREATE INDEX ON app.places USING gist (at);
        ALTER TABLE app.places ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON app.places TO alice USING (carrier = 'UA'); GRANT SELECT ON app.places TO alice""",
    "pg_cron": "CREATE EXTENSION pg_cron; GRANT USAGE ON SCHEMA cron TO svc",
}


@pytest.fixture(scope="module")
def world():
    libraries = []
    for package in COMPILED.values():
        companions.build_extension(VERSION, package)
    for packages in PACKAGED.values():
        libraries.append(companions.unpack_extension(VERSION, *packages))
    options = [*TALKATIVE, "shared_preload_libraries=immuta_ext,pg_cron", "cron.database_name=immuta"]
    environment = {"LD_LIBRARY_PATH": ":".join([str(companions.BUILD / "pg" / VERSION / "lib"), *libraries])}
    with Server(VERSION, "companions", options=options, environment=environment) as server:
        prepare(server)
        world = World(server)
        for name in (*COMPILED, *PACKAGED):
            server.psql(input=SQL[name], dbname=world.dbname)
        yield world
        world.admin.close()
        logs_no_secret(world)


@pytest.fixture
def alice(world):
    connection = world.connect()
    impersonate(connection, world.token("alice"))
    yield connection
    connection.close()


QUERIES = [
    ("vector", "SELECT DISTINCT carrier FROM (SELECT carrier FROM app.texts ORDER BY e <-> '[5,5,1]' LIMIT 20) x", [("UA",)]),
    ("vector", "SELECT count(*) FROM app.texts WHERE e <=> '[1,1,1]' < 2", [(200,)]),
    ("pg_partman", "SELECT count(*), count(DISTINCT carrier) FROM app.events", [(24, 1)]),
    ("postgis", "SELECT count(*), count(DISTINCT carrier) FROM app.places WHERE ST_DWithin(at, ST_SetSRID(ST_MakePoint(5, 5), 4326), 100)", [(50, 1)]),
    ("postgis", "SELECT count(*) FROM app.places WHERE ST_X(ST_Transform(at, 3857)) IS NOT NULL", [(50,)]),
]


@pytest.mark.parametrize("name,sql,rows", QUERIES)
def test_queries_see_the_users_rows(world, alice, name, sql, rows):
    assert query(alice, sql) == rows
    alice.commit()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="impersonation token"):
        query(alice, sql)


def test_partitions_are_closed_by_themselves_and_maintenance_goes_on(world, alice):
    partition = world.value("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'app.events'::regclass ORDER BY 1 LIMIT 1")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(alice, f"SELECT * FROM {partition}")
    world.sql("SELECT partman.run_maintenance()")


def test_jobs_are_of_nobodys_token(world, alice):
    """A user cannot leave a job behind, nor can a session without a token."""
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(alice, "SELECT cron.schedule('* * * * *', 'SELECT 1')")
    alice.rollback()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="impersonation token"):
        query(alice, "SELECT cron.schedule('* * * * *', 'SELECT count(*) FROM app.flights')")
