"""What the attacks need besides the small world, and the attacker's connection."""

import json

from harness.wire import Closed, Wire

MODES = ("simple", "extended")
ALICE_ROWS = [("100", "UA", "UA")]
BOB_ROWS = [("100", "AA", "AA")]
COUNT = "SELECT count(*), min(carrier), max(carrier) FROM app.flights"
REQUIRED = ("42501", "IMPERSONATION_REQUIRED")
ACTIVE = ("42501", "IMPERSONATION_ACTIVE")
UNSUPPORTED = ("25000", "IMPERSONATION_NOT_SUPPORTED")
INVALID = ("28000", "IMPERSONATION_TOKEN_INVALID")
NOT_ALLOWED = ("42501", "IMPERSONATION_NOT_ALLOWED")
NOT_MAPPED = ("42704", "IMPERSONATION_NOT_MAPPED")
ALONE = ("25P01", "IMPERSONATION_NOT_SUPPORTED")
DENIED = ("42501", None)

# By the superuser: what an administrator may have left lying about.
SQL = """
CREATE EXTENSION dblink; CREATE EXTENSION postgres_fdw;
CREATE ROLE migrator LOGIN PASSWORD 'migrator-password' IN ROLE bodata_impersonate_user;
ALTER ROLE migrator SET bodata.require_token = off;
CREATE ROLE namer LOGIN PASSWORD 'namer-password' IN ROLE immuta_impersonation;
CREATE ROLE keeper LOGIN PASSWORD 'keeper-password' IN ROLE bodata_impersonate_user;
CREATE ROLE named_keeper LOGIN PASSWORD 'named_keeper-password' IN ROLE immuta_impersonation;
CREATE ROLE two_ways LOGIN PASSWORD 'two_ways-password' IN ROLE bodata_impersonate_user, immuta_impersonation;
ALTER ROLE keeper SET bodata.allow_session_impersonation = on;
ALTER ROLE named_keeper SET bodata.allow_session_impersonation = on;
ALTER ROLE two_ways SET bodata.allow_session_impersonation = on;
GRANT CREATE ON SCHEMA public TO PUBLIC;
GRANT USAGE ON SCHEMA alice TO PUBLIC;
GRANT USAGE ON SCHEMA app TO svc;
CREATE FUNCTION app.alias_set_config(text, text, boolean) RETURNS text LANGUAGE internal AS 'set_config_by_name';
CREATE FUNCTION app.alias_connect(text, text) RETURNS text LANGUAGE c AS '$libdir/dblink', 'dblink_connect';
CREATE FUNCTION pg_catalog.connects_elsewhere(text, text) RETURNS text LANGUAGE c AS '$libdir/dblink', 'dblink_connect';
CREATE FUNCTION app.superusers_count() RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS 'SELECT count(*) FROM app.flights';

SET ROLE owner;
CREATE SEQUENCE app.numbers; GRANT USAGE, SELECT ON app.numbers TO PUBLIC;
CREATE VIEW app.all_flights AS SELECT * FROM app.flights; GRANT SELECT ON app.all_flights TO PUBLIC;
CREATE FUNCTION app.owners_count() RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS 'SELECT count(*) FROM app.flights';
CREATE FUNCTION app.owners_reset() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
AS $$ BEGIN RETURN set_config('role', 'none', false); END $$;

-- The service login may read and write these itself, by a policy that shows it every row.
CREATE TABLE app.orders (id int PRIMARY KEY, carrier text NOT NULL);
INSERT INTO app.orders SELECT i, (ARRAY['UA', 'AA', 'DL'])[1 + i % 3] FROM generate_series(1, 300) i;
ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY service_sees ON app.orders FOR ALL TO svc, migrator USING (true);
CREATE POLICY alice_sees ON app.orders FOR ALL TO alice USING (carrier = 'UA');
CREATE POLICY bob_sees ON app.orders FOR ALL TO bob USING (carrier = 'AA');
GRANT SELECT, INSERT, UPDATE, DELETE ON app.orders TO svc, migrator, alice, bob;

-- Names that bob may not use (no USAGE on the schema), although bob has rights on the objects.
CREATE FUNCTION private.answer() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 42';
CREATE FUNCTION app.notes_in_plpgsql() RETURNS bigint LANGUAGE plpgsql
AS $$ BEGIN RETURN (SELECT count(*) FROM private.notes); END $$;
CREATE FUNCTION app.flights_in_plpgsql() RETURNS bigint LANGUAGE plpgsql
AS $$ BEGIN RETURN (SELECT count(*) FROM app.flights); END $$;
-- PostgreSQL looks these names up once, when the object is made: bob needs no USAGE.
CREATE FUNCTION app.notes_in_atomic() RETURNS bigint LANGUAGE sql
BEGIN ATOMIC SELECT count(*) FROM private.notes; END;
CREATE FUNCTION app.notes_inlined() RETURNS SETOF text LANGUAGE sql STABLE
BEGIN ATOMIC SELECT body FROM private.notes; END;
CREATE TABLE private.allowed (carrier text); INSERT INTO private.allowed VALUES ('AA');
GRANT SELECT ON private.allowed TO bob;
CREATE TABLE app.by_list (id int, carrier text);
INSERT INTO app.by_list VALUES (1, 'AA'), (2, 'UA');
ALTER TABLE app.by_list ENABLE ROW LEVEL SECURITY;
CREATE POLICY listed ON app.by_list USING (carrier IN (SELECT a.carrier FROM private.allowed a));
GRANT SELECT ON app.by_list TO bob;

-- Constraints whose errors name everything.
CREATE TABLE app.parents (id int CONSTRAINT parents_key PRIMARY KEY, born int NOT NULL
    CONSTRAINT parents_born CHECK (born > 0));
CREATE TABLE app.children (id int PRIMARY KEY, parent int
    CONSTRAINT children_parent REFERENCES app.parents DEFERRABLE INITIALLY DEFERRED);
CREATE DOMAIN app.short AS text CONSTRAINT short_length CHECK (length(VALUE) < 5);
GRANT SELECT, INSERT ON app.parents, app.children TO alice;
RESET ROLE;

-- What alice may have planted in transactions before.
SET ROLE alice;
CREATE TABLE alice.seen (who text, "user" text); GRANT ALL ON alice.seen TO PUBLIC;
CREATE TABLE alice.t (id int); GRANT ALL ON alice.t TO PUBLIC;
CREATE TABLE alice.deferred (id int); GRANT ALL ON alice.deferred TO PUBLIC;
CREATE TABLE alice.seen_at_commit (id int); GRANT ALL ON alice.seen_at_commit TO PUBLIC;
CREATE TABLE alice.settings_at_commit (id int);
CREATE TABLE alice.ruled (id int);
CREATE SEQUENCE alice.numbers; GRANT ALL ON alice.numbers TO PUBLIC;
CREATE FUNCTION alice.reset_role() RETURNS text LANGUAGE plpgsql VOLATILE
AS $$ BEGIN PERFORM set_config('role', 'none', false); RETURN current_user; END $$;
CREATE FUNCTION alice.reset_role_immutable() RETURNS text LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN PERFORM set_config('role', 'none', false); RETURN current_user; END $$;
CREATE FUNCTION alice.sets_role_to(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', 'none', false) $$;
CREATE FUNCTION alice.reset_role_simple() RETURNS text LANGUAGE plpgsql
AS $$ DECLARE x text; BEGIN x := set_config('role', 'none', false); RETURN x; END $$;
CREATE FUNCTION alice.reset_role_sql() RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', 'none', false) $$;
CREATE FUNCTION alice.reset_role_caught() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..3 LOOP
        BEGIN
            PERFORM set_config('role', 'none', false);
            RETURN 'escaped';
        EXCEPTION WHEN OTHERS THEN
            BEGIN EXECUTE 'RESET ROLE'; RETURN 'escaped'; EXCEPTION WHEN OTHERS THEN NULL; END;
        END;
    END LOOP;
    RETURN current_user;
END $$;
CREATE FUNCTION alice.definer_reset() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
AS $$ BEGIN EXECUTE 'RESET ROLE'; RETURN current_user; END $$;
CREATE FUNCTION alice.definer_reads() RETURNS bigint LANGUAGE sql SECURITY DEFINER
AS $$ SELECT count(*) FROM app.flights $$;
CREATE FUNCTION alice.definer_reads_plpgsql() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
AS $$ BEGIN RETURN (SELECT count(*) FROM app.flights); END $$;
CREATE FUNCTION alice.invoker_reads() RETURNS bigint LANGUAGE plpgsql
AS $$ BEGIN RETURN (SELECT count(*) FROM app.everyone); END $$;
CREATE FUNCTION alice.invoker_reads_immutable() RETURNS bigint LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN RETURN (SELECT count(*) FROM app.everyone); END $$;
CREATE FUNCTION alice.invoker_reads_stable(int) RETURNS bigint LANGUAGE plpgsql STABLE
AS $$ BEGIN RETURN (SELECT count(*) FROM app.everyone); END $$;
CREATE FUNCTION alice.runs(command text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE command; END $$;
CREATE FUNCTION alice.runs_immutable(command text) RETURNS int LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN EXECUTE command; RETURN 1; END $$;
CREATE FUNCTION alice.sets_path() RETURNS text LANGUAGE plpgsql
AS $$ DECLARE x text; BEGIN x := set_config('search_path', 'alice', false); RETURN x; END $$;
CREATE FUNCTION alice.sets_path_immutable() RETURNS text LANGUAGE plpgsql IMMUTABLE
AS $$ DECLARE x text; BEGIN x := set_config('search_path', 'alice', false); RETURN x; END $$;
CREATE FUNCTION alice.sets_path_caught() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM set_config('search_path', 'alice', false);
        PERFORM 1/0;
    EXCEPTION WHEN OTHERS THEN
        PERFORM set_config('search_path', 'alice', false);
    END;
    RETURN 'done';
END $$;
CREATE FUNCTION alice.adds(bigint, text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN EXECUTE $2; RETURN 1; END $$;
CREATE AGGREGATE alice.runs_all(text) (SFUNC = alice.adds, STYPE = bigint, INITCOND = '0');
CREATE OPERATOR alice.! (FUNCTION = alice.runs, RIGHTARG = text);
-- An aggregate whose first value is of a domain with a check: that runs in the planner and as the executor starts.
CREATE DOMAIN alice.direct AS text CHECK (set_config('search_path', VALUE, false) IS NOT NULL);
CREATE FUNCTION alice.step(alice.direct, int) RETURNS alice.direct LANGUAGE sql AS 'SELECT $1';
CREATE AGGREGATE alice.sets_path_at_start(int) (SFUNC = alice.step, STYPE = alice.direct, INITCOND = 'alice');
RESET search_path;
-- A domain whose check is evaluated when it is loaded, and a function that gives time to have it loaded again.
CREATE FUNCTION alice.lurks() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE x text;
BEGIN
    BEGIN x := set_config('search_path', 'alice', false); EXCEPTION WHEN OTHERS THEN NULL; END;
    RETURN true;
END $$;
CREATE DOMAIN alice.lurking AS text CHECK (alice.lurks());
RESET search_path;
CREATE FUNCTION alice.waits() RETURNS boolean LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN PERFORM pg_sleep(0.4); EXECUTE 'SELECT count(*) FROM pg_attribute'; RETURN true; END $$;
CREATE DOMAIN alice.loud AS text CHECK (alice.runs_immutable(VALUE) = 1);
-- Runs a command in a parallel worker, and only there.
CREATE FUNCTION alice.worker(command text, name) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$ DECLARE r text; BEGIN EXECUTE command INTO r; RETURN r; END $$;
CREATE FUNCTION alice.in_worker(command text) RETURNS text LANGUAGE plpgsql
SET parallel_always = on SET parallel_leader_participation = off SET max_parallel_workers_per_gather = 2
AS $$ BEGIN RETURN string_agg(alice.worker(command, relname), '') FROM pg_class WHERE relname = 'pg_class'; END $$;
-- Places from which PostgreSQL calls a function that no statement names.
CREATE TYPE alice.mood AS ENUM ('sad');
CREATE FUNCTION alice.mood_as_text(alice.mood) RETURNS text LANGUAGE plpgsql
AS $$ BEGIN PERFORM count(*) FROM app.everyone; RETURN set_config('role', 'none', false); END $$;
CREATE CAST (alice.mood AS text) WITH FUNCTION alice.mood_as_text(alice.mood) AS IMPLICIT;
-- Nothing in it would be refused: that it runs at all is the fault.
CREATE FUNCTION alice.mood_as_json(alice.mood) RETURNS json LANGUAGE plpgsql
AS $$ BEGIN RETURN '"ran"'; END $$;
CREATE CAST (alice.mood AS json) WITH FUNCTION alice.mood_as_json(alice.mood);
CREATE FUNCTION alice.by_default(a text DEFAULT alice.reset_role_sql(), b bigint DEFAULT alice.invoker_reads())
RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION alice.is_like(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM count(*) FROM app.everyone; RETURN set_config('role', 'none', false) = $1; END $$;
CREATE OPERATOR alice.~~~ (FUNCTION = alice.is_like, LEFTARG = text, RIGHTARG = text);
CREATE AGGREGATE alice.locks(bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = '0',
    FINALFUNC = pg_try_advisory_lock);
CREATE AGGREGATE alice.resets(text) (SFUNC = pg_catalog.textcat, STYPE = text, INITCOND = '',
    FINALFUNC = alice.sets_role_to);
CREATE FUNCTION alice.apart(float8, float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN PERFORM set_config('role', 'none', false); RETURN $1 - $2; END $$;
CREATE TYPE alice.span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = alice.apart);
CREATE TYPE alice.pair AS (a alice.loud, b int);
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA alice TO PUBLIC;
CREATE PROCEDURE alice.commits() LANGUAGE plpgsql
AS $$ BEGIN COMMIT; INSERT INTO alice.seen VALUES ('commits', current_user); END $$;
CREATE PROCEDURE alice.rolls_back() LANGUAGE plpgsql
AS $$ BEGIN ROLLBACK; INSERT INTO alice.seen VALUES ('rolls_back', current_user); END $$;
CREATE PROCEDURE alice.commits_caught() LANGUAGE plpgsql
AS $$ BEGIN BEGIN COMMIT; EXCEPTION WHEN OTHERS THEN NULL; END; END $$;
CREATE FUNCTION alice.on_insert() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM set_config('role', 'none', false); RETURN NEW; END $$;
CREATE TRIGGER t BEFORE INSERT ON alice.t FOR EACH ROW EXECUTE FUNCTION alice.on_insert();
CREATE CONSTRAINT TRIGGER d AFTER INSERT ON alice.deferred DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION alice.on_insert();
CREATE FUNCTION alice.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO alice.seen VALUES ('at commit', current_user);
    BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM set_config('role', 'none', false); EXCEPTION WHEN OTHERS THEN NULL; END;
    INSERT INTO alice.seen VALUES ('at commit, later', current_user);
    INSERT INTO alice.seen SELECT 'rows at commit', count(*) FROM app.flights;
    RETURN NEW;
END $$;
CREATE CONSTRAINT TRIGGER s AFTER INSERT ON alice.seen_at_commit DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION alice.at_commit();
CREATE FUNCTION alice.set_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('search_path', 'alice', false), set_config('app.tenant', 'alice', false);
    EXECUTE 'SET statement_timeout = ''1h''';
    EXECUTE 'CREATE TEMP TABLE IF NOT EXISTS left_at_commit (a int)';
    RETURN NEW;
END $$;
CREATE CONSTRAINT TRIGGER s AFTER INSERT ON alice.settings_at_commit DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION alice.set_at_commit();
CREATE RULE r AS ON INSERT TO alice.ruled DO ALSO SELECT set_config('role', 'none', false);
CREATE VIEW alice.resetting AS SELECT set_config('role', 'none', false) AS role;
GRANT SELECT ON alice.resetting TO PUBLIC;
RESET ROLE;

-- A SET clause that no session could write any more, on functions that alice owns.
CREATE FUNCTION alice.clause_role() RETURNS text LANGUAGE sql SET role = 'none' AS 'SELECT current_user::text';
CREATE FUNCTION alice.clause_role_definer() RETURNS text LANGUAGE sql SECURITY DEFINER SET role = 'bob'
AS 'SELECT current_user::text';
CREATE PROCEDURE alice.clause_role_proc() LANGUAGE plpgsql SET role = 'none' AS 'BEGIN NULL; END';
CREATE FUNCTION alice.clause_session() RETURNS text LANGUAGE sql SET session_authorization = 'postgres'
AS 'SELECT current_user::text';
ALTER FUNCTION alice.clause_role() OWNER TO alice;
ALTER FUNCTION alice.clause_role_definer() OWNER TO alice;
ALTER PROCEDURE alice.clause_role_proc() OWNER TO alice;
ALTER FUNCTION alice.clause_session() OWNER TO alice;
"""

# A function may set the seed up to 15.
SQL_UP_TO_15 = """
CREATE FUNCTION alice.seeds() RETURNS int LANGUAGE sql SET seed = 0.5 AS 'SELECT 1';
ALTER FUNCTION alice.seeds() OWNER TO alice;
"""

# Views that check permissions as their invoker exist since 15.
SQL_SINCE_15 = """
SET ROLE owner;
CREATE VIEW app.invokers_view WITH (security_invoker = true) AS SELECT id FROM app.flights;
GRANT SELECT ON app.invokers_view TO PUBLIC;
CREATE VIEW app.invokers_everyone WITH (security_invoker = true) AS SELECT body FROM app.everyone;
GRANT SELECT ON app.invokers_everyone TO PUBLIC;
CREATE VIEW app.invokers_notes WITH (security_invoker = true) AS SELECT body FROM private.notes;
GRANT SELECT ON app.invokers_notes TO PUBLIC;
RESET ROLE;
"""


class Session:
    """A connection that sends each statement as one message, by the simple or by the extended protocol."""

    def __init__(self, world, mode="simple", user="svc", password="service-password", dbname=None, **settings):
        self.world, self.mode, self.user = world, mode, user
        self.wire = Wire("127.0.0.1", world.server.port, user, password, dbname or world.dbname, **settings)

    def close(self):
        self.wire.close()

    def run(self, sql, *values):
        if self.mode == "simple" and not values:
            answer = self.wire.query(sql)
        else:
            answer = self.wire.query_extended(sql, *values)
        for result in answer.results:
            check_error(result.error)
        return answer

    def ok(self, sql, *values):
        answer = self.run(sql, *values)
        assert answer.error is None, f"{sql}: {answer.error}"
        return answer

    def rows(self, sql, *values):
        return self.ok(sql, *values).rows

    def value(self, sql, *values):
        return self.rows(sql, *values)[0][0]

    def refused(self, sql, sqlstate, code=None, *values):
        expect(self.run(sql, *values), sqlstate, code, sql)

    # -- the honest application -----------------------------------------------------------------------------------

    def begin(self, user="alice", options=""):
        """What the application sends first."""
        self.ok(f"BEGIN {options}")
        self.present(user)

    def present(self, user="alice"):
        self.ok(f"SET LOCAL bodata.impersonation_token = '{token_of(self.world, user)}'")

    # -- what holds -----------------------------------------------------------------------------------------------

    def is_alice(self, user="alice"):
        """Everything says so, and the rows are the user's."""
        seen = self.rows("SELECT current_user, session_user, current_setting('role'), "
                         "current_setting('is_superuser'), (SELECT mapped_role FROM immuta.whoami()), "
                         "count(*), min(carrier), max(carrier) FROM app.flights")
        carrier = {"alice": "UA", "bob": "AA"}[user]
        assert seen == [(user, self.user, user, "off", user, "100", carrier, carrier)]

    def is_nobody(self):
        """The session is the service login's, which sees nothing; and it works."""
        assert self.rows("SELECT current_user, session_user, current_setting('role'), "
                         "(SELECT userid FROM immuta.whoami())") == [(self.user, self.user, "none", None)]
        self.refused(COUNT, *REQUIRED)

    def leaves_nothing(self):
        """The transaction is over: nobody again, and the next user works as ever."""
        if self.run("SELECT 1").status != "I":
            self.ok("ROLLBACK")
        self.is_nobody()
        self.begin("bob")
        self.is_alice("bob")
        self.ok("COMMIT")


class NameSession(Session):
    """The same application, which presents names. Its login needs no token for a user: the first stays the only one."""

    def __init__(self, world, mode="simple", user="namer", **settings):
        super().__init__(world, mode, user, f"{user}-password", **settings)

    def present(self, user="alice"):
        self.ok(f"SET LOCAL immuta.impersonation_userid = '{user}'")

    def is_nobody(self):
        super().is_nobody()
        assert self.value("SHOW immuta.immuta_user") == ""

    def leaves_nothing(self):
        """Nobody again, and nobody else: the session works for alice as ever."""
        if self.run("SELECT 1").status != "I":
            self.ok("ROLLBACK")
        self.is_nobody()
        self.ok("BEGIN")
        self.refused("SET LOCAL immuta.impersonation_userid = 'bob'", *NOT_ALLOWED)
        self.ok("ROLLBACK")
        self.begin()
        self.is_alice()
        self.ok("COMMIT")


class LastingSession(Session):
    """An application that impersonates for the session: by token, or by name."""

    def __init__(self, world, mode="simple", kind="token", user=None, **settings):
        self.kind = kind
        user = user or {"token": "keeper", "name": "named_keeper"}[kind]
        super().__init__(world, mode, user, f"{user}-password", **settings)

    def begin(self, user="alice"):
        self.present(user)

    def present(self, user="alice"):
        if self.kind == "token":
            self.ok(f"SET bodata.impersonation_token = '{token_of(self.world, user)}'")
        else:
            self.ok(f"SET immuta.impersonation_userid = '{user}'")

    def end(self):
        self.ok("RESET immuta.immuta_user")

    def leaves_nothing(self):
        """Ends what goes on; then nobody again, and the next user works as ever."""
        if self.run("SELECT 1").status != "I":
            self.ok("ROLLBACK")
        self.end()
        self.is_nobody()
        assert self.value("SHOW immuta.immuta_user") == ""
        user = "bob" if self.kind == "token" else "alice"
        self.present(user)
        self.is_alice(user)
        self.end()
        self.is_nobody()


def token_of(world, user):
    """One token per user and run is enough where the token itself is not the subject."""
    if not hasattr(world, "shared"):
        world.shared = {}
    if user not in world.shared:
        world.shared[user] = world.token(user)
    return world.shared[user]


def check_error(error):
    """What holds for every error: a code of ours comes with a hint, and no backtrace is in any field."""
    if not error:
        return
    for text in error.values():
        assert "backtrace" not in text and ".rs:" not in text, error
    if error.get("D", "").startswith("IMPERSONATION_"):
        assert error.get("H"), error


def expect(answer, sqlstate, code=None, what=""):
    assert answer.error is not None, f"no error but {answer.results}, expected {sqlstate} {code or ''}: {what}"
    assert answer.error["C"] == sqlstate, f"{answer.error} instead of {sqlstate} {code or ''}: {what}"
    if code:
        assert answer.error.get("D") == code, f"{answer.error}: {what}"


def settings(session):
    """All settings that a session can see, but those of a language that may be loaded meanwhile."""
    return json.loads(session.value("SELECT json_object_agg(name, setting) FROM pg_settings "
                                    "WHERE name NOT LIKE 'plpgsql.%'"))


__all__ = [name for name in dir() if not name.startswith("_")] + ["Closed"]
