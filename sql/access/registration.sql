-- Registering data sources, and what an administrator sees of them.

CREATE FUNCTION immuta.register_data_source(data_source regclass, tags text[] = NULL, exclude_columns name[] = NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fault text := immuta_internal.relation_fault(data_source);
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
    PERFORM immuta_internal.catch_up();
    SELECT d.id INTO source_id FROM immuta.data_source d WHERE d.relation = register_data_source.data_source;
    IF NOT FOUND THEN
        INSERT INTO immuta.data_source AS d (schema_name, table_name)
        SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = register_data_source.data_source
        RETURNING d.id INTO source_id;
    END IF;
    PERFORM immuta_internal.note_parts(ARRAY[register_data_source.data_source::oid]);
    SELECT u.reason INTO shown FROM immuta_internal.unconfirmed(ARRAY[register_data_source.data_source::oid]) u
    WHERE u.guarded IS NOT NULL;
    IF FOUND THEN
        RAISE WARNING 'readers of "%" are not restricted by row policies and excluded columns: %', data_source, shown
            USING HINT = 'From PostgreSQL 15 on a view with security_invoker shows each user only what they may see themselves.';
    END IF;
    DELETE FROM immuta.guarded_name g USING immuta.data_source d
    WHERE d.id = source_id AND g.schema_name = d.schema_name AND g.table_name = d.table_name;
    UPDATE immuta.data_source d
    SET by_schema = false, held = false,
        confirmed = ARRAY(SELECT b.guarded FROM immuta_internal.shown_by(ARRAY[register_data_source.data_source::oid]) b),
        tags = coalesce(immuta_internal.clean_tags(register_data_source.tags), d.tags),
        excluded_columns = CASE WHEN exclude_columns IS NULL THEN d.excluded_columns ELSE e.names END,
        excluded_numbers = CASE WHEN exclude_columns IS NULL THEN d.excluded_numbers ELSE e.numbers END
    FROM immuta_internal.exclusions(register_data_source.data_source, exclude_columns, '{}') e
    WHERE d.id = source_id;
    IF exclude_columns <> '{}' THEN
        PERFORM immuta_internal.guard(source_id);
    END IF;
    PERFORM immuta_internal.warn_not_granted(s.what, s.object, s.detail) FROM immuta_internal.settle_sources(ARRAY[source_id]) s;
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
    PERFORM immuta_internal.catch_up();
    SELECT d.id INTO source_id FROM immuta.data_source d WHERE d.relation = unregister_data_source.data_source;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM immuta_internal.registered_relations(ARRAY[unregister_data_source.data_source::oid])) THEN
        RAISE EXCEPTION '"%" is a data source because its schema is registered', data_source
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Use immuta.unregister_schema().';
    END IF;
    PERFORM FROM immuta_internal.remove_data_sources(ARRAY[source_id]);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.unregister_data_source(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unregister_data_source(regclass) TO immuta_admin;
COMMENT ON FUNCTION immuta.unregister_data_source(regclass) IS 'ends a data source with all its subscriptions; whether it was one';

CREATE FUNCTION immuta.register_schema(schema_name name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    namespace oid;
BEGIN
    SELECT n.oid INTO namespace FROM pg_namespace n WHERE n.nspname = register_schema.schema_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'schema "%" does not exist', schema_name USING ERRCODE = 'invalid_schema_name';
    END IF;
    IF immuta_internal.is_system_schema(namespace) THEN
        RAISE EXCEPTION 'schema "%" cannot be registered: it belongs to the system', schema_name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM immuta_internal.catch_up();
    INSERT INTO immuta.registered_schema (schema_name) VALUES (register_schema.schema_name) ON CONFLICT DO NOTHING;
    PERFORM immuta_internal.warn_not_granted(s.what, s.object, s.detail) FROM immuta_internal.sync_objects(NULL) s;
END
$$;
REVOKE ALL ON FUNCTION immuta.register_schema(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.register_schema(name) TO immuta_admin;
COMMENT ON FUNCTION immuta.register_schema(name) IS 'makes all tables and views of a schema data sources, those to come included';

CREATE FUNCTION immuta.unregister_schema(schema_name name) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up();
    IF NOT immuta_internal.forget_schema(unregister_schema.schema_name) THEN
        RETURN false;
    END IF;
    PERFORM FROM immuta_internal.sync_objects(NULL);
    PERFORM immuta_internal.warn_not_granted(s.what, s.object, s.detail) FROM immuta_internal.settle_sources(NULL) s;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.unregister_schema(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unregister_schema(name) TO immuta_admin;
COMMENT ON FUNCTION immuta.unregister_schema(name) IS 'ends the data sources that were registered with this schema; whether it was registered';

CREATE FUNCTION immuta_internal.change_tags(data_source regclass, added text[], removed text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source_id bigint;
BEGIN
    PERFORM immuta_internal.catch_up();
    source_id := immuta_internal.data_source_id(change_tags.data_source);
    UPDATE immuta.data_source d
    SET tags = immuta_internal.clean_tags(ARRAY(SELECT t FROM unnest(d.tags || added) t WHERE t <> ALL (removed)))
    WHERE d.id = source_id;
    PERFORM immuta_internal.warn_not_granted(s.what, s.object, s.detail) FROM immuta_internal.settle_sources(ARRAY[source_id]) s;
END
$$;
COMMENT ON FUNCTION immuta_internal.change_tags(regclass, text[], text[]) IS 'changes the tags of a data source';

CREATE FUNCTION immuta.tag_data_source(data_source regclass, VARIADIC tags text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta_internal.change_tags(data_source, tags, '{}') $$;
REVOKE ALL ON FUNCTION immuta.tag_data_source(regclass, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.tag_data_source(regclass, text[]) TO immuta_admin;
COMMENT ON FUNCTION immuta.tag_data_source(regclass, text[]) IS 'adds tags to a data source';

CREATE FUNCTION immuta.untag_data_source(data_source regclass, VARIADIC tags text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta_internal.change_tags(data_source, '{}', tags) $$;
REVOKE ALL ON FUNCTION immuta.untag_data_source(regclass, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.untag_data_source(regclass, text[]) TO immuta_admin;
COMMENT ON FUNCTION immuta.untag_data_source(regclass, text[]) IS 'takes tags from a data source';

CREATE FUNCTION immuta.forget_missing() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing bigint[];
BEGIN
    PERFORM immuta_internal.catch_up();
    missing := ARRAY(SELECT d.id FROM immuta.data_source d WHERE d.relation IS NULL);
    PERFORM FROM immuta_internal.remove_data_sources(missing);
    RETURN cardinality(missing);
END
$$;
REVOKE ALL ON FUNCTION immuta.forget_missing() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.forget_missing() TO immuta_admin;
COMMENT ON FUNCTION immuta.forget_missing() IS 'ends the data sources whose tables could not be adopted, with their subscriptions; how many there were';

CREATE FUNCTION immuta_internal.data_source_state(data_source_id bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN c.oid IS NULL THEN 'missing'
        WHEN a.role IS NULL THEN 'no system account'
        WHEN d.held THEN 'not confirmed: ' || (SELECT u.reason FROM immuta_internal.unconfirmed(ARRAY[c.oid]) u)
        WHEN p.refused IS NULL THEN 'ok'
        ELSE CASE WHEN p.readable THEN 'read only' ELSE 'not grantable' END || ': no grant option for ' || p.refused END
    FROM immuta.data_source d
    LEFT JOIN pg_class c ON c.oid = d.relation
    LEFT JOIN (SELECT r.oid AS role FROM immuta.system_account s JOIN pg_roles r ON r.oid = s.role) a ON true
    LEFT JOIN LATERAL (
        SELECT bool_and(g.ok) FILTER (WHERE g.access = 'READ') AS readable,
               string_agg(g.privilege, ', ' ORDER BY g.place, g.privilege) FILTER (WHERE NOT g.ok) AS refused
        FROM (SELECT 0 AS place, 'READ' AS access, 'USAGE of the schema' AS privilege,
                     immuta_internal.is_grantable(a.role, 's', c.relnamespace, 0::smallint, 'USAGE') AS ok
              UNION ALL
              SELECT CASE k.access WHEN 'READ' THEN 1 ELSE 2 END, k.access, k.privilege,
                     CASE WHEN k.privilege IN ('DELETE', 'TRUNCATE') OR d.excluded_columns = '{}'
                               AND NOT EXISTS (SELECT FROM immuta.masks m WHERE m.table_oid = c.oid)
                          THEN immuta_internal.is_grantable(a.role, 'r', c.oid, 0::smallint, k.privilege)
                          ELSE NOT EXISTS (SELECT FROM pg_attribute t
                                           WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
                                             AND t.attnum <> ALL (d.excluded_numbers)
                                             AND NOT immuta_internal.is_grantable(a.role, 'r', c.oid, t.attnum, k.privilege)) END
              FROM immuta_internal.privileges_of_kind(c.relkind) k) g) p ON a.role IS NOT NULL
    WHERE d.id = data_source_id
$$;
GRANT EXECUTE ON FUNCTION immuta_internal.data_source_state(bigint) TO immuta_admin;
COMMENT ON FUNCTION immuta_internal.data_source_state(bigint) IS 'what the system account may grant on a data source';

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
       immuta_internal.data_source_state(d.id) AS state
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
