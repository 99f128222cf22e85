// Prisma with its driver adapter for node-postgres: no engine of its own, the models of ../prisma/schema.prisma.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { PrismaPg } from "@prisma/adapter-pg";
import { PRESENT, run, tokens, where } from "./scenario.mjs";

const { PrismaClient } = createRequire(import.meta.url)("./generated");
const config = { host: where.host, port: where.port, user: where.user, password: where.password, database: where.dbname, max: 2 };
const LONG = { maxWait: 60_000, timeout: 60_000 };

// Of the database, wherever the adapter puts it.
function named(error) {
  const code = error?.meta?.driverAdapterError?.cause?.originalCode ?? error?.meta?.code ?? error?.cause?.originalCode ?? error?.code;
  return Object.assign(error, { code });
}

const open = () => new PrismaClient({ adapter: new PrismaPg(config), log: [] });
let db = open();

function query(on) {
  const ask = async (text, values = []) => {
    try {
      return /^SELECT/.test(text) && !/pg_sleep/.test(text) ? await on.$queryRawUnsafe(text, ...values) : await on.$executeRawUnsafe(text, ...values);
    } catch (error) {
      throw named(error);
    }
  };
  return Object.assign(ask, {
    async nested(inner) {
      await ask("SAVEPOINT nested");
      try {
        await inner(ask);
      } catch (error) {
        await ask("ROLLBACK TO SAVEPOINT nested");
        throw error;
      }
    },
    async cancelled() {
      await ask("SET LOCAL statement_timeout = '50ms'");
      await ask("SELECT pg_sleep(20)");
    },
  });
}

await run({
  transaction: (user, work) => db.$transaction(async (on) => {
    await on.$queryRawUnsafe(PRESENT, tokens[user]);
    // By its models, as an application does.
    const seen = await on.order.findMany({ where: { id: { gt: 0 } }, select: { carrier: true } });
    assert.deepEqual([seen.length, new Set(seen.map((order) => order.carrier)).size], [10, 1]);
    await work(query(on));
    const made = await on.order.create({ data: { carrier: seen[0].carrier, note: "by a model" } });
    await on.order.update({ where: { id: made.id }, data: { note: null } });
    await on.order.delete({ where: { id: made.id } });
  }, LONG),
  alone: (text) => query(db)(text),
  async reset() {
    await db.$disconnect();
    db = open();
  },
  close: () => db.$disconnect(),
});
