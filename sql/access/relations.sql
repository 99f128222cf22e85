-- What can be a data source, and what registered schemas hold.

CREATE FUNCTION immuta_internal.is_system_schema(schema oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_namespace n
                   WHERE n.oid = schema AND (n.nspname ~ '^pg_' OR n.nspname IN (
                       'information_schema', 'immuta', 'immuta_internal', 'immuta_procedures')))
$$;
COMMENT ON FUNCTION immuta_internal.is_system_schema(oid) IS 'whether a schema is PostgreSQL''s or this extension''s';

CREATE FUNCTION immuta_internal.relation_fault(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN c.oid IS NULL THEN 'it does not exist'
        WHEN c.relkind NOT IN ('r', 'p', 'v', 'm', 'f') THEN 'it is neither a table nor a view'
        WHEN c.relpersistence = 't' THEN 'it is temporary'
        WHEN immuta_internal.is_system_schema(c.relnamespace) THEN 'it belongs to the system'
        -- Whoever reads a partition by its own name bypasses the row policies of the table.
        WHEN c.relispartition THEN 'it is a partition: register the partitioned table' END
    FROM (SELECT) one LEFT JOIN pg_class c ON c.oid = relation
$$;
COMMENT ON FUNCTION immuta_internal.relation_fault(oid) IS 'why a relation cannot be a data source, or NULL';

CREATE FUNCTION immuta_internal.data_source_id(data_source regclass) RETURNS bigint
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
COMMENT ON FUNCTION immuta_internal.data_source_id(regclass) IS 'id of a data source; 42704 for anything else';

CREATE FUNCTION immuta_internal.relation_name(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation $$;
COMMENT ON FUNCTION immuta_internal.relation_name(oid) IS 'qualified name of a relation, for statements';

-- OIDs change with a restore: a row that arrives is known by its names. A name that two rows share belongs to neither:
-- immuta_internal.come_home() looks again when all are there.
CREATE FUNCTION immuta_internal.relation_named(schema_name name, table_name name) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = schema_name AND c.relname = table_name
$$;
COMMENT ON FUNCTION immuta_internal.relation_named(name, name) IS 'a relation by its names, or NULL';

CREATE FUNCTION immuta_internal.registered_relations(relations oid[]) RETURNS TABLE (relation oid, schema_name name, table_name name)
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
COMMENT ON FUNCTION immuta_internal.registered_relations(oid[]) IS 'what belongs to registered schemas now; not partitions, not what came with an extension';

CREATE FUNCTION immuta_internal.clean_tags(tags text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(tags) t WHERE t IS NULL OR octet_length(t) NOT BETWEEN 1 AND 255) THEN
        RAISE EXCEPTION 'tags and groups must have 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Leave out of the list what has no name.';
    END IF;
    RETURN ARRAY(SELECT DISTINCT t COLLATE "C" FROM unnest(tags) t ORDER BY 1);
END
$$;
COMMENT ON FUNCTION immuta_internal.clean_tags(text[]) IS 'a sorted list of tags or groups; 22023 for one that is not valid';

CREATE FUNCTION immuta_internal.unregistered_relations(relations oid[]) RETURNS TABLE (relation oid, schema_name name, table_name name)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.* FROM immuta_internal.registered_relations(relations) r
    WHERE NOT EXISTS (SELECT FROM immuta.data_source d WHERE d.relation = r.relation)
$$;
COMMENT ON FUNCTION immuta_internal.unregistered_relations(oid[]) IS 'what belongs to registered schemas and is no data source yet';
