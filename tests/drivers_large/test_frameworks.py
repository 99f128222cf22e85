"""Whole applications of frameworks, of which the other tests run the database layers only: Rails, Laravel; Hibernate; and what goes
through pgpool-II, which takes its time."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from environments import CLIENTS, jars, libraries, php, python, ruby
from harness import debian
from harness.pooler import PgPool
from harness.world import SERVICE
from test_guides import EXAMPLES, SEEN, request, serving
from test_matrix import run

PROGRAMS = Path(__file__).resolve().parent / "programs"
CARRIER = {"alice": "UA", "bob": "AA", "carol": "DL"}
TRANSACTIONS = 200


@pytest.fixture
def login(world):
    return dict(PGHOST="127.0.0.1", PGPORT=str(world.server.port), PGUSER=SERVICE[0], PGPASSWORD=SERVICE[1], PGDATABASE=world.dbname)


def rails(home, login):
    words, environment = ruby("ruby-rails")
    return [*words, PROGRAMS / "rails_application.rb"], {**environment, "RAILS_ENV": "production", "GUIDE": str(EXAMPLES / "rails_app.rb")}


def laravel(home, login):
    """Its files of settings: what `laravel new` makes, as far as it is about these."""
    for folder in ("config", "bootstrap/cache", "storage/framework/views"):
        (home / folder).mkdir(parents=True)
    providers = [f"Illuminate\\{name}ServiceProvider" for name in ("Database\\Database", "Foundation\\Providers\\Foundation", "View\\View",
                                                                   "Filesystem\\Filesystem", "Encryption\\Encryption")]
    connection = dict(driver="pgsql", host=login["PGHOST"], port=login["PGPORT"], database=login["PGDATABASE"], username=login["PGUSER"],
                      password=login["PGPASSWORD"], charset="utf8", prefix="", schema="public", sslmode="prefer")
    files = dict(app=dict(key="x" * 32, cipher="AES-256-CBC", env="production", debug=False, timezone="UTC", locale="en",
                          providers=providers, aliases={}),
                 view=dict(paths=[], compiled=str(home / "storage/framework/views")),
                 # PDO::ATTR_PERSISTENT: one request leaves its connection to the next.
                 database=dict(default="pgsql", connections=dict(pgsql=dict(connection, options={"12": True}))))
    for name, values in files.items():
        (home / "config" / f"{name}.php").write_text(f"<?php return json_decode(<<<'VALUES'\n{json.dumps(values)}\nVALUES, true);")
    tree = debian.program("php-laravel-framework", "php-cli", "php-pgsql", "php-mbstring", "php-xml")
    words = php("php-laravel-framework", "php-mbstring", "php-xml")
    return [*words, "-S", "127.0.0.1:$PORT", PROGRAMS / "laravel_application.php"], {"LD_LIBRARY_PATH": libraries(tree)}


@pytest.mark.parametrize("framework", [rails, laravel])
def test_framework(framework, login, tokens, tmp_path):
    words, environment = framework(tmp_path, login)
    with serving(words, {**login, **environment, "HOME": str(tmp_path)}) as port:
        def ask(user, what):
            status, text = request(port, tokens[user], path=f"/{what}")
            return status, json.loads(text)

        def work(number):
            user = list(CARRIER)[number % 3]
            match number % 10:
                case 3:
                    assert ask(user, "fail") == (500, {"error": "22012"})
                case 9 if number % 50 == 49:
                    assert ask(user, "slow") == (500, {"error": "57014"})
                case even if even % 2 == 0:
                    assert ask(user, "flights") == (200, SEEN[user])
                case _:
                    assert ask(user, "work") == (200, {"user": user, "orders": {CARRIER[user]: 10}, "left": "4MB"})

        with ThreadPoolExecutor(2) as workers:
            list(workers.map(work, range(TRANSACTIONS)))
        assert request(port, "not-a-token")[0] == 401
        status, text = request(port)
        assert (status, json.loads(text)) == (500, {"error": "42501"})


def test_hibernate(login, tokens):
    path = jars(("libhibernate3-java", "libjavassist-java", "libpostgresql-jdbc-java", "libslf4j-java"), (
        "hibernate-core", "hibernate-commons-annotations", "antlr", "commons-collections3", "dom4j", "jaxen", "geronimo-jpa_2.0_spec",
        "geronimo-jta-1.2-spec", "javassist", "postgresql", "slf4j-api", "slf4j-nop"))
    environment = dict(os.environ, HOST=login["PGHOST"], PORT=login["PGPORT"], DBNAME=login["PGDATABASE"], SERVICE=login["PGUSER"],
                       PASSWORD=login["PGPASSWORD"], **{user.upper(): token for user, token in tokens.items()})
    # It is of 2012, and makes classes in a way that Java has closed since.
    done = subprocess.run(["java", "-XX:TieredStopAtLevel=1", "--add-opens", "java.base/java.lang=ALL-UNNAMED", "-cp", path,
                           PROGRAMS / "Hibernate.java"], env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.split() == ["done", str(TRANSACTIONS)]


def test_pgpool(world, login, tokens):
    with PgPool(world.server, *SERVICE, debian.program("pgpool2"), settings=["num_init_children = 3"]) as pgpool:
        where = dict(host="127.0.0.1", port=pgpool.port, user=SERVICE[0], password=SERVICE[1], dbname=world.dbname, sslmode="disable")
        run([python(), CLIENTS / "python_sync.py", "psycopg"], dict(where=where, tokens=tokens))
