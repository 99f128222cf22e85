"""What every client does, the same in each language: a pool of two connections, three users in turn, two hundred
transactions. A client is an object with

    transaction(user)    a context that yields `query(sql, *values)`, which returns rows, and has
                         `nested()`, a context that is rolled back by an error, and `cancelled()`, which runs a query
                         that is cancelled
    alone(sql)           a query in a transaction of its own, without a user
    reset()              what the pool does to start anew

`?` stands for a value. What the program is given comes on stdin.
"""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor

given = json.load(sys.stdin)
where, tokens = given["where"], given["tokens"]
CARRIER = {"alice": "UA", "bob": "AA", "carol": "DL"}
USERS = list(CARRIER)
PRESENT = "SELECT set_config('bodata.impersonation_token', ?, true)"
SEEN = "SELECT min(carrier), max(carrier), count(*) FROM app.orders WHERE id > ?"
STATE = "SELECT current_user, current_setting('work_mem'), current_setting('app.left', true), to_regclass('pg_temp.left_behind')"
TRANSACTIONS = 200


class Expected(Exception):
    """Raised by the scenario itself."""


def sqlstate(error):
    """Wherever the driver, or what wraps it, keeps it."""
    while error is not None:
        for name in ("sqlstate", "pgcode"):
            if isinstance(getattr(error, name, None), str):
                return getattr(error, name)
        if error.args and isinstance(error.args[0], str) and len(error.args[0]) == 5:
            return error.args[0]
        error = getattr(error, "orig", None) or error.__cause__
    return None


def one(rows):
    return tuple(rows[0])


def check(query_rows, user):
    low, high, count = one(query_rows)
    assert (low, high, count) == (CARRIER[user], CARRIER[user], 10), (user, low, high, count)


def check_state(rows, user):
    who, memory, left, table = one(rows)
    assert (who, memory, left or None, table) == (user, "4MB", None, None), (user, who, memory, left, table)


def work(client, number):
    user = USERS[number % len(USERS)]
    try:
        with client.transaction(user) as query:
            check(query(SEEN, 0), user)
            check_state(query(STATE), user)
            match number % 10:
                case 1:
                    try:
                        with query.nested():
                            query("INSERT INTO app.orders (carrier) VALUES (?)", CARRIER[user])
                            query("SELECT 1 / (count(*) - count(*)) FROM app.orders")
                    except Expected:
                        raise
                    except Exception as error:
                        assert sqlstate(error) == "22012", error
                case 3:
                    query("SELECT 1 / (count(*) - count(*)) FROM app.orders")
                    raise AssertionError("divided by zero")
                case 5:
                    query("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)")
                    query("CREATE TEMP TABLE left_behind (a int)")
                case 7:
                    query("INSERT INTO app.orders (carrier, note) VALUES (?, 'mine')", CARRIER[user])
                    query("DELETE FROM app.orders WHERE note = ?", "mine")
                case 9 if number % 50 == 49:
                    query.cancelled()
                    raise AssertionError("not cancelled")
            check(query(SEEN, 0), user)
    except AssertionError:
        raise
    except Exception as error:
        expected = {3: "22012", 9: "57014"}.get(number % 10)
        assert expected and sqlstate(error) == expected, (number, sqlstate(error), repr(error))
    if number % 20 == 0:
        refused(lambda: client.alone("SELECT count(*) FROM app.orders"))


def refused(act):
    try:
        act()
    except Exception as error:
        assert sqlstate(error) == "42501" and "token" in str(error), repr(error)
    else:
        raise AssertionError("not refused")


def run(client):
    with ThreadPoolExecutor(2) as workers:
        half = TRANSACTIONS // 2
        list(workers.map(lambda number: work(client, number), range(half)))
        client.reset()
        list(workers.map(lambda number: work(client, number), range(half, TRANSACTIONS)))
    print("done", TRANSACTIONS)


async def work_async(client, number):
    user = USERS[number % len(USERS)]
    try:
        async with client.transaction(user) as query:
            check(await query(SEEN, 0), user)
            check_state(await query(STATE), user)
            match number % 10:
                case 1:
                    try:
                        async with query.nested():
                            await query("INSERT INTO app.orders (carrier) VALUES (?)", CARRIER[user])
                            await query("SELECT 1 / (count(*) - count(*)) FROM app.orders")
                    except Exception as error:
                        assert sqlstate(error) == "22012", error
                case 3:
                    await query("SELECT 1 / (count(*) - count(*)) FROM app.orders")
                    raise AssertionError("divided by zero")
                case 5:
                    await query("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)")
                    await query("CREATE TEMP TABLE left_behind (a int)")
                case 7:
                    await query("INSERT INTO app.orders (carrier, note) VALUES (?, 'mine')", CARRIER[user])
                    await query("DELETE FROM app.orders WHERE note = ?", "mine")
                case 9 if number % 50 == 49:
                    await query.cancelled()
            check(await query(SEEN, 0), user)
    except AssertionError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        expected = {3: "22012", 9: "57014"}.get(number % 10)
        was_cancelled = number % 10 == 9 and isinstance(error, (TimeoutError, asyncio.CancelledError))
        assert was_cancelled or expected and sqlstate(error) == expected, (number, sqlstate(error), repr(error))
    if number % 20 == 0:
        try:
            await client.alone("SELECT count(*) FROM app.orders")
        except Exception as error:
            assert sqlstate(error) == "42501" and "token" in str(error), repr(error)
        else:
            raise AssertionError("not refused")


async def run_async(client):
    async def some(numbers):
        for number in numbers:
            await work_async(client, number)

    half = TRANSACTIONS // 2
    await asyncio.gather(some(range(0, half, 2)), some(range(1, half, 2)))
    await client.reset()
    await asyncio.gather(some(range(half, TRANSACTIONS, 2)), some(range(half + 1, TRANSACTIONS, 2)))
    print("done", TRANSACTIONS)
