-- Commands for masks, and what an administrator sees of them.

CREATE FUNCTION immuta_internal.column_named("column" text, OUT data_source_id bigint, OUT relation oid, OUT column_name name, OUT column_number smallint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[];
BEGIN
    BEGIN
        parts := parse_ident("column");
    EXCEPTION WHEN invalid_parameter_value THEN
        NULL;
    END;
    IF cardinality(parts) IS DISTINCT FROM 3 THEN
        RAISE EXCEPTION 'name a column with its schema and table, not "%"', coalesce(left("column", 200), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example ''sales.customers.ssn''.';
    END IF;
    SELECT d.id, d.relation INTO data_source_id, relation FROM immuta.data_source d
    WHERE d.schema_name = parts[1] AND d.table_name = parts[2] AND d.relation IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION '"%" is not a data source', format('%I.%I', parts[1], parts[2])
            USING ERRCODE = 'undefined_object', HINT = 'Register it with immuta.register_data_source() or its schema with immuta.register_schema().';
    END IF;
    column_name := parts[3];
    SELECT a.attnum INTO column_number FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attname = parts[3] AND a.attnum > 0 AND NOT a.attisdropped;
END
$$;
COMMENT ON FUNCTION immuta_internal.column_named(text) IS 'the column of a data source that a text names; without a number where there is none now';

CREATE FUNCTION immuta_internal.require_column("column" text, OUT data_source_id bigint, OUT relation oid, OUT column_name name, OUT column_number smallint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT c.* INTO data_source_id, relation, column_name, column_number FROM immuta_internal.column_named("column") c;
    IF column_number IS NULL THEN
        RAISE EXCEPTION 'column "%" of "%" does not exist', column_name, relation::regclass USING ERRCODE = 'undefined_column',
            HINT = 'immuta.data_sources lists the columns.';
    ELSIF column_number = ANY ((SELECT d.excluded_numbers FROM immuta.data_source d WHERE d.id = data_source_id)::smallint[]) THEN
        RAISE EXCEPTION 'column "%" of "%" is excluded: nobody sees a mask of it', column_name, relation::regclass
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Take it off the list first: immuta.register_data_source(..., exclude_columns => ...).';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.require_column(text) IS 'the column of a data source that a text names; an error where there is none';

CREATE FUNCTION immuta_internal.sources_of_mask(policy_id integer) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT m.data_source_id), '{}') FROM immuta_internal.masked_columns(NULL) m
    WHERE sources_of_mask.policy_id = ANY (m.policies)
$$;
COMMENT ON FUNCTION immuta_internal.sources_of_mask(integer) IS 'the data sources that a masking policy is for';

CREATE FUNCTION immuta_internal.require_expression(words text, expression text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on
AS $$
DECLARE
    fault text;
BEGIN
    BEGIN
        IF octet_length(expression) <= 100000
           AND immuta_internal.is_expression(convert_to(replace(expression, '{column}', 'c'), 'SQL_ASCII')) THEN
            RETURN;
        END IF;
    EXCEPTION WHEN syntax_error THEN
        fault := SQLERRM;
    END;
    RAISE EXCEPTION '%', words || ' must be one expression of up to 100000 bytes' || coalesce(': ' || fault, '')
        USING ERRCODE = 'syntax_error', HINT = 'It names columns of the table, and {column} for the masked one.';
END
$$;
COMMENT ON FUNCTION immuta_internal.require_expression(text, text) IS '42601 for what is not one expression';

-- Writes a policy and what it names; who else is concerned is for settle_policy().
CREATE FUNCTION immuta_internal.store_masking_policy(
    name text, method text, parameters jsonb, columns text[], column_tags text[], except_groups text[], except_attributes jsonb,
    except_expression jsonpath, rows text, replace boolean, OUT policy_id integer, OUT concerned bigint[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'the name of a policy must have 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give it a name by which it can be dropped.';
    ELSIF columns IS NULL AND column_tags IS NULL THEN
        RAISE EXCEPTION 'the policy does not say what it masks' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give columns (''sales.customers.ssn''), or column_tags and tag columns with immuta.tag_column().';
    END IF;
    PERFORM immuta_internal.check_parameters(method, coalesce(parameters, '{}'));
    PERFORM immuta_internal.require_expression('rows', rows) WHERE rows IS NOT NULL;
    PERFORM immuta_internal.require_expression('a mask', parameters ->> 'expression') WHERE method = 'expression';
    SELECT p.id INTO policy_id FROM immuta.masking_policy p WHERE p.name = store_masking_policy.name;
    IF FOUND AND NOT coalesce(replace, false) THEN
        RAISE EXCEPTION 'policy "%" already exists', left(name, 63) USING ERRCODE = 'duplicate_object', HINT = 'Give replace => true to change it.';
    END IF;
    concerned := immuta_internal.sources_of_mask(policy_id);
    IF policy_id IS NULL THEN
        INSERT INTO immuta.masking_policy AS p (name, method, parameters) VALUES (store_masking_policy.name, store_masking_policy.method, '{}')
        RETURNING p.id INTO policy_id;
    END IF;
    UPDATE immuta.masking_policy p
    SET method = store_masking_policy.method, parameters = coalesce(store_masking_policy.parameters, '{}'),
        column_tags = immuta_internal.clean_tags(store_masking_policy.column_tags), except_groups = immuta_internal.clean_tags(store_masking_policy.except_groups),
        except_attributes = immuta_internal.clean_attributes(store_masking_policy.except_attributes),
        except_expression = store_masking_policy.except_expression, rows = store_masking_policy.rows
    WHERE p.id = policy_id;
    PERFORM immuta_internal.keep_parameters(policy_id);
    PERFORM immuta_internal.forget_named(policy_id);
    INSERT INTO immuta.named_column AS n (data_source_id, column_name, column_number, policies)
    SELECT DISTINCT c.data_source_id, c.column_name, c.column_number, ARRAY[policy_id]
    FROM unnest(columns) named, LATERAL immuta_internal.require_column(named) c
    ON CONFLICT ON CONSTRAINT named_column_pkey DO UPDATE SET column_number = EXCLUDED.column_number, policies = n.policies || EXCLUDED.policies;
    PERFORM immuta_internal.refresh_policy_members(ARRAY[policy_id], NULL);
    concerned := concerned || immuta_internal.sources_of_mask(policy_id);
END
$$;
COMMENT ON FUNCTION immuta_internal.store_masking_policy(text, text, jsonb, text[], text[], text[], jsonb, jsonpath, text, boolean) IS 'writes a masking policy; the data sources that it concerns or concerned';

CREATE FUNCTION immuta_internal.forget_named(policy_id integer) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE immuta.named_column n SET policies = array_remove(n.policies, policy_id) WHERE policy_id = ANY (n.policies);
    DELETE FROM immuta.named_column n WHERE n.policies = '{}' AND n.tags = '{}'
$$;
COMMENT ON FUNCTION immuta_internal.forget_named(integer) IS 'a masking policy names no columns any more';

CREATE FUNCTION immuta_internal.remove_masking_policy(policy_id integer) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    concerned bigint[] := immuta_internal.sources_of_mask(policy_id);
BEGIN
    DELETE FROM immuta.masking_policy p WHERE p.id = policy_id;
    PERFORM immuta_internal.forget_named(policy_id), immuta_internal.forget_parameters();
    RETURN concerned;
END
$$;
COMMENT ON FUNCTION immuta_internal.remove_masking_policy(integer) IS 'removes a masking policy, without touching masks; the data sources that it concerned';

CREATE FUNCTION immuta_internal.require_masks(policy_id integer, source_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    masked record;
    detail text;
    hint text;
BEGIN
    FOR masked IN SELECT * FROM immuta_internal.masked_columns(source_ids) m WHERE require_masks.policy_id = ANY (m.policies)
    LOOP
        PERFORM immuta_internal.make_mask(masked.relation, masked.column_number, masked.policies, masked.is_computed);
    END LOOP;
EXCEPTION WHEN data_exception OR integrity_constraint_violation OR syntax_error_or_access_rule_violation OR feature_not_supported THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE EXCEPTION 'column "%" of "%" cannot be masked so: %', masked.column_name, masked.relation::regclass, SQLERRM
        USING ERRCODE = SQLSTATE, DETAIL = coalesce(nullif(detail, ''), 'MASK_NOT_ALLOWED'),
              HINT = coalesce(nullif(hint, ''), 'Change the parameters of the policy, or its columns.');
END
$$;
COMMENT ON FUNCTION immuta_internal.require_masks(integer, bigint[]) IS 'refuses a policy whose masks do not fit their columns';

CREATE FUNCTION immuta_internal.apply_masking_policy(policy_id integer, concerned bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    warned record;
BEGIN
    PERFORM immuta_internal.require_masks(policy_id, concerned);
    PERFORM immuta_internal.settle_policy(concerned);
    PERFORM immuta_internal.guard(s) FROM unnest(immuta_internal.sources_of_mask(policy_id)) s;
    FOR warned IN SELECT * FROM immuta_internal.mask_warnings(concerned, policy_id)
    LOOP
        RAISE WARNING '%', warned.words USING HINT = warned.hint;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.apply_masking_policy(integer, bigint[]) IS 'makes the masks of a policy, or refuses it, and warns of what remains';

CREATE FUNCTION immuta.create_masking_policy(
    name text, method text, parameters jsonb = '{}', columns text[] = NULL, column_tags text[] = NULL, except_groups text[] = NULL,
    except_attributes jsonb = NULL, except_expression jsonpath = NULL, rows text = NULL, replace boolean = false)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stored record;
BEGIN
    PERFORM immuta_internal.catch_up();
    SELECT * INTO stored FROM immuta_internal.store_masking_policy(
        name, method, parameters, columns, column_tags, except_groups, except_attributes, except_expression, rows, replace);
    PERFORM immuta_internal.apply_masking_policy(stored.policy_id, stored.concerned);
END
$$;
REVOKE ALL ON FUNCTION immuta.create_masking_policy(text, text, jsonb, text[], text[], text[], jsonb, jsonpath, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.create_masking_policy(text, text, jsonb, text[], text[], text[], jsonb, jsonpath, text, boolean) TO immuta_admin;
COMMENT ON FUNCTION immuta.create_masking_policy(text, text, jsonb, text[], text[], text[], jsonb, jsonpath, text, boolean) IS 'shows subscribers a mask in the place of columns, but for those whom it excepts';

CREATE FUNCTION immuta.drop_masking_policy(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped integer;
BEGIN
    PERFORM immuta_internal.catch_up();
    SELECT p.id INTO dropped FROM immuta.masking_policy p WHERE p.name = drop_masking_policy.name;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM immuta_internal.settle_policy(immuta_internal.remove_masking_policy(dropped));
    DELETE FROM immuta.policy_member m WHERE m.policy_id = dropped;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_masking_policy(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drop_masking_policy(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.drop_masking_policy(text) IS 'ends a masking policy: its columns are granted to all subscribers; whether there was one';

CREATE FUNCTION immuta_internal.change_column_tags("column" text, added text[], removed text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tagged record;
    policy_id integer;
BEGIN
    PERFORM immuta_internal.catch_up();
    SELECT * INTO tagged FROM immuta_internal.column_named("column");
    IF tagged.column_number IS NULL AND added <> '{}' THEN
        PERFORM immuta_internal.require_column("column");
    END IF;
    INSERT INTO immuta.named_column AS n (data_source_id, column_name, column_number, tags)
    VALUES (tagged.data_source_id, tagged.column_name, tagged.column_number, immuta_internal.clean_tags(added))
    ON CONFLICT ON CONSTRAINT named_column_pkey DO UPDATE
    SET tags = immuta_internal.clean_tags(ARRAY(SELECT t FROM unnest(n.tags || added) t WHERE t <> ALL (removed)));
    DELETE FROM immuta.named_column n WHERE n.data_source_id = tagged.data_source_id AND n.policies = '{}' AND n.tags = '{}';
    FOR policy_id IN SELECT p.id FROM immuta.masking_policy p WHERE p.column_tags && (added || removed)
    LOOP
        PERFORM immuta_internal.apply_masking_policy(policy_id, ARRAY[tagged.data_source_id]);
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.change_column_tags(text, text[], text[]) IS 'changes the tags of a column';

CREATE FUNCTION immuta.tag_column("column" text, VARIADIC tags text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta_internal.change_column_tags("column", tags, '{}') $$;
REVOKE ALL ON FUNCTION immuta.tag_column(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.tag_column(text, text[]) TO immuta_admin;
COMMENT ON FUNCTION immuta.tag_column(text, text[]) IS 'adds tags to a column, by which masking policies find it';

CREATE FUNCTION immuta.untag_column("column" text, VARIADIC tags text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta_internal.change_column_tags("column", '{}', tags) $$;
REVOKE ALL ON FUNCTION immuta.untag_column(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.untag_column(text, text[]) TO immuta_admin;
COMMENT ON FUNCTION immuta.untag_column(text, text[]) IS 'takes tags from a column, also from a former name of it';

-- Whoever reads a data source and is not excepted.
CREATE FUNCTION immuta_internal.masked_readers(source_ids bigint[]) RETURNS TABLE (data_source_id bigint, column_name name, user_id bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.id, k.column_name, r.user_id
    FROM immuta.masks k JOIN immuta.data_source d ON d.relation = k.table_oid AND d.id = ANY (source_ids)
    JOIN (SELECT a.data_source_id, a.user_id FROM immuta_internal.policy_access(source_ids) a
          UNION
          SELECT s.data_source_id, s.user_id FROM immuta.subscription s
          WHERE s.state = 'approved' AND (s.valid_until IS NULL OR s.valid_until > now())) r ON r.data_source_id = d.id
    WHERE NOT EXISTS (SELECT FROM immuta.policy_member m WHERE m.policy_id = k.policy_id AND m.user_id = r.user_id)
$$;
COMMENT ON FUNCTION immuta_internal.masked_readers(bigint[]) IS 'who sees which columns masked';

CREATE TYPE immuta_internal.mask_view AS (data_source_id bigint, column_name name, user_id bigint, mask text);
COMMENT ON TYPE immuta_internal.mask_view IS 'a mask, without a user, or a user who sees it';

CREATE FUNCTION immuta_internal.mask_views(source_ids bigint[]) RETURNS SETOF immuta_internal.mask_view
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.id, k.column_name, NULL::bigint, k.mask FROM immuta.masks k JOIN immuta.data_source d ON d.relation = k.table_oid AND d.id = ANY (source_ids)
    UNION ALL
    SELECT r.data_source_id, r.column_name, r.user_id, NULL FROM immuta_internal.masked_readers(source_ids) r
$$;
COMMENT ON FUNCTION immuta_internal.mask_views(bigint[]) IS 'the masks of data sources, and who sees them';

-- Makes the change in a subtransaction, looks, and takes it back: the preview cannot differ from the change.
CREATE FUNCTION immuta.preview_masking_policy(
    name text, method text = NULL, parameters jsonb = '{}', columns text[] = NULL, column_tags text[] = NULL, except_groups text[] = NULL,
    except_attributes jsonb = NULL, except_expression jsonpath = NULL, rows text = NULL, dropped boolean = false)
RETURNS TABLE (data_source text, column_name name, userid text, iamid text, change text, mask_before text, mask_after text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stored record;
    source_ids bigint[];
    changed immuta_internal.mask_view[];
BEGIN
    PERFORM immuta_internal.catch_up();
    BEGIN
        IF dropped THEN
            source_ids := immuta_internal.remove_masking_policy(
                (SELECT p.id FROM immuta.masking_policy p WHERE p.name = preview_masking_policy.name));
        ELSE
            SELECT * INTO stored FROM immuta_internal.store_masking_policy(
                name, method, parameters, columns, column_tags, except_groups, except_attributes, except_expression, rows, true);
            source_ids := stored.concerned;
            PERFORM immuta_internal.require_masks(stored.policy_id, source_ids);
        END IF;
        PERFORM FROM immuta_internal.settle_masks(source_ids);
        PERFORM immuta_internal.assign_classes(source_ids);
        changed := ARRAY(SELECT v FROM immuta_internal.mask_views(source_ids) v);
        RAISE EXCEPTION USING ERRCODE = 'IM001', MESSAGE = 'enough seen';
    EXCEPTION WHEN SQLSTATE 'IM001' THEN
        NULL;
    END;
    RETURN QUERY
    SELECT format('%I.%I', d.schema_name, d.table_name), v.column_name, u.userid, u.iamid,
           CASE WHEN v.user_id IS NOT NULL THEN CASE WHEN v.was THEN 'gains' ELSE 'loses' END
                WHEN v.was AND v.becomes THEN 'mask changed' WHEN v.was THEN 'mask removed' ELSE 'mask added' END,
           v.mask_before, v.mask_after
    FROM (SELECT x.data_source_id, x.column_name, x.user_id, bool_or(x.was) AS was, bool_or(NOT x.was) AS becomes,
                 max(x.mask) FILTER (WHERE x.was) AS mask_before, max(x.mask) FILTER (WHERE NOT x.was) AS mask_after
          FROM (SELECT b.*, true AS was FROM immuta_internal.mask_views(source_ids) b
                UNION ALL SELECT c.*, false FROM unnest(changed) c) x
          GROUP BY x.data_source_id, x.column_name, x.user_id) v
    JOIN immuta.data_source d ON d.id = v.data_source_id LEFT JOIN immuta.user_account u ON u.id = v.user_id
    WHERE v.was IS DISTINCT FROM v.becomes OR v.mask_before <> v.mask_after
    ORDER BY d.schema_name, d.table_name, v.column_name, u.iamid NULLS FIRST, u.userid;
END
$$;
REVOKE ALL ON FUNCTION immuta.preview_masking_policy(text, text, jsonb, text[], text[], text[], jsonb, jsonpath, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.preview_masking_policy(text, text, jsonb, text[], text[], text[], jsonb, jsonpath, text, boolean) TO immuta_admin;
COMMENT ON FUNCTION immuta.preview_masking_policy(text, text, jsonb, text[], text[], text[], jsonb, jsonpath, text, boolean) IS 'which masks a policy would make, and who would see more or less, if it were written so, or dropped';

CREATE FUNCTION immuta_internal.list_masked_columns()
RETURNS TABLE (schema_name name, table_name name, column_name name, policy text, method text, mask text, state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.schema_name, d.table_name, m.column_name, p.name,
           CASE WHEN m.is_computed THEN 'computed' WHEN cardinality(m.policies) = 1 THEN p.method END, nullif(k.mask, ''),
           coalesce(t.fault, CASE WHEN k.table_oid IS NOT NULL AND k.mask IS NOT DISTINCT FROM t.mask THEN 'masked' ELSE 'run immuta.sync()' END)
    FROM immuta_internal.masked_columns(NULL) m JOIN immuta.data_source d ON d.id = m.data_source_id
    LEFT JOIN immuta.masks k ON (k.table_oid, k.column_number) = (m.relation, m.column_number)
    LEFT JOIN immuta.masking_policy p ON p.id = m.policies[1] AND cardinality(m.policies) = 1,
         LATERAL immuta_internal.try_mask(m.relation, m.column_number, m.policies, m.is_computed) t
    ORDER BY d.schema_name, d.table_name, m.column_number
$$;
GRANT EXECUTE ON FUNCTION immuta_internal.list_masked_columns() TO immuta_admin;
COMMENT ON FUNCTION immuta_internal.list_masked_columns() IS 'the rows of immuta.masked_columns';

CREATE VIEW immuta.masked_columns AS SELECT * FROM immuta_internal.list_masked_columns();
REVOKE ALL ON immuta.masked_columns FROM PUBLIC;
GRANT SELECT ON immuta.masked_columns TO immuta_admin;
COMMENT ON VIEW immuta.masked_columns IS 'the columns that are masked, by which policy and how; state says why one is refused instead';

CREATE VIEW immuta.masking_policies AS
SELECT p.name, p.method, p.parameters,
       ARRAY(SELECT pg_catalog.format('%I.%I.%I', d.schema_name, d.table_name, n.column_name)
             FROM immuta.named_column n JOIN immuta.data_source d ON d.id = n.data_source_id
             WHERE p.id = ANY (n.policies) AND n.column_number IS NOT NULL ORDER BY 1) AS columns,
       p.column_tags, p.except_groups, p.except_attributes, p.except_expression, p.rows
FROM immuta.masking_policy p
WHERE pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY p.name;
REVOKE ALL ON immuta.masking_policies FROM PUBLIC;
GRANT SELECT ON immuta.masking_policies TO immuta_admin;
COMMENT ON VIEW immuta.masking_policies IS 'the masking policies';

CREATE VIEW immuta.column_tags AS
SELECT d.schema_name, d.table_name, n.column_name, n.tags
FROM immuta.named_column n JOIN immuta.data_source d ON d.id = n.data_source_id
WHERE n.tags <> '{}' AND n.column_number IS NOT NULL AND pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY d.schema_name, d.table_name, n.column_name;
REVOKE ALL ON immuta.column_tags FROM PUBLIC;
GRANT SELECT ON immuta.column_tags TO immuta_admin;
COMMENT ON VIEW immuta.column_tags IS 'the tags of columns';
