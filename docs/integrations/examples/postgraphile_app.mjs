// PostGraphile 4: pgSettings become settings of the transaction, which is all that a token needs.
import { createServer } from "node:http";
import pg from "pg";
import { postgraphile } from "postgraphile";

const pool = new pg.Pool({ max: 10 }); // PGHOST, PGUSER, PGPASSWORD ... name the service login

createServer(postgraphile(pool, "app", {
  ignoreRBAC: true, // the schema is read before there is a user; the database decides about each query
  dynamicJson: true,
  pgSettings(request) {
    const [scheme, token] = (request.headers.authorization ?? "").split(" ");
    return scheme === "Bearer" ? { "bodata.impersonation_token": token } : {};
  },
  handleErrors: (errors) => errors.map((error) => ({ message: error.message, code: (error.originalError ?? error).code })),
})).listen(process.env.PORT, "127.0.0.1");
