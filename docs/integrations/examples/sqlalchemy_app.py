"""SQLAlchemy: the token lives in the session's info, and an event presents it whenever a transaction begins."""

import json
import os
from wsgiref.simple_server import make_server

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = sa.create_engine("postgresql+psycopg://", pool_size=5)  # PGHOST, PGUSER, PGPASSWORD ... name the service login
PRESENT = sa.text("SELECT set_config('bodata.impersonation_token', :token, true)")


@sa.event.listens_for(Session, "after_begin")
def present(session, transaction, connection):
    if transaction.parent is None:  # not again for begin_nested()
        connection.execute(PRESENT, {"token": session.info["token"]})


class Base(DeclarativeBase):
    pass


class Flight(Base):
    __tablename__ = "flights"
    __table_args__ = {"schema": "app"}
    id: Mapped[int] = mapped_column(primary_key=True)
    carrier: Mapped[str]


def application(environ, start_response):
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    status, body = "401 Unauthorized", {"error": "sign in again"}
    if scheme == "Bearer":
        try:
            with Session(engine, info={"token": token}) as session:
                count = sa.select(Flight.carrier, sa.func.count()).group_by(Flight.carrier)
                status, body = "200 OK", dict(session.execute(count).all())
        except sa.exc.DBAPIError as error:
            if error.orig.sqlstate != "28000":
                raise
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


if __name__ == "__main__":
    make_server("127.0.0.1", int(os.environ["PORT"]), application).serve_forever()
