// node-postgres: each request's work in a transaction as its user.
import { createServer } from "node:http";
import pg from "pg";

const pool = new pg.Pool({ max: 10 }); // PGHOST, PGUSER, PGPASSWORD ... name the service login

async function asUser(token, work) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await client.query("SELECT set_config('bodata.impersonation_token', $1, true)", [token]);
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

createServer(async (request, response) => {
  const [scheme, token] = (request.headers.authorization ?? "").split(" ");
  const answer = (status, body) => response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  if (scheme !== "Bearer") return answer(401, { error: "sign in" });
  try {
    const { rows } = await asUser(token, (client) =>
      client.query("SELECT carrier, count(*)::int FROM app.flights GROUP BY carrier"));
    answer(200, Object.fromEntries(rows.map(({ carrier, count }) => [carrier, count])));
  } catch (error) {
    if (error.code === "28000") return answer(401, { error: "sign in again" });
    console.error(error.code, error.message);
    answer(500, { error: "try again later" });
  }
}).listen(process.env.PORT, "127.0.0.1");
