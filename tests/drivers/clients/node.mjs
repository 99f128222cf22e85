// node-postgres, postgres.js, Knex, Sequelize, TypeORM and Drizzle: named in what comes on stdin.
import { PRESENT, client, run, tokens, where } from "./scenario.mjs";

const config = { host: where.host, port: where.port, user: where.user, password: where.password, database: where.dbname };
const CANCEL = "SET LOCAL statement_timeout = '50ms'";
const SLEEP = "SELECT pg_sleep(20)";

// A query function with what the scenario needs besides.
function withMore(query, nested) {
  return Object.assign(query, {
    nested,
    cancelled: async () => {
      await query(CANCEL);
      await query(SLEEP);
    },
  });
}

const makers = {
  async pg() {
    const { default: pg } = await import("pg");
    const open = () => new pg.Pool({ ...config, max: 2 });
    let pool = open();
    const named = new Map();
    const name = (text) => named.get(text) ?? named.set(text, `s${named.size}`).get(text);
    return {
      async transaction(user, work) {
        const connection = await pool.connect();
        const query = async (text, values = []) => (await connection.query(
          values.length ? { name: name(text), text, values } : text)).rows;
        try {
          await connection.query("BEGIN");
          await connection.query(PRESENT, [tokens[user]]);
          await work(withMore(query, async (inner) => {
            await connection.query("SAVEPOINT nested");
            try {
              await inner(query);
            } catch (error) {
              await connection.query("ROLLBACK TO SAVEPOINT nested");
              throw error;
            }
          }));
          await connection.query("COMMIT");
        } catch (error) {
          await connection.query("ROLLBACK");
          throw error;
        } finally {
          connection.release();
        }
      },
      alone: (sql) => pool.query(sql),
      async reset() {
        await pool.end();
        pool = open();
      },
      close: () => pool.end(),
    };
  },

  async postgres() {
    const { default: postgres } = await import("postgres");
    const open = () => postgres({ ...config, username: config.user, max: 2, onnotice: () => {} });
    let sql = open();
    const query = (on) => (text, values = []) => on.unsafe(text, values, { prepare: true });
    return {
      transaction: (user, work) => sql.begin(async (on) => {
        await on.unsafe(PRESENT, [tokens[user]]);
        await work(withMore(query(on), (inner) => on.savepoint((savepoint) => inner(query(savepoint)))));
      }),
      alone: (text) => sql.unsafe(text),
      async reset() {
        await sql.end();
        sql = open();
      },
      close: () => sql.end(),
    };
  },

  async knex() {
    const { default: knex } = await import("knex");
    const open = () => knex({ client: "pg", connection: config, searchPath: ["app", "public"], pool: { min: 0, max: 2 } });
    let db = open();
    const query = (on) => async (text, values = []) => (await on.raw(text.replaceAll(/\$\d/g, "?"), values)).rows;
    return {
      transaction: (user, work) => db.transaction(async (on) => {
        await query(on)(PRESENT, [tokens[user]]);
        await work(withMore(query(on), (inner) => on.transaction((savepoint) => inner(query(savepoint)))));
      }),
      alone: (text) => db.raw(text),
      async reset() {
        await db.destroy();
        db = open();
      },
      close: () => db.destroy(),
    };
  },

  async sequelize() {
    const { QueryTypes, Sequelize } = await import("sequelize");
    const open = () => new Sequelize(config.database, config.user, config.password,
      { host: config.host, port: config.port, dialect: "postgres", logging: false, pool: { max: 2 } });
    let db = open();
    const query = (transaction) => async (sql, bind = []) => {
      const isSelect = sql.startsWith("SELECT");
      return db.query(sql, { bind: bind.length ? bind : undefined, transaction, type: isSelect ? QueryTypes.SELECT : undefined });
    };
    return {
      transaction: (user, work) => db.transaction(async (transaction) => {
        await query(transaction)(PRESENT, [tokens[user]]);
        await work(withMore(query(transaction),
          (inner) => db.transaction({ transaction }, (nested) => inner(query(nested)))));
      }),
      alone: (text) => db.query(text),
      async reset() {
        await db.close();
        db = open();
      },
      close: () => db.close(),
    };
  },

  async typeorm() {
    const { DataSource } = await import("typeorm");
    const source = new DataSource({ type: "postgres", ...config, username: config.user, extra: { max: 2 } });
    await source.initialize();
    const query = (manager) => (text, values = []) => manager.query(text, values);
    return {
      transaction: (user, work) => source.transaction(async (manager) => {
        await manager.query(PRESENT, [tokens[user]]);
        await work(withMore(query(manager), (inner) => manager.transaction((nested) => inner(query(nested)))));
      }),
      alone: (text) => source.query(text),
      async reset() {
        await source.destroy();
        await source.initialize();
      },
      close: () => source.destroy(),
    };
  },

  async drizzle() {
    const [{ default: pg }, { drizzle }, { sql }] = await Promise.all(
      [import("pg"), import("drizzle-orm/node-postgres"), import("drizzle-orm")]);
    const open = () => new pg.Pool({ ...config, max: 2 });
    let pool = open(), db = drizzle(pool);
    const text = (parts, values) => sql.join(parts.split(/\$\d/).flatMap(
      (part, at) => (at ? [sql`${values[at - 1]}`, sql.raw(part)] : [sql.raw(part)])));
    const query = (on) => async (parts, values = []) => (await on.execute(text(parts, values))).rows;
    return {
      transaction: (user, work) => db.transaction(async (on) => {
        await query(on)(PRESENT, [tokens[user]]);
        await work(withMore(query(on), (inner) => on.transaction((nested) => inner(query(nested)))));
      }),
      alone: (parts) => query(db)(parts),
      async reset() {
        await pool.end();
        pool = open();
        db = drizzle(pool);
      },
      close: () => pool.end(),
    };
  },
};

await run(await makers[client]());
