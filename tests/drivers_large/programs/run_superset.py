"""Superset with the configuration of docs/integrations: alice, bob and carol log in and use SQL Lab and a chart, two hundred times in
turn; its caches are on. The first argument is a folder for its data. What else is asked goes to stdout as JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

home = Path(sys.argv[1])
given = json.load(sys.stdin)
where, tokens = given["where"], given["tokens"]
CARRIER = {"alice": "UA", "bob": "AA", "carol": "DL"}
ROUNDS = 200

(home / "superset_config.py").write_text(f"""
import importlib.util
spec = importlib.util.spec_from_file_location("guide", {given["examples"] + "/superset_config.py"!r})
guide = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guide)
globals().update({{name: value for name, value in vars(guide).items() if name.isupper()}})
guide.token_of = lambda user: {tokens!r}[user.username]
SECRET_KEY = "x" * 42
SQLALCHEMY_DATABASE_URI = "sqlite:///{home}/superset.db"
WTF_CSRF_ENABLED = TALISMAN_ENABLED = False
CACHE_CONFIG = DATA_CACHE_CONFIG = {{"CACHE_TYPE": "SimpleCache", "CACHE_DEFAULT_TIMEOUT": 3600}}
RATELIMIT_ENABLED = AUTH_RATE_LIMITED = False
DISALLOWED_SQL_FUNCTIONS = {{}}  # its own list would stop what the server is to stop
""")
os.environ.update(SUPERSET_CONFIG_PATH=str(home / "superset_config.py"), SUPERSET_HOME=str(home), FLASK_APP="superset")

from superset.app import create_app  # noqa: E402

for words in (["db", "upgrade"], ["init"]):
    subprocess.run([Path(sys.executable).with_name("superset"), *words], check=True, stdout=subprocess.DEVNULL)
app = create_app()
with app.app_context():
    manager = app.appbuilder.sm
    for user in [*CARRIER, "nobody"]:
        manager.add_user(user, user, user, f"{user}@example.com", manager.find_role("Admin"), password=user)


class Person:
    def __init__(self, user):
        self.client = app.test_client()
        answer = self.client.post("/login/", data=dict(username=user, password=user))
        assert answer.status_code == 302 and "login" not in answer.headers["Location"], answer.text

    def ask(self, method, path, body=None):
        answer = self.client.open(path, method=method, json=body)
        return answer.status_code, answer.json

    def sql(self, sql):
        """Rows, or the error's text."""
        status, answer = self.ask("POST", "/api/v1/sqllab/execute/", {"database_id": database, "sql": sql, "schema": "app", "runAsync": False})
        if status != 200:
            return answer["errors"][0]["message"]
        return [list(row.values()) for row in answer["data"]]


people = {user: Person(user) for user in CARRIER}
alice = people["alice"]
uri = f"postgresql+psycopg2://{where['user']}:{where['password']}@{where['host']}:{where['port']}/{where['dbname']}"
seen = {"test connection": alice.ask("POST", "/api/v1/database/test_connection/", {"sqlalchemy_uri": uri, "database_name": "flights"})[0],
        "test connection by nobody": Person("nobody").ask(
            "POST", "/api/v1/database/test_connection/", {"sqlalchemy_uri": uri, "database_name": "flights"})[0]}
status, answer = alice.ask("POST", "/api/v1/database/", {"database_name": "flights", "sqlalchemy_uri": uri, "expose_in_sqllab": True,
                                                         "allow_dml": True})
assert status == 201, answer
database = answer["id"]
status, answer = alice.ask("GET", f"/api/v1/database/{database}/schemas/")
seen["schemas"] = "app" in answer["result"]
status, answer = alice.ask("GET", f"/api/v1/database/{database}/tables/?q=(schema_name:app)")
seen["tables"] = {"flights", "orders"} <= {table["value"] for table in answer["result"]}
status, answer = alice.ask("GET", f"/api/v1/database/{database}/table_metadata/?name=orders&schema=app")
seen["columns"] = [column["name"] for column in answer["columns"]]
status, answer = alice.ask("POST", "/api/v1/dataset/", {"database": database, "schema": "app", "table_name": "orders"})
assert status == 201, answer
dataset = answer["id"]


def chart(person):
    metric = {"expressionType": "SQL", "sqlExpression": "count(*)", "label": "orders"}
    status, answer = person.ask("POST", "/api/v1/chart/data", {
        "datasource": {"id": dataset, "type": "table"}, "result_format": "json", "result_type": "full",
        "queries": [{"columns": ["carrier"], "metrics": [metric], "row_limit": 100}]})
    assert status == 200, answer
    return [list(row.values()) for row in answer["result"][0]["data"]], answer["result"][0]["is_cached"]


cached = 0
for number in range(ROUNDS):
    user = list(CARRIER)[number % 3]
    person = people[user]
    if number % 2:
        rows, is_cached = chart(person)
        cached += bool(is_cached)
        assert rows == [[CARRIER[user], 10]], (number, user, rows)
    else:
        rows = person.sql("SELECT current_user, min(carrier), max(carrier), count(*) FROM app.orders")
        assert rows == [[user, CARRIER[user], CARRIER[user], 10]], (number, user, rows)
    if number % 10 == 4:
        assert "division by zero" in person.sql("SELECT 1 / (count(*) - count(*)) FROM app.orders")
    if number % 10 == 6:
        assert person.sql("CREATE TEMP TABLE left_behind AS SELECT 1 AS a; SELECT set_config('work_mem', '5MB', false), a FROM left_behind")
seen["cached"] = cached
seen["escapes"] = {sql: alice.sql(sql) for sql in (
    "RESET ROLE", "SELECT set_config('role', 'none', false)", "COMMIT; SELECT count(*) FROM app.orders",
    "ROLLBACK; SELECT current_user; SELECT count(*) FROM app.orders", "SELECT current_user, current_setting('work_mem')")}
print(json.dumps(seen))
print("done", ROUNDS)
