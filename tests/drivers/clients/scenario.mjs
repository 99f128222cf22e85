// What every client does: see scenario.py. A client has transaction(user, work), alone(sql), reset(), close(); work gets
// query(sql, values), with nested(work) and cancelled(). `$1` stands for a value.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const { where, tokens, client } = JSON.parse(readFileSync(0, "utf8"));
export const PRESENT = "SELECT set_config('bodata.impersonation_token', $1, true)";
const CARRIER = { alice: "UA", bob: "AA", carol: "DL" };
const USERS = Object.keys(CARRIER);
const SEEN = "SELECT min(carrier) AS a, max(carrier) AS b, count(*)::int AS n FROM app.orders WHERE id > $1";
const STATE = `SELECT current_user AS who, current_setting('work_mem') AS memory,
  nullif(current_setting('app.left', true), '') AS left, to_regclass('pg_temp.left_behind')::text AS made`;

// Wherever the driver, or what wraps it, keeps it.
const sqlstate = (error) => error?.code ?? error?.original?.code ?? error?.driverError?.code ?? error?.cause?.code;

async function work(db, number) {
  const user = USERS[number % USERS.length];
  const carrier = CARRIER[user];
  const expected = { 3: "22012", 9: number % 50 === 49 ? "57014" : undefined }[number % 10];
  const seen = async (query) => assert.deepEqual({ ...(await query(SEEN, [0]))[0] }, { a: carrier, b: carrier, n: 10 });
  const done = db.transaction(user, async (query) => {
    await seen(query);
    assert.deepEqual({ ...(await query(STATE))[0] }, { who: user, memory: "4MB", left: null, made: null });
    switch (number % 10) {
      case 1:
        await query.nested(async (inner) => {
          await inner("INSERT INTO app.orders (carrier) VALUES ($1)", [carrier]);
          await inner("SELECT 1 / (count(*) - count(*)) FROM app.orders");
        }).then(() => assert.fail("divided by zero"), (error) => assert.equal(sqlstate(error), "22012", error));
        break;
      case 3:
        await query("SELECT 1 / (count(*) - count(*)) FROM app.orders");
        break;
      case 5:
        await query("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)");
        await query("CREATE TEMP TABLE left_behind (a int)");
        break;
      case 7:
        await query("INSERT INTO app.orders (carrier, note) VALUES ($1, 'mine')", [carrier]);
        await query("DELETE FROM app.orders WHERE note = $1", ["mine"]);
        break;
      case 9:
        if (expected) await query.cancelled();
    }
    await seen(query);
  });
  if (expected) await assert.rejects(done, (error) => sqlstate(error) === expected, `${number}`);
  else await done;
  if (number % 20 === 0) {
    await assert.rejects(db.alone("SELECT count(*) FROM app.orders"), (error) => sqlstate(error) === "42501");
  }
}

export async function run(db, transactions = 200) {
  for (const [from, to] of [[0, transactions / 2], [transactions / 2, transactions]]) {
    await Promise.all([0, 1].map(async (first) => {
      for (let number = from + first; number < to; number += 2) await work(db, number);
    }));
    await db.reset();
  }
  await db.close();
  console.log("done", transactions);
}
