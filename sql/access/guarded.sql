-- What a data source hides by row policies, exclusion or masks, others can show.

CREATE FUNCTION immuta_internal.guarded_sources() RETURNS TABLE (id bigint, relation oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.id, d.relation FROM immuta.data_source d
    WHERE d.excluded_columns <> '{}' OR EXISTS (SELECT FROM immuta.row_policy p WHERE p.data_source_id = d.id)
       OR EXISTS (SELECT FROM immuta.masks k WHERE k.table_oid = d.relation)
$$;
COMMENT ON FUNCTION immuta_internal.guarded_sources() IS 'data sources with row policies, or with excluded or masked columns';

-- Once it is detached, the catalogs do not show whose partition a table was.
CREATE FUNCTION immuta_internal.note_parts(relations oid[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE below AS (
        SELECT i.inhrelid AS relation, i.inhparent AS parent FROM pg_inherits i
        WHERE relations IS NULL OR i.inhrelid = ANY (relations)
        UNION
        SELECT b.relation, i.inhparent FROM below b JOIN pg_inherits i ON i.inhrelid = b.parent
    )
    INSERT INTO immuta.part (data_source_id, schema_name, table_name)
    SELECT g.id, n.nspname, c.relname
    FROM below b JOIN immuta_internal.guarded_sources() g ON g.relation = b.parent
    JOIN pg_class c ON c.oid = b.relation JOIN pg_namespace n ON n.oid = c.relnamespace
    ON CONFLICT DO NOTHING;
    UPDATE immuta.part p SET schema_name = n.nspname, table_name = c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = p.relation AND (relations IS NULL OR c.oid = ANY (relations))
      AND (n.nspname, c.relname) <> (p.schema_name, p.table_name)
$$;
COMMENT ON FUNCTION immuta_internal.note_parts(oid[]) IS 'remembers the partitions and children of guarded data sources; NULL stands for all';

-- A parent shows the rows of its children, and children show rows of their parent. A view shows what its owner sees, unless it
-- is a security invoker.
CREATE FUNCTION immuta_internal.shown_by(relations oid[]) RETURNS TABLE (relation oid, guarded bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE guarded AS MATERIALIZED (
        SELECT * FROM immuta_internal.guarded_sources()
    ), shows AS (
        SELECT c.oid AS relation, c.oid AS object FROM pg_class c
        WHERE c.oid = ANY (relations) AND EXISTS (SELECT FROM guarded)
          AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o
                          WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
        UNION
        SELECT s.relation, o.object
        FROM shows s, LATERAL (
            SELECT p.refobjid AS object FROM pg_rewrite w JOIN pg_depend p
              ON p.classid = 'pg_rewrite'::regclass AND p.objid = w.oid AND p.refclassid = 'pg_class'::regclass
            WHERE w.ev_class = s.object
            UNION ALL
            SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = s.object) o
    )
    SELECT s.relation, g.id FROM shows s JOIN guarded g ON g.relation = s.object WHERE g.relation <> s.relation
    UNION
    SELECT s.relation, g.id
    FROM shows s JOIN immuta.part p ON p.relation = s.object JOIN guarded g ON g.id = p.data_source_id
    WHERE g.relation <> s.relation
$$;
COMMENT ON FUNCTION immuta_internal.shown_by(oid[]) IS 'of which guarded data sources these relations show what is hidden';

-- NULL stands for all data sources.
CREATE FUNCTION immuta_internal.unconfirmed(relations oid[])
RETURNS TABLE (id bigint, relation oid, held boolean, guarded bigint[], reason text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH source AS MATERIALIZED (
        SELECT * FROM immuta.data_source d WHERE relations IS NULL OR d.relation = ANY (relations)
    )
    SELECT s.id, s.relation, s.held, array_agg(g.id) FILTER (WHERE g.id IS NOT NULL),
           coalesce('it shows what is hidden of '
                    || string_agg(quote_ident(g.schema_name) || '.' || quote_ident(g.table_name), ', ' ORDER BY g.id),
                    'it has the name of a table with row policies, or with excluded or masked columns')
    FROM source s
    LEFT JOIN immuta_internal.shown_by(ARRAY(SELECT x.relation FROM source x)) b
           ON b.relation = s.relation AND b.guarded <> ALL (s.confirmed)
    LEFT JOIN immuta.data_source g ON g.id = b.guarded
    WHERE s.held OR g.id IS NOT NULL
    GROUP BY s.id, s.relation, s.held
$$;
COMMENT ON FUNCTION immuta_internal.unconfirmed(oid[]) IS 'data sources that an administrator has to confirm, and why';

-- After row policies, exclusions or masks were added.
CREATE FUNCTION immuta_internal.guard(source_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    shown text;
BEGIN
    PERFORM immuta_internal.note_parts(NULL);
    SELECT string_agg(u.relation::regclass::text, ', ' ORDER BY u.relation::regclass::text) INTO shown
    FROM immuta_internal.unconfirmed(NULL) u WHERE source_id = ANY (u.guarded) AND NOT u.held;
    IF shown IS NOT NULL THEN
        RAISE WARNING 'what is hidden here is shown by %', shown
            USING HINT = 'Make views security invokers (from PostgreSQL 15 on), or confirm each: '
                         || 'SELECT immuta.register_data_source(...).';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.guard(bigint) IS 'warns of other data sources that show what this one hides';

-- Since 15 the expression depends on the columns, before the column does. Partitions may compute it otherwise.
CREATE FUNCTION immuta_internal.computed_columns(relation oid, names name[]) RETURNS TABLE (column_name name, sources name[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE shown AS (
        SELECT relation
        UNION
        SELECT i.inhrelid FROM shown s JOIN pg_inherits i ON i.inhparent = s.relation
    )
    SELECT g.attname, array_agg(DISTINCT b.attname)
    FROM shown s JOIN pg_attrdef f ON f.adrelid = s.relation
    JOIN pg_attribute g ON g.attrelid = f.adrelid AND g.attnum = f.adnum AND g.attgenerated <> ''
    JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = f.adrelid
     AND ((p.classid, p.objid) = ('pg_attrdef'::regclass::oid, f.oid)
          OR (p.classid, p.objid, p.objsubid) = ('pg_class'::regclass::oid, f.adrelid, f.adnum))
    JOIN pg_attribute b ON b.attrelid = f.adrelid AND b.attnum = p.refobjsubid AND b.attname = ANY (names)
    WHERE b.attnum <> g.attnum
    GROUP BY g.attname
$$;
COMMENT ON FUNCTION immuta_internal.computed_columns(oid, name[]) IS 'columns that are generated from these, and from which of them';

-- A renamed column stays excluded. So is a new column with a name that was excluded, and whatever is computed from one.
CREATE FUNCTION immuta_internal.exclusions(relation oid, excluded_columns name[], excluded_numbers smallint[])
RETURNS TABLE (names name[], numbers smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH named AS (
        SELECT a.attname, a.attnum FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
          AND (a.attnum = ANY (excluded_numbers) OR a.attname = ANY (excluded_columns))
    ), excluded AS (
        SELECT * FROM named
        UNION
        SELECT a.attname, a.attnum
        FROM immuta_internal.computed_columns(relation, ARRAY(SELECT e.attname FROM named e)) c JOIN pg_attribute a ON a.attname = c.column_name
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    )
    SELECT ARRAY(SELECT unnest(excluded_columns) UNION SELECT e.attname FROM excluded e ORDER BY 1),
           ARRAY(SELECT e.attnum FROM excluded e ORDER BY 1)
$$;
COMMENT ON FUNCTION immuta_internal.exclusions(oid, name[], smallint[]) IS 'the columns that are excluded by these names and numbers now';

CREATE FUNCTION immuta_internal.is_guarded_name(schema_name name, table_name name) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM immuta.guarded_name g
                   WHERE g.schema_name = is_guarded_name.schema_name AND g.table_name = is_guarded_name.table_name)
$$;
COMMENT ON FUNCTION immuta_internal.is_guarded_name(name, name) IS 'whether a data source of this name had row policies, or excluded or masked columns';
