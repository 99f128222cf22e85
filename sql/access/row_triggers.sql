-- What follows from changes of rows, whoever makes them.

CREATE FUNCTION immuta_internal.resolve_names() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE TG_TABLE_NAME
    WHEN 'registered_schema' THEN
        NEW.namespace := (SELECT n.oid FROM pg_namespace n WHERE n.nspname = NEW.schema_name);
    WHEN 'part' THEN
        NEW.relation := immuta_internal.relation_named(NEW.schema_name, NEW.table_name);
    WHEN 'data_source' THEN
        NEW.relation := (SELECT f.relation FROM immuta_internal.relation_named(NEW.schema_name, NEW.table_name) f (relation)
                         WHERE NOT EXISTS (SELECT FROM immuta.data_source d WHERE d.relation = f.relation));
        NEW.excluded_numbers := ARRAY(
            SELECT a.attnum FROM pg_attribute a
            WHERE a.attrelid = NEW.relation AND NOT a.attisdropped AND a.attname = ANY (NEW.excluded_columns)
            ORDER BY a.attnum);
    WHEN 'masks' THEN
        IF NEW.column_name IS NULL THEN
            SELECT n.nspname, c.relname, a.attname INTO NEW.schema_name, NEW.table_name, NEW.column_name
            FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE a.attrelid = NEW.table_oid AND a.attnum = NEW.column_number;
        END IF;
        NEW.table_oid := immuta_internal.relation_named(NEW.schema_name, NEW.table_name);
        NEW.column_number := (SELECT a.attnum FROM pg_attribute a
                              WHERE a.attrelid = NEW.table_oid AND a.attname = NEW.column_name AND a.attnum > 0 AND NOT a.attisdropped);
        IF NEW.column_number IS NULL THEN
            RETURN NULL; -- It is made again when the table is adopted.
        END IF;
    WHEN 'subscriber' THEN
        NEW.role := (SELECT r.oid FROM pg_roles r WHERE r.rolname = NEW.role_name
                     AND NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.role = r.oid));
    WHEN 'access_class' THEN
        NEW.role := (SELECT r.oid FROM pg_roles r WHERE r.rolname = NEW.role_name
                     AND NOT EXISTS (SELECT FROM immuta.access_class k WHERE k.role = r.oid));
    ELSE
        NEW.role := (SELECT r.oid FROM pg_roles r WHERE r.rolname = NEW.role_name);
    END CASE;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION immuta_internal.resolve_names() IS 'gives a row the OIDs that its names have here';

DO $$
DECLARE
    filled name;
BEGIN
    FOREACH filled IN ARRAY ARRAY['system_account', 'registered_schema', 'data_source', 'part', 'masks', 'subscriber', 'access_class']
    LOOP
        EXECUTE format('CREATE TRIGGER resolve_names BEFORE INSERT ON immuta.%I '
                       'FOR EACH ROW EXECUTE FUNCTION immuta_internal.resolve_names()', filled);
    END LOOP;
END
$$;

CREATE FUNCTION immuta_internal.forget_project() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.project_data_source s WHERE s.project_id = OLD.id;
    DELETE FROM immuta.project_member m WHERE m.project_id = OLD.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.forget_project() IS 'tables and members go with their project';

CREATE TRIGGER forget_project AFTER DELETE ON immuta.project FOR EACH ROW EXECUTE FUNCTION immuta_internal.forget_project();

CREATE FUNCTION immuta_internal.mapping_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up_projects();
    PERFORM immuta_internal.equalise_after(ARRAY[NEW.id], NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.mapping_changed() IS 'equalises the projects of a user who has another role now';
CREATE TRIGGER equalise_row AFTER UPDATE OF userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta_internal.mapping_changed();

CREATE FUNCTION immuta_internal.member_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up_projects();
    PERFORM immuta_internal.equalise(OLD.project_id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.member_gone() IS 'equalises a project that a user left, or was dropped from';
CREATE TRIGGER equalise_row AFTER DELETE ON immuta.project_member
FOR EACH ROW EXECUTE FUNCTION immuta_internal.member_gone();

DO $$
DECLARE
    announced record;
BEGIN
    FOR announced IN
        SELECT * FROM (VALUES
            ('home', 'row', 'INSERT OR DELETE OR UPDATE'),
            ('user_account', 'row', 'INSERT OR DELETE OR UPDATE OF id, iamid, userid, mapping, postgres_role, disabled'),
            ('token', 'row', 'DELETE OR UPDATE OF digest, id, user_id'),
            ('token_issuer', 'row', 'INSERT OR DELETE OR UPDATE'),
            -- What is no longer revoked was remembered nowhere.
            ('token_revocation', 'row', 'INSERT OR UPDATE'),
            ('impersonation_rule', 'row', 'INSERT OR DELETE OR UPDATE'),
            ('project', 'row', 'INSERT OR DELETE OR UPDATE'),
            ('project_member', 'row', 'INSERT OR DELETE OR UPDATE'),
            -- Sessions remember when the next subscription of their user ends.
            ('subscription', 'statement', 'INSERT OR DELETE OR UPDATE OF user_id, state, valid_until')) a (table_name, level, events)
    LOOP
        EXECUTE format('CREATE TRIGGER announce_%s AFTER %s ON immuta.%I FOR EACH %1$s EXECUTE FUNCTION immuta_internal.announce_change()',
                       announced.level, announced.events, announced.table_name);
        EXECUTE format('CREATE TRIGGER announce_truncate AFTER TRUNCATE ON immuta.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.announce_change()', announced.table_name);
        -- Also during replication, and where session_replication_role switches triggers off.
        EXECUTE format('ALTER TABLE immuta.%I ENABLE ALWAYS TRIGGER announce_%s, ENABLE ALWAYS TRIGGER announce_truncate',
                       announced.table_name, announced.level);
    END LOOP;
END
$$;

-- What logical replication brings carries the OIDs of another cluster, and no restore or upgrade says so: here they would be
-- somebody else's roles and tables.
CREATE FUNCTION immuta_internal.refuse_replication() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = pg_backend_pid() AND a.backend_type LIKE 'logical replication%') THEN
        RAISE EXCEPTION 'table "immuta.%" cannot be replicated logically', TG_TABLE_NAME
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Leave schema "immuta" out of the publication, and bring it here with pg_dump.';
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
COMMENT ON FUNCTION immuta_internal.refuse_replication() IS '55000 for rows that logical replication brings';

DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT DISTINCT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'immuta'::regnamespace AND c.relkind = 'r'
          AND a.attnum > 0 AND a.atttypid = ANY (ARRAY['oid', 'regclass', 'regrole']::regtype[])
    LOOP
        -- Fires only during replication, and costs nothing elsewhere.
        EXECUTE format('CREATE TRIGGER refuse_replication BEFORE INSERT OR UPDATE OR DELETE ON immuta.%I '
                       'FOR EACH ROW EXECUTE FUNCTION immuta_internal.refuse_replication()', name);
        EXECUTE format('ALTER TABLE immuta.%I ENABLE REPLICA TRIGGER refuse_replication', name);
    END LOOP;
END
$$;
