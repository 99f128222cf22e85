-- From policies to masks: which columns, the plan (what is to be changed), and the act. What separates the masks that there are
-- from those that policies say is read by drift() and sync() alike. Whoever acts holds the lock.

-- A renamed column keeps its tags and masks, and so does its former name: a column that is added under it is masked, too.
CREATE FUNCTION immuta_internal.named_columns(source_ids bigint[])
RETURNS TABLE (data_source_id bigint, column_name name, column_number smallint, tags text[], policies integer[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH known AS (
        SELECT n.data_source_id, n.column_name, n.tags, n.policies, d.relation, a.attname AS renamed
        FROM immuta.named_column n JOIN immuta.data_source d ON d.id = n.data_source_id
        LEFT JOIN pg_attribute a ON a.attrelid = d.relation AND a.attnum = n.column_number AND NOT a.attisdropped
                                AND a.attname <> n.column_name
        WHERE source_ids IS NULL OR n.data_source_id = ANY (source_ids)
    ), called AS (
        SELECT k.data_source_id, k.relation, k.column_name, k.tags, k.policies FROM known k
        UNION ALL
        SELECT k.data_source_id, k.relation, k.renamed, k.tags, k.policies FROM known k WHERE k.renamed IS NOT NULL
    )
    SELECT c.data_source_id, c.column_name, max(a.attnum),
           coalesce(array_agg(DISTINCT t ORDER BY t) FILTER (WHERE t IS NOT NULL), '{}'),
           coalesce(array_agg(DISTINCT p ORDER BY p) FILTER (WHERE p IS NOT NULL), '{}')
    FROM called c LEFT JOIN LATERAL unnest(c.tags) t ON true LEFT JOIN LATERAL unnest(c.policies) p ON true
    LEFT JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = c.column_name AND a.attnum > 0 AND NOT a.attisdropped
    GROUP BY c.data_source_id, c.column_name
$$;
COMMENT ON FUNCTION immuta_internal.named_columns(bigint[]) IS 'what immuta.named_column should hold now; NULL stands for all data sources';

-- What is computed from masked columns would show them: the library computes it from their masks. Who may read them all may read
-- it, if that is for one policy to say. Excluded columns are nobody's and need no mask.
CREATE FUNCTION immuta_internal.masked_columns(source_ids bigint[])
RETURNS TABLE (data_source_id bigint, relation oid, column_number smallint, column_name name, policies integer[], is_computed boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH named AS MATERIALIZED (
        SELECT n.data_source_id, d.relation, n.column_number, n.column_name, array_agg(p.id ORDER BY p.id) AS policies
        FROM immuta_internal.named_columns(source_ids) n JOIN immuta.data_source d ON d.id = n.data_source_id
        JOIN immuta.masking_policy p ON p.id = ANY (n.policies) OR p.column_tags && n.tags
        WHERE n.column_number IS NOT NULL
        GROUP BY n.data_source_id, d.relation, n.column_number, n.column_name
    ), masked AS (
        SELECT n.*, false AS is_computed FROM named n
        UNION ALL
        SELECT s.data_source_id, s.relation, a.attnum, a.attname,
               ARRAY(SELECT DISTINCT p FROM named n, unnest(n.policies) p
                     WHERE n.data_source_id = s.data_source_id AND n.column_name = ANY (c.sources) ORDER BY 1), true
        FROM (SELECT n.data_source_id, n.relation, array_agg(n.column_name) AS names FROM named n GROUP BY 1, 2) s
        CROSS JOIN LATERAL immuta_internal.computed_columns(s.relation, s.names) c
        JOIN pg_attribute a ON a.attrelid = s.relation AND a.attname = c.column_name AND a.attnum > 0 AND NOT a.attisdropped
        WHERE NOT EXISTS (SELECT FROM named n WHERE n.data_source_id = s.data_source_id AND n.column_number = a.attnum)
    )
    SELECT m.* FROM masked m JOIN immuta.data_source d ON d.id = m.data_source_id
    WHERE m.column_number <> ALL (d.excluded_numbers)
$$;
COMMENT ON FUNCTION immuta_internal.masked_columns(bigint[]) IS 'which columns are to be masked, and by which policies; NULL stands for all data sources';

-- What a mask shows of a table must be the system account's to hand on, as if it were granted.
CREATE FUNCTION immuta_internal.require_grantable(relation oid, column_number smallint, every_column boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account oid := immuta_internal.account_role();
    missing text;
BEGIN
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO missing FROM pg_attribute a
    WHERE a.attrelid = require_grantable.relation AND a.attnum > 0 AND NOT a.attisdropped
      AND (every_column OR a.attnum = require_grantable.column_number)
      AND NOT coalesce(immuta_internal.is_grantable(account, 'r', a.attrelid, a.attnum, 'SELECT'), false);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the system account may not hand on what the mask reads: %', missing
            USING ERRCODE = 'insufficient_privilege', HINT = 'The owner can GRANT SELECT ... TO the system account WITH GRANT OPTION.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.require_grantable(oid, smallint, boolean) IS '42501 for a mask of what the system account may not grant';

-- An error of a mask quotes what it hides.
CREATE FUNCTION immuta_internal.require_safe(relation oid, column_number smallint, policy immuta.masking_policy, col name) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ident text := quote_ident(col);
BEGIN
    IF coalesce((policy.parameters ->> 'never_fails')::boolean, false) THEN
        RETURN;
    ELSIF (policy.rows IS NOT NULL AND immuta_internal.mask_may_fail(relation, column_number,
              format(E'CASE WHEN (%1$s\n) IS FALSE THEN %2$s ELSE %2$s END', replace(policy.rows, '{column}', ident), ident)))
       OR (policy.method = 'expression' AND immuta_internal.mask_may_fail(relation, column_number,
              replace(policy.parameters ->> 'expression', '{column}', ident))) THEN
        RAISE EXCEPTION 'where a mask fails for a value its error can show that, and nothing says that this one cannot fail'
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Pass columns to LEAKPROOF functions and operators only, or add "never_fails": true to the parameters if you know that it fails for no value.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.require_safe(oid, smallint, immuta.masking_policy, name) IS '0A000 for an expression of an administrator that may fail';

CREATE FUNCTION immuta_internal.make_mask(relation oid, column_number smallint, policies integer[], is_computed boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy immuta.masking_policy;
    is_written boolean;
    col record;
    mask text;
BEGIN
    SELECT a.attname, a.atttypid, a.atttypmod INTO col FROM pg_attribute a
    WHERE a.attrelid = make_mask.relation AND a.attnum = make_mask.column_number;
    IF (SELECT c.relkind FROM pg_class c WHERE c.oid = make_mask.relation) = 'v' THEN
        RAISE EXCEPTION 'a view has no masks of its own' USING ERRCODE = 'wrong_object_type',
            HINT = 'Mask columns of its tables: a security invoker (from PostgreSQL 15 on) shows their masks. Or exclude the column here.';
    ELSIF is_computed THEN
        RETURN NULL;
    ELSIF cardinality(policies) > 1 THEN
        RAISE EXCEPTION 'it has two masking policies: %',
                (SELECT string_agg('"' || left(p.name, 63) || '"', ', ' ORDER BY p.name) FROM immuta.masking_policy p WHERE p.id = ANY (policies))
            USING ERRCODE = 'duplicate_object',
                  HINT = 'A column has one mask: drop one of the policies, or take a tag or the name of the column away from one.';
    END IF;
    SELECT * INTO policy FROM immuta.masking_policy p WHERE p.id = policies[1];
    is_written := policy.method = 'expression' OR policy.rows IS NOT NULL;
    PERFORM immuta_internal.require_grantable(relation, column_number, is_written);
    IF policy.method = 'constant' AND immuta_internal.has_constraints(col.atttypid) THEN
        -- The constraints look at it now: readers would be refused by them.
        PERFORM immuta_internal.as_system(format('SELECT CAST(%L AS %s)', policy.parameters ->> 'value', format_type(col.atttypid, col.atttypmod)));
    END IF;
    mask := immuta_internal.check_mask(
        relation, column_number, immuta_internal.mask_expression(policy, col.attname, col.atttypid, col.atttypmod));
    IF is_written AND mask ~ '\m(md5|sha(224|256|384|512)|hash\w*|hmac|digest|crypt|encrypt\w*)\(' THEN
        RAISE EXCEPTION 'a mask must not hash by itself: what can be guessed can be looked up, and a salt would stand in plans'
            USING ERRCODE = 'feature_not_supported', HINT = 'Use the method hash, whose salt nobody sees.';
    ELSIF is_written AND (SELECT count(*) FROM regexp_matches(mask, 'immuta_internal\.mask_ref\(', 'g')) > num_nonnulls(policy.reference) THEN
        RAISE EXCEPTION 'an expression cannot name the salt or the pattern of a mask'
            USING ERRCODE = 'feature_not_supported', HINT = 'Use the methods hash and regex.';
    ELSIF is_written THEN
        PERFORM immuta_internal.require_safe(relation, column_number, policy, col.attname);
    END IF;
    RETURN mask;
END
$$;
COMMENT ON FUNCTION immuta_internal.make_mask(oid, smallint, integer[], boolean) IS 'the mask of a column as it is to be stored; an error if there cannot be one';

CREATE FUNCTION immuta_internal.try_mask(
    relation oid, column_number smallint, policies integer[], is_computed boolean, OUT mask text, OUT fault text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    mask := immuta_internal.make_mask(relation, column_number, policies, is_computed);
EXCEPTION WHEN data_exception OR integrity_constraint_violation OR syntax_error_or_access_rule_violation OR feature_not_supported THEN
    -- The library refuses the column then, and says so.
    mask := '';
    fault := SQLERRM;
END
$$;
COMMENT ON FUNCTION immuta_internal.try_mask(oid, smallint, integer[], boolean) IS 'the mask of a column, or none and why';

-- One policy decides who is excepted, or nobody is.
CREATE FUNCTION immuta_internal.wanted_masks(source_ids bigint[])
RETURNS TABLE (table_oid oid, column_number smallint, mask text, policy_id integer, schema_name name, table_name name, column_name name, fault text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.relation, m.column_number, t.mask, CASE WHEN cardinality(m.policies) = 1 THEN m.policies[1] END,
           n.nspname, c.relname, m.column_name, t.fault
    FROM immuta_internal.masked_columns(source_ids) m
    JOIN pg_class c ON c.oid = m.relation JOIN pg_namespace n ON n.oid = c.relnamespace,
         LATERAL immuta_internal.try_mask(m.relation, m.column_number, m.policies, m.is_computed) t
$$;
COMMENT ON FUNCTION immuta_internal.wanted_masks(bigint[]) IS 'the masks that policies say, and what keeps a column from having one';

-- The plan. Without data sources it is for all tables, also those that are no data sources any more.
CREATE FUNCTION immuta_internal.mask_changes(source_ids bigint[])
RETURNS TABLE (what text, table_oid oid, column_number smallint, mask text, policy_id integer,
               schema_name name, table_name name, column_name name, fault text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH wanted AS MATERIALIZED (SELECT * FROM immuta_internal.wanted_masks(source_ids))
    SELECT 'mask removed', k.table_oid, k.column_number, NULL, NULL::integer, k.schema_name, k.table_name, k.column_name, NULL
    FROM immuta.masks k
    WHERE (source_ids IS NULL OR k.table_oid IN (SELECT d.relation FROM immuta.data_source d WHERE d.id = ANY (source_ids)))
      AND NOT EXISTS (SELECT FROM wanted w WHERE (w.table_oid, w.column_number) = (k.table_oid, k.column_number))
    UNION ALL
    SELECT CASE WHEN k.table_oid IS NULL THEN 'mask added' ELSE 'mask changed' END, w.*
    FROM wanted w LEFT JOIN immuta.masks k ON (k.table_oid, k.column_number) = (w.table_oid, w.column_number)
    WHERE (k.table_oid, k.mask, k.policy_id, k.schema_name, k.table_name, k.column_name)
          IS DISTINCT FROM (w.table_oid, w.mask, w.policy_id, w.schema_name, w.table_name, w.column_name)
$$;
COMMENT ON FUNCTION immuta_internal.mask_changes(bigint[]) IS 'what separates the masks that there are from those that policies say';

CREATE FUNCTION immuta_internal.column_changes(source_ids bigint[]) RETURNS SETOF immuta.named_column
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM immuta_internal.named_columns(source_ids) EXCEPT SELECT * FROM immuta.named_column
$$;
COMMENT ON FUNCTION immuta_internal.column_changes(bigint[]) IS 'columns with tags or masks that are no longer what is recorded of them';

CREATE FUNCTION immuta_internal.follow_columns(source_ids bigint[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO immuta.named_column SELECT * FROM immuta_internal.column_changes(source_ids)
    ON CONFLICT ON CONSTRAINT named_column_pkey DO UPDATE
    SET column_number = EXCLUDED.column_number, tags = EXCLUDED.tags, policies = EXCLUDED.policies
$$;
COMMENT ON FUNCTION immuta_internal.follow_columns(bigint[]) IS 'columns with tags or masks are followed to their names and numbers';

CREATE FUNCTION immuta_internal.settle_masks(source_ids bigint[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    change record;
BEGIN
    PERFORM immuta_internal.follow_columns(source_ids);
    FOR change IN SELECT * FROM immuta_internal.mask_changes(source_ids) c ORDER BY c.schema_name, c.table_name, c.column_number
    LOOP
        DELETE FROM immuta.masks k WHERE (k.table_oid, k.column_number) = (change.table_oid, change.column_number);
        IF change.what <> 'mask removed' THEN
            INSERT INTO immuta.masks VALUES (change.table_oid, change.column_number, change.mask, change.policy_id,
                                             change.schema_name, change.table_name, change.column_name);
        END IF;
        IF change.fault IS NOT NULL THEN
            RAISE WARNING 'column "%" of "%.%" has no mask and is refused: %',
                change.column_name, change.schema_name, change.table_name, change.fault
                USING HINT = 'Change the policy with immuta.create_masking_policy(..., replace => true).';
        END IF;
        RETURN QUERY SELECT change.what, format('%I.%I.%I', change.schema_name, change.table_name, change.column_name), change.fault;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.settle_masks(bigint[]) IS 'makes the masks of data sources what policies say';

-- Whoever may read a masked column sees it as it is, however they came to it. What was granted to roles of ours by hand is among
-- the differences of grants.
CREATE FUNCTION immuta_internal.unmasked_by_hand() RETURNS TABLE (relation oid, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH masked AS MATERIALIZED (
        SELECT k.table_oid AS relation, k.column_number, c.relacl, c.relowner, a.attacl
        FROM immuta.masks k JOIN pg_class c ON c.oid = k.table_oid
        JOIN pg_attribute a ON a.attrelid = k.table_oid AND a.attnum = k.column_number AND NOT a.attisdropped
    ), entry AS MATERIALIZED (
        -- A trigger is handed whole rows.
        SELECT DISTINCT m.relation, 0::smallint AS attnum, m.relowner, e.grantor, e.grantee, e.privilege_type FROM masked m, aclexplode(m.relacl) e
        WHERE e.privilege_type IN ('SELECT', 'TRIGGER')
        UNION ALL
        SELECT m.relation, m.column_number, m.relowner, e.grantor, e.grantee, e.privilege_type
        FROM masked m, aclexplode(m.attacl) e WHERE e.privilege_type = 'SELECT'
    ), reached AS MATERIALIZED (
        -- Roles whose rights subscribers have.
        SELECT g.role FROM (SELECT e.grantee AS role FROM entry e WHERE e.grantee <> 0 UNION SELECT m.relowner FROM masked m) g
        WHERE NOT EXISTS (SELECT FROM immuta.access_class k WHERE k.role = g.role)
          AND NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.role = g.role)
          AND EXISTS (SELECT FROM immuta.subscriber b JOIN pg_roles r ON r.oid = b.role WHERE pg_has_role(r.oid, g.role, 'USAGE'))
    )
    SELECT e.relation, immuta_internal.describe_grant('r', e.relation, e.attnum, e.privilege_type),
           'to ' || CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE e.grantee::regrole::text END || ' by ' || e.grantor::regrole
    FROM entry e WHERE e.grantee <> e.relowner AND (e.grantee = 0 OR e.grantee IN (SELECT r.role FROM reached r))
    UNION
    SELECT m.relation, 'ownership of ' || m.relation::regclass, 'by ' || m.relowner::regrole || ', for whom subscribers may act'
    FROM masked m JOIN reached r ON r.role = m.relowner
    UNION
    SELECT m.relation, 'ROLE pg_read_all_data', 'of ' || b.role::regrole
    FROM masked m, immuta.subscriber b JOIN pg_roles r ON r.oid = b.role WHERE pg_has_role(r.oid, 'pg_read_all_data', 'USAGE')
$$;
COMMENT ON FUNCTION immuta_internal.unmasked_by_hand() IS 'privileges by which subscribers read masked columns as they are';
