-- Setting the connection up, and making everything what it should be.

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
