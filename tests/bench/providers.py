"""What an outside token provider costs: the first use of a token, the next ones, and a cancelled one. Times are taken in
one run and compared with each other; the system calls are counted."""

import os
import re
import shutil
import socket
import statistics
import subprocess
import threading
import time

import psycopg
from harness.immuta_api import CURRENT_USER, ImmutaApi
from harness.issuer import Issuer
from harness.server import BUILD, ROOT, Server
from harness.world import DBNAME, SERVICE, prepare

TOKENS, CANCELS = 400, 200


def plain_get(url, tokens):
    """Microseconds of the same request by a plain ureq program."""
    target = BUILD / "bench" / "plain-get"
    subprocess.run(["cargo", "build", "-q", "--release", "--manifest-path", ROOT / "tests" / "bench" / "plain-get" /
                    "Cargo.toml", "--target-dir", target], check=True)
    done = subprocess.run([target / "release" / "plain-get", url + CURRENT_USER, str(len(tokens))],
                          input="\n".join(tokens), text=True, capture_output=True, check=True)
    return [int(line) for line in done.stdout.split()]


def connect(server):
    return psycopg.connect(**server.dsn(*SERVICE, DBNAME), autocommit=True, prepare_threshold=None)


def presenting(connection, tokens):
    """Microseconds of each SET LOCAL."""
    times = []
    for token in tokens:
        connection.pgconn.exec_(b"BEGIN")
        begun = time.perf_counter()
        result = connection.pgconn.exec_(f"SET LOCAL bodata.impersonation_token = '{token}'".encode())
        times.append((time.perf_counter() - begun) * 1e6)
        assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, result.error_message
        connection.pgconn.exec_(b"END")
    return times


def system_calls(connection, token, trace):
    """Names of the system calls between the arrival of a SET with a known token and the answer to it, of five."""
    tracer = subprocess.Popen(["strace", "-f", "-q", "-p", str(connection.info.backend_pid), "-o", trace, "-s", "64"],
                              stderr=subprocess.DEVNULL)
    time.sleep(1)
    presenting(connection, [token] * 5)
    tracer.terminate()
    tracer.wait(10)
    between, arrived, calls = False, 0, []
    for line in trace.read_text().splitlines():
        name = re.match(r"\d+ +(\w+)\(", line)
        if "SET LOCAL bodata" in line:
            between, arrived = True, arrived + 1
        elif between and name and name[1] == "sendto":
            between = False
        elif between and name:
            calls.append(name[1])
    assert arrived == 5 and not between, f"the trace shows {arrived} of 5 statements"
    return calls


def cancelling(server):
    """Seconds from a cancel request to the error, while the provider does not answer."""
    times = []
    with socket.create_server(("127.0.0.1", 0), backlog=CANCELS * 2) as silent:
        server.psql("-c", f"ALTER DATABASE {DBNAME} SET bodata.api_url = 'http://127.0.0.1:{silent.getsockname()[1]}'")
        with connect(server) as connection:
            for _ in range(CANCELS):
                ended = {}

                def present():
                    connection.pgconn.exec_(b"SET LOCAL bodata.impersonation_token = 'x'")
                    ended["at"] = time.perf_counter()

                thread = threading.Thread(target=present)
                thread.start()
                time.sleep(0.02)
                begun = time.perf_counter()
                connection.cancel_safe()
                thread.join()
                times.append(ended["at"] - begun)
    return times


def jwt(server, goal):
    """Tokens that are verified here. What verifying costs by itself is in the goals: some 90 us for RS256, 180 us for ES256."""
    with Issuer() as issuer:
        issuer.add_key("k2", "ES256")
        for setting in ("token_provider = 'jwt'", "jwt_audience = 'db'"):
            server.psql("-c", f"ALTER DATABASE {DBNAME} SET bodata.{setting}")
        server.psql("-c", f"SELECT immuta.map_issuer('{issuer.url}', 'bim')", dbname=DBNAME)
        for kid, alg in (("k1", "RS256"), ("k2", "ES256")):
            tokens = [issuer.token("alice", kid=kid) for _ in range(TOKENS)]
            with connect(server) as connection:
                presenting(connection, tokens[:10])
                cold = statistics.median(presenting(connection, tokens[10:]))
                warm = statistics.median(presenting(connection, tokens[10:]))
            print(f"  {alg}: SET LOCAL of a new token {cold:,.0f} us, of a known one {warm:,.0f} us")
            goal(f"new JWT ({alg}), above verifying it (median)", cold / 1000 - (0.18 if kid == "k2" else 0.09), 1, "ms")
        goal("requests to the issuer", issuer.requests.total(), 2, "")


def measure(version, trees):
    """Prints the figures; whether all goals are reached."""
    reached = True

    def goal(what, value, limit, unit):
        nonlocal reached
        reached &= value <= limit
        print(f"  {what:<58}{value:>8,.2f} {unit:<3} goal {limit:g}  {'ok' if value <= limit else 'MISSED'}")

    print(f"\nPostgreSQL {version}: tokens of the Immuta API, over loopback\n")
    server = Server(version, "bench-http", trees=trees, options=["bodata.api_allow_http=on", "bodata.audit_sink="])
    with server, ImmutaApi() as api:
        prepare(server)
        api.add_user("alice")
        for setting in (f"api_url = '{api.url}'", "token_provider = 'immuta'"):
            server.psql("-c", f"ALTER DATABASE {DBNAME} SET bodata.{setting}")
        tokens = [api.issue("alice") for _ in range(TOKENS)]
        with connect(server) as connection:
            presenting(connection, tokens[:10])
            plain = statistics.median(plain_get(api.url, tokens))
            cold = statistics.median(presenting(connection, tokens[10:]))
            warm = statistics.median(presenting(connection, tokens[10:]))
            print(f"  a plain GET {plain:,.0f} us; SET LOCAL of a new token {cold:,.0f} us, of a known one {warm:,.0f} us")
            goal("new token, above the plain GET (median)", (cold - plain) / 1000, 1, "ms")
            if shutil.which("strace") and os.geteuid() == 0:
                calls = system_calls(connection, tokens[-1], server.home / "trace")
                goal("system calls between SET and its answer, known token", len(calls), 0, "")
        times = sorted(cancelling(server))
        goal(f"cancel while the provider hangs, p99 of {CANCELS}", times[int(CANCELS * 0.99)] * 1000, 100, "ms")
        jwt(server, goal)
    return reached
