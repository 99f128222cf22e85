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

CREATE TRIGGER resolve_names BEFORE INSERT ON immuta.system_account
FOR EACH ROW EXECUTE FUNCTION immuta_internal.resolve_names();
CREATE TRIGGER resolve_names BEFORE INSERT ON immuta.registered_schema
FOR EACH ROW EXECUTE FUNCTION immuta_internal.resolve_names();
CREATE TRIGGER resolve_names BEFORE INSERT ON immuta.data_source
FOR EACH ROW EXECUTE FUNCTION immuta_internal.resolve_names();
CREATE TRIGGER resolve_names BEFORE INSERT ON immuta.part
FOR EACH ROW EXECUTE FUNCTION immuta_internal.resolve_names();
CREATE TRIGGER resolve_names BEFORE INSERT ON immuta.subscriber
FOR EACH ROW EXECUTE FUNCTION immuta_internal.resolve_names();
CREATE TRIGGER resolve_names BEFORE INSERT ON immuta.access_class
FOR EACH ROW EXECUTE FUNCTION immuta_internal.resolve_names();

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
CREATE TRIGGER announce_row AFTER INSERT OR DELETE OR UPDATE ON immuta.project
FOR EACH ROW EXECUTE FUNCTION immuta_internal.announce_change();
CREATE TRIGGER announce_truncate AFTER TRUNCATE ON immuta.project
FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.announce_change();
CREATE TRIGGER announce_row AFTER INSERT OR DELETE OR UPDATE ON immuta.project_member
FOR EACH ROW EXECUTE FUNCTION immuta_internal.announce_change();
CREATE TRIGGER announce_truncate AFTER TRUNCATE ON immuta.project_member
FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.announce_change();
-- Also where triggers are replayed or switched off by session_replication_role.
ALTER TABLE immuta.project ENABLE ALWAYS TRIGGER announce_row, ENABLE ALWAYS TRIGGER announce_truncate;
ALTER TABLE immuta.project_member ENABLE ALWAYS TRIGGER announce_row, ENABLE ALWAYS TRIGGER announce_truncate;

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

-- Sessions remember when the next subscription of their user ends.
CREATE TRIGGER announce_change AFTER INSERT OR DELETE OR UPDATE OF user_id, state, valid_until ON immuta.subscription
FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.announce_change();
CREATE TRIGGER announce_truncate AFTER TRUNCATE ON immuta.subscription
FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.announce_change();
-- Also where triggers are replayed or switched off by session_replication_role.
ALTER TABLE immuta.subscription ENABLE ALWAYS TRIGGER announce_change, ENABLE ALWAYS TRIGGER announce_truncate;

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
        SELECT DISTINCT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
        WHERE c.relnamespace OPERATOR(pg_catalog.=) 'immuta'::pg_catalog.regnamespace AND c.relkind OPERATOR(pg_catalog.=) 'r'
          AND a.attnum OPERATOR(pg_catalog.>) 0 AND a.atttypid OPERATOR(pg_catalog.=) ANY (
              ARRAY['pg_catalog.oid', 'pg_catalog.regclass', 'pg_catalog.regrole']::pg_catalog.regtype[])
    LOOP
        -- Fires only where changes are replayed, and costs nothing elsewhere.
        EXECUTE pg_catalog.format('CREATE TRIGGER refuse_replication BEFORE INSERT OR UPDATE OR DELETE ON immuta.%I '
                                  'FOR EACH ROW EXECUTE FUNCTION immuta_internal.refuse_replication()', name);
        EXECUTE pg_catalog.format('ALTER TABLE immuta.%I ENABLE REPLICA TRIGGER refuse_replication', name);
    END LOOP;
END
$$;
