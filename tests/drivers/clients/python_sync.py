"""psycopg2, psycopg 3 (also in pipeline mode), SQLAlchemy (core and ORM), Django, and psqlODBC through pyodbc: named by
the first argument."""

import sys
import threading
from contextlib import contextmanager

from scenario import PRESENT, run, tokens, where


def cancel_soon(cancel):
    """From another thread, once the query runs."""
    timer = threading.Timer(0.05, cancel)
    timer.start()
    return timer


class Query:
    """One connection in a transaction; `execute(sql, values)` returns rows."""

    def __init__(self, execute, nested, cancel):
        self.execute, self.nested, self.cancel = execute, nested, cancel

    def __call__(self, sql, *values):
        return self.execute(sql, values)

    def cancelled(self):
        cancel_soon(self.cancel)
        self.execute("SELECT pg_sleep(20)", ())


@contextmanager
def savepoint(execute):
    execute("SAVEPOINT nested", ())
    try:
        yield
    except Exception:
        execute("ROLLBACK TO SAVEPOINT nested", ())
        raise
    execute("RELEASE SAVEPOINT nested", ())


class Psycopg2:
    def __init__(self):
        from psycopg2.pool import ThreadedConnectionPool
        self.open = lambda: ThreadedConnectionPool(2, 2, **where)
        self.pool = self.open()

    @contextmanager
    def connection(self):
        connection = self.pool.getconn()
        try:
            with connection:
                yield connection
        finally:
            self.pool.putconn(connection)

    @staticmethod
    def executor(connection):
        def execute(sql, values):
            with connection.cursor() as cursor:
                cursor.execute(sql.replace("?", "%s"), values)
                return cursor.fetchall() if cursor.description else []
        return execute

    @contextmanager
    def transaction(self, user):
        with self.connection() as connection:
            execute = self.executor(connection)
            execute(PRESENT, (tokens[user],))
            yield Query(execute, lambda: savepoint(execute), connection.cancel)

    def alone(self, sql):
        with self.connection() as connection:
            self.executor(connection)(sql, ())

    def reset(self):
        self.pool.closeall()
        self.pool = self.open()


class Psycopg:
    """With prepared statements from the first use on."""

    pipeline = False

    def __init__(self):
        from psycopg_pool import ConnectionPool
        self.pool = ConnectionPool(kwargs={**where, "prepare_threshold": 0}, min_size=2, max_size=2, open=True)

    @contextmanager
    def transaction(self, user):
        with self.pool.connection() as connection, connection.transaction():
            def execute(sql, values):
                cursor = connection.execute(sql.replace("?", "%s"), values)
                return cursor.fetchall() if cursor.description else []

            if self.pipeline:
                with connection.pipeline():
                    connection.execute(PRESENT.replace("?", "%s"), (tokens[user],))
                    seen = [connection.execute("SELECT current_user") for _ in range(3)]
                assert [cursor.fetchone() for cursor in seen] == [(user,)] * 3
            else:
                execute(PRESENT, (tokens[user],))
            yield Query(execute, connection.transaction, connection.cancel)

    def alone(self, sql):
        with self.pool.connection() as connection:
            connection.execute(sql)

    def reset(self):
        self.pool.drain() if hasattr(self.pool, "drain") else self.pool.check()


class Pipeline(Psycopg):
    pipeline = True


class SqlAlchemy:
    def __init__(self, driver="psycopg"):
        import sqlalchemy
        self.sa = sqlalchemy
        url = sqlalchemy.URL.create(f"postgresql+{driver}", where["user"], where["password"], where["host"],
                                    where["port"], where["dbname"])
        self.engine = sqlalchemy.create_engine(url, pool_size=2, max_overflow=0)

    def executor(self, connection):
        def execute(sql, values):
            names = [f"v{i}" for i in range(len(values))]
            for name in names:
                sql = sql.replace("?", f":{name}", 1)
            result = connection.execute(self.sa.text(sql), dict(zip(names, values)))
            return result.all() if result.returns_rows else []
        return execute

    @contextmanager
    def transaction(self, user):
        with self.engine.begin() as connection:
            execute = self.executor(connection)
            execute(PRESENT, (tokens[user],))
            yield Query(execute, connection.begin_nested, connection.connection.driver_connection.cancel)

    def alone(self, sql):
        with self.engine.connect() as connection:
            self.executor(connection)(sql, ())

    def reset(self):
        self.engine.dispose()


class SqlAlchemyOrm(SqlAlchemy):
    """The token by an event when a session begins."""

    def __init__(self):
        super().__init__("psycopg2")
        from sqlalchemy.orm import Session

        @self.sa.event.listens_for(Session, "after_begin")
        def present(session, transaction, connection):
            if transaction.parent is None and "user" in session.info:
                self.executor(connection)(PRESENT, (tokens[session.info["user"]],))

        self.session = Session

    @contextmanager
    def transaction(self, user):
        with self.session(self.engine, info={"user": user}) as session, session.begin():
            cancel = session.connection().connection.driver_connection.cancel
            yield Query(self.executor(session), session.begin_nested, cancel)


class Django:
    """Persistent connections, one a thread."""

    def __init__(self):
        import django
        from django.conf import settings
        settings.configure(DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "HOST": where["host"], "PORT": where["port"],
            "USER": where["user"], "PASSWORD": where["password"], "NAME": where["dbname"], "CONN_MAX_AGE": None}})
        django.setup()
        from django.db import connection, transaction
        self.connection, self.atomic = connection, transaction.atomic

    def execute(self, sql, values):
        with self.connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self, user):
        # As in a view that itself is in a transaction, or a test case of Django's: the token comes in a savepoint.
        with self.atomic(), self.atomic():
            self.execute(PRESENT, (tokens[user],))
            self.connection.ensure_connection()
            yield Query(self.execute, self.atomic, self.connection.connection.cancel)

    def alone(self, sql):
        self.execute(sql, ())

    def reset(self):
        self.connection.close()


class Odbc:
    """psqlODBC puts savepoints around statements (Protocol=7.4-2, its default) and can read by cursors."""

    options = ""

    def __init__(self):
        import queue
        self.open()
        self.free = queue.Queue()
        for connection in self.connections:
            self.free.put(connection)

    def open(self):
        import pyodbc
        pyodbc.pooling = False
        text = (f"Driver={{{sys.argv[2]}}};Server={where['host']};Port={where['port']};Database={where['dbname']};"
                f"UID={where['user']};PWD={where['password']};{self.options}")
        self.connections = [pyodbc.connect(text, autocommit=False) for _ in range(2)]

    @contextmanager
    def connection(self):
        connection = self.free.get()
        try:
            yield connection
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            self.free.put(connection)

    @staticmethod
    def present(execute, token):
        execute(PRESENT, (token,))

    @staticmethod
    def executor(connection):
        def execute(sql, values):
            cursor = connection.execute(sql, *values)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        return execute

    @contextmanager
    def transaction(self, user):
        with self.connection() as connection:
            execute = self.executor(connection)
            self.present(execute, tokens[user])
            query = Query(execute, lambda: savepoint(execute), None)

            def cancelled():
                cursor = connection.cursor()
                cancel_soon(cursor.cancel)
                cursor.execute("SELECT pg_sleep(20)")

            query.cancelled = cancelled
            yield query

    def alone(self, sql):
        with self.connection() as connection:
            connection.execute(sql)

    def reset(self):
        for _ in range(2):
            self.free.get().close()
        self.open()
        for connection in self.connections:
            self.free.put(connection)


class OdbcCursors(Odbc):
    """It would read the answer of set_config() by a cursor, too, and no cursor can present a user."""

    options = "UseDeclareFetch=1;Fetch=3;"

    @staticmethod
    def present(execute, token):
        execute(f"SET LOCAL bodata.impersonation_token = '{token}'", ())


run({"psycopg2": Psycopg2, "psycopg": Psycopg, "pipeline": Pipeline, "sqlalchemy": SqlAlchemy,
     "sqlalchemy-orm": SqlAlchemyOrm, "django": Django, "odbc": Odbc, "odbc-cursors": OdbcCursors}[sys.argv[1]]())
