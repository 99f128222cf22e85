"""pgAdmin in server mode, driven by its HTTP interface: two who have logged in there, a query tool of each as the pool of two
connections that scenario.py wants, "auto commit" off. The first argument is a folder for its data; with `tour` as the second,
what a single person does who clicks through it, printed as JSON."""

import builtins
import importlib.util
import json
import os
import queue
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

builtins.SERVER_MODE = True
home = Path(sys.argv[1])
sys.path[:0] = [importlib.util.find_spec("pgadmin4").submodule_search_locations[0], str(Path(__file__).parents[2] / "drivers" / "clients")]
EMAIL, PASSWORD = "someone@example.com", "a-secret-password"
os.environ.update(PGADMIN_SETUP_EMAIL=EMAIL, PGADMIN_SETUP_PASSWORD=PASSWORD)

import config  # noqa: E402

config.DATA_DIR, config.UPGRADE_CHECK_ENABLED = str(home), False
for name, file in dict(LOG_FILE="pgadmin4.log", SQLITE_PATH="pgadmin4.db", SESSION_DB_PATH="sessions", STORAGE_DIR="storage",
                       AZURE_CREDENTIAL_CACHE_DIR="azure", KERBEROS_CCACHE_DIR="kerberos").items():
    setattr(config, name, str(home / file))

import setup  # noqa: E402
from pgadmin import create_app  # noqa: E402
from pgadmin.model import SCHEMA_VERSION  # noqa: E402
from scenario import PRESENT, given, run, tokens, where  # noqa: E402

IDLE = 0


def application():
    config.SETTINGS_SCHEMA_VERSION = SCHEMA_VERSION
    app = create_app()
    app.config["sessions"] = {}
    app.PGADMIN_EXTERNAL_AUTH_SOURCE, app.PGADMIN_RUNTIME, app.PGADMIN_INT_KEY = "internal", False, ""
    setup.setup_db(app)
    app.run_before_app_start()
    return app


class Refused(Exception):
    def __init__(self, text):
        super().__init__(text)
        found = re.search(r"SQL state: (\w{5})", text)
        self.sqlstate = found and found[1]


class Person:
    """Who has logged in, and connected to the server with all that pgAdmin proposes."""

    def __init__(self, app, number, **connection):
        self.client, self.app, self.tool = app.test_client(), app, 1000 * number
        login = self.client.get("/login?next=/").text
        self.client.post("/authenticate/login", data=dict(email=EMAIL, password=PASSWORD, internal_button="Login",
                                                          csrf_token=re.search(r'csrfToken\W+([\w.-]{40,})', login)[1]))
        script = self.client.get("/browser/js/utils.js").text
        self.headers = {"X-pgA-CSRFToken": re.search(r"csrf_token'\] = '([\w.-]+)'", script)[1]}
        options = [dict(name="sslmode", keyword="sslmode", value="prefer"), dict(name="connect_timeout", keyword="connect_timeout", value=10)]
        options += [dict(name=name, keyword=name, value=value) for name, value in connection.pop("options", {}).items()]
        node = self.ask("post", "/browser/server/obj/1/", dict(
            dict(name=f"server {number}", host=where["host"], port=where["port"], db=where["dbname"], username=where["user"],
                 password=where["password"], role=None, service=None, comment=None, save_password=False, connect_now=True,
                 connection_params=options), **connection))["node"]
        assert node["connected"], node
        self.server = node["_id"]
        nodes = self.ask("get", f"/browser/database/nodes/1/{self.server}/")["data"]
        self.database = next(node["_id"] for node in nodes if node["label"] == where["dbname"])
        self.ask("post", f"/browser/database/connect/1/{self.server}/{self.database}")
        self.open()

    def ask(self, method, path, body=None):
        answer = self.client.open(path, method=method.upper(), headers=self.headers, content_type="application/json",
                                  data=None if body is None else json.dumps(body))
        if answer.status_code != 200:
            raise Refused((answer.json or {}).get("errormsg") or answer.text)
        return answer.json

    def open(self):
        """A query tool, which has a connection of its own."""
        self.tool += 1
        self.ask("post", f"/sqleditor/initialize/sqleditor/{self.tool}/1/{self.server}/{self.database}", {"dbname": where["dbname"]})

    def close(self):
        self.ask("delete", f"/sqleditor/close/{self.tool}")

    def option(self, name, is_on):
        self.ask("post", f"/sqleditor/{name}/{self.tool}", is_on)

    def prefer(self, module, name, value):
        self.ask("put", "/preferences/update", {"pref_data": json.dumps([{"module": module, "name": name, "value": value}])})

    def query(self, sql, *values):
        for value in values:
            sql = sql.replace("?", str(value) if isinstance(value, int) else f"'{value}'", 1)
        started = self.ask("post", f"/sqleditor/query_tool/start/{self.tool}", {"sql": sql, "explain_plan": None})
        if not started["data"]["status"]:
            raise Refused(str(started["data"]["result"]))
        return self.result()

    def result(self):
        while True:
            data = self.ask("get", f"/sqleditor/poll/{self.tool}")["data"]
            if data["status"] != "Busy":
                break
            time.sleep(0.01)
        self.status = data["transaction_status"]
        if data["status"] == "Cancel":
            raise Refused("SQL state: 57014")
        rows = data["result"]
        # It shows numbers as texts.
        return [[int(value) if str(value).isdigit() else value for value in row] for row in rows] if isinstance(rows, list) else rows

    def cancelled(self):
        """Not by the button: that asks for pg_cancel_backend() on another connection, without a token."""
        self.query("SET LOCAL statement_timeout = '50ms'")
        self.query("SELECT pg_sleep(20)")

    @contextmanager
    def nested(self):
        self.query("SAVEPOINT nested")
        try:
            yield
        except BaseException:
            self.query("ROLLBACK TO SAVEPOINT nested")
            raise
        self.query("RELEASE SAVEPOINT nested")

    def __call__(self, sql, *values):
        return self.query(sql, *values)


class Pool:
    def __init__(self, app):
        self.people = queue.Queue()
        for number in (1, 2):
            person = Person(app, number)
            person.option("auto_commit", False)
            self.people.put(person)

    @contextmanager
    def transaction(self, user):
        person = self.people.get()
        try:
            person.query(PRESENT, tokens[user])
            yield person
            person.query("COMMIT")
        except BaseException:
            person.query("ROLLBACK")
            raise
        finally:
            self.people.put(person)

    def alone(self, sql):
        person = self.people.get()
        try:
            person.option("auto_commit", True)
            person.query(sql)
        finally:
            person.option("auto_commit", False)
            self.people.put(person)

    def reset(self):
        people = [self.people.get(), self.people.get()]
        for person in people:
            person.close()
            person.open()
            person.option("auto_commit", False)
            self.people.put(person)


def tour(app):
    """What each thing that one can click on answers: a number of rows, a row, or an error."""
    seen = {}

    def see(name, act):
        try:
            seen[name] = act()
        except Refused as refused:
            seen[name] = refused.sqlstate or str(refused)

    for login, person in (("service", Person(app, 1)), ("session", Person(app, 2, **given["session"]))):
        at = f"{person.server}/{person.database}"
        rows = "SELECT current_user, min(carrier), count(*) FROM app.orders"
        token = f"SET LOCAL bodata.impersonation_token = '{tokens['alice']}'"

        def shown(path):
            answer = person.ask("get", path)
            return len(answer["data"] if isinstance(answer, dict) and "data" in answer else answer) > 0

        see(f"{login} roles", lambda: shown(f"/browser/role/nodes/1/{person.server}/"))
        see(f"{login} schemas", lambda: shown(f"/browser/schema/nodes/1/{at}/"))
        schema = person.ask("get", f"/browser/schema/nodes/1/{at}/")["data"]
        schema = next(node["_id"] for node in schema if node["label"] == "app")
        tables = person.ask("get", f"/browser/table/nodes/1/{at}/{schema}/")["data"]
        table = next(node["_id"] for node in tables if node["label"] == "orders")
        see(f"{login} properties", lambda: shown(f"/browser/table/obj/1/{at}/{schema}/{table}"))
        see(f"{login} sql", lambda: shown(f"/browser/table/sql/1/{at}/{schema}/{table}"))
        if login == "service":
            person.prefer("browser", "table_row_count_threshold", 0)
            see("properties without counting", lambda: shown(f"/browser/table/obj/1/{at}/{schema}/{table}"))
            see("sql without counting", lambda: shown(f"/browser/table/sql/1/{at}/{schema}/{table}"))
            person.prefer("browser", "table_row_count_threshold", 2000)
        see(f"{login} columns", lambda: shown(f"/browser/column/nodes/1/{at}/{schema}/{table}/"))
        see(f"{login} locks", lambda: shown(f"/dashboard/locks/{at}"))
        see(f"{login} configuration", lambda: shown(f"/dashboard/config/{person.server}"))
        see(f"{login} activity", lambda: shown(f"/dashboard/activity/{at}"))
        see(f"{login} charts", lambda: shown(f"/dashboard/dashboard_stats/{at}?chart_names=session_stats,tps_stats"))
        see(f"{login} charts without sessions", lambda: shown(f"/dashboard/dashboard_stats/{at}?chart_names=tps_stats,ti_stats"))

        def view():
            person.ask("post", f"/sqleditor/initialize/viewdata/{person.tool + 500}/3/table/1/{at}/{table}", {"sql_filter": ""})
            person.ask("get", f"/sqleditor/view_data/start/{person.tool + 500}")
            usual, person.tool = person.tool, person.tool + 500
            try:
                return len(person.result())
            finally:
                person.tool = usual

        see(f"{login} view data", view)
        see(f"{login} query", lambda: person.query(rows))
        if login == "service":
            see("together", lambda: person.query(f"{token}; {rows}"))
            see("alone", lambda: person.query(token))
            see("explicit", lambda: (person.query(f"BEGIN; {token}"), person.query(rows), person.query("COMMIT"))[1])
            see("afterwards", lambda: person.query(rows))
        person.option("auto_commit", False)
        if login == "service":
            see("cancel", lambda: person.ask("post", f"/sqleditor/cancel/{person.tool}"))
            see("token without auto commit", lambda: (person.query(token), person.query(rows))[1])
        person.option("server_cursor", True)
        see(f"{login} server cursor", lambda: person.query("SELECT carrier FROM app.orders LIMIT 1"))
        person.option("server_cursor", False)
        see(f"{login} end", lambda: person.query("COMMIT"))
        if login == "service":
            person.option("server_cursor", True)
            see("token by a server cursor", lambda: person.query(f"SELECT set_config('bodata.impersonation_token', '{tokens['alice']}', true)"))
            person.option("server_cursor", False)
            person.query("ROLLBACK")
        person.close()
    print(json.dumps(seen))


app = application()
if sys.argv[2:] == ["tour"]:
    tour(app)
else:
    run(Pool(app))
