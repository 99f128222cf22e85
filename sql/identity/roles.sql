-- The schema, and the roles that control impersonation. Roles belong to the cluster, not to the extension: they are
-- made where they are missing and stay when the extension goes.

DO $$
DECLARE
    owner_is_superuser boolean;
    wanted name;
    marker text;
BEGIN
    SELECT r.rolsuper INTO owner_is_superuser
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
    WHERE n.nspname OPERATOR(pg_catalog.=) 'immuta';
    IF NOT FOUND THEN
        CREATE SCHEMA immuta;
    ELSIF NOT owner_is_superuser THEN
        RAISE EXCEPTION 'schema "immuta" exists and is not owned by a superuser'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Drop or rename the schema, or make a superuser its owner.';
    END IF;

    FOREACH wanted IN ARRAY ARRAY['bodata_impersonate_user', 'immuta_impersonation', 'immuta_admin', 'immuta_mappable']::name[]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) wanted) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
        -- However the role is called later, the library knows it: it is the one that may execute this.
        marker := 'is_' OPERATOR(pg_catalog.||) wanted;
        EXECUTE pg_catalog.format('CREATE FUNCTION immuta.%I() RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$SELECT true$f$', marker);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION immuta.%I() FROM PUBLIC', marker);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION immuta.%I() TO %I', marker, wanted);
        EXECUTE pg_catalog.format('COMMENT ON FUNCTION immuta.%I() IS %L', marker, 'internal: who may execute this is that role');
    END LOOP;
END
$$;

CREATE FUNCTION immuta.foreign_administrators() RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('REVOKE ADMIN OPTION FOR %I FROM %I GRANTED BY %I', r.rolname, a.rolname, pg_get_userbyid(m.grantor))
    FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles a ON a.oid = m.member
    WHERE m.admin_option AND NOT a.rolsuper
      AND r.rolname IN ('bodata_impersonate_user', 'immuta_impersonation', 'immuta_admin', 'immuta_mappable')
$$;
REVOKE ALL ON FUNCTION immuta.foreign_administrators() FROM PUBLIC;
COMMENT ON FUNCTION immuta.foreign_administrators() IS 'internal: who could grant the control roles and is no superuser: what takes that away';

-- A login with CREATEROLE that made one of the roles before has ADMIN on it from 16 on. It may be meant so, and the roles
-- are those of other databases, too: nothing is revoked here.
DO $$
DECLARE
    remedies text := (SELECT pg_catalog.string_agg(f, '; ') FROM immuta.foreign_administrators() f);
BEGIN
    IF remedies IS NOT NULL THEN
        RAISE WARNING 'others than superusers can grant the control roles of immuta_ext' USING HINT = remedies;
    END IF;
END
$$;

COMMENT ON SCHEMA immuta IS 'impersonation by Immuta token (extension immuta_ext)';
REVOKE ALL ON SCHEMA immuta FROM PUBLIC;
GRANT USAGE ON SCHEMA immuta TO PUBLIC;

-- The mark is not handed on: who is a member of a marked role is not marked.
CREATE FUNCTION immuta.is_mappable(role oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
                   WHERE m.member = is_mappable.role AND r.rolname = 'immuta_mappable')
$$;
REVOKE ALL ON FUNCTION immuta.is_mappable(oid) FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_mappable(oid) IS 'internal: whether a role may be reached by the name of a user';

-- A security extension that half-loads is worse than none: refuse before anything else is made.
CREATE FUNCTION immuta.require_preload() RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'immuta_require_preload_wrapper';
REVOKE ALL ON FUNCTION immuta.require_preload() FROM PUBLIC;
COMMENT ON FUNCTION immuta.require_preload() IS 'internal: raises an error in a session in which the library is not preloaded';
SELECT immuta.require_preload();
