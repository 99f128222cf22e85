"""Flask: the token of the request, at the start of its transaction."""

from contextlib import contextmanager

import psycopg
from flask import Flask, abort, jsonify, request
from psycopg_pool import ConnectionPool

app = Flask(__name__)
pool = ConnectionPool(min_size=1, max_size=10, open=True)  # PGHOST, PGUSER, PGPASSWORD ... name the service login


@contextmanager
def as_user():
    """A connection on which everything is done as the user who sent the request."""
    if request.authorization is None or request.authorization.type != "bearer":
        abort(401)
    with pool.connection() as connection, connection.transaction():
        connection.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (request.authorization.token,))
        yield connection


@app.errorhandler(psycopg.errors.InvalidAuthorizationSpecification)
def sign_in_again(error):
    return jsonify(error="sign in again"), 401


@app.get("/flights")
def flights():
    with as_user() as connection:
        rows = connection.execute("SELECT carrier, count(*) FROM app.flights GROUP BY carrier").fetchall()
    return jsonify(dict(rows))
