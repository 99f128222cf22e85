"""The provider is changed by ALTER SYSTEM and a reload while the server is busy, behind a pooler in transaction mode:
nothing is lost but the transactions whose token the new provider refuses."""

import re
import subprocess
import time

import pytest
from harness.immuta_api import CURRENT_USER, ImmutaApi
from harness.pooler import PgBouncer
from harness.world import SERVICE

SCRIPT = """BEGIN;
SET LOCAL bodata.impersonation_token = '{}';
SELECT count(*) FROM app.flights;
END;
"""


@pytest.fixture
def busy(world, server, tmp_path):
    """Starts pgbench clients, each group with a token of its own."""
    running = []
    with PgBouncer(server, *SERVICE, world.dbname) as pooler:
        environment = server.client_environment(*SERVICE, dbname=world.dbname)
        environment.update(PGPORT=str(pooler.port))

        def start(token, seconds):
            script = tmp_path / f"{len(running)}.sql"
            script.write_text(SCRIPT.format(token))
            running.append(subprocess.Popen(
                [server.program("pgbench"), "-n", "-c", "4", "-T", str(seconds), "-f", script], env=environment,
                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
            return running[-1]

        yield start
        for process in running:
            process.kill()
            process.communicate()


def done(output):
    return int(re.search(r"number of transactions actually processed: (\d+)", output)[1])


def test_nothing_is_lost(world, busy):
    alices, bobs = world.token("alice"), world.token("bob")
    with ImmutaApi() as api:
        api.add_user("alice")
        api.issue("alice", token=alices)
        accepted, refused = busy(alices, 6), busy(bobs, 6)
        try:
            for provider in ("immuta", "local", "immuta"):
                time.sleep(1)
                assert accepted.poll() is None
                world.sql("ALTER SYSTEM SET bodata.api_url = %s", (api.url,))
                world.sql("ALTER SYSTEM SET bodata.token_provider = %s", (provider,))
                world.sql("SELECT pg_reload_conf()")
            output, error = accepted.communicate(timeout=30)[0], refused.communicate(timeout=30)[0]
        finally:
            world.sql("ALTER SYSTEM RESET bodata.token_provider")
            world.sql("ALTER SYSTEM RESET bodata.api_url")
            world.sql("SELECT pg_reload_conf()")
        assert accepted.returncode == 0 and "aborted" not in output, output
        assert done(output) > 100 and re.findall(r"number of failed transactions: (\d+)", output) in ([], ["0"])
        assert api.requests[CURRENT_USER] >= 2
        # The other clients met an error of ours, each once, and none of any other kind.
        assert refused.returncode == 2
        errors = re.findall(r"(?:ERROR|FATAL): +(.*)", error)
        assert set(errors) == {"impersonation token is not valid"} and len(errors) == 4, error
