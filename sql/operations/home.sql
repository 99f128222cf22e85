-- Where stored OIDs hold. In another cluster, or another database, they mean something else or nothing: pg_upgrade gives
-- schemas other OIDs, a restore everything. CREATE DATABASE ... TEMPLATE keeps them, but roles belong to the original.
-- There what may have another OID is adopted by its names (immuta_internal.come_home()) before anything looks at one.

CREATE FUNCTION immuta_internal.here(OUT system_identifier bigint, OUT database oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.system_identifier, d.oid FROM pg_control_system() c, pg_database d WHERE d.datname = current_database() $$;
COMMENT ON FUNCTION immuta_internal.here() IS 'this cluster and database';

-- A dump brings the row of its database along: then there are two, until it is adopted.
CREATE TABLE immuta.home (
    system_identifier bigint NOT NULL,
    database oid NOT NULL
);
REVOKE ALL ON immuta.home FROM PUBLIC;
INSERT INTO immuta.home SELECT * FROM immuta_internal.here();
COMMENT ON TABLE immuta.home IS 'cluster and database for which the OIDs in the other tables were written';
SELECT pg_catalog.pg_extension_config_dump('immuta.home', '');

CREATE FUNCTION immuta_internal.is_home() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) = 1 AND bool_and(h IS NOT DISTINCT FROM n) FROM immuta.home h, immuta_internal.here() n
$$;
COMMENT ON FUNCTION immuta_internal.is_home() IS 'whether the stored OIDs were written for this cluster and database';

-- What pg_upgrade and TEMPLATE make: they keep the OIDs of roles and relations, pg_upgrade not those of schemas.
CREATE FUNCTION immuta_internal.was_moved() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT count(*) = 1 AND NOT immuta_internal.is_home() FROM immuta.home $$;
COMMENT ON FUNCTION immuta_internal.was_moved() IS 'whether this database came here as a whole, not by a dump';

-- pg_upgrade keeps the OIDs of databases: one with another OID was already a copy.
CREATE FUNCTION immuta_internal.original() RETURNS name
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(b.datname::text)::name
    FROM immuta.home h JOIN pg_database b ON b.oid = h.database, immuta_internal.here() n
    WHERE NOT immuta_internal.is_home() AND h.database <> n.database
      AND (h.system_identifier = n.system_identifier OR immuta_internal.was_moved())
      AND (EXISTS (SELECT FROM immuta.system_account) OR EXISTS (SELECT FROM immuta.project))
$$;
COMMENT ON FUNCTION immuta_internal.original() IS 'the database of this cluster whose copy this is, and whose roles it has; NULL if there is none';

CREATE FUNCTION immuta_internal.require_no_original() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    original name := immuta_internal.original();
BEGIN
    IF original IS NOT NULL THEN
        RAISE EXCEPTION 'this database is a copy of "%", whose roles it has', original
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'SELECT * FROM immuta.adopt() gives it roles of its own, so that nothing here changes access there.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.require_no_original() IS '55000 in a copy whose original is still there';
