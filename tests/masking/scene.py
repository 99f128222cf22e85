"""Tables with masked columns, and what a hostile subscriber may have planted beside them. Every value that is masked holds
`CANARY` or lies between 770000 and 779999; masks hold `mask-` or 42."""

SQL = """
CREATE SCHEMA data AUTHORIZATION data_owner; GRANT USAGE ON SCHEMA data TO PUBLIC;
CREATE SCHEMA play AUTHORIZATION mallory;
GRANT CREATE ON SCHEMA play TO data_owner;
SET ROLE data_owner;

CREATE TABLE data.t (id int PRIMARY KEY, gone int, n int, b text, c text, k int);
ALTER TABLE data.t DROP gone;
INSERT INTO data.t SELECT i, i % 5, 'CANARY-' || i, 'c' || i % 3, 770000 + i FROM generate_series(1, 20) i;
CREATE INDEX ON data.t (b); CREATE INDEX ON data.t (lower(b)); CREATE UNIQUE INDEX ON data.t (k);
CREATE TABLE data.u (id int PRIMARY KEY, b text, note text);
INSERT INTO data.u SELECT i, 'mask-' || i % 3, 'note' || i FROM generate_series(1, 5) i;

CREATE TABLE data.p (id int, b text, c text) PARTITION BY RANGE (id);
CREATE TABLE data.p1 PARTITION OF data.p FOR VALUES FROM (0) TO (10);
CREATE TABLE data.p2 (extra int, c text, b text, id int);
ALTER TABLE data.p2 DROP extra;
ALTER TABLE data.p ATTACH PARTITION data.p2 FOR VALUES FROM (10) TO (100);
INSERT INTO data.p SELECT i, 'CANARY-' || i, 'c' || i FROM generate_series(1, 20) i;
CREATE TABLE data.parent (id int, b text); CREATE TABLE data.child (more int) INHERITS (data.parent);
INSERT INTO data.parent VALUES (1, 'CANARY-parent'); INSERT INTO data.child VALUES (2, 'CANARY-child', 3);

CREATE TABLE data.r (id int, b text, owner name);
INSERT INTO data.r SELECT i, 'CANARY-' || CASE WHEN i < 6 THEN 'low-' ELSE 'high-' END || i, 'mallory' FROM generate_series(1, 10) i;
ALTER TABLE data.r ENABLE ROW LEVEL SECURITY;
CREATE POLICY low ON data.r USING (b LIKE 'CANARY-low%' AND EXISTS (SELECT FROM data.u WHERE u.id = r.id)
                                   AND (r).owner = 'mallory' AND tableoid IS NOT NULL);

CREATE TABLE data.g (id int, b text, g text GENERATED ALWAYS AS ('<' || b || '>') STORED VIRTUAL);
INSERT INTO data.g (id, b) VALUES (1, 'CANARY-1');

CREATE DOMAIN data.word AS text NOT NULL CHECK (VALUE LIKE 'CANARY%'); GRANT USAGE ON DOMAIN data.word TO PUBLIC;
CREATE TYPE data.pair AS (x text, y int);
CREATE TABLE data.types (id int, w data.word NOT NULL, v varchar(8), ch char(6), num numeric(8, 2), d date, at timestamptz,
                         a text[], j jsonb, row data.pair, u uuid, bits bit(4));
INSERT INTO data.types VALUES (1, 'CANARY-w', 'CANARY-v', 'CANARY', 7700.77, '2077-07-17', '2077-07-17 07:17:17+00', '{CANARY}',
    '{"x": "CANARY"}', ('CANARY', 770000), '77007700-7700-7700-7700-770077007700', '0111');
CREATE MATERIALIZED VIEW data.mv AS SELECT id, b FROM data.t;
CREATE TABLE data.whole (id int, b text); INSERT INTO data.whole SELECT i, 'CANARY-whole' FROM generate_series(1, 50) i;
CREATE TABLE data.target (id int PRIMARY KEY, x text, y int); INSERT INTO data.target VALUES (1, 'x', 1), (2, 'y', 2);

CREATE VIEW data.v AS SELECT id, b, n FROM data.t; CREATE VIEW data.vb WITH (security_barrier) AS SELECT id, b FROM data.t WHERE id < 5;
CREATE VIEW data.owners AS SELECT id, b FROM data.t; GRANT SELECT ON data.owners TO PUBLIC;
CREATE FUNCTION data.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$SELECT b FROM data.t$$;

GRANT SELECT ON data.u TO PUBLIC; GRANT ALL ON data.target TO mallory;
GRANT SELECT (id, n, c), UPDATE (n, c), INSERT (id, n, c), DELETE ON data.t TO mallory;
GRANT SELECT (id, c), UPDATE (c) ON data.p TO mallory;
GRANT SELECT (id) ON data.parent TO mallory; GRANT SELECT (id, owner) ON data.r TO mallory;
GRANT SELECT (id), UPDATE (id) ON data.g TO mallory; GRANT SELECT (id) ON data.types TO mallory;
GRANT SELECT (id) ON data.mv TO mallory; GRANT SELECT (id) ON data.whole TO mallory;
GRANT SELECT (id, n), UPDATE (n) ON data.v TO mallory; GRANT SELECT (id) ON data.vb TO mallory;
GRANT SELECT (id, n, c, b), UPDATE (n, c) ON data.t TO excepted;
RESET ROLE;

INSERT INTO immuta.mask_parameters VALUES (1, 'CANARY-salt', 'CANARY', 'mask', 'g');
CREATE FUNCTION pg_temp.mask(of regclass, named name, mask text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO immuta.masks SELECT $1, attnum, immuta_internal.check_mask($1, attnum, $3) FROM pg_attribute WHERE attrelid = $1 AND attname = $2
$$;
SELECT pg_temp.mask('data.t', 'b', $$'mask-' || (id % 3)::text$$), pg_temp.mask('data.t', 'k', 'CASE WHEN n < 3 THEN 42 END'),
    pg_temp.mask('data.p', 'b', $$'mask-' || (id % 3)::text$$), pg_temp.mask('data.parent', 'b', $$'mask-' || id::text$$),
    pg_temp.mask('data.r', 'b', $$'mask-' || id::text$$), pg_temp.mask('data.g', 'b', $$'mask-' || id::text$$),
    pg_temp.mask('data.v', 'b', $$'mask-' || id::text$$), pg_temp.mask('data.vb', 'b', $$'mask-' || id::text$$),
    pg_temp.mask('data.mv', 'b', $$'mask-' || id::text$$),
    pg_temp.mask('data.whole', 'b', 'immuta.mask_regex(b, immuta_internal.mask_ref(1))'),
    pg_temp.mask('data.types', 'w', 'NULL'), pg_temp.mask('data.types', 'v', 'immuta.mask_hash(v, immuta_internal.mask_ref(1))'),
    pg_temp.mask('data.types', 'ch', $$'mask-'$$), pg_temp.mask('data.types', 'num', 'trunc(num, -9) + 42'),
    pg_temp.mask('data.types', 'd', 'NULL'), pg_temp.mask('data.types', 'at', 'NULL'), pg_temp.mask('data.types', 'a', $$'{mask-}'$$),
    pg_temp.mask('data.types', 'j', $$'{"x": "mask-"}'$$), pg_temp.mask('data.types', 'row', $$ROW('mask-', 42)$$),
    pg_temp.mask('data.types', 'u', 'NULL'), pg_temp.mask('data.types', 'bits', $$B'0000'$$);
ANALYZE;

SET ROLE mallory;
CREATE FUNCTION play.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END$$;
CREATE FUNCTION play.leak(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END$$;
CREATE FUNCTION play.leak_row(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END$$;
CREATE OPERATOR play.<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = play.leak, RESTRICT = eqsel, JOIN = eqjoinsel);
CREATE FUNCTION play.scalar(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT b FROM data.t WHERE id = $1';
CREATE FUNCTION play.set() RETURNS SETOF text LANGUAGE sql STABLE AS 'SELECT b FROM data.t';
CREATE FUNCTION play.rows() RETURNS SETOF data.t LANGUAGE sql STABLE AS 'SELECT * FROM data.t';
CREATE FUNCTION play.parsed() RETURNS SETOF text LANGUAGE sql STABLE BEGIN ATOMIC SELECT b FROM data.t; END;
CREATE FUNCTION play.static() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RETURN QUERY SELECT b FROM data.t; END$$;
CREATE FUNCTION play.dynamic() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RETURN QUERY EXECUTE 'SELECT b FROM data.t'; END$$;
CREATE FUNCTION play.cursor() RETURNS SETOF text LANGUAGE plpgsql AS
    $$DECLARE r record; BEGIN FOR r IN SELECT * FROM data.t LOOP RETURN NEXT r.b; END LOOP; END$$;
CREATE FUNCTION play.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT b FROM data.t';
CREATE FUNCTION play.of_row(data.t) RETURNS text LANGUAGE sql AS 'SELECT $1.b';
CREATE VIEW play.mine AS SELECT id, b, t FROM data.t;
CREATE VIEW play.barrier WITH (security_barrier) AS SELECT id, b FROM data.t WHERE id < 10;
CREATE TABLE play.sink (id int, x text); CREATE TABLE play.sunk (id int, x text);
CREATE RULE copies AS ON INSERT TO play.sunk DO ALSO INSERT INTO play.sink SELECT 0, b FROM data.t WHERE new.id = 1;
CREATE TABLE play.triggered (x text);
CREATE FUNCTION play.fills() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN SELECT string_agg(b, ',') INTO new.x FROM data.t; RETURN new; END$$;
CREATE TRIGGER fills BEFORE INSERT ON play.triggered FOR EACH ROW EXECUTE FUNCTION play.fills();
CREATE TABLE play.defaults (x text DEFAULT play.scalar(1));
CREATE TABLE play.policed (id int); INSERT INTO play.policed VALUES (1);
ALTER TABLE play.policed ENABLE ROW LEVEL SECURITY; ALTER TABLE play.policed FORCE ROW LEVEL SECURITY;
CREATE POLICY looks ON play.policed USING ((SELECT bool_and(play.leak(b)) FROM data.t));
"""


def sql(version):
    text = SQL.replace("STORED VIRTUAL", "STORED")
    if version >= 18:
        text = text.replace("CREATE TABLE data.whole", "ALTER TABLE data.g ADD virtual text GENERATED ALWAYS AS ('<' || b || '>') VIRTUAL;"
                            "CREATE TABLE data.whole")
    if version >= 15:
        text = text.replace("CREATE VIEW data.owners", "CREATE VIEW data.invoker WITH (security_invoker) AS SELECT id, b FROM data.t;"
                            "GRANT SELECT ON data.invoker TO PUBLIC; CREATE VIEW data.owners")
    return text
