-- Nobody gets more than these files grant, whatever default privileges say. What is internal is closed as a whole: whoever
-- is not the owner cannot name it, and those who can (pg_read_all_data may use every schema) may execute none of it.
-- Definer functions and triggers run as the owner. Views, and functions whose bodies are parsed when they are made, hold
-- what they call by OID: they need EXECUTE on it and no USAGE.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA immuta_internal FROM PUBLIC;
-- For immuta.whoami() and its like, which run as the caller.
GRANT EXECUTE ON FUNCTION immuta_internal.session_state(), immuta_internal.token_state() TO PUBLIC;

DO $$
DECLARE
    stray record;
BEGIN
    FOR stray IN
        SELECT DISTINCT o.object, r.rolname
        FROM (SELECT n.tableoid, n.oid, 'SCHEMA ' || quote_ident(n.nspname) AS object, n.nspowner AS owner, n.nspacl AS acl FROM pg_namespace n
              UNION ALL
              SELECT p.tableoid, p.oid, 'ROUTINE ' || p.oid::regprocedure, p.proowner, p.proacl FROM pg_proc p
              UNION ALL
              SELECT c.tableoid, c.oid, CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass, c.relowner, c.relacl
              FROM pg_class c) o
        JOIN pg_depend d ON d.classid = o.tableoid AND d.objid = o.oid AND d.deptype = 'e'
        JOIN pg_extension e ON d.refclassid = e.tableoid AND d.refobjid = e.oid AND e.extname = 'immuta_ext',
        aclexplode(o.acl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE a.grantee <> o.owner AND r.rolname NOT IN (
            'bodata_impersonate_user', 'immuta_impersonation', 'immuta_admin', 'immuta_mappable', 'pg_monitor')
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I', stray.object, stray.rolname);
    END LOOP;
END
$$;
REVOKE ALL ON SCHEMA immuta_internal FROM PUBLIC, bodata_impersonate_user, immuta_impersonation, immuta_admin, immuta_mappable, pg_monitor;
