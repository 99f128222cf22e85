-- Object sync. Whatever goes wrong here does not stop other people's DDL: what was not done now is done with the next
-- change of the connection. DDL holds locks on its tables, and an administrator who holds our lock may be waiting for
-- those: it waits for our lock for less time than it takes to detect a deadlock.

CREATE FUNCTION immuta_internal.follow_ddl(touched oid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
AS $$
BEGIN
    PERFORM immuta_internal.note_parts(touched);
    IF immuta_internal.is_out_of_step(touched) THEN
        PERFORM immuta_internal.catch_up();
        PERFORM FROM immuta_internal.sync_objects(touched);
    END IF;
EXCEPTION WHEN OTHERS THEN
    INSERT INTO immuta.pending_sync SELECT t FROM unnest(touched || 0::oid) t;
    RAISE WARNING 'the data sources of immuta_ext are not in step with this yet: %', SQLERRM
        USING HINT = 'The next change of subscriptions or policies makes up for it; immuta.sync() does so at once.';
END
$$;
COMMENT ON FUNCTION immuta_internal.follow_ddl(oid[]) IS 'brings data sources in step with relations that DDL touched';

CREATE FUNCTION immuta_internal.is_watching() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM immuta.connection_state s WHERE s.active) AND immuta_internal.is_home()
       AND (EXISTS (SELECT FROM immuta.registered_schema) OR EXISTS (SELECT FROM immuta.data_source))
$$;
COMMENT ON FUNCTION immuta_internal.is_watching() IS 'whether DDL can concern data sources';

-- DDL may change the names by which everything is adopted. And a member of a role may DROP OWNED BY it: of immuta_subscriber, to
-- which all row policies are granted, and of the roles that hold the grants.
CREATE FUNCTION immuta_internal.before_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
AS $$
DECLARE
    who name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    IF TG_TAG = 'DROP OWNED' THEN
        IF EXISTS (SELECT FROM pg_roles u, pg_roles m WHERE u.rolname = who AND NOT u.rolsuper
                   AND m.rolname = 'immuta_subscriber' AND pg_has_role(u.oid, m.oid, 'USAGE')) THEN
            RAISE EXCEPTION 'DROP OWNED would take off privileges and row policies that others gave'
                USING ERRCODE = 'insufficient_privilege', HINT = 'Drop the objects one by one.';
        END IF;
        RETURN;
    END IF;
    BEGIN
        IF EXISTS (SELECT FROM immuta.connection_state s WHERE s.active) AND NOT immuta_internal.is_home()
           AND immuta_internal.original() IS NULL THEN
            PERFORM immuta_internal.catch_up();
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'the data sources of immuta_ext are not adopted yet: %', SQLERRM USING HINT = 'Run immuta.sync().';
    END;
END
$$;
COMMENT ON FUNCTION immuta_internal.before_ddl() IS 'a database that came from elsewhere is adopted before its tables change';

CREATE FUNCTION immuta_internal.after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta_internal.is_watching() THEN
        -- The relations, and whatever hangs on them: partitions come and go by ALTER TABLE of their parent, tables
        -- follow a schema to another name, sequences become a column's.
        PERFORM immuta_internal.follow_ddl(coalesce(array_agg(DISTINCT o.oid), '{}')) FROM (
            SELECT c.objid AS oid FROM pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_class'::regclass
            UNION ALL
            SELECT i.inhrelid FROM pg_event_trigger_ddl_commands() c JOIN pg_inherits i ON i.inhparent = c.objid
            WHERE c.classid = 'pg_class'::regclass
            UNION ALL
            SELECT r.relation FROM pg_event_trigger_ddl_commands() c JOIN pg_class p ON p.oid = c.objid AND p.relkind = 'p'
            CROSS JOIN immuta_internal.unregistered_relations(NULL) r
            WHERE c.classid = 'pg_class'::regclass AND c.command_tag = 'ALTER TABLE'
            UNION ALL
            SELECT d.relation FROM pg_event_trigger_ddl_commands() c JOIN pg_class r ON r.relnamespace = c.objid
            JOIN immuta.data_source d ON d.relation = r.oid
            WHERE c.classid = 'pg_namespace'::regclass
            UNION ALL
            SELECT q.refobjid FROM pg_event_trigger_ddl_commands() c JOIN pg_depend q ON q.classid = 'pg_class'::regclass
                AND q.objid = c.objid AND q.refclassid = 'pg_class'::regclass AND q.refobjsubid > 0
            WHERE c.classid = 'pg_class'::regclass AND c.object_type = 'sequence') o;
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.after_ddl() IS 'data sources follow DDL';

CREATE FUNCTION immuta_internal.after_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta_internal.is_watching() THEN
        PERFORM immuta_internal.follow_ddl(coalesce(array_agg(o.objid) FILTER (WHERE o.classid = 'pg_class'::regclass), '{}'))
        FROM pg_event_trigger_dropped_objects() o
        WHERE o.objsubid = 0 AND o.classid IN ('pg_class'::regclass, 'pg_namespace'::regclass);
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.after_drop() IS 'data sources go with their tables';

CREATE EVENT TRIGGER immuta_before ON ddl_command_start
WHEN TAG IN ('ALTER TABLE', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE', 'ALTER SCHEMA', 'DROP TABLE',
             'DROP VIEW', 'DROP MATERIALIZED VIEW', 'DROP FOREIGN TABLE', 'DROP SCHEMA', 'DROP OWNED')
EXECUTE FUNCTION immuta_internal.before_ddl();
COMMENT ON EVENT TRIGGER immuta_before IS 'data sources of immuta_ext are adopted before DDL changes their names';
CREATE EVENT TRIGGER immuta_ddl ON ddl_command_end
WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE VIEW', 'CREATE MATERIALIZED VIEW',
             'CREATE FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA', 'ALTER TABLE', 'ALTER VIEW',
             'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE', 'ALTER SEQUENCE', 'ALTER SCHEMA', 'CREATE SCHEMA')
EXECUTE FUNCTION immuta_internal.after_ddl();
COMMENT ON EVENT TRIGGER immuta_ddl IS 'data sources of immuta_ext follow DDL';
CREATE EVENT TRIGGER immuta_drop ON sql_drop EXECUTE FUNCTION immuta_internal.after_drop();
COMMENT ON EVENT TRIGGER immuta_drop IS 'data sources of immuta_ext go with their tables';

-- Off until there is something to watch: DDL in other databases costs nothing.
ALTER EVENT TRIGGER immuta_before DISABLE;
ALTER EVENT TRIGGER immuta_ddl DISABLE;
ALTER EVENT TRIGGER immuta_drop DISABLE;
