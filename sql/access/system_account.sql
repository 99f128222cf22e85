-- The system account.

CREATE FUNCTION immuta.run_as(role oid, statement bytea) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_run_as_wrapper';
REVOKE ALL ON FUNCTION immuta.run_as(oid, bytea) FROM PUBLIC;
COMMENT ON FUNCTION immuta.run_as(oid, bytea) IS 'internal: runs a statement as another role, which it cannot leave';

CREATE FUNCTION immuta.system_role() RETURNS oid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account record;
BEGIN
    SELECT a.role_name, r.oid, r.rolsuper INTO account
    FROM immuta.system_account a LEFT JOIN pg_roles r ON r.oid = a.role;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no system account is set' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'A superuser names the role that grants: SELECT immuta.set_system_account(...). See docs/subscriptions.md.';
    END IF;
    IF account.oid IS NULL OR account.rolsuper THEN
        RAISE EXCEPTION 'the system account "%" %', account.role_name,
                CASE WHEN account.rolsuper THEN 'is a superuser' ELSE 'does not exist' END
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = CASE WHEN account.rolsuper THEN 'Take SUPERUSER from it again.'
                              ELSE 'A superuser sets another one: SELECT immuta.set_system_account(...).' END;
    END IF;
    RETURN account.oid;
END
$$;
REVOKE ALL ON FUNCTION immuta.system_role() FROM PUBLIC;
COMMENT ON FUNCTION immuta.system_role() IS 'internal: the system account; 55000 where there is none';

-- convert_to(..., 'SQL_ASCII') gives the bytes as they are, in every database encoding.
CREATE FUNCTION immuta.as_system(statement text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta.run_as(immuta.system_role(), convert_to(statement, 'SQL_ASCII')) $$;
REVOKE ALL ON FUNCTION immuta.as_system(text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.as_system(text) IS 'internal: runs a statement as the system account';

-- How a membership is granted: to be inherited, and from PostgreSQL 16 on not to be set.
CREATE FUNCTION immuta.membership_options() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN ' WITH INHERIT TRUE, SET FALSE' ELSE '' END
$$;
REVOKE ALL ON FUNCTION immuta.membership_options() FROM PUBLIC;
COMMENT ON FUNCTION immuta.membership_options() IS 'internal: the options of GRANT ... TO for roles';
