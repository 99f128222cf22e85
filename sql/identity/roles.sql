-- The schemas, and the roles that control impersonation. Roles belong to the cluster, not to the extension: they are made
-- where they are missing and stay when the extension goes.

-- What users call is in two schemas that may be there already. What only functions of the extension call is in a third: it
-- is always its own, so that nobody can have left anything in it.
DO $$
DECLARE
    wanted name;
    is_trusted boolean;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['immuta', 'immuta_procedures']::name[]
    LOOP
        SELECT r.rolsuper INTO is_trusted
        FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
        WHERE n.nspname OPERATOR(pg_catalog.=) wanted;
        IF NOT FOUND THEN
            EXECUTE pg_catalog.format('CREATE SCHEMA %I', wanted);
        ELSIF NOT is_trusted THEN
            RAISE EXCEPTION 'schema "%" exists and is not owned by a superuser', wanted
                USING ERRCODE = 'insufficient_privilege',
                      HINT = 'Drop or rename the schema, or make a superuser its owner.';
        END IF;
    END LOOP;
END
$$;
CREATE SCHEMA immuta_internal;
COMMENT ON SCHEMA immuta IS 'impersonation by Immuta token (extension immuta_ext)';
COMMENT ON SCHEMA immuta_procedures IS 'procedures that begin and end an impersonation (extension immuta_ext)';
COMMENT ON SCHEMA immuta_internal IS 'what extension immuta_ext does inside; closed to everybody';
-- Errors may be read by people, and are logged.
CREATE FUNCTION immuta_internal.shown(given text, most integer = 63) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN length(given) > most THEN left(given, most - 3) || '...' ELSE given END;
COMMENT ON FUNCTION immuta_internal.shown(text, integer) IS 'what somebody gave, as far as an error repeats it';

REVOKE ALL ON SCHEMA immuta, immuta_procedures FROM PUBLIC;
GRANT USAGE ON SCHEMA immuta, immuta_procedures TO PUBLIC;

-- However a control role is called later, the library knows it: it is the one that may execute its marker.
DO $$
DECLARE
    wanted name;
    marker text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['bodata_impersonate_user', 'immuta_impersonation', 'immuta_admin', 'immuta_mappable']::name[]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) wanted) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
        marker := pg_catalog.format('immuta_internal.%I()', 'is_' OPERATOR(pg_catalog.||) wanted);
        EXECUTE pg_catalog.format('CREATE FUNCTION %s RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$SELECT true$f$', marker);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', marker);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', marker, wanted);
        EXECUTE pg_catalog.format('COMMENT ON FUNCTION %s IS %L', marker, 'who may execute this is that role');
    END LOOP;
END
$$;

CREATE FUNCTION immuta_internal.foreign_administrators() RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('REVOKE ADMIN OPTION FOR %I FROM %I GRANTED BY %I', r.rolname, a.rolname, pg_get_userbyid(m.grantor))
    FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles a ON a.oid = m.member
    WHERE m.admin_option AND NOT a.rolsuper
      AND r.rolname IN ('bodata_impersonate_user', 'immuta_impersonation', 'immuta_admin', 'immuta_mappable')
$$;
COMMENT ON FUNCTION immuta_internal.foreign_administrators() IS 'for everybody who can grant the control roles and is not a superuser, the statement that takes that away';

-- From 16 on a login with CREATEROLE that made one of the roles before us has ADMIN on it. That may be intended, and other
-- databases use the roles, too: nothing is revoked here.
DO $$
DECLARE
    remedies text := (SELECT pg_catalog.string_agg(f, '; ') FROM immuta_internal.foreign_administrators() f);
BEGIN
    IF remedies IS NOT NULL THEN
        RAISE WARNING 'roles that are not superusers can grant the control roles of immuta_ext' USING HINT = remedies;
    END IF;
END
$$;

-- The mark is not inherited: members of a marked role are not marked.
CREATE FUNCTION immuta_internal.is_mappable(role oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
                   WHERE m.member = is_mappable.role AND r.rolname = 'immuta_mappable')
$$;
COMMENT ON FUNCTION immuta_internal.is_mappable(oid) IS 'whether a role may be reached by the name of a user';

-- A security extension that half-loads is worse than none: refuse before anything else is made.
CREATE FUNCTION immuta_internal.require_preload() RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'immuta_require_preload_wrapper';
COMMENT ON FUNCTION immuta_internal.require_preload() IS 'raises an error in a session in which the library is not preloaded';
SELECT immuta_internal.require_preload();
