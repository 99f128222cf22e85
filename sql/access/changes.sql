-- Who has access to what is decided by the rows of these tables: each change of one is on record, whoever makes it.

CREATE FUNCTION immuta_internal.record_change(
    operation text, subject text, userid text, iamid text, source oid, source_name text, before text, after text)
RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_record_change_wrapper';
COMMENT ON FUNCTION immuta_internal.record_change(text, text, text, text, oid, text, text, text) IS 'puts a change of somebody''s access on record, once it is committed';

-- What a record says of a row: columns that are named, and names where the table has numbers.
CREATE FUNCTION immuta_internal.said(line jsonb, columns text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(
               CASE c WHEN 'project_id' THEN 'project' ELSE c END,
               CASE c WHEN 'project_id' THEN (SELECT to_jsonb(p.name) FROM immuta.project p WHERE p.id = (line -> c)::integer)
                      WHEN 'data_sources' THEN (SELECT jsonb_agg(format('%I.%I', d.schema_name, d.table_name) ORDER BY d.id)
                                                FROM immuta.data_source d WHERE line -> c @> to_jsonb(d.id))
                      ELSE line -> c END)::text
    FROM unnest(columns) c WHERE line IS NOT NULL HAVING count(*) > 0
$$;
COMMENT ON FUNCTION immuta_internal.said(jsonb, text[]) IS 'what a record says of a row';

-- Names are looked up at once: later they may be gone. What a restore brings is no decision, and was recorded where it was one.
CREATE FUNCTION immuta_internal.access_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old_line jsonb := to_jsonb(OLD);
    new_line jsonb := to_jsonb(NEW);
    line jsonb := coalesce(new_line, old_line);
    before text;
    after text;
    "user" record;
    source record;
BEGIN
    IF coalesce(current_setting('bodata.audit_sink', true), '') = '' OR TG_OP = 'INSERT' AND NOT immuta_internal.is_home() THEN
        RETURN NULL;
    ELSIF TG_OP = 'TRUNCATE' THEN
        PERFORM immuta_internal.record_change('DELETE', TG_TABLE_NAME, NULL, NULL, NULL, NULL, NULL, NULL);
        RETURN NULL;
    END IF;
    IF TG_TABLE_NAME = 'subscription' AND old_line ->> 'state' = 'requested' THEN
        -- It may have lapsed, which is written nowhere.
        old_line := old_line || jsonb_build_object('state', immuta_internal.state_of(OLD));
    END IF;
    before := immuta_internal.said(old_line, TG_ARGV);
    after := immuta_internal.said(new_line, TG_ARGV);
    IF before = after THEN
        RETURN NULL;
    END IF;
    SELECT u.userid, u.iamid INTO "user" FROM immuta.user_account u WHERE u.id = (line ->> 'user_id')::bigint
    UNION ALL SELECT line ->> 'userid', line ->> 'iamid' WHERE TG_TABLE_NAME = 'user_account';
    SELECT d.relation, format('%I.%I', d.schema_name, d.table_name) AS name INTO source
    FROM immuta.data_source d WHERE d.id = (line ->> 'data_source_id')::bigint
    UNION ALL SELECT (line ->> 'relation')::oid, format('%I.%I', line ->> 'schema_name', line ->> 'table_name')
              WHERE TG_TABLE_NAME = 'data_source';
    PERFORM immuta_internal.record_change(TG_OP, TG_TABLE_NAME, "user".userid, "user".iamid, source.relation, source.name, before, after);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.access_changes() IS 'puts a change of a row on record that decides about access';

-- The columns that decide, which are what a record shows: nothing that is a secret.
DO $$
DECLARE
    recorded record;
BEGIN
    FOR recorded IN
        SELECT * FROM (VALUES
            ('user_account', '{iamid,userid,mapping,postgres_role,disabled}'::text[]),
            ('user_profile', '{groups,attributes}'),
            ('impersonation_rule', '{impersonator,users,allow,iamid,client_addr,actors}'),
            ('token_issuer', '{issuer,iamid,settings}'),
            ('system_account', '{role_name}'),
            ('data_source', '{tags,excluded_columns,held}'),
            ('subscription', '{access,state,valid_until,reason}'),
            ('subscription_policy', '{name,tags,schemas,data_sources,groups,attributes,expression,access,combine}'),
            ('row_policy', '{name,expression}'),
            ('project_member', '{project_id,is_current}')) r (table_name, columns)
    LOOP
        EXECUTE format('CREATE TRIGGER access_changes AFTER INSERT OR DELETE OR UPDATE OF %s ON immuta.%I '
                       'FOR EACH ROW EXECUTE FUNCTION immuta_internal.access_changes(%1$s)',
                       array_to_string(recorded.columns, ', '), recorded.table_name);
        EXECUTE format('CREATE TRIGGER access_truncated AFTER TRUNCATE ON immuta.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.access_changes()', recorded.table_name);
    END LOOP;
END
$$;
