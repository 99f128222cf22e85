"""psycopg 3, asyncpg and SQLAlchemy's async engine: named by the first argument."""

import asyncio
import sys
from contextlib import asynccontextmanager

from scenario import PRESENT, run_async, tokens, where


class Query:
    def __init__(self, execute, nested):
        self.execute, self.nested = execute, nested

    async def __call__(self, sql, *values):
        return await self.execute(sql, values)

    async def cancelled(self):
        """As web frameworks do it when the client goes away: the task is cancelled, the driver cancels the query."""
        async with asyncio.timeout(0.05):
            await self.execute("SELECT pg_sleep(20)", ())


class Psycopg:
    async def __aenter__(self):
        from psycopg_pool import AsyncConnectionPool
        self.pool = AsyncConnectionPool(kwargs={**where, "prepare_threshold": 0}, min_size=2, max_size=2, open=False)
        await self.pool.open()
        return self

    async def __aexit__(self, *_):
        await self.pool.close()

    @asynccontextmanager
    async def transaction(self, user):
        async with self.pool.connection() as connection, connection.transaction():
            async def execute(sql, values):
                cursor = await connection.execute(sql.replace("?", "%s"), values)
                return await cursor.fetchall() if cursor.description else []

            await execute(PRESENT, (tokens[user],))
            yield Query(execute, connection.transaction)

    async def alone(self, sql):
        async with self.pool.connection() as connection:
            await connection.execute(sql)

    async def reset(self):
        await self.pool.check()


class Asyncpg:
    """Its pool resets connections whenever they are given back."""

    async def __aenter__(self):
        import asyncpg
        self.pool = await asyncpg.create_pool(
            host=where["host"], port=where["port"], user=where["user"], password=where["password"],
            database=where["dbname"], min_size=2, max_size=2)
        return self

    async def __aexit__(self, *_):
        await self.pool.close()

    @asynccontextmanager
    async def transaction(self, user):
        async with self.pool.acquire() as connection, connection.transaction():
            async def execute(sql, values):
                for number in range(len(values)):
                    sql = sql.replace("?", f"${number + 1}", 1)
                return await connection.fetch(sql, *values)

            await execute(PRESENT, (tokens[user],))
            yield Query(execute, connection.transaction)

    async def alone(self, sql):
        await self.pool.fetch(sql)

    async def reset(self):
        await self.pool.expire_connections()


class SqlAlchemy:
    async def __aenter__(self):
        import sqlalchemy
        from sqlalchemy.ext.asyncio import create_async_engine
        url = sqlalchemy.URL.create("postgresql+asyncpg", where["user"], where["password"], where["host"],
                                    where["port"], where["dbname"])
        self.text, self.engine = sqlalchemy.text, create_async_engine(url, pool_size=2, max_overflow=0)
        return self

    async def __aexit__(self, *_):
        await self.engine.dispose()

    @asynccontextmanager
    async def transaction(self, user):
        async with self.engine.begin() as connection:
            async def execute(sql, values):
                names = [f"v{i}" for i in range(len(values))]
                for name in names:
                    sql = sql.replace("?", f":{name}", 1)
                result = await connection.execute(self.text(sql), dict(zip(names, values)))
                return result.all() if result.returns_rows else []

            await execute(PRESENT, (tokens[user],))
            yield Query(execute, connection.begin_nested)

    async def alone(self, sql):
        async with self.engine.connect() as connection:
            await connection.execute(self.text(sql))

    async def reset(self):
        await self.engine.dispose()


async def main():
    async with {"psycopg": Psycopg, "asyncpg": Asyncpg, "sqlalchemy": SqlAlchemy}[sys.argv[1]]() as client:
        await run_async(client)


asyncio.run(main())
