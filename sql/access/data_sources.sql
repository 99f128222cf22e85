-- Data sources: registered tables, and the event triggers that keep them in step with the schemas.

CREATE FUNCTION immuta.relation_fault(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN c.oid IS NULL THEN 'it does not exist'
        WHEN c.relkind NOT IN ('r', 'p', 'v', 'm', 'f') THEN 'it is neither a table nor a view'
        WHEN c.relpersistence = 't' THEN 'it is temporary'
        WHEN c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace, 'immuta'::regnamespace)
            THEN 'it belongs to the system'
        -- Who reads a partition by its own name meets none of the table's row policies.
        WHEN c.relispartition THEN 'it is a partition: register the partitioned table' END
    FROM (SELECT) one LEFT JOIN pg_class c ON c.oid = relation
$$;
REVOKE ALL ON FUNCTION immuta.relation_fault(oid) FROM PUBLIC;
COMMENT ON FUNCTION immuta.relation_fault(oid) IS 'internal: why a relation cannot be a data source, or NULL';

CREATE FUNCTION immuta.data_source_id(data_source regclass) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id bigint;
BEGIN
    SELECT d.id INTO found_id FROM immuta.data_source d WHERE d.relation = data_source_id.data_source;
    IF found_id IS NULL THEN
        RAISE EXCEPTION '"%" is not a data source', data_source
            USING ERRCODE = 'undefined_object', HINT = 'Register it with immuta.register_data_source() or its schema with immuta.register_schema().';
    END IF;
    RETURN found_id;
END
$$;
REVOKE ALL ON FUNCTION immuta.data_source_id(regclass) FROM PUBLIC;
COMMENT ON FUNCTION immuta.data_source_id(regclass) IS 'internal: id of a data source; 42704 for what is none';

CREATE FUNCTION immuta.clean_tags(tags text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(tags) t WHERE t IS NULL OR octet_length(t) NOT BETWEEN 1 AND 255) THEN
        RAISE EXCEPTION 'tags and groups must have 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN ARRAY(SELECT DISTINCT t COLLATE "C" FROM unnest(tags) t ORDER BY 1);
END
$$;
REVOKE ALL ON FUNCTION immuta.clean_tags(text[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.clean_tags(text[]) IS 'internal: a list of tags or groups in order; 22023 for one that cannot be';

-- Tells the administrator what the system account may not grant.
CREATE FUNCTION immuta.warn_not_granted(what text, object text, detail text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF what = 'not granted' THEN
        RAISE WARNING 'not granted: % on %', detail, object
            USING HINT = 'The owner can GRANT ... TO the system account WITH GRANT OPTION; then run immuta.sync().';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.warn_not_granted(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.warn_not_granted(text, text, text) IS 'internal: a warning for what could not be granted';

CREATE FUNCTION immuta.remove_data_sources(source_ids bigint[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source record;
BEGIN
    FOR source IN
        SELECT d.relation, array_agg(p.id) AS policies, d.row_security_made
        FROM immuta.data_source d JOIN immuta.row_policy p ON p.data_source_id = d.id
        WHERE d.id = ANY (source_ids) GROUP BY d.id
    LOOP
        BEGIN
            PERFORM immuta.remove_row_policies(source.relation, source.policies, source.row_security_made);
        EXCEPTION WHEN insufficient_privilege THEN
            -- They go on hiding rows: nothing is lost by that but convenience.
            RAISE WARNING 'row policies of "%" stay: %', source.relation::regclass, SQLERRM
                USING HINT = 'The owner can drop the policies whose names begin with immuta_row.';
        END;
    END LOOP;
    UPDATE immuta.subscription_policy p SET data_sources = ARRAY(SELECT i FROM unnest(p.data_sources) i WHERE i <> ALL (source_ids))
    WHERE p.data_sources && source_ids;
    DELETE FROM immuta.subscription s WHERE s.data_source_id = ANY (source_ids);
    DELETE FROM immuta.row_policy p WHERE p.data_source_id = ANY (source_ids);
    DELETE FROM immuta.part p WHERE p.data_source_id = ANY (source_ids);
    DELETE FROM immuta.data_source d WHERE d.id = ANY (source_ids);
    RETURN QUERY SELECT * FROM immuta.settle_sources(source_ids);
END
$$;
REVOKE ALL ON FUNCTION immuta.remove_data_sources(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.remove_data_sources(bigint[]) IS 'internal: removes data sources with their subscriptions';

CREATE FUNCTION immuta.registered_relations(relations oid[]) RETURNS TABLE (relation oid, schema_name name, table_name name)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid, n.nspname, c.relname
    FROM immuta.registered_schema r JOIN pg_namespace n ON n.oid = r.namespace JOIN pg_class c ON c.relnamespace = n.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition
      AND (relations IS NULL OR c.oid = ANY (relations))
      AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
      -- One that could not be adopted: sync() takes it up again.
      AND NOT EXISTS (SELECT FROM immuta.data_source d
                      WHERE d.relation IS NULL AND d.schema_name = n.nspname AND d.table_name = c.relname)
$$;
REVOKE ALL ON FUNCTION immuta.registered_relations(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.registered_relations(oid[]) IS 'internal: what belongs to registered schemas now; not partitions, not what came with an extension';

-- What a data source hides by row policies or excluded columns, others can show.

CREATE FUNCTION immuta.guarded_sources() RETURNS TABLE (id bigint, relation oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.id, d.relation FROM immuta.data_source d
    WHERE d.excluded_columns <> '{}' OR EXISTS (SELECT FROM immuta.row_policy p WHERE p.data_source_id = d.id)
$$;
REVOKE ALL ON FUNCTION immuta.guarded_sources() FROM PUBLIC;
COMMENT ON FUNCTION immuta.guarded_sources() IS 'internal: data sources with row policies or excluded columns';

-- Once it is detached, nothing in the catalogs tells whose partition a table was.
CREATE FUNCTION immuta.note_parts(relations oid[]) RETURNS void
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
    FROM below b JOIN immuta.guarded_sources() g ON g.relation = b.parent
    JOIN pg_class c ON c.oid = b.relation JOIN pg_namespace n ON n.oid = c.relnamespace
    ON CONFLICT DO NOTHING;
    UPDATE immuta.part p SET schema_name = n.nspname, table_name = c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = p.relation AND (relations IS NULL OR c.oid = ANY (relations))
      AND (n.nspname, c.relname) <> (p.schema_name, p.table_name)
$$;
REVOKE ALL ON FUNCTION immuta.note_parts(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.note_parts(oid[]) IS 'internal: remembers the partitions and children of guarded data sources; NULL stands for all';

-- A parent shows the rows of its children, and they those of their parent. A view shows what its owner sees, unless it
-- is a security invoker.
CREATE FUNCTION immuta.shown_by(relations oid[]) RETURNS TABLE (relation oid, guarded bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE guarded AS MATERIALIZED (
        SELECT * FROM immuta.guarded_sources()
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
REVOKE ALL ON FUNCTION immuta.shown_by(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.shown_by(oid[]) IS 'internal: of which guarded data sources these relations show what is hidden';

-- NULL stands for all data sources.
CREATE FUNCTION immuta.unconfirmed(relations oid[])
RETURNS TABLE (id bigint, relation oid, held boolean, guarded bigint[], reason text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH source AS MATERIALIZED (
        SELECT * FROM immuta.data_source d WHERE relations IS NULL OR d.relation = ANY (relations)
    )
    SELECT s.id, s.relation, s.held, array_agg(g.id) FILTER (WHERE g.id IS NOT NULL),
           coalesce('it shows what is hidden of '
                    || string_agg(quote_ident(g.schema_name) || '.' || quote_ident(g.table_name), ', ' ORDER BY g.id),
                    'it has the name of a table with row policies or excluded columns')
    FROM source s
    LEFT JOIN immuta.shown_by(ARRAY(SELECT x.relation FROM source x)) b
           ON b.relation = s.relation AND b.guarded <> ALL (s.confirmed)
    LEFT JOIN immuta.data_source g ON g.id = b.guarded
    WHERE s.held OR g.id IS NOT NULL
    GROUP BY s.id, s.relation, s.held
$$;
REVOKE ALL ON FUNCTION immuta.unconfirmed(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.unconfirmed(oid[]) IS 'internal: data sources that an administrator has to confirm, and why';

-- After row policies or excluded columns came.
CREATE FUNCTION immuta.guard(source_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    shown text;
BEGIN
    PERFORM immuta.note_parts(NULL);
    SELECT string_agg(u.relation::regclass::text, ', ' ORDER BY u.relation::regclass::text) INTO shown
    FROM immuta.unconfirmed(NULL) u WHERE source_id = ANY (u.guarded) AND NOT u.held;
    IF shown IS NOT NULL THEN
        RAISE WARNING 'what is hidden here is shown by %', shown
            USING HINT = 'Make views security invokers (from PostgreSQL 15 on), or confirm each: '
                         || 'SELECT immuta.register_data_source(...).';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.guard(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.guard(bigint) IS 'internal: warns of other data sources that show what this one hides';

-- A renamed column stays excluded, and what comes under a name that was excluded is excluded, and what is computed from
-- it.
CREATE FUNCTION immuta.exclusions(relation oid, excluded_columns name[], excluded_numbers smallint[])
RETURNS TABLE (names name[], numbers smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE named AS (
        SELECT a.attname, a.attnum FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
          AND (a.attnum = ANY (excluded_numbers) OR a.attname = ANY (excluded_columns))
    ), shown AS (
        SELECT relation
        UNION
        SELECT i.inhrelid FROM shown s JOIN pg_inherits i ON i.inhparent = s.relation
    ), computed AS (
        -- Since 15 the expression depends on the columns, before the column does. Partitions may compute it otherwise.
        SELECT g.attname
        FROM shown s JOIN pg_attrdef f ON f.adrelid = s.relation
        JOIN pg_attribute g ON g.attrelid = f.adrelid AND g.attnum = f.adnum AND g.attgenerated <> ''
        JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = f.adrelid
         AND ((p.classid, p.objid) = ('pg_attrdef'::regclass::oid, f.oid)
              OR (p.classid, p.objid, p.objsubid) = ('pg_class'::regclass::oid, f.adrelid, f.adnum))
        JOIN pg_attribute b ON b.attrelid = f.adrelid AND b.attnum = p.refobjsubid
        JOIN named e ON e.attname = b.attname
    ), excluded AS (
        SELECT * FROM named
        UNION
        SELECT a.attname, a.attnum FROM pg_attribute a JOIN computed c ON c.attname = a.attname
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    )
    SELECT ARRAY(SELECT unnest(excluded_columns) UNION SELECT e.attname FROM excluded e ORDER BY 1),
           ARRAY(SELECT e.attnum FROM excluded e ORDER BY 1)
$$;
REVOKE ALL ON FUNCTION immuta.exclusions(oid, name[], smallint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.exclusions(oid, name[], smallint[]) IS 'internal: the columns that are excluded by these names and numbers now';

-- Data sources that are no longer what is recorded of them.
CREATE FUNCTION immuta.changed_data_sources(relations oid[])
RETURNS TABLE (id bigint, is_gone boolean, schema_name name, table_name name, excluded_columns name[], excluded_numbers smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.* FROM (
        SELECT d.id,
               -- What could not be adopted stays until its schema is unregistered.
               (d.relation IS NOT NULL AND immuta.relation_fault(c.oid) IS NOT NULL)
               OR d.by_schema AND NOT EXISTS (SELECT FROM immuta.registered_schema r
                                              WHERE r.namespace = c.relnamespace
                                                 OR (r.namespace IS NULL OR d.relation IS NULL) AND r.schema_name = d.schema_name)
                   AS is_gone,
               n.nspname, c.relname, e.names, e.numbers
        FROM immuta.data_source d
        LEFT JOIN pg_class c ON c.oid = d.relation LEFT JOIN pg_namespace n ON n.oid = c.relnamespace,
        LATERAL immuta.exclusions(c.oid, d.excluded_columns, d.excluded_numbers) e
        WHERE relations IS NULL OR d.relation = ANY (relations)) s
    JOIN immuta.data_source d ON d.id = s.id
    WHERE s.is_gone
       OR d.relation IS NOT NULL AND (s.nspname <> d.schema_name OR s.relname <> d.table_name
                                      OR s.names <> d.excluded_columns OR s.numbers <> d.excluded_numbers)
$$;
REVOKE ALL ON FUNCTION immuta.changed_data_sources(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.changed_data_sources(oid[]) IS 'internal: data sources whose relation was renamed, moved or dropped';

CREATE FUNCTION immuta.is_guarded_name(schema_name name, table_name name) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM immuta.guarded_name g
                   WHERE g.schema_name = is_guarded_name.schema_name AND g.table_name = is_guarded_name.table_name)
$$;
REVOKE ALL ON FUNCTION immuta.is_guarded_name(name, name) FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_guarded_name(name, name) IS 'internal: whether a data source of this name had row policies or excluded columns';

-- Brings data sources in step with these relations (NULL: with all), and grants with them.
CREATE FUNCTION immuta.sync_objects(relations oid[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_schema record;
    source record;
    gone bigint[] := '{}';
    changed bigint[] := '{}';
    added oid[] := '{}';
BEGIN
    PERFORM immuta.note_parts(relations);
    FOR found_schema IN
        SELECT r.schema_name AS recorded, r.namespace, n.nspname AS now_named
        FROM immuta.registered_schema r LEFT JOIN pg_namespace n ON n.oid = r.namespace
        WHERE n.nspname IS DISTINCT FROM r.schema_name AND r.namespace IS NOT NULL
    LOOP
        IF found_schema.now_named IS NULL THEN
            DELETE FROM immuta.registered_schema r WHERE r.schema_name = found_schema.recorded;
            UPDATE immuta.subscription_policy p SET schemas = array_remove(p.schemas, found_schema.recorded)
            WHERE found_schema.recorded = ANY (p.schemas);
            DELETE FROM immuta.guarded_name g WHERE g.schema_name = found_schema.recorded;
            RETURN QUERY SELECT 'schema removed', found_schema.recorded::text, NULL;
        ELSE
            UPDATE immuta.registered_schema r SET schema_name = found_schema.now_named WHERE r.namespace = found_schema.namespace;
            UPDATE immuta.subscription_policy p SET schemas = array_replace(p.schemas, found_schema.recorded, found_schema.now_named)
            WHERE found_schema.recorded = ANY (p.schemas);
            UPDATE immuta.guarded_name g SET schema_name = found_schema.now_named
            WHERE g.schema_name = found_schema.recorded;
            RETURN QUERY SELECT 'schema renamed', found_schema.now_named::text, 'was ' || found_schema.recorded;
        END IF;
    END LOOP;
    INSERT INTO immuta.guarded_name
    SELECT d.schema_name, d.table_name
    FROM immuta.changed_data_sources(relations) c JOIN immuta.guarded_sources() g ON g.id = c.id
    JOIN immuta.data_source d ON d.id = c.id JOIN immuta.registered_schema r ON r.schema_name = d.schema_name
    WHERE c.is_gone OR (c.schema_name, c.table_name) <> (d.schema_name, d.table_name)
    ON CONFLICT DO NOTHING;
    FOR source IN
        SELECT c.*, d.schema_name AS old_schema, d.table_name AS old_table,
               (c.schema_name, c.table_name) <> (d.schema_name, d.table_name)
               AND NOT EXISTS (SELECT FROM immuta.guarded_sources() g WHERE g.id = c.id) AS may_be_held
        FROM immuta.changed_data_sources(relations) c JOIN immuta.data_source d ON d.id = c.id ORDER BY c.id
    LOOP
        IF source.is_gone THEN
            gone := gone || source.id;
            RETURN QUERY SELECT 'data source removed', format('%I.%I', source.old_schema, source.old_table), NULL;
        ELSE
            UPDATE immuta.data_source d SET schema_name = source.schema_name, table_name = source.table_name,
                   excluded_columns = source.excluded_columns, excluded_numbers = source.excluded_numbers,
                   held = d.held OR d.by_schema AND source.may_be_held
                                    AND immuta.is_guarded_name(source.schema_name, source.table_name)
            WHERE d.id = source.id;
            changed := changed || source.id;
            RETURN QUERY SELECT 'data source changed', format('%I.%I', source.schema_name, source.table_name),
                                format('was %I.%I', source.old_schema, source.old_table);
        END IF;
    END LOOP;
    FOR source IN
        INSERT INTO immuta.data_source AS d (schema_name, table_name, by_schema, held)
        SELECT r.schema_name, r.table_name, true, immuta.is_guarded_name(r.schema_name, r.table_name)
        FROM immuta.registered_relations(relations) r
        WHERE NOT EXISTS (SELECT FROM immuta.data_source o WHERE o.relation = r.relation)
        RETURNING d.id, d.relation, d.schema_name, d.table_name
    LOOP
        changed := changed || source.id;
        added := added || source.relation;
        RETURN QUERY SELECT 'data source added', format('%I.%I', source.schema_name, source.table_name), NULL;
    END LOOP;
    -- Held is what is new, and what may have become another one: a view, and a table that got a guarded one as a part,
    -- which is no data source any more. Of tables that were there before it is told.
    FOR source IN
        SELECT u.id, u.relation, u.reason,
               u.held OR u.relation = ANY (added) OR c.relkind IN ('v', 'm') OR u.guarded && gone AS held
        FROM immuta.unconfirmed(coalesce(relations, '{}') || added) u JOIN pg_class c ON c.oid = u.relation
        WHERE u.id <> ALL (gone)
    LOOP
        UPDATE immuta.data_source d SET held = source.held WHERE d.id = source.id;
        RAISE WARNING 'data source "%" is not confirmed: %', source.relation::regclass, source.reason
            USING HINT = CASE WHEN source.held THEN 'Nobody is granted it before an administrator confirms it'
                              ELSE 'An administrator has to confirm it' END
                         || ': SELECT immuta.register_data_source(...).';
        RETURN QUERY SELECT 'not confirmed', source.relation::regclass::text, source.reason;
    END LOOP;
    IF gone <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta.remove_data_sources(gone);
    END IF;
    -- Columns and sequences may be other ones.
    changed := changed || ARRAY(SELECT d.id FROM immuta.data_source d WHERE d.relation = ANY (relations));
    IF changed <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta.settle_sources(changed);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.sync_objects(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.sync_objects(oid[]) IS 'internal: brings data sources in step with relations';

CREATE FUNCTION immuta.is_out_of_step(relations oid[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM immuta.changed_data_sources(relations))
        OR EXISTS (SELECT FROM immuta.registered_relations(relations) r
                   WHERE NOT EXISTS (SELECT FROM immuta.data_source d WHERE d.relation = r.relation))
        OR EXISTS (SELECT FROM immuta.registered_schema r LEFT JOIN pg_namespace n ON n.oid = r.namespace
                   WHERE n.nspname IS DISTINCT FROM r.schema_name AND r.namespace IS NOT NULL)
        OR EXISTS (SELECT FROM immuta.unconfirmed(relations) u WHERE NOT u.held)
        OR EXISTS (WITH touched AS (SELECT array_agg(d.id) AS ids FROM immuta.data_source d WHERE d.relation = ANY (relations)),
                   wanted AS (SELECT w.* FROM touched t, LATERAL immuta.wanted_grants(t.ids, NULL) w WHERE t.ids IS NOT NULL),
                   made AS (SELECT g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege
                            FROM touched t JOIN immuta.grant_made g ON g.data_source_id = ANY (t.ids))
                   (SELECT * FROM wanted EXCEPT SELECT * FROM made) UNION ALL (SELECT * FROM made EXCEPT SELECT * FROM wanted))
$$;
REVOKE ALL ON FUNCTION immuta.is_out_of_step(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_out_of_step(oid[]) IS 'internal: whether there is anything to do after DDL on these relations';

-- Registration.

CREATE FUNCTION immuta.register_data_source(data_source regclass, tags text[] = NULL, exclude_columns name[] = NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fault text := immuta.relation_fault(data_source);
    unknown name;
    source_id bigint;
    shown text;
BEGIN
    IF data_source IS NULL THEN
        RAISE EXCEPTION 'data_source must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION '"%" cannot be a data source: %', data_source, fault
            USING ERRCODE = 'wrong_object_type', HINT = 'Tables, partitioned tables, views, materialized views and foreign tables can be registered.';
    END IF;
    SELECT e INTO unknown FROM unnest(exclude_columns) e
    WHERE e IS NULL OR NOT EXISTS (SELECT FROM pg_attribute a
                                   WHERE a.attrelid = data_source AND a.attname = e AND a.attnum > 0 AND NOT a.attisdropped);
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of "%" does not exist', coalesce(unknown, 'NULL'), data_source USING ERRCODE = 'undefined_column';
    END IF;
    PERFORM immuta.lock_connection();
    SELECT d.id INTO source_id FROM immuta.data_source d WHERE d.relation = register_data_source.data_source;
    IF NOT FOUND THEN
        INSERT INTO immuta.data_source AS d (schema_name, table_name)
        SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = register_data_source.data_source
        RETURNING d.id INTO source_id;
    END IF;
    PERFORM immuta.note_parts(ARRAY[register_data_source.data_source::oid]);
    SELECT u.reason INTO shown FROM immuta.unconfirmed(ARRAY[register_data_source.data_source::oid]) u
    WHERE u.guarded IS NOT NULL;
    IF FOUND THEN
        RAISE WARNING 'who may read "%" is not restricted by that: %', data_source, shown
            USING HINT = 'From PostgreSQL 15 on a view with security_invoker shows each user what he may see himself.';
    END IF;
    DELETE FROM immuta.guarded_name g USING immuta.data_source d
    WHERE d.id = source_id AND g.schema_name = d.schema_name AND g.table_name = d.table_name;
    UPDATE immuta.data_source d
    SET by_schema = false, held = false,
        confirmed = ARRAY(SELECT b.guarded FROM immuta.shown_by(ARRAY[register_data_source.data_source::oid]) b),
        tags = coalesce(immuta.clean_tags(register_data_source.tags), d.tags),
        excluded_columns = CASE WHEN exclude_columns IS NULL THEN d.excluded_columns ELSE e.names END,
        excluded_numbers = CASE WHEN exclude_columns IS NULL THEN d.excluded_numbers ELSE e.numbers END
    FROM immuta.exclusions(register_data_source.data_source, exclude_columns, '{}') e
    WHERE d.id = source_id;
    IF exclude_columns <> '{}' THEN
        PERFORM immuta.guard(source_id);
    END IF;
    PERFORM immuta.warn_not_granted(s.what, s.object, s.detail) FROM immuta.settle_sources(ARRAY[source_id]) s;
END
$$;
REVOKE ALL ON FUNCTION immuta.register_data_source(regclass, text[], name[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.register_data_source(regclass, text[], name[]) TO immuta_admin;
COMMENT ON FUNCTION immuta.register_data_source(regclass, text[], name[]) IS 'makes a table or view a data source, or changes its tags and the columns that no subscription reaches';

CREATE FUNCTION immuta.unregister_data_source(data_source regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source_id bigint;
BEGIN
    PERFORM immuta.lock_connection();
    SELECT d.id INTO source_id FROM immuta.data_source d WHERE d.relation = unregister_data_source.data_source;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM immuta.registered_relations(ARRAY[unregister_data_source.data_source::oid])) THEN
        RAISE EXCEPTION '"%" is a data source because its schema is registered', data_source
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Use immuta.unregister_schema().';
    END IF;
    PERFORM FROM immuta.remove_data_sources(ARRAY[source_id]);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.unregister_data_source(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unregister_data_source(regclass) TO immuta_admin;
COMMENT ON FUNCTION immuta.unregister_data_source(regclass) IS 'ends a data source with all its subscriptions; whether it was one';

CREATE FUNCTION immuta.register_schema(schema_name name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = register_schema.schema_name) THEN
        RAISE EXCEPTION 'schema "%" does not exist', schema_name USING ERRCODE = 'invalid_schema_name';
    END IF;
    IF register_schema.schema_name ~ '^pg_' OR register_schema.schema_name IN ('information_schema', 'immuta') THEN
        RAISE EXCEPTION 'schema "%" cannot be registered: it belongs to the system', schema_name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM immuta.lock_connection();
    INSERT INTO immuta.registered_schema (schema_name) VALUES (register_schema.schema_name) ON CONFLICT DO NOTHING;
    PERFORM immuta.warn_not_granted(s.what, s.object, s.detail) FROM immuta.sync_objects(NULL) s;
END
$$;
REVOKE ALL ON FUNCTION immuta.register_schema(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.register_schema(name) TO immuta_admin;
COMMENT ON FUNCTION immuta.register_schema(name) IS 'makes all tables and views of a schema data sources, those to come included';

CREATE FUNCTION immuta.unregister_schema(schema_name name) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.lock_connection();
    DELETE FROM immuta.registered_schema r WHERE r.schema_name = unregister_schema.schema_name;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM immuta.guarded_name g WHERE g.schema_name = unregister_schema.schema_name;
    UPDATE immuta.subscription_policy p SET schemas = array_remove(p.schemas, unregister_schema.schema_name)
    WHERE unregister_schema.schema_name = ANY (p.schemas);
    PERFORM FROM immuta.sync_objects(NULL);
    PERFORM immuta.warn_not_granted(s.what, s.object, s.detail) FROM immuta.settle_sources(NULL) s;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.unregister_schema(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unregister_schema(name) TO immuta_admin;
COMMENT ON FUNCTION immuta.unregister_schema(name) IS 'ends the data sources that were registered with this schema; whether it was registered';

CREATE FUNCTION immuta.change_tags(data_source regclass, added text[], removed text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source_id bigint;
BEGIN
    PERFORM immuta.lock_connection();
    source_id := immuta.data_source_id(change_tags.data_source);
    UPDATE immuta.data_source d
    SET tags = immuta.clean_tags(ARRAY(SELECT t FROM unnest(d.tags || added) t WHERE t <> ALL (removed)))
    WHERE d.id = source_id;
    PERFORM immuta.warn_not_granted(s.what, s.object, s.detail) FROM immuta.settle_sources(ARRAY[source_id]) s;
END
$$;
REVOKE ALL ON FUNCTION immuta.change_tags(regclass, text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.change_tags(regclass, text[], text[]) IS 'internal: changes the tags of a data source';

CREATE FUNCTION immuta.tag_data_source(data_source regclass, VARIADIC tags text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta.change_tags(data_source, tags, '{}') $$;
REVOKE ALL ON FUNCTION immuta.tag_data_source(regclass, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.tag_data_source(regclass, text[]) TO immuta_admin;
COMMENT ON FUNCTION immuta.tag_data_source(regclass, text[]) IS 'adds tags to a data source';

CREATE FUNCTION immuta.untag_data_source(data_source regclass, VARIADIC tags text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta.change_tags(data_source, '{}', tags) $$;
REVOKE ALL ON FUNCTION immuta.untag_data_source(regclass, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.untag_data_source(regclass, text[]) TO immuta_admin;
COMMENT ON FUNCTION immuta.untag_data_source(regclass, text[]) IS 'takes tags from a data source';

-- What an administrator sees.

CREATE FUNCTION immuta.data_source_state(data_source_id bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN c.oid IS NULL THEN 'missing'
        WHEN a.role IS NULL THEN 'no system account'
        WHEN d.held THEN 'not confirmed: ' || (SELECT u.reason FROM immuta.unconfirmed(ARRAY[c.oid]) u)
        WHEN p.refused IS NULL THEN 'ok'
        ELSE CASE WHEN p.readable THEN 'read only' ELSE 'not grantable' END || ': no grant option for ' || p.refused END
    FROM immuta.data_source d
    LEFT JOIN pg_class c ON c.oid = d.relation
    LEFT JOIN (SELECT r.oid AS role FROM immuta.system_account s JOIN pg_roles r ON r.oid = s.role) a ON true
    LEFT JOIN LATERAL (
        SELECT bool_and(g.ok) FILTER (WHERE g.access = 'READ') AS readable,
               string_agg(g.privilege, ', ' ORDER BY g.place, g.privilege) FILTER (WHERE NOT g.ok) AS refused
        FROM (SELECT 0 AS place, 'READ' AS access, 'USAGE of the schema' AS privilege,
                     immuta.is_grantable(a.role, 's', c.relnamespace, 0::smallint, 'USAGE') AS ok
              UNION ALL
              SELECT CASE k.access WHEN 'READ' THEN 1 ELSE 2 END, k.access, k.privilege,
                     CASE WHEN d.excluded_columns = '{}' OR k.privilege IN ('DELETE', 'TRUNCATE')
                          THEN immuta.is_grantable(a.role, 'r', c.oid, 0::smallint, k.privilege)
                          ELSE NOT EXISTS (SELECT FROM pg_attribute t
                                           WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
                                             AND t.attnum <> ALL (d.excluded_numbers)
                                             AND NOT immuta.is_grantable(a.role, 'r', c.oid, t.attnum, k.privilege)) END
              FROM immuta.privileges_of_kind(c.relkind) k) g) p ON a.role IS NOT NULL
    WHERE d.id = data_source_id
$$;
REVOKE ALL ON FUNCTION immuta.data_source_state(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.data_source_state(bigint) TO immuta_admin;
COMMENT ON FUNCTION immuta.data_source_state(bigint) IS 'internal: what the system account may grant on a data source';

-- The views are for administrators, whatever else a role may read.
CREATE VIEW immuta.data_sources AS
SELECT coalesce(pg_catalog.host(pg_catalog.inet_server_addr()), 'local') AS host,
       pg_catalog.current_database() AS database_name, d.schema_name, d.table_name,
       CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                      WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' END AS kind,
       pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
             WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS columns,
       d.excluded_columns, d.tags, d.by_schema,
       immuta.data_source_state(d.id) AS state
FROM immuta.data_source d LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.relation
WHERE pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY d.schema_name, d.table_name;
REVOKE ALL ON immuta.data_sources FROM PUBLIC;
GRANT SELECT ON immuta.data_sources TO immuta_admin;
COMMENT ON VIEW immuta.data_sources IS 'what users can be subscribed to, and whether the system account may grant it';

CREATE VIEW immuta.data_source_tree AS
SELECT level, pg_catalog.repeat('  ', level - 1) || path[level] AS tree, kind, path
FROM (SELECT DISTINCT 1 AS level, 'host' AS kind, ARRAY[s.host] AS path FROM immuta.data_sources s
      UNION ALL
      SELECT DISTINCT 2, 'database', ARRAY[s.host, s.database_name::text] FROM immuta.data_sources s
      UNION ALL
      SELECT DISTINCT 3, 'schema', ARRAY[s.host, s.database_name::text, s.schema_name::text] FROM immuta.data_sources s
      UNION ALL
      SELECT 4, s.kind, ARRAY[s.host, s.database_name::text, s.schema_name::text, s.table_name::text] FROM immuta.data_sources s) t
ORDER BY path;
REVOKE ALL ON immuta.data_source_tree FROM PUBLIC;
GRANT SELECT ON immuta.data_source_tree TO immuta_admin;
COMMENT ON VIEW immuta.data_source_tree IS 'data sources as a tree: host, database, schema, table';

CREATE FUNCTION immuta.registered_schemas() RETURNS TABLE (schema_name name, registered_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT r.schema_name, r.registered_at FROM immuta.registered_schema r ORDER BY r.schema_name $$;
REVOKE ALL ON FUNCTION immuta.registered_schemas() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.registered_schemas() TO immuta_admin;
COMMENT ON FUNCTION immuta.registered_schemas() IS 'schemas all of whose tables are data sources';
