-- The system account.

CREATE FUNCTION immuta_internal.run_as(role oid, statement bytea) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_run_as_wrapper';
COMMENT ON FUNCTION immuta_internal.run_as(oid, bytea) IS 'runs a statement as another role, which it cannot leave';

CREATE FUNCTION immuta_internal.account_role() RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT r.oid FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role $$;
COMMENT ON FUNCTION immuta_internal.account_role() IS 'the system account; NULL where there is none';

CREATE FUNCTION immuta_internal.system_role() RETURNS oid
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
                  HINT = CASE WHEN account.rolsuper THEN 'Take SUPERUSER away from it again.'
                              ELSE 'A superuser sets another one: SELECT immuta.set_system_account(...).' END;
    END IF;
    RETURN account.oid;
END
$$;
COMMENT ON FUNCTION immuta_internal.system_role() IS 'the system account; 55000 where there is none';

-- convert_to(..., 'SQL_ASCII') gives the bytes as they are, in every database encoding.
CREATE FUNCTION immuta_internal.as_system(statement text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta_internal.run_as(immuta_internal.system_role(), convert_to(statement, 'SQL_ASCII')) $$;
COMMENT ON FUNCTION immuta_internal.as_system(text) IS 'runs a statement as the system account';

-- Memberships are granted to be inherited and, from PostgreSQL 16 on, not for SET ROLE.
CREATE FUNCTION immuta_internal.membership_options() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN ' WITH INHERIT TRUE, SET FALSE' ELSE '' END
$$;
COMMENT ON FUNCTION immuta_internal.membership_options() IS 'the options of GRANT ... TO for roles';

CREATE FUNCTION immuta_internal.is_connected(by_insert boolean) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM immuta.system_account a JOIN pg_roles r
                   ON CASE WHEN immuta_internal.is_home() THEN r.oid = a.role ELSE r.rolname = a.role_name END
                   WHERE NOT r.rolsuper)
       AND (NOT by_insert OR EXISTS (SELECT FROM immuta.connection_state s WHERE s.active))
$$;
COMMENT ON FUNCTION immuta_internal.is_connected(boolean) IS 'whether changes of users concern the connection';
