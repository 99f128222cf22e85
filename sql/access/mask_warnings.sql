-- Where masks do not keep what they seem to: told where a policy is made, and by drift() as long as it is so.

-- Of a row as a whole no column is on record, nor which table's it is.
-- With estimates (ROWS): what is multiplied, level by level, is as much memory to a release candidate of PostgreSQL 19.
CREATE FUNCTION immuta_internal.readers_of(class oid, object oid, column_number smallint) RETURNS TABLE (reader_class oid, reader oid)
LANGUAGE sql STABLE ROWS 2 SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT CASE WHEN w.oid IS NULL THEN p.classid ELSE 'pg_class'::regclass END, coalesce(w.ev_class, f.oid)
    FROM pg_depend p
    LEFT JOIN pg_rewrite w ON p.classid = 'pg_rewrite'::regclass AND w.oid = p.objid AND w.ev_type = '1' AND w.ev_class <> readers_of.object
    LEFT JOIN pg_proc f ON p.classid = 'pg_proc'::regclass AND f.oid = p.objid
    WHERE p.refclassid = readers_of.class AND p.refobjid = readers_of.object AND coalesce(w.oid, f.oid) IS NOT NULL
      AND (readers_of.column_number IS NULL OR p.refobjsubid = readers_of.column_number
           OR coalesce(w.ev_action, f.prosqlbody)::text ~ ':varattno 0 ')
$$;
COMMENT ON FUNCTION immuta_internal.readers_of(oid, oid, smallint) IS 'views, and functions with parsed bodies, that read an object, or a column of it';

CREATE FUNCTION immuta_internal.relations_with_masked() RETURNS TABLE (relation oid, column_number smallint, column_name name, holder oid, number smallint)
LANGUAGE sql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE kin AS (
        SELECT k.table_oid AS relation, k.column_number, k.column_name, k.table_oid AS holder, is_up
        FROM immuta.masks k, unnest('{true,false}'::boolean[]) is_up
        UNION
        SELECT k.relation, k.column_number, k.column_name, i.holder, k.is_up
        FROM kin k, LATERAL (SELECT i.inhparent AS holder FROM pg_inherits i WHERE k.is_up AND i.inhrelid = k.holder
                             UNION ALL
                             SELECT i.inhrelid FROM pg_inherits i WHERE NOT k.is_up AND i.inhparent = k.holder) i
    )
    SELECT DISTINCT k.relation, k.column_number, k.column_name, k.holder, a.attnum
    FROM kin k JOIN pg_attribute a ON a.attrelid = k.holder AND a.attname = k.column_name AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION immuta_internal.relations_with_masked() IS 'masked columns, where they are and in partitions, children and parents of that';

-- What is a data source itself is for administrators to confirm, and told of then.
CREATE FUNCTION immuta_internal.masked_shown_by() RETURNS TABLE (relation oid, column_number smallint, shown_by text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE held AS MATERIALIZED (
        SELECT * FROM immuta_internal.relations_with_masked()
    ), acting AS MATERIALIZED (
        -- By their owner's rights.
        SELECT 'pg_class'::regclass::oid AS class, c.oid AS object, c.relowner AS owner
        FROM pg_class c
        WHERE c.relkind IN ('v', 'm')
          AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
        UNION ALL
        SELECT 'pg_proc'::regclass, f.oid, f.proowner FROM pg_proc f WHERE f.prosecdef AND f.prosqlbody IS NOT NULL
    ), reads AS (
        -- An owner is asked for the masked column, whoever reads what that owner shows for that. What acts for nobody asks nobody.
        SELECT h.relation, h.column_number, r.reader_class, r.reader, a.owner IS NOT NULL AS acts, a.owner IS NOT NULL AS is_shown
        FROM held h, LATERAL immuta_internal.readers_of('pg_class'::regclass, h.holder, h.number) r
        LEFT JOIN acting a ON (a.class, a.object) = (r.reader_class, r.reader)
        WHERE a.owner IS NULL OR has_column_privilege(a.owner, h.relation, h.column_number, 'SELECT')
        UNION
        SELECT s.relation, s.column_number, r.reader_class, r.reader, a.owner IS NOT NULL, s.is_shown OR a.owner IS NOT NULL
        FROM reads s, LATERAL immuta_internal.readers_of(s.reader_class, s.reader, NULL) r
        LEFT JOIN acting a ON (a.class, a.object) = (r.reader_class, r.reader)
        WHERE a.owner IS NULL
           OR CASE WHEN NOT s.is_shown THEN has_column_privilege(a.owner, s.relation, s.column_number, 'SELECT')
                   WHEN s.reader_class = 'pg_class'::regclass THEN has_any_column_privilege(a.owner, s.reader, 'SELECT')
                   ELSE has_function_privilege(a.owner, s.reader, 'EXECUTE') END
    ), shows AS MATERIALIZED (
        SELECT h.relation, h.column_number, 'pg_class'::regclass::oid AS class, h.holder AS object FROM held h WHERE h.holder <> h.relation
        UNION
        SELECT s.relation, s.column_number, s.reader_class, s.reader FROM reads s WHERE s.acts
    ), named AS MATERIALIZED (
        SELECT o.class, o.object, c.relnamespace AS schema, CASE WHEN c.relkind IN ('v', 'm') THEN 'view ' ELSE 'table ' END || c.oid::regclass AS name,
               coalesce(c.relacl, acldefault('r', c.relowner)) AS acl,
               ARRAY(SELECT e.grantee FROM pg_attribute t, aclexplode(t.attacl) e WHERE t.attrelid = c.oid AND e.privilege_type = 'SELECT') AS of_columns
        FROM (SELECT DISTINCT s.class, s.object FROM shows s) o JOIN pg_class c ON o.class = 'pg_class'::regclass AND c.oid = o.object
        WHERE NOT EXISTS (SELECT FROM immuta.data_source d WHERE d.relation = c.oid)
        UNION ALL
        SELECT o.class, o.object, f.pronamespace, 'function ' || f.oid::regprocedure, coalesce(f.proacl, acldefault('f', f.proowner)), '{}'
        FROM (SELECT DISTINCT s.class, s.object FROM shows s) o JOIN pg_proc f ON o.class = 'pg_proc'::regclass AND f.oid = o.object
    ), grantee AS MATERIALIZED (
        SELECT n.class, n.object, e.grantee FROM named n, aclexplode(n.acl) e WHERE e.privilege_type IN ('SELECT', 'EXECUTE')
        UNION
        SELECT n.class, n.object, e.grantee FROM named n, unnest(n.of_columns) e (grantee)
        UNION
        SELECT n.class, n.object, 'pg_read_all_data'::regrole FROM named n WHERE n.class = 'pg_class'::regclass
    ), subscribing AS MATERIALIZED (
        SELECT r.oid AS role FROM immuta.subscriber b JOIN pg_roles r ON r.oid = b.role
    ), reached AS MATERIALIZED (
        -- Subscribers who have the rights of a role to which something is granted.
        SELECT g.grantee, b.role FROM (SELECT DISTINCT e.grantee FROM grantee e) g JOIN subscribing b ON g.grantee = 0 OR pg_has_role(b.role, g.grantee, 'USAGE')
    ), entering AS MATERIALIZED (
        SELECT n.schema, b.role FROM (SELECT DISTINCT n.schema FROM named n) n JOIN subscribing b ON has_schema_privilege(b.role, n.schema, 'USAGE')
    )
    SELECT s.relation, s.column_number, n.name FROM shows s JOIN named n ON (n.class, n.object) = (s.class, s.object)
    WHERE EXISTS (SELECT FROM grantee e JOIN reached m ON m.grantee = e.grantee JOIN entering t ON t.role = m.role
                  WHERE (e.class, e.object) = (n.class, n.object) AND t.schema = n.schema)
$$;
COMMENT ON FUNCTION immuta_internal.masked_shown_by() IS 'partitions, views and SECURITY DEFINER functions that are no data sources and show subscribers masked columns as they are';

-- NULL stands for all data sources, and all policies.
CREATE FUNCTION immuta_internal.mask_remarks(source_ids bigint[], policy_id integer)
RETURNS TABLE (relation oid, column_name name, words text, hint text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH masked AS MATERIALIZED (
        SELECT m.* FROM immuta_internal.masked_columns(source_ids) m WHERE coalesce(mask_remarks.policy_id = ANY (m.policies), true)
    )
    SELECT m.relation, m.column_name, format('"%s" of "%s" is generated from a masked column: it is computed from the mask', m.column_name, m.relation::regclass),
           'Where that could fail, give it a policy of its own.'
    FROM masked m WHERE m.is_computed
    UNION ALL
    SELECT m.relation, m.column_name, format('"%s" is part of the partition key of "%s": EXPLAIN shows in which partition a value is', m.column_name, m.relation::regclass),
           'Partition by another column, or exclude this one.'
    FROM masked m JOIN pg_partitioned_table p ON p.partrelid = m.relation AND m.column_number = ANY (p.partattrs::smallint[])
    UNION ALL
    SELECT DISTINCT m.relation, m.column_name,
           format('"%s" is part of a key of "%s": applications that find rows by it get its mask', m.column_name, m.relation::regclass),
           'The method hash keeps rows apart.'
    FROM masked m JOIN pg_index i ON i.indrelid = m.relation AND i.indisunique AND m.column_number = ANY (i.indkey::smallint[])
    UNION ALL
    SELECT DISTINCT k.table_oid, k.column_name,
           format('the policy reads "%s" of "%s", which is masked itself, as it is: what it shows tells of that', k.column_name, k.table_oid::regclass),
           'Name only columns that are not masked.'
    FROM immuta_internal.deciding_columns(source_ids) c JOIN immuta.masks k ON (k.table_oid, k.column_number) = (c.relation, c.column_number)
    WHERE coalesce(c.policy_id = mask_remarks.policy_id, true)
    UNION ALL
    SELECT m.relation, m.column_name,
           format('row policy "%s" of "%s" reads "%s" of "%s": it gets the mask', immuta_internal.shown(y.policy_name), y.policy_relation::regclass,
                  m.column_name, m.relation::regclass), immuta_internal.hint_policy_reads_mask()
    FROM masked m JOIN immuta_internal.policies_that_read_masks() y ON (y.relation, y.column_name) = (m.relation, m.column_name)
    UNION ALL
    SELECT m.relation, m.column_name,
           format('%s compares "%s" of "%s" with columns that can be written: by what is refused, whoever writes them finds out values', w.what,
                  m.column_name, m.relation::regclass), 'Let those who are masked only read, or drop it.'
    FROM masked m, LATERAL (
        SELECT format('CHECK constraint "%s"', c.conname) AS what FROM pg_constraint c
        WHERE c.conrelid = m.relation AND c.contype = 'c' AND m.column_number = ANY (c.conkey) AND cardinality(c.conkey) > 1
        UNION ALL
        SELECT format('the generated column "%s"', g.attname)
        FROM immuta_internal.computed_columns(m.relation, ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attnum > 0)) c
        JOIN pg_attribute g ON g.attrelid = m.relation AND g.attname = c.column_name AND g.attgenerated = 's'
        WHERE m.column_name = ANY (c.sources) AND cardinality(c.sources) > 1) w
    UNION ALL
    SELECT r.relation, NULL, format('no column of "%s" is left that is not masked or excluded: subscribers are refused it', r.relation::regclass),
           'Leave one as it is.'
    FROM (SELECT DISTINCT m.relation, m.data_source_id FROM masked m) r
    WHERE NOT EXISTS (SELECT FROM pg_attribute a JOIN immuta.data_source d ON d.id = r.data_source_id
                      WHERE a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (d.excluded_numbers)
                        AND NOT EXISTS (SELECT FROM immuta.masks k WHERE (k.table_oid, k.column_number) = (r.relation, a.attnum)))
    UNION ALL
    SELECT m.relation, m.column_name, format('"%s" of "%s" is shown as it is by %s, which subscribers may use', m.column_name, m.relation::regclass, b.shown_by),
           'REVOKE that, make views security invokers (from PostgreSQL 15 on), or register and confirm them as data sources.'
    FROM masked m JOIN immuta_internal.masked_shown_by() b ON (b.relation, b.column_number) = (m.relation, m.column_number)
$$;
COMMENT ON FUNCTION immuta_internal.mask_remarks(bigint[], integer) IS 'what tells of masked columns, or fails for them, while tables are as they are';

CREATE FUNCTION immuta_internal.mask_warnings(source_ids bigint[], policy_id integer) RETURNS TABLE (words text, hint text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH masked AS MATERIALIZED (
        SELECT m.* FROM immuta_internal.masked_columns(source_ids) m WHERE mask_warnings.policy_id = ANY (m.policies)
    )
    SELECT r.words, r.hint FROM immuta_internal.mask_remarks(source_ids, mask_warnings.policy_id) r
    UNION ALL
    SELECT format('the mask of "%s" of "%s" is an expression: where it fails for a value, so do queries, and the message can show the value',
                  m.column_name, m.relation::regclass), 'Write it so that it cannot fail.'
    FROM masked m JOIN immuta.masking_policy p ON p.id = mask_warnings.policy_id AND p.method = 'expression' WHERE NOT m.is_computed
    UNION ALL
    SELECT format('masks do not hold for everybody: %s %s', h.object, h.detail), 'REVOKE it, or except these users by the policy.'
    FROM immuta_internal.unmasked_by_hand() h WHERE h.relation IN (SELECT m.relation FROM masked m)
$$;
COMMENT ON FUNCTION immuta_internal.mask_warnings(bigint[], integer) IS 'what an administrator should know of the masks of a policy';
