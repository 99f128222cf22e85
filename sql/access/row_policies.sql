-- Commands for row policies, and what an administrator sees of them.

CREATE FUNCTION immuta.create_row_policy(name text, data_source regclass, expression text, replace boolean = false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source_id bigint;
    written integer;
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 255 OR expression IS NULL OR octet_length(expression) > 100000 THEN
        RAISE EXCEPTION 'a row policy needs a name of 1 to 255 bytes and an expression of up to 100000'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM immuta_internal.catch_up();
    source_id := immuta_internal.data_source_id(create_row_policy.data_source);
    IF replace THEN
        UPDATE immuta.row_policy p SET expression = create_row_policy.expression
        WHERE p.data_source_id = source_id AND p.name = create_row_policy.name
        RETURNING p.id INTO written;
    END IF;
    IF written IS NULL THEN
        INSERT INTO immuta.row_policy AS p (data_source_id, name, expression)
        VALUES (source_id, create_row_policy.name, create_row_policy.expression)
        ON CONFLICT DO NOTHING RETURNING p.id INTO written;
    END IF;
    IF written IS NULL THEN
        RAISE EXCEPTION 'row policy "%" already exists', immuta_internal.shown(name)
            USING ERRCODE = 'duplicate_object', HINT = 'Give replace => true to change it.';
    END IF;
    -- Whoever wrote it may see what it names. Then the system account looks at it.
    PERFORM immuta_internal.analyse_expression(0, create_row_policy.data_source, create_row_policy.expression);
    PERFORM immuta_internal.apply_row_policy(written);
    PERFORM immuta_internal.guard(source_id);
    PERFORM FROM immuta_internal.apply_grants(ARRAY[source_id]);
END
$$;
REVOKE ALL ON FUNCTION immuta.create_row_policy(text, regclass, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.create_row_policy(text, regclass, text, boolean) TO immuta_admin;
COMMENT ON FUNCTION immuta.create_row_policy(text, regclass, text, boolean) IS 'shows subscribers only the rows for which the expression is true; several policies must all be';

CREATE FUNCTION immuta.drop_row_policy(name text, data_source regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped integer;
    source_id bigint;
    source record;
BEGIN
    PERFORM immuta_internal.catch_up();
    source_id := immuta_internal.data_source_id(drop_row_policy.data_source);
    SELECT d.id, d.relation, d.row_security_made INTO source FROM immuta.data_source d WHERE d.id = source_id;
    DELETE FROM immuta.row_policy p WHERE p.data_source_id = source.id AND p.name = drop_row_policy.name RETURNING p.id INTO dropped;
    IF dropped IS NULL THEN
        RETURN false;
    END IF;
    PERFORM immuta_internal.remove_row_policies(
        source.relation, ARRAY[dropped],
        source.row_security_made AND NOT EXISTS (SELECT FROM immuta.row_policy p WHERE p.data_source_id = source.id));
    UPDATE immuta.data_source d SET row_security_made = false
    WHERE d.id = source.id AND NOT EXISTS (SELECT FROM immuta.row_policy p WHERE p.data_source_id = source.id);
    PERFORM FROM immuta_internal.apply_grants(ARRAY[source_id]);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_row_policy(text, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drop_row_policy(text, regclass) TO immuta_admin;
COMMENT ON FUNCTION immuta.drop_row_policy(text, regclass) IS 'ends a row policy; whether there was one';

CREATE VIEW immuta.row_policies AS
SELECT p.name, d.schema_name, d.table_name, p.expression, 'immuta_row_' || p.id AS policy_name
FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id
WHERE pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY d.schema_name, d.table_name, p.name;
REVOKE ALL ON immuta.row_policies FROM PUBLIC;
GRANT SELECT ON immuta.row_policies TO immuta_admin;
COMMENT ON VIEW immuta.row_policies IS 'the row policies';
