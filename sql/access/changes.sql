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
                      WHEN 'policies' THEN (SELECT jsonb_agg(p.name ORDER BY p.id) FROM immuta.masking_policy p WHERE line -> c @> to_jsonb(p.id))
                      ELSE line -> c END)::text
    FROM unnest(columns) c WHERE line IS NOT NULL HAVING count(*) > 0
$$;
COMMENT ON FUNCTION immuta_internal.said(jsonb, text[]) IS 'what a record says of a row';

-- Names are looked up at once: later they may be gone.
CREATE FUNCTION immuta_internal.record_line(operation text, subject text, line jsonb, before text, after text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- A number in one table, a name in another.
    stored oid := CASE subject WHEN 'data_source' THEN (line ->> 'relation')::oid ELSE to_regclass(line ->> 'relation') END;
    "user" record;
    source record;
BEGIN
    SELECT u.userid, u.iamid INTO "user" FROM immuta.user_account u WHERE u.id = (line ->> 'user_id')::bigint
    UNION ALL SELECT line ->> 'userid', line ->> 'iamid' WHERE subject = 'user_account';
    SELECT d.relation AS oid, format('%I.%I', d.schema_name, d.table_name) AS name INTO source
    FROM immuta.data_source d WHERE d.id = (line ->> 'data_source_id')::bigint
    UNION ALL SELECT stored, format('%I.%I', line ->> 'schema_name', line ->> 'table_name')
              WHERE subject = 'data_source'
    UNION ALL SELECT c.oid, format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE subject = 'project_data_source' AND c.oid = stored;
    PERFORM immuta_internal.record_change(operation, subject, "user".userid, "user".iamid, source.oid, source.name, before, after);
END
$$;
COMMENT ON FUNCTION immuta_internal.record_line(text, text, jsonb, text, text) IS 'puts what was and is said by a row on record';

-- What a restore brings is no decision, and was recorded where it was one. It is in the middle of one, or was not adopted
-- since, while there are two homes; what a function of ours does then is a decision.
CREATE FUNCTION immuta_internal.is_restored(context text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT count(*) > 1 AND context !~ '\mimmuta\.\w+\(' FROM immuta.home $$;
COMMENT ON FUNCTION immuta_internal.is_restored(text) IS 'whether a row that is inserted comes from a dump';

-- Its first argument names the columns that say whose access to what it is. Where they change, it goes from one to the other.
-- A relation is known by its OID only where that counts: adoption looks for it by its name.
CREATE FUNCTION immuta_internal.access_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old_line jsonb := to_jsonb(OLD);
    new_line jsonb := to_jsonb(NEW);
    before text;
    after text;
    context text;
BEGIN
    IF coalesce(current_setting('bodata.audit_sink', true), '') = '' THEN
        RETURN NULL;
    ELSIF TG_OP = 'TRUNCATE' THEN
        PERFORM immuta_internal.record_change('DELETE', TG_TABLE_NAME, NULL, NULL, NULL, NULL, NULL, NULL);
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' AND TG_TABLE_NAME <> 'home' THEN
        GET DIAGNOSTICS context = PG_CONTEXT;
        IF immuta_internal.is_restored(context) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_TABLE_NAME = 'subscription' AND old_line ->> 'state' = 'requested' THEN
        -- It may have lapsed, which is written nowhere.
        old_line := old_line || jsonb_build_object('state', immuta_internal.state_of(OLD));
    END IF;
    before := immuta_internal.said(old_line, TG_ARGV[1:]);
    after := immuta_internal.said(new_line, TG_ARGV[1:]);
    IF TG_OP = 'UPDATE' AND EXISTS (SELECT FROM unnest(TG_ARGV[0]::text[]) k
                                    WHERE old_line -> k <> new_line -> k AND (k <> 'relation' OR immuta_internal.is_home())) THEN
        PERFORM immuta_internal.record_line('DELETE', TG_TABLE_NAME, old_line, before, NULL),
                immuta_internal.record_line('INSERT', TG_TABLE_NAME, new_line, NULL, after);
    ELSIF before IS DISTINCT FROM after THEN
        PERFORM immuta_internal.record_line(TG_OP, TG_TABLE_NAME, coalesce(new_line, old_line), before, after);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.access_changes() IS 'puts a change of a row on record that decides about access';

-- The columns that say whose access to what it is, and those that decide, which are what a record shows: nothing that is a secret.
DO $$
DECLARE
    recorded record;
BEGIN
    FOR recorded IN
        SELECT * FROM (VALUES
            ('home', '{}'::text[], '{system_identifier,database}'::text[]),
            ('user_account', '{id}', '{iamid,userid,mapping,postgres_role,disabled}'),
            ('user_profile', '{user_id}', '{groups,attributes}'),
            ('impersonation_rule', '{id}', '{impersonator,users,allow,iamid,client_addr,actors}'),
            ('token_issuer', '{}', '{issuer,iamid,settings}'),
            ('system_account', '{}', '{role_name}'),
            ('data_source', '{id,relation}', '{schema_name,table_name,tags,excluded_columns,held}'),
            ('subscription', '{user_id,data_source_id}', '{access,state,valid_until,reason}'),
            ('subscription_policy', '{id}', '{name,tags,schemas,data_sources,groups,attributes,expression,access,combine}'),
            ('row_policy', '{data_source_id}', '{name,expression}'),
            ('masking_policy', '{id}', '{name,method,column_tags,except_groups,except_attributes,except_expression,rows}'),
            ('named_column', '{data_source_id}', '{column_name,tags,policies}'),
            ('project', '{id}', '{name,postgres_role}'),
            ('project_data_source', '{project_id,relation}', '{project_id,relation}'),
            ('project_member', '{project_id,user_id}', '{project_id,is_current}')) r (table_name, keys, columns)
    LOOP
        EXECUTE format('CREATE TRIGGER access_changes AFTER INSERT OR DELETE OR UPDATE ON immuta.%I '
                       'FOR EACH ROW EXECUTE FUNCTION immuta_internal.access_changes(%L, %s)',
                       recorded.table_name, recorded.keys, array_to_string(recorded.columns, ', '));
        EXECUTE format('CREATE TRIGGER access_truncated AFTER TRUNCATE ON immuta.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.access_changes()', recorded.table_name);
    END LOOP;
END
$$;
