-- Data sources in step with the relations of the database.

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
