// An application with a pool of one connection: two users, the same statements. What it is given comes on stdin.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const { driver, where, tokens } = JSON.parse(readFileSync(0, "utf8"));
const CARRIER = { alice: "UA", bob: "AA" };
const PRESENT = "SELECT set_config('bodata.impersonation_token', $1, true)";
const COUNT = "SELECT min(carrier) AS a, max(carrier) AS b, count(*)::int AS n FROM app.orders WHERE id > $1";
const INSERT = "INSERT INTO app.orders (carrier) VALUES ($1)";

// The same few calls for each driver: run(user, work) is a transaction, work gets query(name, sql, values).
async function open() {
  if (driver === "pg") {
    const { default: pg } = await import("pg");
    const pool = new pg.Pool({
      host: where.host, port: where.port, user: where.user, password: where.password, database: where.dbname, max: 1,
    });
    const query = (client) => async (name, text, values = []) => (await client.query({ name, text, values })).rows;
    return {
      close: () => pool.end(),
      alone: query(pool),
      async run(user, work) {
        const client = await pool.connect();
        try {
          await client.query("BEGIN");
          await client.query(PRESENT, [tokens[user]]);
          const result = await work(query(client), async (nested) => {
            await client.query("SAVEPOINT s");
            await nested().catch(() => client.query("ROLLBACK TO SAVEPOINT s"));
          });
          await client.query("COMMIT");
          return result;
        } catch (error) {
          await client.query("ROLLBACK");
          throw error;
        } finally {
          client.release();
        }
      },
    };
  }
  const { default: postgres } = await import("postgres");
  const sql = postgres({
    host: where.host, port: where.port, user: where.user, pass: where.password, database: where.dbname, max: 1,
  });
  const query = (on) => (name, text, values = []) => on.unsafe(text, values, { prepare: true });
  return {
    close: () => sql.end(),
    alone: query(sql),
    run: (user, work) => sql.begin(async (transaction) => {
      await transaction.unsafe(PRESENT, [tokens[user]]);
      return work(query(transaction), (nested) => transaction.savepoint((s) => nested(query(s))).catch(() => {}));
    }),
  };
}

const db = await open();
for (let i = 0; i < 4; i++) {
  for (const user of ["alice", "bob"]) {
    const rows = await db.run(user, (query) => query("count", COUNT, [0]));
    assert.deepEqual({ ...rows[0] }, { a: CARRIER[user], b: CARRIER[user], n: 10 });
  }
}
console.log("prepared");
await db.run("alice", async (query, nested) => {
  await nested(async (inner = query) => {
    await inner("insert", INSERT, ["UA"]);
    await inner("fails", "SELECT 1 / $1::int", [0]);
  });
  assert.equal((await query("count", COUNT, [0]))[0].n, 10);
});
console.log("nested");
await assert.rejects(db.alone("count", COUNT, [0]), { code: "42501", detail: "IMPERSONATION_REQUIRED" });
await assert.rejects(db.run("bob", (query) => query("insert", INSERT, ["UA"])), { code: "42501" });
console.log("refused");
await Promise.all(Array.from({ length: 20 }, (_, i) => {
  const user = i % 2 ? "alice" : "bob";
  return db.run(user, async (query) => {
    const answers = await Promise.all([query("count", COUNT, [0]), query("who", "SELECT current_user AS who")]);
    assert.equal(answers[0][0].a, CARRIER[user]);
    assert.equal(answers[1][0].who, user);
  });
}));
console.log("many");
await db.close();
console.log("done");
