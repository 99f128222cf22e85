-- Policies, which subscribe users by their groups and attributes.

-- Writes a policy and what follows from it, without touching roles; the data sources that it concerns or concerned.
CREATE FUNCTION immuta_internal.store_policy(
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
        RAISE EXCEPTION 'the policy does not say what it is for' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give tags, schemas or data_sources; all that are given must fit.';
    END IF;
    IF groups IS NULL AND attributes IS NULL AND expression IS NULL THEN
        RAISE EXCEPTION 'the policy does not say who it is for' USING ERRCODE = 'invalid_parameter_value',
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
        RAISE EXCEPTION 'policy "%" already exists', immuta_internal.shown(name)
            USING ERRCODE = 'duplicate_object', HINT = 'Give replace => true to change it.';
    END IF;
    concerned := immuta_internal.sources_of_policy(stored_id);
    IF stored_id IS NULL THEN
        INSERT INTO immuta.subscription_policy AS p (name) VALUES (store_policy.name) RETURNING p.id INTO stored_id;
    END IF;
    UPDATE immuta.subscription_policy p
    SET tags = immuta_internal.clean_tags(store_policy.tags), schemas = store_policy.schemas,
        data_sources = CASE WHEN store_policy.data_sources IS NOT NULL
                            THEN ARRAY(SELECT immuta_internal.data_source_id(s) FROM unnest(store_policy.data_sources) s) END,
        groups = immuta_internal.clean_tags(store_policy.groups), attributes = immuta_internal.clean_attributes(store_policy.attributes),
        expression = store_policy.expression, access = immuta_internal.clean_access(store_policy.access), combine = store_policy.combine
    WHERE p.id = stored_id;
    PERFORM immuta_internal.refresh_policy_members(ARRAY[stored_id], NULL);
    concerned := concerned || immuta_internal.sources_of_policy(stored_id);
    RETURN concerned;
END
$$;
COMMENT ON FUNCTION immuta_internal.store_policy(text, text[], name[], regclass[], text[], jsonb, jsonpath, text, text, boolean) IS 'writes a policy; the data sources that it concerns or concerned';

-- What policies give, as they are recorded.
CREATE FUNCTION immuta_internal.policy_access(source_ids bigint[]) RETURNS TABLE (user_id bigint, data_source_id bigint, access text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    -- WRITE comes after READ in the alphabet.
    SELECT w.user_id, s.data_source_id, max(k.access)
    FROM immuta.class_source s JOIN immuta.access_class k ON k.id = s.class_id
    JOIN immuta_internal.wanted_members(
             ARRAY(SELECT DISTINCT c.class_id FROM immuta.class_source c WHERE c.data_source_id = ANY (source_ids)), NULL) w
      ON w.class_id = s.class_id
    WHERE s.data_source_id = ANY (source_ids)
    GROUP BY w.user_id, s.data_source_id
$$;
COMMENT ON FUNCTION immuta_internal.policy_access(bigint[]) IS 'who has which access by policies';

CREATE FUNCTION immuta.create_subscription_policy(
    name text, tags text[] = NULL, schemas name[] = NULL, data_sources regclass[] = NULL, groups text[] = NULL,
    attributes jsonb = NULL, expression jsonpath = NULL, access text = 'READ', combine text = 'any', replace boolean = false)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up();
    PERFORM immuta_internal.settle_policy(immuta_internal.store_policy(name, tags, schemas, data_sources, groups, attributes, expression, access, combine, replace));
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
    PERFORM immuta_internal.catch_up();
    SELECT p.id INTO dropped FROM immuta.subscription_policy p WHERE p.name = drop_subscription_policy.name;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    concerned := immuta_internal.sources_of_policy(dropped);
    DELETE FROM immuta.subscription_policy p WHERE p.id = dropped;
    PERFORM immuta_internal.settle_policy(concerned);
    DELETE FROM immuta.policy_member m WHERE m.policy_id = dropped;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_subscription_policy(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drop_subscription_policy(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.drop_subscription_policy(text) IS 'ends a policy and the access that it gave; whether there was one';

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
    PERFORM immuta_internal.catch_up();
    BEGIN
        IF dropped THEN
            source_ids := immuta_internal.sources_of_policy(
                (SELECT p.id FROM immuta.subscription_policy p WHERE p.name = preview_policy.name));
            DELETE FROM immuta.subscription_policy p WHERE p.name = preview_policy.name;
        ELSE
            source_ids := immuta_internal.store_policy(name, tags, schemas, data_sources, groups, attributes, expression, access, combine, true);
        END IF;
        PERFORM immuta_internal.assign_classes(source_ids);
        SELECT jsonb_agg(jsonb_build_array(a.user_id, a.data_source_id, a.access)) INTO changes FROM immuta_internal.policy_access(source_ids) a;
        RAISE EXCEPTION USING ERRCODE = 'IM001', MESSAGE = 'enough seen';
    EXCEPTION WHEN SQLSTATE 'IM001' THEN
        NULL;
    END;
    RETURN QUERY
    SELECT u.userid, u.iamid, format('%I.%I', d.schema_name, d.table_name),
           CASE WHEN b.access IS NULL THEN 'gains' WHEN n.access IS NULL THEN 'loses' ELSE 'changes' END, b.access, n.access
    FROM immuta_internal.policy_access(source_ids) b
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
