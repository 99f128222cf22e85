"""Superset: whoever looks at a chart reads as themselves. Put this into superset_config.py; `token_of` is yours."""

import sqlalchemy as sa
from flask import g

FEATURE_FLAGS = {"CACHE_QUERY_BY_USER": True}  # without it, a chart's cache shows one user's rows to another


def token_of(user):
    """The token that your sign-in (OAuth, say) has stored for the user."""
    raise NotImplementedError


def present(dbapi_connection, record, proxy):
    """On every connection that a query gets from the pool. psycopg2 sends BEGIN before it."""
    with dbapi_connection.cursor() as cursor:
        cursor.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (token_of(g.user),))


@sa.event.listens_for(sa.pool.Pool, "checkout")
def checkout(dbapi_connection, record, proxy):
    if record.info.get("is_impersonating"):
        present(dbapi_connection, record, proxy)


@sa.event.listens_for(sa.pool.Pool, "connect")
def connect(dbapi_connection, record):
    """Superset's own database and others are left alone."""
    record.info["is_impersonating"] = getattr(getattr(dbapi_connection, "info", None), "user", None) == "svc"
