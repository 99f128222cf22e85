-- Users and their mappings. Everything here is for immuta_admin.

CREATE FUNCTION immuta_internal.user_id(userid text, iamid text) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id bigint;
BEGIN
    SELECT u.id INTO found_id FROM immuta.user_account u WHERE u.iamid = user_id.iamid AND u.userid = user_id.userid;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'user "%" of identity manager "%" does not exist', immuta_internal.shown(userid), immuta_internal.shown(iamid)
            USING ERRCODE = 'undefined_object', HINT = 'Create it with immuta.create_user().';
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION immuta_internal.user_id(text, text) IS 'id of a user; 42704 for one that does not exist';

CREATE FUNCTION immuta_internal.check_target(role oid) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_check_target_wrapper';
COMMENT ON FUNCTION immuta_internal.check_target(oid) IS 'raises an error for a role that must not be impersonated';

CREATE FUNCTION immuta_internal.target_fault(role oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.check_target(role);
    RETURN NULL;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION immuta_internal.target_fault(oid) IS 'why a role may not be impersonated, or NULL';

-- From a user to a role there is one rule, which decides at a switch as well: src/rights/mapping.rs.
CREATE FUNCTION immuta_internal.role_of_user(userid bytea, iamid bytea) RETURNS oid
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'immuta_role_of_user_wrapper';
COMMENT ON FUNCTION immuta_internal.role_of_user(bytea, bytea) IS 'the role of a user outside projects, as far as it is known without a provider; NULL for none';

CREATE FUNCTION immuta_internal.impersonated_role(userid bytea, iamid bytea, impersonator oid) RETURNS oid
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'immuta_impersonated_role_wrapper';
COMMENT ON FUNCTION immuta_internal.impersonated_role(bytea, bytea, oid) IS 'the role as which a login impersonates a user; NULL where it cannot';

CREATE FUNCTION immuta_internal.mappable_role(postgres_role name) RETURNS regrole
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_role oid;
BEGIN
    SELECT r.oid INTO found_role FROM pg_roles r WHERE r.rolname = mappable_role.postgres_role;
    IF found_role IS NULL THEN
        RAISE EXCEPTION 'role "%" does not exist', postgres_role
            USING ERRCODE = 'undefined_object', DETAIL = 'IMPERSONATION_NOT_MAPPED',
                  HINT = 'Create the role first, or use immuta.unmap_user() for a user without a role.';
    END IF;
    PERFORM immuta_internal.check_target(found_role);
    RETURN found_role;
END
$$;
COMMENT ON FUNCTION immuta_internal.mappable_role(name) IS 'a role that users may be mapped to; 42704 or 42501 otherwise';

CREATE FUNCTION immuta.create_user(userid text, iamid text = 'bim', postgres_role name = NULL, profile jsonb = '{}')
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF userid IS NULL OR iamid IS NULL THEN
        RAISE EXCEPTION 'userid and iamid must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF octet_length(userid) NOT BETWEEN 1 AND 255 OR octet_length(iamid) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'userid and iamid must have 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF postgres_role IS NULL AND iamid <> 'bim' AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = create_user.iamid)
       AND NOT EXISTS (SELECT FROM immuta.user_account u WHERE u.iamid = create_user.iamid)
       AND NOT EXISTS (SELECT FROM immuta.token_issuer i WHERE i.iamid = create_user.iamid) THEN
        RAISE EXCEPTION '"%" is a role, and no identity manager that is known', immuta_internal.shown(iamid) USING ERRCODE = 'invalid_parameter_value',
            HINT = format('A role is given as postgres_role => %L. If there is an identity manager of that name, accept it with immuta.map_issuer() first.', iamid);
    END IF;
    INSERT INTO immuta.user_account (iamid, userid, mapping, postgres_role, profile)
    VALUES (create_user.iamid, create_user.userid,
            CASE WHEN create_user.postgres_role IS NULL THEN 'username' ELSE 'explicit' END,
            CASE WHEN create_user.postgres_role IS NOT NULL THEN immuta_internal.mappable_role(create_user.postgres_role) END,
            coalesce(create_user.profile, '{}'))
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'user "%" of identity manager "%" already exists', immuta_internal.shown(userid), immuta_internal.shown(iamid)
            USING ERRCODE = 'duplicate_object', HINT = 'Change its mapping with immuta.map_user().';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.create_user(text, text, name, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.create_user(text, text, name, jsonb) TO immuta_admin;
COMMENT ON FUNCTION immuta.create_user(text, text, name, jsonb) IS 'adds a user, mapped to the role given or, without one, to the role of the same name';

CREATE FUNCTION immuta.disable_user(userid text, iamid text = 'bim', disabled boolean = true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE immuta.user_account u SET disabled = coalesce(disable_user.disabled, true), updated_at = now()
    WHERE u.id = immuta_internal.user_id(disable_user.userid, disable_user.iamid);
END
$$;
REVOKE ALL ON FUNCTION immuta.disable_user(text, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.disable_user(text, text, boolean) TO immuta_admin;
COMMENT ON FUNCTION immuta.disable_user(text, text, boolean) IS 'stops (or lets work again) all tokens of a user, in every session from its next transaction on';

CREATE FUNCTION immuta.drop_user(userid text, iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.user_account u WHERE u.id = immuta_internal.user_id(drop_user.userid, drop_user.iamid);
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_user(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drop_user(text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.drop_user(text, text) IS 'removes a user with all tokens and API keys; the role stays';

CREATE FUNCTION immuta.map_user(userid text, postgres_role name, iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF postgres_role IS NULL THEN
        RAISE EXCEPTION 'postgres_role must not be null'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Use immuta.unmap_user() for a user without a role.';
    END IF;
    UPDATE immuta.user_account u
    SET mapping = 'explicit', postgres_role = immuta_internal.mappable_role(map_user.postgres_role), updated_at = now()
    WHERE u.id = immuta_internal.user_id(map_user.userid, map_user.iamid);
END
$$;
REVOKE ALL ON FUNCTION immuta.map_user(text, name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.map_user(text, name, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.map_user(text, name, text) IS 'maps a user to a role, by the role''s OID';

CREATE FUNCTION immuta.unmap_user(userid text, iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE immuta.user_account u SET mapping = 'none', postgres_role = NULL, updated_at = now()
    WHERE u.id = immuta_internal.user_id(unmap_user.userid, unmap_user.iamid);
END
$$;
REVOKE ALL ON FUNCTION immuta.unmap_user(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unmap_user(text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.unmap_user(text, text) IS 'maps a user to no role, also not to the role of the same name';
