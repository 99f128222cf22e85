-- What the programs expect, by a superuser in a database of a server that loads immuta_ext.
CREATE EXTENSION IF NOT EXISTS immuta_ext;
CREATE SCHEMA app;
CREATE TABLE app.flights (id serial PRIMARY KEY, carrier text NOT NULL);
INSERT INTO app.flights (carrier) SELECT (ARRAY['UA', 'AA', 'DL'])[1 + i % 3] FROM generate_series(1, 300) i;

-- The application's login can do nothing without a token.
CREATE ROLE flights_app LOGIN PASSWORD 'service-password' IN ROLE bodata_impersonate_user;

-- A user, and what they see.
CREATE ROLE ursula NOLOGIN;
ALTER TABLE app.flights ENABLE ROW LEVEL SECURITY;
CREATE POLICY ursula ON app.flights TO ursula USING (carrier = 'UA');
GRANT USAGE ON SCHEMA app TO flights_app, ursula;
GRANT SELECT ON app.flights TO ursula;
SELECT immuta.create_user('ursula', postgres_role => 'ursula');

-- Your sign-in gets tokens from a provider, or by a password: see docs/providers.md. This one is to try with.
SELECT immuta.issue_token('ursula');
