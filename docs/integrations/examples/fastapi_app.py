"""FastAPI with psycopg's pool: a dependency that gives each request a connection as its user."""

from contextlib import asynccontextmanager
from typing import Annotated

import psycopg
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from psycopg_pool import AsyncConnectionPool


@asynccontextmanager
async def lifespan(app):
    async with AsyncConnectionPool(min_size=1, max_size=10, open=False) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


async def as_user(request: Request, bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]):
    async with request.app.state.pool.connection() as connection, connection.transaction():
        await connection.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (bearer.credentials,))
        yield connection


Connection = Annotated[psycopg.AsyncConnection, Depends(as_user)]


@app.exception_handler(psycopg.errors.InvalidAuthorizationSpecification)
async def sign_in_again(request, error):
    return JSONResponse({"error": "sign in again"}, 401)


@app.get("/flights")
async def flights(connection: Connection):
    rows = await connection.execute("SELECT carrier, count(*) FROM app.flights GROUP BY carrier")
    return dict(await rows.fetchall())
