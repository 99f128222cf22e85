"""SQLAlchemy and Django, which know transactions, savepoints and pools of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

CARRIER = {"alice": "UA", "bob": "AA"}
PRESENT = sa.text("SELECT set_config('bodata.impersonation_token', :token, true)")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = {"schema": "app"}
    id: Mapped[int] = mapped_column(primary_key=True)
    carrier: Mapped[str]
    note: Mapped[str | None]


@pytest.fixture(params=["psycopg2", "psycopg"])
def engine(request, where):
    url = sa.URL.create(f"postgresql+{request.param}", where["user"], where["password"], where["host"], where["port"],
                        where["dbname"])
    engine = sa.create_engine(url, pool_size=1, max_overflow=0)
    yield engine
    engine.dispose()


def test_sqlalchemy_sessions(engine, tokens):
    """The token when a transaction begins; nested transactions; the pool's ROLLBACK at the end."""
    for user in ("alice", "bob") * 3:
        with Session(engine) as session:
            session.execute(PRESENT, {"token": tokens[user]})
            assert set(session.scalars(sa.select(Order.carrier))) == {CARRIER[user]}
            added = Order(carrier=CARRIER[user], note="added")
            session.add(added)
            session.flush()
            with pytest.raises(sa.exc.IntegrityError):
                with session.begin_nested():
                    session.execute(sa.insert(Order).values(id=added.id, carrier=CARRIER[user]))
            with session.begin_nested() as nested:
                session.execute(sa.delete(Order))
                nested.rollback()
            assert session.get(Order, added.id).note == "added"
            session.delete(added)
            session.commit()
            with pytest.raises(sa.exc.ProgrammingError, match="impersonation token"):
                session.scalars(sa.select(Order.carrier)).all()
            session.rollback()


def test_sqlalchemy_presents_by_an_event(engine, tokens):
    """As an application would: the token lives in the session's info."""
    def present(session, transaction, connection):
        if transaction.parent is None and "user" in session.info:
            connection.execute(PRESENT, {"token": tokens[session.info["user"]]})

    sa.event.listen(Session, "after_begin", present)
    try:
        for user in ("alice", "bob"):
            with Session(engine, info={"user": user}) as session:
                assert session.scalar(sa.text("SELECT current_user")) == user
                with session.begin_nested():
                    assert session.scalar(sa.text("SELECT current_user")) == user
                session.commit()
                assert session.scalar(sa.text("SELECT current_user")) == user
    finally:
        sa.event.remove(Session, "after_begin", present)


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"])
def test_sqlalchemy_isolation_levels(engine, tokens, level):
    """Set and reset outside of transactions, on a connection that has had users."""
    for user in ("alice", "bob"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            connection.execute(PRESENT, {"token": tokens[user]})
            assert connection.scalar(sa.text("SHOW transaction_isolation")).upper() == level
            assert connection.scalar(sa.select(sa.func.min(Order.carrier))) == CARRIER[user]
            connection.commit()


def test_sqlalchemy_streams(engine, tokens):
    """By a cursor on the server. The token itself cannot come through one."""
    with engine.connect() as connection:
        connection.execute(PRESENT, {"token": tokens["alice"]})
        rows = connection.execute(sa.select(Order.carrier), execution_options={"stream_results": True})
        assert {row[0] for row in rows} == {"UA"}
    with engine.connect().execution_options(stream_results=True) as connection:
        with pytest.raises(sa.exc.ProgrammingError, match="impersonation token"):
            connection.execute(PRESENT, {"token": tokens["alice"]})


def test_sqlalchemy_looks_at_the_schema(engine):
    """Without a token: catalogs only."""
    inspector = sa.inspect(engine)
    assert "flights" in inspector.get_table_names(schema="app")
    assert {c["name"] for c in inspector.get_columns("orders", schema="app")} == {"id", "carrier", "note", "at"}


@pytest.mark.parametrize("server_side_binding", [False, True])
def test_django(where, tokens, server_side_binding):
    """In a process of its own, which Django needs."""
    given = dict(where=where, tokens=tokens, server_side_binding=server_side_binding)
    done = subprocess.run([sys.executable, Path(__file__).with_name("django_application.py")], text=True,
                          input=json.dumps(given), capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["queries", "nested", "refused", "server-side", "time", "done"]
