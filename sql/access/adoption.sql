-- A database that came to another place (see sql/operations/home.sql): everything is adopted by its names. What cannot be adopted
-- grants nothing and stays: drift() and doctor() say what to do.

-- From 16 on a membership is revoked by who granted it, with ADMIN on the role; roles and memberships made before come
-- without either. Nothing is left to the system account that it did not have before 16: it neither inherits nor sets them.
CREATE FUNCTION immuta_internal.foreign_memberships() RETURNS TABLE (class_role oid, member oid, grantor oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH account AS (SELECT r.oid FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role)
    -- Without ADMIN.
    SELECT r.oid, NULL::oid, NULL::oid
    FROM account a, immuta.access_class k JOIN pg_roles r ON r.oid = k.role
    WHERE current_setting('server_version_num')::integer >= 160000
      AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid AND m.member = a.oid AND m.admin_option)
    UNION ALL
    SELECT m.roleid, m.member, m.grantor
    FROM account a, immuta.class_member c JOIN immuta.access_class k ON k.id = c.class_id
    JOIN pg_auth_members m ON m.roleid = k.role AND m.member = c.role
    WHERE current_setting('server_version_num')::integer >= 160000
      AND NOT EXISTS (SELECT FROM pg_auth_members o
                      WHERE o.roleid = m.roleid AND o.member = m.member AND o.grantor = a.oid)
$$;
COMMENT ON FUNCTION immuta_internal.foreign_memberships() IS 'roles that the system account may not grant, and memberships that it may not revoke';

-- As the owner of the extension.
CREATE FUNCTION immuta_internal.own_memberships() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account name := pg_get_userbyid(immuta_internal.system_role());
    membership record;
BEGIN
    FOR membership IN
        SELECT f.member IS NOT NULL AS is_granted, quote_ident(pg_get_userbyid(f.class_role)) AS class_role,
               quote_ident(pg_get_userbyid(f.member)) AS member, quote_ident(pg_get_userbyid(f.grantor)) AS grantor
        FROM immuta_internal.foreign_memberships() f ORDER BY 1, 2, 3
    LOOP
        object := 'ROLE ' || membership.class_role;
        IF membership.is_granted THEN
            EXECUTE format('REVOKE %s FROM %s GRANTED BY %s', membership.class_role, membership.member, membership.grantor);
            EXECUTE format('GRANT %s TO %s', membership.class_role, membership.member) || immuta_internal.membership_options()
                    || format(' GRANTED BY %I', account);
            what := 'made revocable';
            detail := 'of ' || membership.member;
        ELSE
            EXECUTE format('GRANT %s TO %I WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', membership.class_role, account);
            what := 'granted';
            detail := 'to ' || quote_ident(account) || ' with ADMIN';
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.own_memberships() IS 'makes what was granted before PostgreSQL 16 the system account''s, so that it can revoke it';

CREATE FUNCTION immuta_internal.watch_ddl() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    ALTER EVENT TRIGGER immuta_before ENABLE;
    ALTER EVENT TRIGGER immuta_ddl ENABLE;
    ALTER EVENT TRIGGER immuta_drop ENABLE;
END
$$;
COMMENT ON FUNCTION immuta_internal.watch_ddl() IS 'from now on data sources follow DDL';

-- What stands in the catalogs and is wanted is ours: after a restore there is no other record. In a copy roles are the
-- original's, and so are those that have rights in another database after a restore.
CREATE FUNCTION immuta_internal.take_stock(is_copy boolean, was_restored boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    system_role oid := immuta_internal.system_role();
BEGIN
    TRUNCATE immuta.policy_member, immuta.class_source, immuta.class_member, immuta.grant_made, immuta.pending_sync;
    PERFORM FROM immuta_internal.settle_masks(NULL);
    PERFORM immuta_internal.watch_ddl(), immuta_internal.note_parts(NULL);
    PERFORM immuta_internal.refresh_policy_members(NULL, NULL);
    PERFORM immuta_internal.assign_classes(NULL);
    INSERT INTO immuta.class_member
    SELECT w.class_id, w.user_id, b.role
    FROM immuta_internal.wanted_members(NULL, NULL) w
    JOIN immuta.access_class k ON k.id = w.class_id JOIN immuta.subscriber b ON b.user_id = w.user_id
    WHERE EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = k.role AND m.member = b.role);
    INSERT INTO immuta.grant_made
    SELECT w.*, g.grantor
    FROM immuta_internal.wanted_grants(NULL, NULL) w,
         LATERAL (SELECT immuta_internal.grantor_of(system_role, w.grantee, w.kind, w.object, w.attnum, w.privilege) AS grantor) g
    WHERE g.grantor IS NOT NULL;
    UPDATE immuta.subscriber b SET made = false
    WHERE b.made AND (is_copy OR was_restored AND immuta_internal.is_shared(b.role));
    UPDATE immuta.access_class k SET role = NULL, role_name = NULL
    WHERE is_copy OR was_restored AND immuta_internal.is_used_elsewhere(k.role);
    IF FOUND THEN
        DELETE FROM immuta.class_member m USING immuta.access_class k WHERE k.id = m.class_id AND k.role IS NULL;
        PERFORM FROM immuta_internal.apply_members(NULL, NULL);
        PERFORM FROM immuta_internal.apply_grants(NULL);
    END IF;
    PERFORM FROM immuta_internal.own_memberships();
END
$$;
COMMENT ON FUNCTION immuta_internal.take_stock(boolean, boolean) IS 'takes over the grants and memberships that it finds';

-- Its rights in this database go to a role of this project's own.
CREATE FUNCTION immuta_internal.renew_project_role(project_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    former oid;
    new_name name;
    target text;
BEGIN
    SELECT p.postgres_role, immuta_internal.new_role_name('project_' || p.name, current_database() || p.id) INTO former, new_name
    FROM immuta.project p WHERE p.id = project_id;
    FOR target IN
        SELECT immuta_internal.grant_target(CASE d.classid WHEN 'pg_namespace'::regclass THEN 's' ELSE 'r' END::"char", d.objid)
        FROM pg_shdepend d JOIN pg_database b ON b.oid = d.dbid AND b.datname = current_database()
        WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = former AND d.deptype = 'a'
          AND d.classid IN ('pg_class'::regclass, 'pg_namespace'::regclass)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I CASCADE', target, pg_get_userbyid(former));
    END LOOP;
    UPDATE immuta.project p SET postgres_role = immuta_internal.make_project_role(new_name) WHERE p.id = project_id;
    PERFORM immuta_internal.equalise(project_id);
END
$$;
COMMENT ON FUNCTION immuta_internal.renew_project_role(integer) IS 'gives a project another role';

CREATE FUNCTION immuta_internal.is_role(role oid, role_name name, was_moved boolean) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_roles r WHERE r.oid = role AND (was_moved OR r.rolname = role_name))
$$;
COMMENT ON FUNCTION immuta_internal.is_role(oid, name, boolean) IS 'whether an OID is that of a stored role here';

CREATE FUNCTION immuta_internal.is_relation(relation oid, schema_name name, table_name name, was_moved boolean) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation
                   AND (was_moved OR c.oid = immuta_internal.relation_named(schema_name, table_name)))
$$;
COMMENT ON FUNCTION immuta_internal.is_relation(oid, name, name, boolean) IS 'whether an OID is that of a stored relation here';

-- A name that two rows share belongs to neither.
CREATE FUNCTION immuta_internal.find_missing() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE immuta.registered_schema r SET namespace = n.oid FROM pg_namespace n
    WHERE r.namespace IS NULL AND n.nspname = r.schema_name
      AND NOT EXISTS (SELECT FROM immuta.registered_schema o WHERE o.namespace = n.oid);
    UPDATE immuta.data_source d
    SET relation = c.oid, excluded_numbers = (SELECT e.numbers FROM immuta_internal.exclusions(c.oid, d.excluded_columns, '{}') e)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE d.relation IS NULL AND n.nspname = d.schema_name AND c.relname = d.table_name
      AND NOT EXISTS (SELECT FROM immuta.data_source o
                      WHERE o.relation = c.oid
                         OR o.id <> d.id AND (o.relation, o.schema_name, o.table_name) IS NOT DISTINCT FROM (NULL, d.schema_name, d.table_name));
    UPDATE immuta.part p SET relation = immuta_internal.relation_named(p.schema_name, p.table_name)
    WHERE p.relation IS NULL
$$;
COMMENT ON FUNCTION immuta_internal.find_missing() IS 'schemas and relations that could not be adopted, and are there now';

-- Call it with the lock held. First wrong OIDs are cleared, then what is missing is found by its name: two rows may have
-- swapped names.
CREATE FUNCTION immuta_internal.come_home() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_copy boolean := immuta_internal.original() IS NOT NULL;
    moved boolean := immuta_internal.was_moved();
BEGIN
    UPDATE immuta.system_account a SET role = NULL WHERE NOT immuta_internal.is_role(a.role, a.role_name, moved);
    UPDATE immuta.subscriber b SET role = NULL WHERE NOT immuta_internal.is_role(b.role, b.role_name, moved);
    UPDATE immuta.access_class k SET role = NULL WHERE NOT immuta_internal.is_role(k.role, k.role_name, moved);
    UPDATE immuta.data_source d SET relation = NULL
    WHERE NOT immuta_internal.is_relation(d.relation, d.schema_name, d.table_name, moved);
    UPDATE immuta.part p SET relation = NULL WHERE NOT immuta_internal.is_relation(p.relation, p.schema_name, p.table_name, moved);
    UPDATE immuta.registered_schema r SET namespace = NULL WHERE r.namespace IS NOT NULL;
    IF NOT moved THEN
        UPDATE immuta.system_account a SET role = r.oid FROM pg_roles r WHERE a.role IS NULL AND r.rolname = a.role_name;
        UPDATE immuta.subscriber b SET role = r.oid FROM pg_roles r
        WHERE b.role IS NULL AND r.rolname = b.role_name
          AND NOT EXISTS (SELECT FROM immuta.subscriber o WHERE o.role_name = b.role_name AND o.user_id <> b.user_id);
        UPDATE immuta.access_class k SET role = r.oid FROM pg_roles r
        WHERE k.role IS NULL AND r.rolname = k.role_name
          AND NOT EXISTS (SELECT FROM immuta.access_class o WHERE o.role_name = k.role_name AND o.id <> k.id);
        UPDATE immuta.data_source d SET excluded_numbers = e.numbers
        FROM immuta.data_source s, LATERAL immuta_internal.exclusions(s.relation, s.excluded_columns, '{}') e
        WHERE s.id = d.id AND d.relation IS NOT NULL AND e.numbers <> d.excluded_numbers;
        UPDATE immuta.named_column n SET column_number = NULL WHERE n.column_number IS NOT NULL;
    END IF;
    PERFORM immuta_internal.find_missing();
    DELETE FROM immuta.home;
    INSERT INTO immuta.home
    SELECT * FROM immuta_internal.here();
    -- From here on the OIDs are those of this database.
    IF EXISTS (SELECT FROM immuta.system_account) THEN
        UPDATE immuta.connection_state SET active = true;
        PERFORM immuta_internal.take_stock(is_copy, NOT moved);
    END IF;
    PERFORM immuta_internal.renew_project_role(p.id) FROM immuta.project p
    WHERE is_copy OR NOT moved AND immuta_internal.is_used_elsewhere(p.postgres_role);
    UPDATE immuta.user_account u SET postgres_role = 0
    WHERE u.postgres_role <> 0 AND NOT immuta_internal.is_role(u.postgres_role, u.postgres_role_name, moved);
END
$$;
COMMENT ON FUNCTION immuta_internal.come_home() IS 'adopts everything by its names';

CREATE FUNCTION immuta_internal.not_adopted() RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'not adopted', 'DATABASE ' || quote_ident(current_database()),
           coalesce('it is a copy of ' || quote_ident(immuta_internal.original()) || ', whose roles it has: SELECT * FROM immuta.adopt()',
                    'it came from elsewhere: SELECT * FROM immuta.sync()')
    WHERE NOT immuta_internal.is_home()
    UNION ALL
    SELECT 'not adopted', 'SCHEMA ' || quote_ident(r.schema_name),
           'there is none of this name: run immuta.sync() when there is, or immuta.unregister_schema()'
    FROM immuta.registered_schema r WHERE r.namespace IS NULL AND immuta_internal.is_home()
    UNION ALL
    SELECT 'not adopted', 'TABLE ' || format('%I.%I', d.schema_name, d.table_name),
           'there is none of this name, or two data sources have it: run immuta.sync() when there is one, or immuta.forget_missing()'
    FROM immuta.data_source d WHERE d.relation IS NULL AND immuta_internal.is_home()
    UNION ALL
    SELECT 'not adopted', 'ROLE ' || quote_ident(b.role_name),
           'it is missing or another one: immuta.sync() lets ' || u.userid || ' (' || u.iamid || ') have their subscriptions by their mapping'
    FROM immuta.subscriber b JOIN immuta.user_account u ON u.id = b.user_id WHERE b.role IS NULL AND immuta_internal.is_home()
    UNION ALL
    SELECT 'not adopted', 'ROLE ' || quote_ident(u.postgres_role_name),
           'it is missing or another one: map ' || u.userid || ' (' || u.iamid || ') with immuta.map_user()'
    FROM immuta.user_account u WHERE u.mapping = 'explicit' AND u.postgres_role = 0 AND immuta_internal.is_home()
    ORDER BY 1, 2, 3
$$;
COMMENT ON FUNCTION immuta_internal.not_adopted() IS 'what is known by its name only, and grants nothing';
