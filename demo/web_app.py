"""A small web application on one pooled service login: users see their rows in a table and a chart, and may try to get at
more with SQL of their own; an administrator sees who is impersonated and what is on record.

Environment: PG* for the service login; ADMIN, a connection string of an administrator; TABLE and GROUP, what is shown.
"""

import os
import secrets
from contextlib import contextmanager

import psycopg
from flask import Flask, redirect, render_template_string, request, session
from psycopg import sql
from psycopg_pool import ConnectionPool

TABLE, GROUP = sql.Identifier(*os.environ.get("TABLE", "air.flights").split(".")), sql.Identifier(os.environ.get("GROUP", "carrier"))
ESCAPES = ["RESET ROLE", "SET ROLE ann", "SELECT set_config('role', 'none', true)", "COMMIT", "SELECT * FROM immuta.token",
           "SELECT current_user, session_user"]
ROWS = 12

app = Flask(__name__)
app.secret_key = secrets.token_bytes(32)
app.config.update(SESSION_COOKIE_SAMESITE="Strict")
pool = ConnectionPool(min_size=1, max_size=4, open=True)
tokens = {}  # by the random key in the user's cookie: a token never goes to the browser


@contextmanager
def as_user(token):
    with pool.connection() as connection, connection.transaction(force_rollback=True):
        connection.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (token,))
        connection.execute("SET LOCAL statement_timeout = '10s'")
        yield connection


def shown(cursor):
    """Names of columns, and rows as text."""
    return [c.name for c in cursor.description or []], [list(map(str, row)) for row in cursor.fetchmany(ROWS)] if cursor.description else []


PAGE = """<!doctype html><title>{{ title }}</title><meta name="viewport" content="width=device-width">
<style>body{font:15px/1.5 system-ui,"DejaVu Sans",sans-serif;max-width:72rem;margin:1rem auto;padding:0 1rem;color:#223}
table{border-collapse:collapse;font-size:13px}td,th{border-bottom:1px solid #ccd;padding:2px 10px 2px 0;text-align:left;max-width:26rem;
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}nav{display:flex;gap:1rem;align-items:center}.error{background:#fee;padding:.5rem 1rem}
section{display:grid;grid-template-columns:1fr 22rem;gap:2rem}input,button,textarea{font:inherit}textarea{width:100%}svg text{font-size:12px}#views td{max-width:8rem}</style>
{% macro table(columns, rows, id) %}<table id="{{ id }}"><tr>{% for c in columns %}<th>{{ c }}{% endfor %}</tr>
{% for row in rows %}<tr>{% for v in row %}<td>{{ v }}{% endfor %}</tr>{% endfor %}</table>{% endmacro %}
<nav><h1>{{ title }}</h1>{% if user %}<form method="post" action="/logout"><button>Sign out</button></form>{% endif %}</nav>
"""
LOGIN = PAGE + """{% if error %}<p class="error">{{ error }}</p>{% endif %}
<form method="post"><label>User <input name="user" autofocus></label> <label>Password <input name="password" type="password"></label>
<button>Sign in</button></form>"""
HOME = PAGE + """<p>You are <b id="user">{{ user }}</b>, in PostgreSQL <b id="role">{{ role }}</b>, on a connection of <b>{{ login }}</b>. You see
<b id="count">{{ "{:,}".format(count) }}</b> rows.</p><section>{{ table(rows[0], rows[1], "rows") }}
<svg id="chart" width="350" height="{{ 22 * bars|length + 10 }}" role="img">{% for label, n in bars %}
<text x="0" y="{{ 22 * loop.index }}">{{ label }}</text><rect x="40" y="{{ 22 * loop.index - 12 }}" width="{{ 230 * n // most + 1 }}" height="15"
fill="#47a"/><text x="{{ 46 + 230 * n // most }}" y="{{ 22 * loop.index }}">{{ n }}</text>{% endfor %}</svg></section>
<h2>Try to get at more</h2><form method="post" action="/"><textarea name="sql" rows="3">{{ statement }}</textarea>
<p>{% for one in escapes %}<button name="try" value="{{ one }}">{{ one }}</button> {% endfor %}<button id="run">Run</button></p></form>
{% if error %}<p class="error" id="error"><b>{{ error.sqlstate }}</b> {{ error.diag.message_primary }}<br>{{ error.diag.message_hint or "" }}</p>
{% elif answer %}<div id="answer">{{ table(answer[0], answer[1], "result") }}</div>{% endif %}"""
ADMIN = PAGE + """<meta http-equiv="refresh" content="2"><h2>Impersonated now</h2>{{ table(live[0], live[1], "live") }}
<h2>What they see</h2><div id="views" style="display:flex;gap:2rem;overflow:auto">{% for user, rows in views %}<div><b>{{ user }}</b>
{{ table(rows[0], rows[1], "view-" ~ user) }}</div>{% else %}Nobody has signed in here.{% endfor %}</div><h2>On record</h2>
{{ table(trail[0], trail[1], "trail") }}"""


def read(token, limit=ROWS, group=None):
    """Rows in the order of their numbers, texts first. Columns that are masked can be read without being granted; if not all
    can, those that are."""
    for only_granted in (False, True):
        with as_user(token) as connection:
            columns = connection.execute(
                "SELECT attname, atttypid = 'text'::regtype, has_column_privilege(attrelid, attnum, 'SELECT') FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY 2 DESC, attnum", (TABLE.as_string(connection),)).fetchall()
            listed = [sql.Identifier(name) for name, _, granted in columns if granted or not only_granted][:8]
            order = [sql.Identifier(name) for name, is_text, granted in columns if granted and not is_text]
            select = sql.SQL("SELECT {} FROM {} WHERE {} = coalesce(%s, {}) ORDER BY {} LIMIT {}").format(
                sql.SQL(", ").join(listed), TABLE, GROUP, GROUP, sql.SQL(", ").join(order or listed), limit)
            try:
                return shown(connection.execute(select, (group,)))
            except psycopg.errors.InsufficientPrivilege:
                if only_granted:
                    raise


def groups(token):
    with as_user(token) as connection:
        return connection.execute(sql.SQL("SELECT {0}, count(*) FROM {1} GROUP BY 1 ORDER BY 2 DESC").format(GROUP, TABLE)).fetchall()


@app.route("/login", methods=["GET", "POST"])
def login():
    error = None
    if request.method == "POST":
        user, password = request.form["user"], request.form["password"]
        key = secrets.token_urlsafe()
        if user == "admin":
            session["admin"] = secrets.compare_digest(password, os.environ["ADMIN_PASSWORD"])
            if session["admin"]:
                return redirect("/admin")
        else:
            with pool.connection() as connection:
                answer = connection.execute("SELECT immuta.authenticate(%s, %s)", (user, password)).fetchone()[0]
            if answer["authenticated"]:
                session.clear()
                session["key"], tokens[key] = key, answer["token"]
                return redirect("/")
        error = "User or password is wrong."
    return render_template_string(LOGIN, title="Sign in", error=error)


@app.post("/logout")
def logout():
    tokens.pop(session.pop("key", None), None)
    session.clear()
    return redirect("/login")


@app.errorhandler(psycopg.errors.InvalidAuthorizationSpecification)
def sign_in_again(error):
    """The token has ended."""
    return logout()


@app.route("/", methods=["GET", "POST"])
def home():
    if session.get("key") not in tokens:
        return redirect("/login")
    statement, answer, error = request.form.get("try") or request.form.get("sql", ""), None, None
    if statement:
        try:
            with as_user(tokens[session["key"]]) as connection:
                answer = shown(connection.cursor(binary=False).execute(statement, prepare=False))
        except psycopg.Error as refused:
            error = refused
    token = tokens[session["key"]]
    with as_user(token) as connection:
        who = connection.execute("SELECT userid, effective_role, impersonator FROM immuta.whoami()").fetchone()
        count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(TABLE)).fetchone()[0]
    bars, rows = groups(token), read(token)
    return render_template_string(HOME, title="Flights", user=who[0], role=who[1], login=who[2], count=count, bars=bars,
                                  most=max([n for _, n in bars], default=1), rows=rows, escapes=ESCAPES,
                                  statement=statement, answer=answer, error=error)


def views():
    """The same rows as each user sees who has signed in, side by side: of a group that they all see, if there is one."""
    seen, common = {}, None
    for token in list(tokens.values()):
        try:
            with as_user(token) as connection:
                [user] = connection.execute("SELECT userid FROM immuta.whoami()").fetchone()
            seen[user] = token
            there = {name for name, _ in groups(token)}
            common = there if common is None else common & there
        except psycopg.Error:
            continue  # The token has ended.
    return [(user, read(token, 4, min(common, default=None))) for user, token in sorted(seen.items())]


@app.get("/admin")
def admin():
    if not session.get("admin"):
        return redirect("/login")
    with psycopg.connect(os.environ["ADMIN"]) as connection:
        live = shown(connection.execute("SELECT pid, impersonator, userid, mapped_role, state, statements, established_at::time(0) "
                                        "FROM immuta.impersonations"))
        trail = shown(connection.execute(
            "SELECT event_time::time(0), impersonator, userid, mapped_role, coalesce(command, record->'auditPayload'->>'event') AS what, "
            "lower(status) AS status, coalesce(error_code, '') AS error, coalesce(query, '') AS query FROM immuta.audit_log "
            "ORDER BY event_time DESC, id DESC LIMIT 12"))
    return render_template_string(ADMIN, title="Administrator", user="admin", live=live, trail=trail, views=views())


if __name__ == "__main__":
    app.run("127.0.0.1", int(os.environ["PORT"]), threaded=True)
