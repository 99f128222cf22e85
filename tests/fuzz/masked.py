"""Tables with columns masked by every method, and short random statements that try to see through: the values that are masked
hold canaries, in the part that the mask does not show.

`fay` sees the masks, and has planted what a hostile subscriber would beside them; `eve` is excepted from all of them."""

import base64
import hashlib
import json
import random
import re
import string
import uuid

SERVICE = ("fuzz_service", "service-password")

SQL = """
CREATE ROLE fuzz_service LOGIN PASSWORD 'service-password' IN ROLE bodata_impersonate_user;
CREATE ROLE fuzz_system LOGIN CREATEROLE IN ROLE immuta_admin; CREATE ROLE fuzz_owner; CREATE ROLE fay; CREATE ROLE eve;
CREATE SCHEMA data AUTHORIZATION fuzz_owner; GRANT USAGE ON SCHEMA data TO fuzz_system WITH GRANT OPTION;
CREATE SCHEMA play AUTHORIZATION fay;
ALTER DEFAULT PRIVILEGES FOR ROLE fuzz_owner GRANT ALL ON TABLES TO fuzz_system WITH GRANT OPTION;
SET ROLE fuzz_owner;
CREATE DOMAIN data.word AS text CHECK (VALUE <> ''); CREATE DOMAIN data.checked AS text CHECK (length(VALUE) > 3);
CREATE TYPE data.pair AS (x text, y int);

CREATE TABLE data.people (id int PRIMARY KEY, team int CHECK (team < 100), gone int, nick text, mail text, ssn varchar(40), pin int, income numeric(14,2),
    born date, seen timestamptz, note text, key uuid, raw bytea, secret text NOT NULL, title text);
ALTER TABLE data.people DROP gone;
INSERT INTO data.people SELECT i, i % 3, 'n-@word@-' || i % 10, '@word@' || i || '@at@example.org', '@word@' || i % 5, @number@ + i % 3, @number@.37 + i % 3,
    '@date@', '@date@ 07:17:17+00', i % 7 || ' @word@', '@uuid@', '@word@', '@word@', 'Dr @word@' FROM generate_series(1, 40) i;
CREATE INDEX ON data.people (lower(nick)); CREATE INDEX ON data.people (pin); CREATE UNIQUE INDEX ON data.people (mail);

CREATE TABLE data.types (id int PRIMARY KEY, dom data.word, checked data.checked, arr text[], doc jsonb, pair data.pair, span int8range, vec tsvector,
    fl float8, big bigint, ch char(30), js json, name name);
INSERT INTO data.types SELECT i, '@word@', '@word@', '{@word@,x}', '{"x": "@word@", "y": [@number@]}', ROW('@word@', @number@)::data.pair, '[@number@,999999999)',
    to_tsvector('simple', '@word@'), @number@.5, @number@, '@word@' || i, '{"x": "@word@"}', '@word@' FROM generate_series(1, 12) i;

CREATE TABLE data.parts (id int, body text, kind int) PARTITION BY RANGE (id);
CREATE TABLE data.part_low PARTITION OF data.parts FOR VALUES FROM (0) TO (10);
CREATE TABLE data.part_high (extra int, kind int, body text, id int);
ALTER TABLE data.part_high DROP extra;
ALTER TABLE data.parts ATTACH PARTITION data.part_high FOR VALUES FROM (10) TO (100);
INSERT INTO data.parts SELECT i, '@word@' || i, i % 4 FROM generate_series(1, 30) i;
CREATE TABLE data.parent (id int, body text); CREATE TABLE data.child (more int) INHERITS (data.parent);
INSERT INTO data.parent SELECT i, '@word@' FROM generate_series(1, 5) i; INSERT INTO data.child SELECT i, '@word@', i FROM generate_series(6, 9) i;
CREATE TABLE data.computed (id int PRIMARY KEY, kind int, body text, stored text GENERATED ALWAYS AS ('<' || upper(body) || '>') STORED @virtual@);
INSERT INTO data.computed (id, kind, body) SELECT i, i % 2, '@word@' || i FROM generate_series(1, 15) i;
CREATE TABLE data.policed (id int, body text);
INSERT INTO data.policed SELECT i, CASE WHEN i < 8 THEN 'low-' ELSE 'high-' END || '@word@' FROM generate_series(1, 16) i;
ALTER TABLE data.policed ENABLE ROW LEVEL SECURITY;
CREATE POLICY low ON data.policed USING (body LIKE 'low-%' AND (policed).id < 100 AND tableoid IS NOT NULL);
CREATE TABLE data.partly (id int PRIMARY KEY, is_public boolean, body text, num int);
INSERT INTO data.partly SELECT i, i % 2 = 0, CASE i % 2 WHEN 0 THEN '@granted@' ELSE '@word@' END, CASE i % 2 WHEN 0 THEN i ELSE @number@ END
    FROM generate_series(1, 20) i;
CREATE TABLE data.open (id int PRIMARY KEY, kind int, body text); INSERT INTO data.open SELECT i, i % 3, '@granted@' FROM generate_series(1, 10) i;

CREATE VIEW data.owners AS SELECT * FROM data.people; CREATE MATERIALIZED VIEW data.copied AS SELECT id, secret, pin FROM data.people;
CREATE VIEW data.invoker @invoker@ AS SELECT id, nick, ssn, p AS whole FROM data.people p;
CREATE VIEW data.barrier @barrier@ AS SELECT id, body FROM data.partly WHERE id < 12;
CREATE FUNCTION data.reads() RETURNS SETOF data.people LANGUAGE sql STABLE AS 'SELECT * FROM data.people';
CREATE FUNCTION data.parsed() RETURNS SETOF text LANGUAGE sql STABLE BEGIN ATOMIC SELECT secret FROM data.people; END;
CREATE FUNCTION data.one(int) RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT nick FROM data.people WHERE id = $1); END';
CREATE FUNCTION data.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT secret FROM data.people';
REVOKE EXECUTE ON FUNCTION data.definer() FROM PUBLIC;
RESET ROLE;

SELECT immuta.create_user('fay', postgres_role => 'fay'), immuta.create_user('eve', postgres_role => 'eve'), immuta.set_system_account('fuzz_system');
SET SESSION AUTHORIZATION fuzz_system;
SELECT immuta.register_data_source(('data.' || t)::regclass) FROM unnest('{people,types,parts,parent,computed,policed,partly,open}'::text[]) t;
SELECT immuta.subscribe(u, ('data.' || t)::regclass, CASE WHEN t IN ('people', 'computed', 'open') THEN 'WRITE' ELSE 'READ' END)
    FROM unnest('{people,types,parts,parent,computed,policed,partly,open}'::text[]) t, unnest('{fay,eve}'::text[]) u;
SELECT immuta.register_data_source('data.copied'), immuta.add_user_to_group('eve', 'all');
SELECT immuta.tag_column('data.people.secret', 'secret'), immuta.tag_column('data.copied.secret', 'secret');
@policies@
SELECT immuta.register_data_source('data.copied'), immuta.subscribe('fay', 'data.copied'), immuta.subscribe('eve', 'data.copied');
RESET SESSION AUTHORIZATION;
@views@
ANALYZE;

SET ROLE fay;
CREATE FUNCTION play.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END$$;
CREATE FUNCTION play.leak(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END$$;
CREATE FUNCTION play.leak_row(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END$$;
CREATE OPERATOR play.<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = play.leak, RESTRICT = eqsel, JOIN = eqjoinsel);
CREATE FUNCTION play.scalar(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT secret FROM data.people WHERE id = $1';
CREATE FUNCTION play.rows() RETURNS SETOF data.people LANGUAGE sql STABLE AS 'SELECT * FROM data.people';
CREATE FUNCTION play.parsed() RETURNS SETOF data.parts LANGUAGE sql STABLE BEGIN ATOMIC SELECT * FROM data.parts; END;
CREATE FUNCTION play.looped() RETURNS SETOF text LANGUAGE plpgsql AS
    $$DECLARE r record; BEGIN FOR r IN SELECT * FROM data.types LOOP RETURN NEXT r::text; END LOOP; END$$;
CREATE FUNCTION play.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT secret FROM data.people';
CREATE VIEW play.mine AS SELECT id, nick, mail, income, p AS whole FROM data.people p;
CREATE VIEW play.fenced WITH (security_barrier) AS SELECT id, body FROM data.parts WHERE id < 15;
CREATE TABLE play.sink (id int, x text);
CREATE TABLE play.triggered (x text);
CREATE FUNCTION play.fills() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN SELECT string_agg(p::text, ',') INTO new.x FROM data.people p; RETURN new; END$$;
CREATE TRIGGER fills BEFORE INSERT ON play.triggered FOR EACH ROW EXECUTE FUNCTION play.fills();
CREATE TABLE play.policed (id int); INSERT INTO play.policed VALUES (1);
ALTER TABLE play.policed ENABLE ROW LEVEL SECURITY; ALTER TABLE play.policed FORCE ROW LEVEL SECURITY;
CREATE POLICY looks ON play.policed USING ((SELECT bool_and(play.leak(body)) FROM data.parts));
GRANT USAGE ON SCHEMA play TO eve; GRANT ALL ON ALL TABLES IN SCHEMA play TO eve;
"""

# name: (method, parameters, what it is put on, rows). What stays visible by one of them holds no canary.
POLICIES = {
    "nick": ("partial", {"prefix": 2, "suffix": 2}, "data.people.nick", None),
    "mail": ("regex", {"pattern": "^[^@]+(@pattern@)?", "replacement": "x"}, "data.people.mail", None),
    "ssn": ("hash", {"group": "g"}, "data.people.ssn,data.parts.body", None),
    "hashes": ("hash", {}, "data.people.pin,data.people.key,data.people.raw,data.types.big,data.computed.body", None),
    "rounded": ("round", {"to": 1000000}, "data.people.income,data.types.fl,data.copied.pin", None),
    "years": ("round", {"unit": "year"}, "data.people.born,data.people.seen", None),
    "note": ("expression", {"expression": "CASE WHEN {column} = '3' OR id < 30 THEN '@granted@' END"}, "data.people.note", None),
    "secret": ("null", {}, None, None),
    "nothing": ("null", {}, "data.types.dom,data.types.arr,data.types.pair,data.types.span,data.types.vec,data.types.js,data.types.name", None),
    "title": ("constant", {"value": "@granted@"}, "data.people.title,data.types.checked,data.parent.body,data.policed.body", None),
    "doc": ("constant", {"value": {"masked": "@granted@"}}, "data.types.doc", None),
    "suffix": ("partial", {"suffix": 1}, "data.types.ch", None),
    "partly": ("null", {}, "data.partly.body,data.partly.num", "NOT is_public"),
}

COLUMNS = {
    "data.people": "nick mail ssn pin income born seen note key raw secret title", "data.types": "dom checked arr doc pair span vec fl big ch js name",
    "data.parts": "body", "data.parent": "body", "data.computed": "body stored", "data.policed": "body", "data.partly": "body num",
    "data.copied": "secret pin",
}
# What else there is: of others, that fay may not read, and her own.
OTHERS = {
    "data.open": "body", "data.part_low": "body", "data.part_high": "body", "data.child": "body", "data.owners": "secret nick pin",
    "data.invoker": "nick ssn whole", "data.barrier": "body", "data.reads()": "secret nick ssn", "play.rows()": "secret mail pin", "play.parsed()": "body",
    "play.mine": "nick mail income whole", "play.fenced": "body",
}
MASKED = re.compile(rb"\b(?:data\.(?!open\b)|play\.(?:mine|fenced|rows|parsed|scalar|looped|definer|triggered|policed))")

VALUES = (
    "{a}.{c}", "{a}.{c}", "{a}.{c}", "{a}", "{a}.*", "({a}).{c}", "{c}({a})", "{a}::text", "{a}.{c}::text", "to_jsonb({a})", "row_to_json({a})", "ROW({a}.*)",
    "lower({a}.{c}::text)", "reverse({a}.{c}::text)", "encode(convert_to({a}.{c}::text, 'UTF8'), 'hex')", "encode(convert_to({a}.{c}::text, 'UTF8'), 'base64')",
    "md5({a}.{c}::text)", "sha256(convert_to({a}.{c}::text, 'UTF8'))", "substr({a}.{c}::text, {n})", "play.leak({a}.{c}::text)", "play.leak_row({a})",
    "{a}.{c}::text::int", "1 / (length({a}.{c}::text) - {n})", "xmlelement(name x, {a}.{c})", "coalesce({a}.{c}::text, 'x')", "{a}.{c} IS NULL",
    "(SELECT max({a}.{c}::text) FROM {s} z)", "(SELECT string_agg(z.{d}::text, ',') FROM {s} z WHERE z.{d}::text > {a}.{c}::text)", "play.scalar({n})",
    "first_value({a}.{c}) OVER (ORDER BY {a}.{c}::text)", "lag({a}) OVER (PARTITION BY {a}.{c}::text)", "CASE WHEN {a}.{c}::text > 'm' THEN {a}.{c} END",
)
AGGREGATES = (
    "max({a}.{c}::text)", "array_agg({a})", "string_agg({a}.{c}::text, ',')", "json_agg({a})", "count(DISTINCT {a}.{c}::text)", "array_agg({a}.{c})",
    "percentile_disc(0.5) WITHIN GROUP (ORDER BY {a}.{c}::text)", "count(*) FILTER (WHERE {a}.{c}::text LIKE '%{l}%')", "mode() WITHIN GROUP (ORDER BY {a}.{c}::text)",
)
SOURCES = (
    "{r} {a}", "{r} {a}", "{r} {a}", "(SELECT * FROM {r}) {a}", "(SELECT * FROM {r} OFFSET 0) {a}", "{r} {a} JOIN {s} b ON {a}.{c}::text = b.{d}::text",
    "{s} b LEFT JOIN {r} {a} ON {a}.{c}::text < b.{d}::text", "{s} b NATURAL JOIN {r} {a}", "{s} b, LATERAL (SELECT * FROM {r} x WHERE x.{c}::text <> b.{d}::text) {a}",
    "{r} {a} FULL JOIN {r} b USING ({c})", "(SELECT * FROM {r} UNION ALL SELECT * FROM {r}) {a}", "(SELECT DISTINCT ON ({c}::text) * FROM {r}) {a}",
    "{r} {a} TABLESAMPLE system (100)", "ONLY {r} {a}", "ROWS FROM (generate_series(1, 2)) g, {r} {a}", "{r} {a} CROSS JOIN (SELECT x FROM {s} x LIMIT 2) b",
    "{r} {a} JOIN data.open b USING (id)",
)
CONDITIONS = (
    "", "", "", " WHERE {a}.{c}::text LIKE '%{l}%'", " WHERE play.leak({a}.{c}::text)", " WHERE play.leak_row({a})", " WHERE {a} IS NOT NULL", " WHERE {a}.{c} IS NULL",
    " WHERE {a}.{c}::text OPERATOR(play.<<<) 'x'", " WHERE 1 / (length({a}.{c}::text) - {n}) > 0", " WHERE {a}.{c}::text::int > {n}",
    " WHERE EXISTS (SELECT FROM {s} z WHERE z.{d}::text = {a}.{c}::text)", " WHERE {a}.{c}::text IN (SELECT {d}::text FROM {s})", " WHERE {a}.{c}::text > '{l}'",
    " WHERE {a}.{c}::text = (SELECT max({c}::text) FROM {r})", " WHERE lower({a}.{c}::text) > '{l}'", " WHERE false OR play.leak({a}.{c}::text)",
)
ENDINGS = ("", "", "", " ORDER BY {a}.{c}::text", " ORDER BY {a}.{c}::text LIMIT {n}", " FOR UPDATE", " FOR SHARE OF {a} SKIP LOCKED", " LIMIT {n}")
GROUPS = ("", "", " GROUP BY {a}.{c}::text", " GROUP BY ROLLUP ({a}.{c}::text)", " GROUP BY {a}.{c}::text HAVING max({a}.{c}::text) > '{l}'")
WAYS = (
    "{q}", "{q}", "{q}", "{q}", "{q}", "{q}", "TABLE {r}", "COPY ({q}) TO STDOUT", "COPY {r} TO STDOUT", "COPY {r} ({c}) TO STDOUT (FORMAT csv)",
    "WITH x AS MATERIALIZED ({q}) SELECT x, x.* FROM x", "WITH RECURSIVE x (v) AS (SELECT v::text FROM ({q}) y (v) UNION SELECT v || 'x' FROM x WHERE length(v) < 5) TABLE x",
    "SELECT query_to_xml('{Q}', true, false, '')", "SELECT table_to_xml('{r}', true, false, '')", "DECLARE c CURSOR FOR {q}; FETCH ALL FROM c",
    "CREATE TEMP TABLE t AS {q}; TABLE t", "CREATE TEMP VIEW v AS {q}; TABLE v", "({q}) UNION ALL ({q})", "SELECT * FROM ({q}) x (v) INTERSECT ALL SELECT * FROM ({q}) x (v)",
    "DO $$ DECLARE r record; BEGIN FOR r IN {q} LOOP RAISE NOTICE '%', r; END LOOP; END $$",
    "DO $$ DECLARE r {r}; BEGIN SELECT * INTO r FROM {r} LIMIT 1; RAISE EXCEPTION '%', r; END $$",
    "CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql AS 'SELECT v::text FROM ({Q}) x (v)'; SELECT pg_temp.f()",
    "DROP FUNCTION IF EXISTS play.f(); CREATE FUNCTION play.f() RETURNS SETOF {r} LANGUAGE sql SECURITY DEFINER AS 'TABLE {r}'; SELECT f FROM play.f()",
    "EXPLAIN (VERBOSE) {q}", "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF) {q}", "EXPLAIN (ANALYZE, FORMAT json) SELECT * FROM {r} ORDER BY {c}::text",
    "INSERT INTO play.sink SELECT 1, v::text FROM ({q}) x (v) RETURNING *", "INSERT INTO play.triggered VALUES ('') RETURNING *", "SELECT * FROM play.policed",
    "WITH w AS (INSERT INTO data.open SELECT 1000 + row_number() OVER (), 1, v::text FROM ({q}) x (v) RETURNING *) TABLE w",
    "UPDATE data.open o SET body = {a}.{c}::text FROM {r} {a} WHERE {a}.id = o.id RETURNING o.*, {a}", "DELETE FROM data.open o USING {r} {a} WHERE {a}.id = o.id RETURNING {a}.{c}",
    "INSERT INTO data.open SELECT id FROM data.open ON CONFLICT (id) DO UPDATE SET body = (SELECT max(v::text) FROM ({q}) x (v)) RETURNING *",
    "MERGE INTO data.open o USING {r} {a} ON {a}.id = o.id WHEN MATCHED THEN UPDATE SET body = {a}.{c}::text; TABLE data.open",
    "UPDATE {r} SET id = id WHERE {c}::text LIKE '%{l}%' RETURNING {c}", "UPDATE {r} SET id = -id RETURNING *", "DELETE FROM {r} WHERE id > {n} RETURNING {c}",
    "UPDATE {r} SET {c} = {c}", "UPDATE data.people SET team = 100", "INSERT INTO {r} (id) VALUES ({n}) RETURNING {c}", "INSERT INTO {r} SELECT * FROM {r}",
    "SELECT play.looped()", "SELECT * FROM play.definer()", "SELECT * FROM data.definer()", "SELECT data.one({n})", "SELECT * FROM data.parsed()",
    "SELECT * FROM pg_stats WHERE schemaname IN ('data', 'immuta')", "SELECT * FROM immuta.mask_parameters", "SELECT mask FROM immuta.masks",
    "SELECT immuta.mask_hash('x', immuta_internal.mask_ref({n}))", "SELECT * FROM immuta.masked_columns", "SELECT pg_get_viewdef('play.mine'::regclass)",
    "SELECT word FROM ts_stat($$SELECT to_tsvector('simple', {c}::text) FROM {r}$$)", "LOCK TABLE {r}; {q}",
    "DROP TABLE IF EXISTS play.made; CREATE TABLE play.made (LIKE {r} INCLUDING ALL)", "DROP MATERIALIZED VIEW IF EXISTS play.made; CREATE MATERIALIZED VIEW play.made AS {q}; TABLE play.made",
)
BEFORE = (
    "", "", "", "", "SET enable_seqscan = off; ", "SET search_path = data, play; ", "SAVEPOINT s; ROLLBACK TO s; ", "SET row_security = off; ",
    "SET debug_parallel_query = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; ",
    "SET enable_hashjoin = off; SET enable_nestloop = off; ", "SET plan_cache_mode = force_generic_plan; ", "SET enable_partitionwise_join = on; ",
    "SET from_collapse_limit = 1; SET join_collapse_limit = 1; ", "SET client_min_messages = debug5; SET debug_print_plan = on; SET debug_print_rewritten = on; ",
)
ENDS = ("COMMIT; ", "ROLLBACK; ", "COMMIT AND CHAIN; ", "COMMIT; DISCARD ALL; ")


def query(choose):
    """A query of one column, as a pattern."""
    if choose.random() < 0.25:
        parts = AGGREGATES, SOURCES, CONDITIONS, GROUPS
    else:
        parts = VALUES, SOURCES, CONDITIONS, ENDINGS
    value, source, condition, ending = map(choose.choice, parts)
    return f"SELECT {value} FROM {source}{condition}{ending}"


def statement(choose):
    """A message, and whether the user ends their transaction in it before they read."""
    def relation():
        relations = OTHERS if choose.random() < 0.3 else COLUMNS
        name = choose.choice(list(relations))
        return name, choose.choice(relations[name].split())
    (of, column), (other, its) = relation(), relation()
    pattern, text = query(choose), choose.choice(WAYS)
    text = text.replace("{q}", pattern).replace("{Q}", pattern.replace("'", "''"))
    for mark, value in {"{r}": of, "{c}": column, "{s}": other, "{d}": its, "{a}": "a", "{n}": str(choose.randint(0, 20)),
                        "{l}": choose.choice(string.ascii_letters)}.items():
        text = text.replace(mark, value)
    ends = choose.random() < 0.1
    return choose.choice(ENDS if ends else BEFORE) + text, ends


class Scene:
    """It, in a database of its own."""

    def __init__(self, server, seed, dbname="fuzz"):
        self.server, self.dbname = server, dbname
        values = random.Random(seed)
        # Letters that are in no hexadecimal number, and together in no word.
        self.word, self.pattern = ("".join(values.choices("qxzjkvwy", k=16)) for _ in range(2))
        self.granted = "granted" + "".join(values.choices("qxzjkvwy", k=16))
        # Far from what round shows of it.
        self.number = values.randrange(110, 990) * 1000000 + values.randrange(200000, 900000)
        self.date = f"20{values.randrange(70, 99)}-0{values.randrange(2, 9)}-1{values.randrange(2, 9)}"
        self.uuid = str(uuid.UUID(int=values.getrandbits(128)))
        server.psql("-c", f"CREATE DATABASE {dbname}")
        server.psql("-c", "CREATE EXTENSION immuta_ext", dbname=dbname)
        server.psql(input=self._sql(int(server.version)), dbname=dbname)
        self.salts = self._ask("SELECT encode(salt, 'hex') FROM immuta.mask_parameters WHERE salt IS NOT NULL")

    def _sql(self, version):
        text = SQL.replace("@virtual@", ", virtual text GENERATED ALWAYS AS ('<' || body || '>') VIRTUAL" if version >= 18 else "")
        text = text.replace("@invoker@", "WITH (security_invoker)" if version >= 15 else "")
        text = text.replace("@barrier@", "WITH (security_invoker, security_barrier)" if version >= 15 else "")
        text = text.replace("@views@", "GRANT SELECT ON data.invoker, data.barrier TO PUBLIC;" if version >= 15 else "")
        def policy(name, method, parameters, columns, rows):
            where = f"columns => '{{{columns}}}'" if columns else "column_tags => '{secret}'"
            only = f", rows => '{rows}'" if rows else ""
            given = json.dumps(parameters).replace("'", "''")
            return f"SELECT immuta.create_masking_policy('{name}', '{method}', '{given}', {where}, except_groups => '{{all}}'{only});"
        text = text.replace("@policies@", "\n".join(policy(name, *told) for name, told in POLICIES.items()))
        for name in ("word", "pattern", "granted", "number", "date", "uuid"):
            text = text.replace(f"@{name}@", str(getattr(self, name)))
        return text.replace("@at@", "@")

    def _ask(self, statement):
        return self.server.psql("-At", "-c", statement, dbname=self.dbname).stdout.split()

    def token(self, user):
        return self._ask(f"SELECT immuta.issue_token('{user}')")[0]

    def hidden(self):
        """What the server must not send to fay, in small letters: each part of a value that is longer than chance, and what
        becomes of it where it is turned, encoded or digested."""
        words = {form for salt in self.salts for form in (salt, printed(bytes.fromhex(salt)))}
        for word in (self.word, self.pattern):
            for part in (word[at:at + 6] for at in range(len(word) - 5)):
                words |= {part, part[::-1], part.encode().hex(), printed(part.encode()), printed(part.upper().encode())}
            words |= {base64.b64encode(word[at:at + 9].encode()).decode().lower() for at in range(3)}
        for add in range(3):
            number = str(self.number + add)
            words |= {number, f"{self.number + add:,}"}
        year, month, day = self.date.split("-")
        words |= {self.date, f"{month}-{day}-{year}", f"{day}.{month}.{year}", self.uuid, self.uuid.replace("-", "")}
        for value in (self.word, f"Dr {self.word}", f"{self.word}1", f"n-{self.word}-1", str(self.number), self.date, self.uuid):
            words |= {hashlib.new(kind, value.encode()).hexdigest() for kind in ("md5", "sha256")}
        return sorted(words)


def printed(value):
    """As PostgreSQL prints the bytes of a constant in a plan."""
    return " ".join(str(byte - 256 if byte > 127 else byte) for byte in value)
