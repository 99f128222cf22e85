-- Data sources in step with the relations of the database.

CREATE FUNCTION immuta_internal.schema_changes() RETURNS TABLE (namespace oid, recorded name, now_named name)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.namespace, r.schema_name, n.nspname
    FROM immuta.registered_schema r LEFT JOIN pg_namespace n ON n.oid = r.namespace
    WHERE r.namespace IS NOT NULL AND n.nspname IS DISTINCT FROM r.schema_name
$$;
COMMENT ON FUNCTION immuta_internal.schema_changes() IS 'registered schemas that were renamed, or dropped: then without a name now';

-- NULL stands for all relations. What could not be adopted stays until its schema is unregistered.
CREATE FUNCTION immuta_internal.data_source_changes(relations oid[])
RETURNS TABLE (phase integer, id bigint, relation oid, old_schema name, old_table name,
               schema_name name, table_name name, excluded_columns name[], excluded_numbers smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN s.is_gone THEN 1 ELSE 2 END, s.id, s.relation, s.schema_name, s.table_name, s.nspname, s.relname, s.names, s.numbers
    FROM (SELECT d.*, n.nspname, c.relname, e.names, e.numbers,
                 d.relation IS NOT NULL AND immuta_internal.relation_fault(c.oid) IS NOT NULL
                 OR d.by_schema AND NOT EXISTS (SELECT FROM immuta.registered_schema r
                                                WHERE r.namespace = c.relnamespace
                                                   OR (r.namespace IS NULL OR d.relation IS NULL) AND r.schema_name = d.schema_name)
                 AS is_gone
          FROM immuta.data_source d
          LEFT JOIN pg_class c ON c.oid = d.relation LEFT JOIN pg_namespace n ON n.oid = c.relnamespace,
          LATERAL immuta_internal.exclusions(c.oid, d.excluded_columns, d.excluded_numbers) e
          WHERE relations IS NULL OR d.relation = ANY (relations)) s
    WHERE s.is_gone
       OR s.relation IS NOT NULL AND (s.nspname <> s.schema_name OR s.relname <> s.table_name
                                      OR s.names <> s.excluded_columns OR s.numbers <> s.excluded_numbers)
    UNION ALL
    SELECT 3, NULL, u.relation, NULL, NULL, u.schema_name, u.table_name, '{}', '{}'
    FROM immuta_internal.unregistered_relations(relations) u
$$;
COMMENT ON FUNCTION immuta_internal.data_source_changes(oid[]) IS 'data sources that are gone (phase 1), no longer what is recorded of them (2), or to be added with their schema (3)';

CREATE FUNCTION immuta_internal.is_out_of_step(relations oid[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM immuta_internal.schema_changes())
        OR EXISTS (SELECT FROM immuta_internal.data_source_changes(relations))
        OR EXISTS (SELECT FROM immuta_internal.unconfirmed(relations) u WHERE NOT u.held)
        OR EXISTS (SELECT FROM (SELECT array_agg(d.id) AS ids FROM immuta.data_source d WHERE d.relation = ANY (relations)) t,
                   LATERAL (SELECT FROM immuta_internal.column_changes(t.ids)
                            UNION ALL SELECT FROM immuta_internal.mask_changes(t.ids)
                            UNION ALL SELECT FROM immuta_internal.grant_changes(t.ids, NULL)) c WHERE t.ids IS NOT NULL)
$$;
COMMENT ON FUNCTION immuta_internal.is_out_of_step(oid[]) IS 'whether there is anything to do after DDL on these relations';

CREATE FUNCTION immuta_internal.remove_data_sources(source_ids bigint[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relations oid[];
    policies integer[];
    made_for oid[];
    relation oid;
BEGIN
    SELECT array_agg(DISTINCT d.relation), array_agg(p.id), array_agg(d.relation) FILTER (WHERE d.row_security_made)
    INTO relations, policies, made_for
    FROM immuta.data_source d JOIN immuta.row_policy p ON p.data_source_id = d.id WHERE d.id = ANY (source_ids);
    UPDATE immuta.subscription_policy p SET data_sources = ARRAY(SELECT i FROM unnest(p.data_sources) i WHERE i <> ALL (source_ids))
    WHERE p.data_sources && source_ids;
    DELETE FROM immuta.subscription s WHERE s.data_source_id = ANY (source_ids);
    DELETE FROM immuta.row_policy p WHERE p.data_source_id = ANY (source_ids);
    DELETE FROM immuta.part p WHERE p.data_source_id = ANY (source_ids);
    DELETE FROM immuta.named_column n WHERE n.data_source_id = ANY (source_ids);
    DELETE FROM immuta.masks k USING immuta.data_source d WHERE d.id = ANY (source_ids) AND k.table_oid = d.relation;
    DELETE FROM immuta.data_source d WHERE d.id = ANY (source_ids);
    -- Last: this is DDL, after which what is still there and should not be would be removed again.
    FOREACH relation IN ARRAY coalesce(relations, '{}')
    LOOP
        BEGIN
            PERFORM immuta_internal.remove_row_policies(relation, policies, relation = ANY (coalesce(made_for, '{}')));
        EXCEPTION WHEN insufficient_privilege THEN
            -- They go on hiding rows, which is safe.
            RAISE WARNING 'row policies of "%" stay: %', relation::regclass, SQLERRM
                USING HINT = 'The owner can drop the policies whose names begin with immuta_row.';
        END;
    END LOOP;
    RETURN QUERY SELECT * FROM immuta_internal.settle_sources(source_ids);
END
$$;
COMMENT ON FUNCTION immuta_internal.remove_data_sources(bigint[]) IS 'removes data sources with their subscriptions';

CREATE FUNCTION immuta_internal.follow_schemas() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step record;
BEGIN
    FOR step IN SELECT * FROM immuta_internal.schema_changes()
    LOOP
        IF step.now_named IS NULL THEN
            PERFORM immuta_internal.forget_schema(step.recorded);
            RETURN QUERY SELECT 'schema removed', step.recorded::text, NULL;
        ELSE
            UPDATE immuta.registered_schema r SET schema_name = step.now_named WHERE r.namespace = step.namespace;
            UPDATE immuta.subscription_policy p SET schemas = array_replace(p.schemas, step.recorded, step.now_named)
            WHERE step.recorded = ANY (p.schemas);
            UPDATE immuta.guarded_name g SET schema_name = step.now_named WHERE g.schema_name = step.recorded;
            RETURN QUERY SELECT 'schema renamed', step.now_named::text, 'was ' || step.recorded;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.follow_schemas() IS 'registered schemas follow those of the database';

CREATE FUNCTION immuta_internal.forget_schema(forgotten name) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.registered_schema r WHERE r.schema_name = forgotten;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM immuta.guarded_name g WHERE g.schema_name = forgotten;
    UPDATE immuta.subscription_policy p SET schemas = array_remove(p.schemas, forgotten) WHERE forgotten = ANY (p.schemas);
    RETURN true;
END
$$;
COMMENT ON FUNCTION immuta_internal.forget_schema(name) IS 'a schema is no longer registered; whether it was';

-- What takes the name of a data source that hides something is held: the names are noted first.
CREATE FUNCTION immuta_internal.follow_data_sources(relations oid[])
RETURNS TABLE (phase integer, id bigint, relation oid, now_named text, recorded text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step record;
BEGIN
    INSERT INTO immuta.guarded_name
    SELECT c.old_schema, c.old_table
    FROM immuta_internal.data_source_changes(relations) c JOIN immuta_internal.guarded_sources() g ON g.id = c.id
    JOIN immuta.registered_schema r ON r.schema_name = c.old_schema
    WHERE c.phase = 1 OR (c.schema_name, c.table_name) <> (c.old_schema, c.old_table)
    ON CONFLICT DO NOTHING;
    FOR step IN
        SELECT c.*, (c.schema_name, c.table_name) <> (c.old_schema, c.old_table)
                    AND NOT EXISTS (SELECT FROM immuta_internal.guarded_sources() g WHERE g.id = c.id) AS may_be_held
        FROM immuta_internal.data_source_changes(relations) c ORDER BY c.phase = 3, c.id
    LOOP
        IF step.phase = 2 THEN
            UPDATE immuta.data_source d SET schema_name = step.schema_name, table_name = step.table_name,
                   excluded_columns = step.excluded_columns, excluded_numbers = step.excluded_numbers,
                   held = d.held OR d.by_schema AND step.may_be_held
                                    AND immuta_internal.is_guarded_name(step.schema_name, step.table_name)
            WHERE d.id = step.id;
        ELSIF step.phase = 3 THEN
            INSERT INTO immuta.data_source AS d (schema_name, table_name, by_schema, held)
            VALUES (step.schema_name, step.table_name, true, immuta_internal.is_guarded_name(step.schema_name, step.table_name))
            RETURNING d.id, d.relation INTO step.id, step.relation;
        END IF;
        RETURN QUERY SELECT step.phase, step.id, step.relation, quote_ident(step.schema_name) || '.' || quote_ident(step.table_name),
                            quote_ident(step.old_schema) || '.' || quote_ident(step.old_table);
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.follow_data_sources(oid[]) IS 'does what the plan says but for removing what is gone, and returns it';

-- New ones are held, and those that may have become something else: views, and tables that took in a guarded one, which is
-- then no longer a data source. For other tables that were there before there is only the warning.
CREATE FUNCTION immuta_internal.hold_unconfirmed(relations oid[], added oid[], gone bigint[])
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source record;
BEGIN
    FOR source IN
        SELECT u.id, u.relation, u.reason,
               u.held OR u.relation = ANY (added) OR c.relkind IN ('v', 'm') OR u.guarded && gone AS held
        FROM immuta_internal.unconfirmed(coalesce(relations, '{}') || added) u JOIN pg_class c ON c.oid = u.relation
        WHERE u.id <> ALL (gone)
    LOOP
        UPDATE immuta.data_source d SET held = source.held WHERE d.id = source.id;
        RAISE WARNING 'data source "%" is not confirmed: %', source.relation::regclass, source.reason
            USING HINT = CASE WHEN source.held THEN 'Nobody is granted it before an administrator confirms it'
                              ELSE 'An administrator has to confirm it' END
                         || ': SELECT immuta.register_data_source(...).';
        RETURN QUERY SELECT 'not confirmed', source.relation::regclass::text, source.reason;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.hold_unconfirmed(oid[], oid[], bigint[]) IS 'warns of data sources that show what is hidden elsewhere, and holds those that could be new';

-- NULL stands for all relations.
CREATE FUNCTION immuta_internal.sync_objects(relations oid[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step record;
    gone bigint[] := '{}';
    changed bigint[] := '{}';
    added oid[] := '{}';
BEGIN
    PERFORM immuta_internal.note_parts(relations);
    RETURN QUERY SELECT * FROM immuta_internal.follow_schemas();
    FOR step IN SELECT * FROM immuta_internal.follow_data_sources(relations)
    LOOP
        CASE step.phase
        WHEN 1 THEN
            gone := gone || step.id;
            RETURN QUERY SELECT 'data source removed', step.recorded, NULL;
        WHEN 2 THEN
            changed := changed || step.id;
            RETURN QUERY SELECT 'data source changed', step.now_named, 'was ' || step.recorded;
        ELSE
            changed := changed || step.id;
            added := added || step.relation;
            RETURN QUERY SELECT 'data source added', step.now_named, NULL;
        END CASE;
    END LOOP;
    RETURN QUERY SELECT * FROM immuta_internal.hold_unconfirmed(relations, added, gone);
    IF gone <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta_internal.remove_data_sources(gone);
    END IF;
    -- Their columns and sequences may have changed.
    changed := changed || ARRAY(SELECT d.id FROM immuta.data_source d WHERE d.relation = ANY (relations));
    IF changed <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta_internal.settle_sources(changed);
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.sync_objects(oid[]) IS 'brings data sources in step with relations, and grants with them';
