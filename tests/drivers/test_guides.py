"""The programs of the pages in docs/integrations: each page shows its programs as they are, and each of them works."""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from environments import HERE, go_program, java, node, python, ruby
from harness.pooler import later_program
from harness.server import ROOT, NOBODY, free_port, unprivileged
from harness.world import SERVICE

PAGES = ROOT / "docs" / "integrations"
EXAMPLES = PAGES / "examples"
SEEN = {"alice": {"UA": 100}, "bob": {"AA": 100}, "carol": {"UA": 100, "AA": 100, "DL": 100}}


def shown(page):
    """The programs in a page: (file, text)."""
    return re.findall(r"^`examples/([\w./-]+)`:\n\n```\w*\n(.*?)^```$", page.read_text(), re.M | re.S)


def test_pages_show_the_programs_as_they_are():
    found = {}
    for page in PAGES.glob("*.md"):
        for name, text in shown(page):
            assert text == (EXAMPLES / name).read_text(), f"{page.name} shows another {name}"
            found[name] = page
    files = {str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*") if file.is_file()}
    assert files == set(found), "programs without a page"
    listed = (PAGES / "README.md").read_text()
    assert all(f"({page.name})" in listed for page in PAGES.glob("*.md") if page.name != "README.md")


@pytest.fixture(scope="session")
def login(world):
    return dict(PGHOST="127.0.0.1", PGPORT=str(world.server.port), PGUSER=SERVICE[0], PGPASSWORD=SERVICE[1],
                PGDATABASE=world.dbname)


@contextlib.contextmanager
def serving(words, environment, **options):
    """A server that listens on the port it is given in PORT."""
    port = free_port()
    words = [str(word).replace("$PORT", str(port)) for word in words]
    with subprocess.Popen(words, env={**os.environ, **environment, "PORT": str(port)}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options) as process:
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end and process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            assert process.poll() is None, process.stdout.read()
            yield port
        finally:
            process.terminate()


def request(port, token=None, method="GET", path="/flights", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body:
        headers["Content-Type"] = "application/json"
    connection.request(method, path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def run_it(page):
    """What a page tells one to type: what to install, and what starts its program."""
    [text] = re.findall(r"^## Run it\n\n```sh\n(.*?)^```$", (PAGES / page).read_text(), re.M | re.S)
    install, *before, start = text.splitlines()
    return install, "\n".join([*before, f"exec {start}"])


# By page: its program.
WEB_PROGRAMS = {"flask.md": "flask_app.py", "fastapi.md": "fastapi_app.py", "sqlalchemy.md": "sqlalchemy_app.py", "django.md": "django_app.py",
                "node-postgres.md": "node_postgres.mjs", "spring.md": "SpringApplication.java", "rails.md": "rails_app.rb", "go.md": "main.go",
                "postgraphile.md": "postgraphile_app.mjs"}


@contextlib.contextmanager
def typed(page, folder, environment):
    """A folder in which there is nothing but the program, and what the page says to type in it. What it says to install is there
    already, elsewhere; the words for that are compared."""
    name, (install, words) = WEB_PROGRAMS[page], run_it(page)
    shutil.copy(EXAMPLES / name, folder)
    environment = {**environment, "PYTHONDONTWRITEBYTECODE": "1"}
    packages = set(re.findall(r"[\w-]+", re.sub(r"\[[^]]*\]|[><=@]+[\d.]+", "", install)))
    if name.endswith(".py"):
        packages -= {"pip", "install"}
        environment["PATH"] = f"{python().parent}:{os.environ['PATH']}"
        assert packages <= set(re.findall(r"^[\w-]+", (HERE / "requirements.txt").read_text(), re.M))
    elif name.endswith(".mjs"):
        (folder / "node_modules").symlink_to(node() / "node_modules")
        assert packages - {"npm", "install"} <= set(json.loads((HERE / "node" / "package.json").read_text())["dependencies"])
    elif name.endswith(".rb"):
        [program], more = ruby()
        (folder / "bin").mkdir()
        (folder / "bin" / "ruby").symlink_to(program)
        environment |= {**more, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    elif name.endswith(".java"):
        for jar in java(*JARS).split(":"):
            (folder / Path(jar).name).symlink_to(jar)
        words = words.replace("/usr/share/java", str(folder))
    else:
        words = f"exec {go_program(EXAMPLES / name)}"
    with serving(["sh", "-c", words], environment, cwd=folder) as port:
        yield port


JARS = ("HikariCP", "slf4j-api", "slf4j-nop", "spring3-core", "spring3-beans", "spring3-jdbc", "spring3-transaction", "commons-logging")


def each_sees_his_own(port, tokens):
    for user in list(SEEN) * 4:
        status, text = request(port, tokens[user])
        assert (status, json.loads(text)) == (200, SEEN[user]), text
    assert request(port)[0] == 401
    assert request(port, "not-a-token")[0] == 401
    status, text = request(port, tokens["bob"])
    assert (status, json.loads(text)) == (200, SEEN["bob"])


@pytest.mark.parametrize("page", sorted(WEB_PROGRAMS.keys() - {"postgraphile.md"}))
def test_web_applications(login, tokens, tmp_path, page):
    with typed(page, tmp_path, login) as port:
        each_sees_his_own(port, tokens)


def test_whoever_follows_only_the_pages_has_an_application(server, tmp_path):
    """From an empty database to an answer, by the words of README.md there and of one page."""
    sql, text = (EXAMPLES / "database.sql").read_text(), (PAGES / "README.md").read_text()
    server.psql("-c", "CREATE DATABASE flights")
    if server.preload == "session":
        server.psql("-c", "ALTER DATABASE flights SET session_preload_libraries = 'immuta_ext'")
    try:
        token = server.psql("-At", input=sql, dbname="flights").stdout.split()[-1]
        environment = dict(word.split("=") for word in re.search(r"^export (.*)$", text, re.M)[1].split())
        environment |= {"PGPORT": str(server.port)}
        with typed("sqlalchemy.md", tmp_path, environment) as port:
            answer = re.search(r'answers `(\{"UA": 100\})`', text)[1]
            assert request(port, token) == (200, answer)
            assert request(port)[0] == 401
    finally:
        server.psql("-c", "DROP DATABASE flights")
        server.psql("-c", "DROP ROLE flights_app, ursula")


def test_postgraphile(login, tokens, tmp_path):
    with typed("postgraphile.md", tmp_path, login) as port:
        query = {"query": "{ allFlights { nodes { carrier } totalCount } }"}
        end = time.monotonic() + 30
        while True:
            status, text = request(port, tokens["alice"], "POST", "/graphql", query)
            if status == 200 or time.monotonic() > end:
                break

        carriers = {"alice": "UA", "bob": "AA", "carol": "DL"}
        fine, wrong = ({"query": f"{{ allOrders(first: {first}) {{ nodes {{ carrier }} totalCount }} }}"} for first in (100, -1))

        def ask(number):
            """A negative limit is an error of the server's, in the middle of the transaction."""
            user, is_wrong = list(carriers)[number % 3], number % 10 == 3
            status, text = request(port, tokens[user], "POST", "/graphql", wrong if is_wrong else fine)
            answer = json.loads(text)
            if is_wrong:
                assert answer["errors"][0]["code"] == "2201W", text
            else:
                assert answer == {"data": {"allOrders": {"nodes": [{"carrier": carriers[user]}] * 10, "totalCount": 10}}}, text

        with ThreadPoolExecutor(2) as workers:
            list(workers.map(ask, range(200)))
        for token, code in ((None, "42501"), ("not-a-token", "28000")):
            status, text = request(port, token, "POST", "/graphql", query)
            assert json.loads(text)["errors"][0].get("code") == code, text


def test_pgbouncer(world, login, tokens, tmp_path_factory):
    """The file of the page, with this server's places in it; an application behind it."""
    home = world.server.home / "pgbouncer-guide"
    home.mkdir(exist_ok=True)
    port = free_port()
    text = (EXAMPLES / "pgbouncer.ini").read_text()
    for old, new in ((r"port=5432 dbname=flights", f"port={world.server.port} dbname={world.dbname}"), ("6432", str(port)),
                     ("/etc/pgbouncer", str(home))):
        assert old in text
        text = text.replace(old, new)
    (home / "pgbouncer.ini").write_text(text + "unix_socket_dir =\n")
    (home / "userlist.txt").write_text(f'"{SERVICE[0]}" "{SERVICE[1]}"\n')
    if os.geteuid() == 0:
        for path in (home, *home.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    with subprocess.Popen([*map(str, unprivileged(home)), str(later_program()), str(home / "pgbouncer.ini")],
                          stderr=subprocess.PIPE, text=True) as pooler:
        try:
            for line in pooler.stderr:
                if "process up" in line:
                    break
            words = [python(), "-m", "flask", "--app", EXAMPLES / "flask_app.py", "run", "--port", "$PORT"]
            with serving(words, {**login, "PGPORT": str(port), "PGDATABASE": "flights"}) as application:
                each_sees_his_own(application, tokens)
        finally:
            pooler.terminate()


SUPERSET = """
import json, sys
import sqlalchemy as sa
from flask import Flask, g
sys.path.insert(0, sys.argv[1])
import superset_config
tokens = json.loads(sys.argv[2])
superset_config.token_of = lambda user: tokens[user]
engine = sa.create_engine("postgresql+psycopg2://", pool_size=1)
app = Flask("superset")
for user in list(tokens) * 3:
    with app.app_context():
        g.user = user
        with engine.connect() as connection:
            print(user, *connection.execute(sa.text("SELECT count(*) FROM app.flights")).one())
"""


def test_superset(login, tokens):
    """The configuration, on the pool that Superset uses. Superset itself is not run here."""
    done = subprocess.run([python(), "-c", SUPERSET, EXAMPLES, json.dumps(tokens)], env={**os.environ, **login}, text=True,
                          capture_output=True)
    assert done.stdout.splitlines() == [f"{user} {sum(SEEN[user].values())}" for user in tokens] * 3, done.stderr


def test_dbt(world, tokens, tmp_path):
    """dbt's connections belong to its user from the start."""
    world.sql("CREATE ROLE dbt LOGIN PASSWORD 'dbt-password' IN ROLE bodata_impersonate_user; "
              "ALTER ROLE dbt SET bodata.allow_session_impersonation = on; "
              f"GRANT CREATE ON DATABASE {world.dbname} TO alice")
    environment = dict(os.environ, PGHOST="127.0.0.1", PGPORT=str(world.server.port), PGUSER="dbt", PGPASSWORD="dbt-password",
                       PGDATABASE=world.dbname, PGOPTIONS=f"-c bodata.impersonation_token={tokens['alice']}",
                       DBT_SEND_ANONYMOUS_USAGE_STATS="false", DBT_LOG_PATH=str(tmp_path), DBT_TARGET_PATH=str(tmp_path))
    try:
        done = subprocess.run([python().parent / "dbt", "run", "--project-dir", EXAMPLES / "dbt", "--profiles-dir",
                               EXAMPLES / "dbt"], env=environment, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stdout
        assert world.sql("SELECT carrier, flights, pg_get_userbyid(relowner) FROM alice.delays, pg_class "
                          "WHERE oid = 'alice.delays'::regclass") == [("UA", 100, "alice")]
    finally:
        world.sql("DROP TABLE IF EXISTS alice.delays; REVOKE CREATE ON DATABASE " + world.dbname + " FROM alice; DROP ROLE dbt")


AGENT = """
import asyncio, json, os, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    server = StdioServerParameters(command=sys.executable, args=[sys.argv[1]], env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        for sql in json.loads(sys.argv[2]):
            answer = await session.call_tool("query", {"sql": sql})
            print(json.dumps(answer.content[0].text))

asyncio.run(main())
"""


def test_mcp_server(login, tokens):
    """An agent that tries everything stays its user and writes nothing."""
    attempts = ["SELECT carrier, count(*) FROM app.flights GROUP BY 1", "SELECT count(*) FROM app.flights WHERE carrier LIKE 'U%'",
                "RESET ROLE", "COMMIT", "SELECT 1; COMMIT; SELECT * FROM app.everyone", "DELETE FROM app.flights",
                "SELECT set_config('role', 'none', false)", "SELECT current_user, count(*) FROM app.flights"]
    done = subprocess.run([python(), "-c", AGENT, EXAMPLES / "mcp_server.py", json.dumps(attempts)], text=True,
                          env={**os.environ, **login, "IMPERSONATION_TOKEN": tokens["alice"]}, capture_output=True, timeout=60)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer.split(":")[0] for answer in answers] == [
        "carrier\tcount\nUA\t100", "count\n100", "42501", "no rows", "42601", "25006", "42501", "current_user\tcount\nalice\t100"], (
        answers, done.stderr)
