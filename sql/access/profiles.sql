-- Groups and attributes of users.

-- {"region": "EU"} is short for {"region": ["EU"]}.
CREATE FUNCTION immuta_internal.clean_attributes(attributes jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    clean jsonb;
BEGIN
    IF attributes IS NULL THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(attributes) = 'object' THEN
        SELECT coalesce(jsonb_object_agg(a.key, CASE jsonb_typeof(a.value) WHEN 'string' THEN jsonb_build_array(a.value) ELSE a.value END), '{}')
        INTO clean FROM jsonb_each(attributes) a;
    END IF;
    IF clean IS NULL OR clean = '{}' OR jsonb_path_exists(clean, 'strict $.* ? (@.type() != "array")', '{}', true)
       OR jsonb_path_exists(clean, 'strict $.*[*] ? (@.type() != "string")', '{}', true) THEN
        RAISE EXCEPTION 'attributes must be an object of texts or lists of texts'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"region": ["EU", "US"]}.';
    END IF;
    RETURN clean;
END
$$;
COMMENT ON FUNCTION immuta_internal.clean_attributes(jsonb) IS 'attributes as lists of texts; 22023 for anything else';

CREATE FUNCTION immuta_internal.store_profile(user_id bigint, groups text[], attributes jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO immuta.user_profile AS f (user_id, groups, attributes)
    VALUES (store_profile.user_id, coalesce(immuta_internal.clean_tags(store_profile.groups), '{}'), coalesce(store_profile.attributes, '{}'))
    ON CONFLICT ON CONSTRAINT user_profile_pkey DO UPDATE
    SET groups = CASE WHEN store_profile.groups IS NULL THEN f.groups ELSE EXCLUDED.groups END,
        attributes = CASE WHEN store_profile.attributes IS NULL THEN f.attributes ELSE EXCLUDED.attributes END;
    PERFORM FROM immuta_internal.settle_user(store_profile.user_id);
END
$$;
COMMENT ON FUNCTION immuta_internal.store_profile(bigint, text[], jsonb) IS 'changes what policies look at in a user, and their access with it';

CREATE FUNCTION immuta.set_user_groups(userid text, groups text[], iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up();
    PERFORM immuta_internal.store_profile(immuta_internal.user_id(set_user_groups.userid, set_user_groups.iamid),
                                 coalesce(set_user_groups.groups, '{}'), NULL);
END
$$;
REVOKE ALL ON FUNCTION immuta.set_user_groups(text, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.set_user_groups(text, text[], text) TO immuta_admin;
COMMENT ON FUNCTION immuta.set_user_groups(text, text[], text) IS 'replaces the groups of a user';

CREATE FUNCTION immuta.add_user_to_group(userid text, group_name text, iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed_user bigint;
BEGIN
    PERFORM immuta_internal.catch_up();
    changed_user := immuta_internal.user_id(add_user_to_group.userid, add_user_to_group.iamid);
    PERFORM immuta_internal.store_profile(
        changed_user, coalesce((SELECT f.groups FROM immuta.user_profile f WHERE f.user_id = changed_user), '{}') || group_name, NULL);
END
$$;
REVOKE ALL ON FUNCTION immuta.add_user_to_group(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.add_user_to_group(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.add_user_to_group(text, text, text) IS 'adds a user to a group';

CREATE FUNCTION immuta.remove_user_from_group(userid text, group_name text, iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed_user bigint;
BEGIN
    PERFORM immuta_internal.catch_up();
    changed_user := immuta_internal.user_id(remove_user_from_group.userid, remove_user_from_group.iamid);
    PERFORM immuta_internal.store_profile(
        changed_user,
        coalesce((SELECT array_remove(f.groups, group_name COLLATE "C") FROM immuta.user_profile f WHERE f.user_id = changed_user), '{}'),
        NULL);
END
$$;
REVOKE ALL ON FUNCTION immuta.remove_user_from_group(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.remove_user_from_group(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.remove_user_from_group(text, text, text) IS 'removes a user from a group';

CREATE FUNCTION immuta.set_user_attribute(userid text, attribute text, attribute_values text[], iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed_user bigint;
    known jsonb;
BEGIN
    IF attribute IS NULL OR octet_length(attribute) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'the name of an attribute must have 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF array_position(attribute_values, NULL) IS NOT NULL OR octet_length(attribute_values::text) > 100000 THEN
        RAISE EXCEPTION 'the values of an attribute must not be null, and not longer than 100000 bytes in all'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM immuta_internal.catch_up();
    changed_user := immuta_internal.user_id(set_user_attribute.userid, set_user_attribute.iamid);
    known := coalesce((SELECT f.attributes FROM immuta.user_profile f WHERE f.user_id = changed_user), '{}');
    PERFORM immuta_internal.store_profile(
        changed_user, NULL,
        CASE WHEN coalesce(attribute_values, '{}') = '{}' THEN known - attribute
             ELSE known || jsonb_build_object(attribute, to_jsonb(attribute_values)) END);
END
$$;
REVOKE ALL ON FUNCTION immuta.set_user_attribute(text, text, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.set_user_attribute(text, text, text[], text) TO immuta_admin;
COMMENT ON FUNCTION immuta.set_user_attribute(text, text, text[], text) IS 'replaces the values of an attribute of a user; no values remove it';

CREATE VIEW immuta.user_profiles AS
SELECT u.iamid, u.userid, coalesce(f.groups, '{}') AS groups, coalesce(f.attributes, '{}') AS attributes,
       u.mapping, pg_catalog.pg_get_userbyid(coalesce(b.role, u.postgres_role::oid)) AS role, coalesce(b.made, false) AS role_was_made
FROM immuta.user_account u LEFT JOIN immuta.user_profile f ON f.user_id = u.id LEFT JOIN immuta.subscriber b ON b.user_id = u.id
WHERE pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY u.iamid, u.userid;
REVOKE ALL ON immuta.user_profiles FROM PUBLIC;
GRANT SELECT ON immuta.user_profiles TO immuta_admin;
COMMENT ON VIEW immuta.user_profiles IS 'what policies look at in users, and the roles that carry their subscriptions';
