-- Setting the connection up, looking for drift, and the event triggers.

-- For superusers only: members of immuta_admin must not choose whose rights they use.
CREATE FUNCTION immuta.set_system_account(role_name name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account record;
    former oid;
BEGIN
    IF immuta.is_connected(false) THEN
        PERFORM immuta.lock_connection();
    END IF;
    former := (SELECT r.oid FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role WHERE immuta.is_home());
    SELECT r.* INTO account FROM pg_roles r WHERE r.rolname = set_system_account.role_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name USING ERRCODE = 'undefined_object';
    END IF;
    IF account.rolsuper THEN
        RAISE EXCEPTION 'the system account must not be a superuser' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'It needs CREATEROLE and the privileges to hand on WITH GRANT OPTION: see docs/subscriptions.md.';
    END IF;
    IF NOT account.rolcreaterole THEN
        RAISE EXCEPTION 'the system account needs CREATEROLE' USING ERRCODE = 'invalid_parameter_value',
            HINT = format('ALTER ROLE %I CREATEROLE', role_name);
    END IF;
    IF former <> account.oid THEN
        -- The former account takes back what it granted: nobody else could.
        PERFORM FROM immuta.revoke_memberships(ARRAY(SELECT k.id FROM immuta.access_class k), NULL);
        PERFORM FROM immuta.revoke_grants();
    END IF;
    INSERT INTO immuta.system_account AS a (role_name) VALUES (set_system_account.role_name)
    ON CONFLICT ON CONSTRAINT system_account_pkey DO UPDATE SET role = EXCLUDED.role, role_name = EXCLUDED.role_name;
    PERFORM immuta.lock_connection();
    IF former <> account.oid THEN
        PERFORM immuta.take_stock(false, false);
    END IF;
    PERFORM FROM immuta.sync();
END
$$;
REVOKE ALL ON FUNCTION immuta.set_system_account(name) FROM PUBLIC;
COMMENT ON FUNCTION immuta.set_system_account(name) IS 'names the role that creates roles and grants; for superusers';

CREATE FUNCTION immuta.revoke_grants() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made record;
BEGIN
    FOR made IN
        WITH gone AS (DELETE FROM immuta.grant_made g RETURNING g.*)
        SELECT DISTINCT CASE WHEN g.kind = 's' THEN 'USAGE ON SCHEMA ' || quote_ident(s.nspname)
                             ELSE g.privilege || coalesce(' (' || quote_ident(a.attname) || ')', '') || ' ON '
                                  || CASE WHEN c.relkind = 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || immuta.relation_name(c.oid) END
                        || format(' FROM %I', r.rolname) AS words
        FROM gone g JOIN pg_roles r ON r.oid = g.grantee
        LEFT JOIN pg_namespace s ON g.kind = 's' AND s.oid = g.object
        LEFT JOIN pg_class c ON g.kind = 'r' AND c.oid = g.object
        LEFT JOIN pg_attribute a ON g.attnum > 0 AND a.attrelid = g.object AND a.attnum = g.attnum
        WHERE g.grantor IS NOT NULL AND (c.oid IS NOT NULL OR s.oid IS NOT NULL)
    LOOP
        PERFORM immuta.as_system('REVOKE ' || made.words);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION immuta.revoke_grants() FROM PUBLIC;
COMMENT ON FUNCTION immuta.revoke_grants() IS 'internal: takes back every grant that was made';

-- The differences between what should be and what the catalogs say.
CREATE FUNCTION immuta.differences() RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH account AS MATERIALIZED (SELECT r.oid AS role FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role),
    wanted AS MATERIALIZED (SELECT * FROM immuta.wanted_grants(NULL, NULL)),
    managed AS MATERIALIZED (
        SELECT b.role FROM immuta.subscriber b WHERE b.role IS NOT NULL
        UNION SELECT k.role FROM immuta.access_class k WHERE k.role IS NOT NULL
    ), entry AS (
        SELECT d.relation, 0::smallint AS attnum, a.grantor, a.grantee, a.privilege_type AS privilege
        FROM immuta.data_source d JOIN pg_class c ON c.oid = d.relation, aclexplode(c.relacl) a
        UNION ALL
        SELECT d.relation, t.attnum, a.grantor, a.grantee, a.privilege_type
        FROM immuta.data_source d JOIN pg_attribute t ON t.attrelid = d.relation AND NOT t.attisdropped, aclexplode(t.attacl) a
    )
    SELECT 'not granted', immuta.describe_grant(w.kind, w.object, w.attnum, w.privilege), 'to ' || w.grantee::regrole
    FROM wanted w
    WHERE NOT EXISTS (SELECT FROM immuta.grant_made g
                      WHERE (g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege)
                            = (w.data_source_id, w.grantee, w.kind, w.object, w.attnum, w.privilege))
    UNION
    SELECT 'revoked by hand', immuta.describe_grant(g.kind, g.object, g.attnum, g.privilege), 'from ' || g.grantee::regrole
    FROM immuta.grant_made g, account a
    WHERE immuta.grantor_of(a.role, g.grantee, g.kind, g.object, g.attnum, g.privilege) IS NULL
    UNION
    SELECT 'granted by hand', immuta.describe_grant('r', e.relation, e.attnum, e.privilege),
           'to ' || e.grantee::regrole || ' by ' || e.grantor::regrole
    FROM entry e JOIN managed m ON m.role = e.grantee, account a
    WHERE NOT EXISTS (SELECT FROM immuta.grant_made g
                      WHERE (g.grantee, g.kind, g.object, g.attnum, g.privilege) = (e.grantee, 'r'::"char", e.relation, e.attnum, e.privilege)
                        AND g.grantor IS NOT NULL)
       OR NOT pg_has_role(a.role, e.grantor, 'USAGE')
    UNION
    SELECT 'membership by hand', 'ROLE ' || m.roleid::regrole, 'of ' || m.member::regrole
    FROM pg_auth_members m JOIN immuta.access_class k ON k.role = m.roleid
    -- From 16 on whoever created a role has ADMIN on it, which alone gives nothing.
    WHERE coalesce((to_jsonb(m) ->> 'inherit_option')::boolean OR (to_jsonb(m) ->> 'set_option')::boolean,
                   m.member <> (SELECT a.role FROM account a))
      AND NOT EXISTS (SELECT FROM immuta.class_member c WHERE c.class_id = k.id AND c.role = m.member)
    UNION
    SELECT 'membership missing', 'ROLE ' || k.role::regrole, 'of ' || m.role::regrole
    FROM immuta.class_member m JOIN immuta.access_class k ON k.id = m.class_id
    WHERE NOT EXISTS (SELECT FROM pg_auth_members c WHERE c.roleid = k.role AND c.member = m.role)
    UNION
    -- Row policies are for this role.
    SELECT 'membership missing', 'ROLE immuta_subscriber', 'of ' || b.role::regrole
    FROM immuta.subscriber b JOIN pg_roles r ON r.oid = b.role WHERE NOT pg_has_role(b.role, 'immuta_subscriber', 'USAGE')
    UNION
    SELECT 'user without a role', u.userid || ' (' || u.iamid || ')', coalesce(c.problem, 'not made yet')
    FROM (SELECT w.user_id FROM immuta.wanted_members(NULL, NULL) w
          UNION SELECT s.user_id FROM immuta.subscription s WHERE s.state = 'approved') s
    JOIN immuta.user_account u ON u.id = s.user_id, LATERAL immuta.carrier(u.id) c
    WHERE c.problem IS NOT NULL OR NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.user_id = u.id AND b.role IS NOT NULL)
    UNION
    SELECT 'not revocable', 'ROLE ' || f.class_role::regrole,
           coalesce('of ' || f.member::regrole, 'the system account has no ADMIN on it')
    FROM immuta.foreign_memberships() f
    UNION
    SELECT 'data source changed', format('%I.%I', d.schema_name, d.table_name),
           CASE WHEN c.is_gone THEN 'it is gone' ELSE format('it is %I.%I now, or its columns changed', c.schema_name, c.table_name) END
    FROM immuta.changed_data_sources(NULL) c JOIN immuta.data_source d ON d.id = c.id
    UNION
    SELECT 'data source missing', format('%I.%I', r.schema_name, r.table_name), 'its schema is registered'
    FROM immuta.registered_relations(NULL) r WHERE NOT EXISTS (SELECT FROM immuta.data_source d WHERE d.relation = r.relation)
    UNION
    SELECT 'not confirmed', format('%I.%I', d.schema_name, d.table_name),
           u.reason || CASE WHEN u.held THEN ': nobody is granted it' ELSE '' END
    FROM immuta.unconfirmed(NULL) u JOIN immuta.data_source d ON d.id = u.id
    UNION
    SELECT 'row policy missing', format('%I.%I', d.schema_name, d.table_name), p.name
    FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id
    WHERE NOT immuta.has_policy(d.relation, 'immuta_row_' || p.id)
    UNION
    SELECT 'row policy unsafe', format('%I.%I', d.schema_name, d.table_name), p.name || ': no search_path is set for ' || f.fault
    FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id,
         LATERAL immuta.function_without_path(d.relation, 'immuta_row_' || p.id) f (fault)
    WHERE f.fault IS NOT NULL
    UNION
    SELECT * FROM immuta.not_adopted()
    ORDER BY 1, 2, 3
$$;
REVOKE ALL ON FUNCTION immuta.differences() FROM PUBLIC;
COMMENT ON FUNCTION immuta.differences() IS 'internal: the rows of drift(), where the stored OIDs hold';

CREATE FUNCTION immuta.drift() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_home() THEN
        RETURN QUERY SELECT * FROM immuta.differences();
    ELSE
        RETURN QUERY SELECT * FROM immuta.not_adopted();
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.drift() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drift() TO immuta_admin;
COMMENT ON FUNCTION immuta.drift() IS 'where the catalogs differ from what subscriptions and policies say; what was done by hand stays as it is';

-- ENABLE TRIGGER ALL, as at the end of a restore without triggers, leaves them off where changes are replayed.
CREATE FUNCTION immuta.always_announce() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    announcing record;
BEGIN
    FOR announcing IN
        SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_trigger t
        WHERE t.tgfoid = 'immuta.announce_change()'::regprocedure AND t.tgenabled <> 'A'
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', announcing.relation, announcing.tgname);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION immuta.always_announce() FROM PUBLIC;
COMMENT ON FUNCTION immuta.always_announce() IS 'internal: every session hears of changes, whoever makes them';

CREATE FUNCTION immuta.sync() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    system_role oid;
    lost record;
    expired bigint;
    change record;
BEGIN
    IF NOT immuta.is_home() THEN
        PERFORM immuta.lock_projects();
        IF NOT EXISTS (SELECT FROM immuta.system_account) THEN
            RETURN QUERY SELECT * FROM immuta.not_adopted();
            RETURN;
        END IF;
    END IF;
    system_role := immuta.system_role();
    PERFORM immuta.always_announce();
    expired := immuta.expire_subscriptions();
    IF expired > 0 THEN
        RETURN QUERY SELECT 'expired', expired || ' subscriptions', NULL;
    END IF;
    PERFORM immuta.lock_connection();
    DELETE FROM immuta.part p WHERE p.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relation);
    PERFORM immuta.find_missing();
    -- Roles that were renamed or dropped.
    UPDATE immuta.system_account a SET role_name = r.rolname FROM pg_roles r WHERE r.oid = a.role AND r.rolname <> a.role_name;
    UPDATE immuta.access_class k SET role_name = r.rolname FROM pg_roles r WHERE r.oid = k.role AND r.rolname <> k.role_name;
    UPDATE immuta.subscriber b SET role_name = r.rolname FROM pg_roles r WHERE r.oid = b.role AND r.rolname <> b.role_name;
    UPDATE immuta.user_account u SET postgres_role_name = r.rolname FROM pg_roles r
    WHERE r.oid = u.postgres_role AND r.rolname <> u.postgres_role_name;
    FOR lost IN
        UPDATE immuta.access_class k SET role = NULL
        WHERE k.role IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = k.role) RETURNING k.id, k.role_name
    LOOP
        DELETE FROM immuta.class_member m WHERE m.class_id = lost.id;
        RETURN QUERY SELECT 'role lost', 'ROLE ' || quote_ident(lost.role_name), NULL;
    END LOOP;
    FOR lost IN
        SELECT b.* FROM immuta.subscriber b
        WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = b.role)
           OR (SELECT c.role FROM immuta.carrier(b.user_id) c) IS DISTINCT FROM b.role
    LOOP
        PERFORM immuta.release_role(lost.user_id);
        IF lost.made THEN
            UPDATE immuta.user_account u SET mapping = 'username', postgres_role = NULL
            WHERE u.id = lost.user_id AND u.mapping = 'explicit'
              AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = u.postgres_role);
        END IF;
        PERFORM immuta.settle_mapping(lost.user_id);
        RETURN QUERY SELECT 'role of a user changed', 'ROLE ' || quote_ident(lost.role_name), NULL;
    END LOOP;
    FOR lost IN
        SELECT b.role FROM immuta.subscriber b JOIN pg_roles r ON r.oid = b.role
        WHERE NOT pg_has_role(b.role, 'immuta_subscriber', 'USAGE')
    LOOP
        PERFORM immuta.mark_role(lost.role, 'immuta_subscriber', true);
        RETURN QUERY SELECT 'granted', 'ROLE immuta_subscriber', 'to ' || lost.role::regrole;
    END LOOP;
    -- What somebody revoked.
    DELETE FROM immuta.grant_made g
    WHERE immuta.grantor_of(system_role, g.grantee, g.kind, g.object, g.attnum, g.privilege) IS NULL;
    DELETE FROM immuta.class_member m USING immuta.access_class k
    WHERE k.id = m.class_id AND NOT EXISTS (SELECT FROM pg_auth_members c WHERE c.roleid = k.role AND c.member = m.role);
    RETURN QUERY SELECT * FROM immuta.own_memberships();
    PERFORM immuta.refresh_policy_members(NULL, NULL);
    PERFORM immuta.ensure_role(s.user_id) FROM (
        SELECT DISTINCT s.user_id FROM immuta.subscription s
        WHERE s.state = 'approved' AND NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.user_id = s.user_id AND b.role IS NOT NULL)) s;
    FOR change IN
        SELECT * FROM immuta.sync_objects(NULL)
        UNION ALL SELECT * FROM immuta.apply_members(NULL, NULL)
        UNION ALL SELECT * FROM immuta.settle_sources(NULL)
    LOOP
        -- What cannot be granted is no change: drift() tells.
        IF change.what <> 'not granted' THEN
            RETURN QUERY SELECT change.what, change.object, change.detail;
        END IF;
    END LOOP;
    FOR lost IN
        SELECT p.id, p.name, d.relation FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id
        WHERE NOT immuta.has_policy(d.relation, 'immuta_row_' || p.id)
    LOOP
        PERFORM immuta.apply_row_policy(lost.id);
        RETURN QUERY SELECT 'row policy created', lost.relation::regclass::text, lost.name;
    END LOOP;
    FOR lost IN
        SELECT p.name, d.relation, f.fault
        FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id,
             LATERAL immuta.function_without_path(d.relation, 'immuta_row_' || p.id) f (fault)
        WHERE f.fault IS NOT NULL
    LOOP
        RAISE WARNING 'row policy "%" of "%" depends on the search_path of whoever reads the table', left(lost.name, 63), lost.relation::regclass
            USING HINT = format('ALTER FUNCTION %s SET search_path = ...', lost.fault);
    END LOOP;
    RETURN QUERY SELECT 'projects equalised', e || ' tables', NULL FROM immuta.equalise_projects() e WHERE e > 0;
    -- What needs an administrator.
    RETURN QUERY SELECT * FROM immuta.not_adopted();
END
$$;
REVOKE ALL ON FUNCTION immuta.sync() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.sync() TO immuta_admin;
COMMENT ON FUNCTION immuta.sync() IS 'makes everything what subscriptions and policies say, and reports what it changed';

-- A copy's own: roles of access classes and projects are made anew, roles of users are shared and never dropped here.
CREATE FUNCTION immuta.adopt() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    original name := immuta.original();
BEGIN
    IF original IS NOT NULL THEN
        UPDATE immuta.connection_state s SET version = s.version + 1;
        PERFORM immuta.come_home();
        RETURN QUERY SELECT 'adopted', 'DATABASE ' || quote_ident(current_database()),
                            'with roles of its own beside ' || quote_ident(original);
    END IF;
    IF original IS NULL OR EXISTS (SELECT FROM immuta.system_account) THEN
        RETURN QUERY SELECT * FROM immuta.sync();
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.adopt() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.adopt() TO immuta_admin;
COMMENT ON FUNCTION immuta.adopt() IS 'what sync() does, also in a copy whose original is in this cluster: it gets roles of its own';

CREATE FUNCTION immuta.doctor_of_place() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'all that was brought here is adopted', count(*) = 0, CASE count(*) WHEN 0 THEN 'in step'
           ELSE string_agg(n.object || ': ' || n.detail, '; ' ORDER BY n.object) END
    FROM immuta.not_adopted() n
    UNION ALL
    SELECT 'stored names of roles are theirs', count(*) = 0, CASE count(*) WHEN 0 THEN 'all of them'
           ELSE 'Run immuta.sync() before a dump or an upgrade: roles were renamed: ' || string_agg(DISTINCT r.rolname, ', ') END
    FROM (SELECT a.role, a.role_name FROM immuta.system_account a
          UNION ALL SELECT b.role, b.role_name FROM immuta.subscriber b
          UNION ALL SELECT k.role, k.role_name FROM immuta.access_class k
          UNION ALL SELECT u.postgres_role, u.postgres_role_name FROM immuta.user_account u WHERE u.mapping = 'explicit') s
    JOIN pg_roles r ON r.oid = s.role
    WHERE r.rolname <> s.role_name AND immuta.is_home()
$$;
REVOKE ALL ON FUNCTION immuta.doctor_of_place() FROM PUBLIC;
COMMENT ON FUNCTION immuta.doctor_of_place() IS 'internal: the part of doctor() that concerns another cluster or database';

CREATE FUNCTION immuta.doctor_of_connection() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'system account', r.oid IS NOT NULL AND r.rolcreaterole AND NOT r.rolsuper,
           CASE WHEN r.oid IS NULL THEN 'role "' || a.role_name || '" does not exist: set another one with immuta.set_system_account()'
                WHEN r.rolsuper THEN 'it must not be a superuser' WHEN NOT r.rolcreaterole THEN 'it needs CREATEROLE'
                ELSE r.rolname END
    FROM immuta.system_account a LEFT JOIN pg_roles r ON r.oid = a.role
    UNION ALL
    SELECT 'memberships can be revoked', count(f.class_role) = 0, CASE count(f.class_role) WHEN 0 THEN 'all of them'
           ELSE 'Run immuta.sync(): not those in ' || string_agg(DISTINCT f.class_role::regrole::text, ', ') END
    FROM immuta.system_account a LEFT JOIN immuta.foreign_memberships() f ON true GROUP BY a.one
    UNION ALL
    SELECT 'subscriptions and grants', count(d.what) = 0, CASE count(d.what) WHEN 0 THEN 'the same'
           ELSE count(*) || ' differences: see immuta.drift()' END
    FROM immuta.system_account a LEFT JOIN immuta.drift() d ON true GROUP BY a.one
    UNION ALL
    SELECT 'DDL is watched', count(*) = 0, CASE count(*) WHEN 0 THEN 'by all event triggers'
           ELSE 'ALTER EVENT TRIGGER ... ENABLE: ' || string_agg(n.name, ', ') || '; then run immuta.sync()' END
    FROM immuta.system_account, (VALUES ('immuta_before'), ('immuta_ddl'), ('immuta_drop')) n (name)
         LEFT JOIN pg_event_trigger t ON t.evtname = n.name
    WHERE t.evtname IS NULL OR t.evtenabled NOT IN ('O', 'A')
$$;
REVOKE ALL ON FUNCTION immuta.doctor_of_connection() FROM PUBLIC;
COMMENT ON FUNCTION immuta.doctor_of_connection() IS 'internal: the part of doctor() that concerns subscriptions';

-- Object sync. Whatever goes wrong here does not stop other people's DDL: what was not done now is done with the next
-- change of the connection. DDL holds locks on its tables, for which an administrator may be waiting who holds the lock
-- of the connection: it waits for that less long than it takes to find a deadlock.

CREATE FUNCTION immuta.follow_ddl(touched oid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
AS $$
BEGIN
    PERFORM immuta.note_parts(touched);
    IF immuta.is_out_of_step(touched) THEN
        PERFORM immuta.lock_connection();
        PERFORM FROM immuta.sync_objects(touched);
    END IF;
EXCEPTION WHEN OTHERS THEN
    INSERT INTO immuta.pending_sync SELECT t FROM unnest(touched || 0::oid) t;
    RAISE WARNING 'the data sources of immuta_ext are not in step with this yet: %', SQLERRM
        USING HINT = 'The next change of subscriptions or policies makes up for it, and immuta.sync() at once.';
END
$$;
REVOKE ALL ON FUNCTION immuta.follow_ddl(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.follow_ddl(oid[]) IS 'internal: brings data sources in step with relations that DDL touched';

CREATE FUNCTION immuta.is_watching() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM immuta.connection_state s WHERE s.active) AND immuta.is_home()
       AND (EXISTS (SELECT FROM immuta.registered_schema) OR EXISTS (SELECT FROM immuta.data_source))
$$;
REVOKE ALL ON FUNCTION immuta.is_watching() FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_watching() IS 'internal: whether DDL can concern data sources';

-- DDL may change the names by which everything is adopted. And a member of a role may DROP OWNED BY it: of immuta_subscriber, to
-- which all row policies are granted, and of the roles that hold the grants.
CREATE FUNCTION immuta.before_ddl() RETURNS event_trigger
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
        IF EXISTS (SELECT FROM immuta.connection_state s WHERE s.active) AND NOT immuta.is_home()
           AND immuta.original() IS NULL THEN
            PERFORM immuta.lock_connection();
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'the data sources of immuta_ext are not adopted yet: %', SQLERRM USING HINT = 'Run immuta.sync().';
    END;
END
$$;
REVOKE ALL ON FUNCTION immuta.before_ddl() FROM PUBLIC;
COMMENT ON FUNCTION immuta.before_ddl() IS 'internal: a database that came from elsewhere is adopted before its tables change';

CREATE FUNCTION immuta.after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_watching() THEN
        -- The relations, and whatever hangs on them: partitions come and go by ALTER TABLE of their parent, tables
        -- follow a schema to another name, sequences become a column's.
        PERFORM immuta.follow_ddl(coalesce(array_agg(DISTINCT o.oid), '{}')) FROM (
            SELECT c.objid AS oid FROM pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_class'::regclass
            UNION ALL
            SELECT i.inhrelid FROM pg_event_trigger_ddl_commands() c JOIN pg_inherits i ON i.inhparent = c.objid
            WHERE c.classid = 'pg_class'::regclass
            UNION ALL
            SELECT r.relation FROM pg_event_trigger_ddl_commands() c JOIN pg_class p ON p.oid = c.objid AND p.relkind = 'p'
            CROSS JOIN immuta.registered_relations(NULL) r
            WHERE c.classid = 'pg_class'::regclass AND c.command_tag = 'ALTER TABLE'
              AND NOT EXISTS (SELECT FROM immuta.data_source d WHERE d.relation = r.relation)
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
REVOKE ALL ON FUNCTION immuta.after_ddl() FROM PUBLIC;
COMMENT ON FUNCTION immuta.after_ddl() IS 'internal: data sources follow DDL';

CREATE FUNCTION immuta.after_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_watching() THEN
        PERFORM immuta.follow_ddl(coalesce(array_agg(o.objid) FILTER (WHERE o.classid = 'pg_class'::regclass), '{}'))
        FROM pg_event_trigger_dropped_objects() o
        WHERE o.objsubid = 0 AND o.classid IN ('pg_class'::regclass, 'pg_namespace'::regclass);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.after_drop() FROM PUBLIC;
COMMENT ON FUNCTION immuta.after_drop() IS 'internal: data sources go with their tables';

CREATE EVENT TRIGGER immuta_before ON ddl_command_start
WHEN TAG IN ('ALTER TABLE', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE', 'ALTER SCHEMA', 'DROP TABLE',
             'DROP VIEW', 'DROP MATERIALIZED VIEW', 'DROP FOREIGN TABLE', 'DROP SCHEMA', 'DROP OWNED')
EXECUTE FUNCTION immuta.before_ddl();
COMMENT ON EVENT TRIGGER immuta_before IS 'data sources of immuta_ext are adopted before DDL changes their names';
CREATE EVENT TRIGGER immuta_ddl ON ddl_command_end
WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE VIEW', 'CREATE MATERIALIZED VIEW',
             'CREATE FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA', 'ALTER TABLE', 'ALTER VIEW',
             'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE', 'ALTER SEQUENCE', 'ALTER SCHEMA', 'CREATE SCHEMA')
EXECUTE FUNCTION immuta.after_ddl();
COMMENT ON EVENT TRIGGER immuta_ddl IS 'data sources of immuta_ext follow DDL';
CREATE EVENT TRIGGER immuta_drop ON sql_drop EXECUTE FUNCTION immuta.after_drop();
COMMENT ON EVENT TRIGGER immuta_drop IS 'data sources of immuta_ext go with their tables';

-- Off until there is something to watch: DDL in other databases is none of our business, at no cost.
ALTER EVENT TRIGGER immuta_before DISABLE;
ALTER EVENT TRIGGER immuta_ddl DISABLE;
ALTER EVENT TRIGGER immuta_drop DISABLE;

CREATE FUNCTION immuta.watch_ddl() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    ALTER EVENT TRIGGER immuta_before ENABLE;
    ALTER EVENT TRIGGER immuta_ddl ENABLE;
    ALTER EVENT TRIGGER immuta_drop ENABLE;
END
$$;
REVOKE ALL ON FUNCTION immuta.watch_ddl() FROM PUBLIC;
COMMENT ON FUNCTION immuta.watch_ddl() IS 'internal: from now on data sources follow DDL';

-- What logical replication brings carries the OIDs of another cluster, and no restore or upgrade says so: here they would be
-- somebody else's roles and tables.
CREATE FUNCTION immuta.refuse_replication() RETURNS trigger
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
REVOKE ALL ON FUNCTION immuta.refuse_replication() FROM PUBLIC;
COMMENT ON FUNCTION immuta.refuse_replication() IS 'internal: 55000 for rows that logical replication brings';

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
                                  'FOR EACH ROW EXECUTE FUNCTION immuta.refuse_replication()', name);
        EXECUTE pg_catalog.format('ALTER TABLE immuta.%I ENABLE REPLICA TRIGGER refuse_replication', name);
    END LOOP;
END
$$;
