-- Groups and attributes of users, and the policies that subscribe users by them.

CREATE FUNCTION immuta.store_profile(user_id bigint, groups text[], attributes jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO immuta.user_profile AS f (user_id, groups, attributes)
    VALUES (store_profile.user_id, coalesce(immuta.clean_tags(store_profile.groups), '{}'), coalesce(store_profile.attributes, '{}'))
    ON CONFLICT ON CONSTRAINT user_profile_pkey DO UPDATE
    SET groups = CASE WHEN store_profile.groups IS NULL THEN f.groups ELSE EXCLUDED.groups END,
        attributes = CASE WHEN store_profile.attributes IS NULL THEN f.attributes ELSE EXCLUDED.attributes END;
    PERFORM FROM immuta.settle_user(store_profile.user_id);
END
$$;
REVOKE ALL ON FUNCTION immuta.store_profile(bigint, text[], jsonb) FROM PUBLIC;
COMMENT ON FUNCTION immuta.store_profile(bigint, text[], jsonb) IS 'internal: changes what policies look at in a user, and his access with it';

CREATE FUNCTION immuta.set_user_groups(userid text, groups text[], iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.lock_connection();
    PERFORM immuta.store_profile(immuta.user_id(set_user_groups.userid, set_user_groups.iamid),
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
    PERFORM immuta.lock_connection();
    changed_user := immuta.user_id(add_user_to_group.userid, add_user_to_group.iamid);
    PERFORM immuta.store_profile(
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
    PERFORM immuta.lock_connection();
    changed_user := immuta.user_id(remove_user_from_group.userid, remove_user_from_group.iamid);
    PERFORM immuta.store_profile(
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
    PERFORM immuta.lock_connection();
    changed_user := immuta.user_id(set_user_attribute.userid, set_user_attribute.iamid);
    known := coalesce((SELECT f.attributes FROM immuta.user_profile f WHERE f.user_id = changed_user), '{}');
    PERFORM immuta.store_profile(
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

-- Policies.

-- {"region": "EU"} is short for {"region": ["EU"]}.
CREATE FUNCTION immuta.clean_attributes(attributes jsonb) RETURNS jsonb
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
REVOKE ALL ON FUNCTION immuta.clean_attributes(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION immuta.clean_attributes(jsonb) IS 'internal: attributes as lists of texts; 22023 for anything else';

-- Writes a policy and what follows from it, without touching roles; the data sources that it concerns or concerned.
CREATE FUNCTION immuta.store_policy(
    name text, tags text[], schemas name[], data_sources regclass[], groups text[], attributes jsonb, expression jsonpath,
    access text, combine text, replace boolean)
RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stored_id integer;
    concerned bigint[];
    unknown name;
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'the name of a policy must have 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF tags IS NULL AND schemas IS NULL AND data_sources IS NULL THEN
        RAISE EXCEPTION 'the policy does not say on what it is' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give tags, schemas or data_sources; all that are given must fit.';
    END IF;
    IF groups IS NULL AND attributes IS NULL AND expression IS NULL THEN
        RAISE EXCEPTION 'the policy does not say for whom it is' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give groups, attributes or expression; all that are given must fit. The expression true is for everybody.';
    END IF;
    IF combine IS NULL OR combine NOT IN ('any', 'all') THEN
        RAISE EXCEPTION 'combine must be any or all' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT s INTO unknown FROM unnest(schemas) s
    WHERE s IS NULL OR NOT EXISTS (SELECT FROM immuta.registered_schema r WHERE r.schema_name = s);
    IF FOUND THEN
        RAISE EXCEPTION 'schema "%" is not registered', coalesce(unknown, 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'Register it with immuta.register_schema().';
    END IF;
    SELECT p.id INTO stored_id FROM immuta.subscription_policy p WHERE p.name = store_policy.name;
    IF FOUND AND NOT coalesce(replace, false) THEN
        RAISE EXCEPTION 'policy "%" already exists', left(name, 63)
            USING ERRCODE = 'duplicate_object', HINT = 'Give replace => true to change it.';
    END IF;
    concerned := ARRAY(SELECT DISTINCT a.data_source_id FROM immuta.applying_policies(NULL) a WHERE a.policy_id = stored_id);
    IF stored_id IS NULL THEN
        INSERT INTO immuta.subscription_policy AS p (name) VALUES (store_policy.name) RETURNING p.id INTO stored_id;
    END IF;
    UPDATE immuta.subscription_policy p
    SET tags = immuta.clean_tags(store_policy.tags), schemas = store_policy.schemas,
        data_sources = CASE WHEN store_policy.data_sources IS NOT NULL
                            THEN ARRAY(SELECT immuta.data_source_id(s) FROM unnest(store_policy.data_sources) s) END,
        groups = immuta.clean_tags(store_policy.groups), attributes = immuta.clean_attributes(store_policy.attributes),
        expression = store_policy.expression, access = immuta.clean_access(store_policy.access), combine = store_policy.combine
    WHERE p.id = stored_id;
    PERFORM immuta.refresh_policy_members(ARRAY[stored_id], NULL);
    concerned := concerned || ARRAY(SELECT DISTINCT a.data_source_id FROM immuta.applying_policies(NULL) a WHERE a.policy_id = stored_id);
    RETURN concerned;
END
$$;
REVOKE ALL ON FUNCTION immuta.store_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION immuta.store_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) IS 'internal: writes a policy; the data sources that it concerns or concerned';

-- The members of classes may change although no data source does.
CREATE FUNCTION immuta.settle_policy(source_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.warn_not_granted(s.what, s.object, s.detail) FROM immuta.settle_sources(source_ids) s;
    PERFORM FROM immuta.apply_members(
        ARRAY(SELECT DISTINCT c.class_id FROM immuta.class_source c WHERE c.data_source_id = ANY (source_ids)), NULL);
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_policy(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_policy(bigint[]) IS 'internal: makes the access to data sources what it should be after a change of a policy';

CREATE FUNCTION immuta.create_subscription_policy(
    name text, tags text[] = NULL, schemas name[] = NULL, data_sources regclass[] = NULL, groups text[] = NULL,
    attributes jsonb = NULL, expression jsonpath = NULL, access text = 'READ', combine text = 'any', replace boolean = false)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.lock_connection();
    PERFORM immuta.settle_policy(immuta.store_policy(name, tags, schemas, data_sources, groups, attributes, expression, access, combine, replace));
END
$$;
REVOKE ALL ON FUNCTION immuta.create_subscription_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.create_subscription_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) TO immuta_admin;
COMMENT ON FUNCTION immuta.create_subscription_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) IS 'subscribes users to data sources by what they are, from now on and as they change';

CREATE FUNCTION immuta.drop_subscription_policy(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped integer;
    concerned bigint[];
BEGIN
    PERFORM immuta.lock_connection();
    SELECT p.id INTO dropped FROM immuta.subscription_policy p WHERE p.name = drop_subscription_policy.name;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    concerned := ARRAY(SELECT DISTINCT a.data_source_id FROM immuta.applying_policies(NULL) a WHERE a.policy_id = dropped);
    DELETE FROM immuta.subscription_policy p WHERE p.id = dropped;
    PERFORM immuta.settle_policy(concerned);
    DELETE FROM immuta.policy_member m WHERE m.policy_id = dropped;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_subscription_policy(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drop_subscription_policy(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.drop_subscription_policy(text) IS 'ends a policy and the access that it gave; whether there was one';

CREATE VIEW immuta.subscription_policies AS
SELECT p.name, p.tags, p.schemas,
       (SELECT pg_catalog.array_agg(pg_catalog.format('%I.%I', d.schema_name, d.table_name) ORDER BY d.schema_name, d.table_name)
        FROM immuta.data_source d WHERE d.id = ANY (p.data_sources)) AS data_sources,
       p.groups, p.attributes, p.expression, p.access, p.combine
FROM immuta.subscription_policy p
WHERE pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY p.name;
REVOKE ALL ON immuta.subscription_policies FROM PUBLIC;
GRANT SELECT ON immuta.subscription_policies TO immuta_admin;
COMMENT ON VIEW immuta.subscription_policies IS 'the policies';

-- What policies give, as they are recorded.
CREATE FUNCTION immuta.policy_access(source_ids bigint[]) RETURNS TABLE (user_id bigint, data_source_id bigint, access text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    -- WRITE comes after READ in the alphabet.
    SELECT w.user_id, s.data_source_id, max(k.access)
    FROM immuta.class_source s JOIN immuta.access_class k ON k.id = s.class_id
    JOIN immuta.wanted_members(
             ARRAY(SELECT DISTINCT c.class_id FROM immuta.class_source c WHERE c.data_source_id = ANY (source_ids)), NULL) w
      ON w.class_id = s.class_id
    WHERE s.data_source_id = ANY (source_ids)
    GROUP BY w.user_id, s.data_source_id
$$;
REVOKE ALL ON FUNCTION immuta.policy_access(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.policy_access(bigint[]) IS 'internal: who has which access by policies';

-- Makes the change in a subtransaction, looks, and takes it back: the preview cannot differ from the change.
CREATE FUNCTION immuta.preview_policy(
    name text, tags text[] = NULL, schemas name[] = NULL, data_sources regclass[] = NULL, groups text[] = NULL,
    attributes jsonb = NULL, expression jsonpath = NULL, access text = 'READ', combine text = 'any', dropped boolean = false)
RETURNS TABLE (userid text, iamid text, data_source text, change text, access_before text, access_after text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source_ids bigint[];
    changes jsonb;
BEGIN
    PERFORM immuta.lock_connection();
    BEGIN
        IF dropped THEN
            source_ids := ARRAY(SELECT DISTINCT a.data_source_id FROM immuta.applying_policies(NULL) a
                                JOIN immuta.subscription_policy p ON p.id = a.policy_id WHERE p.name = preview_policy.name);
            DELETE FROM immuta.subscription_policy p WHERE p.name = preview_policy.name;
        ELSE
            source_ids := immuta.store_policy(name, tags, schemas, data_sources, groups, attributes, expression, access, combine, true);
        END IF;
        PERFORM immuta.assign_classes(source_ids);
        SELECT jsonb_agg(jsonb_build_array(a.user_id, a.data_source_id, a.access)) INTO changes FROM immuta.policy_access(source_ids) a;
        RAISE EXCEPTION USING ERRCODE = 'IM001', MESSAGE = 'enough seen';
    EXCEPTION WHEN SQLSTATE 'IM001' THEN
        NULL;
    END;
    RETURN QUERY
    SELECT u.userid, u.iamid, format('%I.%I', d.schema_name, d.table_name),
           CASE WHEN b.access IS NULL THEN 'gains' WHEN n.access IS NULL THEN 'loses' ELSE 'changes' END, b.access, n.access
    FROM immuta.policy_access(source_ids) b
    FULL JOIN (SELECT (c ->> 0)::bigint AS user_id, (c ->> 1)::bigint AS data_source_id, c ->> 2 AS access
               FROM jsonb_array_elements(changes) c) n ON n.user_id = b.user_id AND n.data_source_id = b.data_source_id
    JOIN immuta.user_account u ON u.id = coalesce(b.user_id, n.user_id)
    JOIN immuta.data_source d ON d.id = coalesce(b.data_source_id, n.data_source_id)
    WHERE b.access IS DISTINCT FROM n.access
    ORDER BY u.iamid, u.userid, d.schema_name, d.table_name;
END
$$;
REVOKE ALL ON FUNCTION immuta.preview_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.preview_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) TO immuta_admin;
COMMENT ON FUNCTION immuta.preview_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) IS 'who would gain and lose what by policies if this one were written so, or dropped';

CREATE FUNCTION immuta.why(userid text, data_source regclass, iamid text = 'bim')
RETURNS TABLE (source text, name text, applies boolean, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked_user bigint := immuta.user_id(why.userid, why.iamid);
    source_id bigint := immuta.data_source_id(why.data_source);
    carried_by record;
    relation_kind "char" := (SELECT c.relkind FROM pg_class c WHERE c.oid = why.data_source);
BEGIN
    RETURN QUERY
    SELECT 'subscription', NULL::text, s.state = 'approved' AND (s.valid_until IS NULL OR s.valid_until > now()),
           s.access || ', ' || s.state || coalesce(' until ' || s.valid_until, '') || coalesce(': ' || s.reason, '')
    FROM immuta.subscription s WHERE s.user_id = asked_user AND s.data_source_id = source_id;
    RETURN QUERY
    WITH satisfied AS MATERIALIZED (SELECT * FROM immuta.satisfied_policies(NULL, ARRAY[asked_user])),
    applying AS (
        SELECT a.*, p.name, EXISTS (SELECT FROM satisfied s WHERE s.policy_id = a.policy_id) AS ok
        FROM immuta.applying_policies(ARRAY[source_id]) a JOIN immuta.subscription_policy p ON p.id = a.policy_id
    )
    SELECT 'policy', a.name,
           a.ok AND NOT EXISTS (SELECT FROM applying o WHERE o.combine = 'all' AND NOT o.ok)
           AND (NOT EXISTS (SELECT FROM applying o WHERE o.combine = 'any') OR EXISTS (SELECT FROM applying o WHERE o.combine = 'any' AND o.ok)),
           a.access || CASE a.combine WHEN 'all' THEN ', required of everybody' ELSE '' END
           || CASE WHEN a.ok THEN ': the user satisfies it' ELSE ': the user does not satisfy it' END
           || CASE WHEN a.ok AND EXISTS (SELECT FROM applying o WHERE o.combine = 'all' AND NOT o.ok)
                   THEN ', but not every policy that is required' ELSE '' END
           || CASE WHEN a.ok AND a.combine = 'all' AND EXISTS (SELECT FROM applying o WHERE o.combine = 'any')
                        AND NOT EXISTS (SELECT FROM applying o WHERE o.combine = 'any' AND o.ok)
                   THEN ', but none of the others' ELSE '' END
    FROM applying a ORDER BY a.combine, a.name;
    RETURN QUERY
    SELECT 'data source', NULL::text, false, 'not confirmed: ' || u.reason
    FROM immuta.unconfirmed(ARRAY[why.data_source::oid]) u WHERE u.held;
    SELECT b.role, c.problem INTO carried_by
    FROM immuta.carrier(asked_user) c LEFT JOIN immuta.subscriber b ON b.user_id = asked_user;
    RETURN QUERY
    SELECT 'role', r.rolname::text, carried_by.problem IS NULL AND r.oid IS NOT NULL,
           coalesce(carried_by.problem, CASE WHEN r.oid IS NULL THEN 'none yet' ELSE 'carries the subscriptions of this user' END)
    FROM (SELECT) one LEFT JOIN pg_roles r ON r.oid = carried_by.role;
    RETURN QUERY
    SELECT 'access', k.privilege,
           CASE WHEN k.privilege IN ('DELETE', 'TRUNCATE') THEN has_table_privilege(carried_by.role, why.data_source, k.privilege)
                ELSE has_any_column_privilege(carried_by.role, why.data_source, k.privilege) END
           AND has_schema_privilege(carried_by.role, (SELECT c.relnamespace FROM pg_class c WHERE c.oid = why.data_source), 'USAGE'),
           'what the role may do, however it came to it'
    FROM immuta.privileges_of_kind(relation_kind) k WHERE EXISTS (SELECT FROM pg_roles r WHERE r.oid = carried_by.role);
    RETURN QUERY
    SELECT 'row policy', p.name, true, p.expression FROM immuta.row_policy p WHERE p.data_source_id = source_id ORDER BY p.name;
END
$$;
REVOKE ALL ON FUNCTION immuta.why(text, regclass, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.why(text, regclass, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.why(text, regclass, text) IS 'why a user has access to a data source, or has not: each subscription, policy and privilege';
