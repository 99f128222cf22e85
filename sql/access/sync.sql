-- Setting the connection up, and making everything what it should be.

-- ENABLE TRIGGER ALL, as at the end of a restore without triggers, leaves them off during replication.
CREATE FUNCTION immuta_internal.always_announce() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    announcing record;
BEGIN
    FOR announcing IN
        SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_trigger t
        WHERE t.tgfoid = 'immuta_internal.announce_change()'::regprocedure AND t.tgenabled <> 'A'
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', announcing.relation, announcing.tgname);
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.always_announce() IS 'every session hears of changes, whoever makes them';

CREATE FUNCTION immuta_internal.store_role_names() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE immuta.system_account a SET role_name = r.rolname FROM pg_roles r WHERE r.oid = a.role AND r.rolname <> a.role_name;
    UPDATE immuta.access_class k SET role_name = r.rolname FROM pg_roles r WHERE r.oid = k.role AND r.rolname <> k.role_name;
    UPDATE immuta.subscriber b SET role_name = r.rolname FROM pg_roles r WHERE r.oid = b.role AND r.rolname <> b.role_name;
    UPDATE immuta.user_account u SET postgres_role_name = r.rolname FROM pg_roles r
    WHERE r.oid = u.postgres_role AND r.rolname <> u.postgres_role_name
$$;
COMMENT ON FUNCTION immuta_internal.store_role_names() IS 'stores the names of roles that were renamed';

CREATE FUNCTION immuta_internal.follow_roles() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lost record;
BEGIN
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
           OR (SELECT c.role FROM immuta_internal.carrier(b.user_id) c) IS DISTINCT FROM b.role
    LOOP
        PERFORM immuta_internal.release_role(lost.user_id);
        IF lost.made THEN
            UPDATE immuta.user_account u SET mapping = 'username', postgres_role = NULL
            WHERE u.id = lost.user_id AND u.mapping = 'explicit'
              AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = u.postgres_role);
        END IF;
        PERFORM immuta_internal.settle_mapping(lost.user_id);
        RETURN QUERY SELECT 'role of a user changed', 'ROLE ' || quote_ident(lost.role_name), NULL;
    END LOOP;
    FOR lost IN SELECT u AS role FROM immuta_internal.unmarked_subscribers() u
    LOOP
        PERFORM immuta_internal.mark_role(lost.role, 'immuta_subscriber', true);
        RETURN QUERY SELECT 'granted', 'ROLE immuta_subscriber', 'to ' || lost.role::regrole;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.follow_roles() IS 'what was recorded of roles follows those of the cluster';

CREATE FUNCTION immuta_internal.renew_row_policies() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fault record;
BEGIN
    FOR fault IN SELECT * FROM immuta_internal.row_policy_faults() f WHERE f.is_missing
    LOOP
        PERFORM immuta_internal.apply_row_policy(fault.policy_id);
        RETURN QUERY SELECT 'row policy created', fault.relation::regclass::text, fault.name;
    END LOOP;
    FOR fault IN SELECT * FROM immuta_internal.row_policy_faults() f WHERE NOT f.is_missing
    LOOP
        RAISE WARNING 'row policy "%" of "%" depends on the search_path of whoever reads the table', immuta_internal.shown(fault.name), fault.relation::regclass
            USING HINT = format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp (other schemas it needs before pg_temp)', fault.unsafe);
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.renew_row_policies() IS 'creates row policies that are not there, and warns of unsafe ones';

CREATE FUNCTION immuta.sync() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    expired bigint;
    change record;
BEGIN
    IF NOT immuta_internal.is_home() THEN
        PERFORM immuta_internal.catch_up_projects();
        IF NOT EXISTS (SELECT FROM immuta.system_account) THEN
            RETURN QUERY SELECT * FROM immuta_internal.not_adopted();
            RETURN;
        END IF;
    END IF;
    PERFORM immuta_internal.system_role(), immuta_internal.always_announce();
    expired := immuta.expire_subscriptions();
    IF expired > 0 THEN
        RETURN QUERY SELECT 'expired', expired || ' subscriptions', NULL;
    END IF;
    PERFORM immuta_internal.catch_up();
    DELETE FROM immuta.part p WHERE p.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relation);
    PERFORM immuta_internal.find_missing(), immuta_internal.store_role_names();
    RETURN QUERY SELECT * FROM immuta_internal.follow_roles();
    -- What somebody revoked is to be granted again.
    DELETE FROM immuta.grant_made g USING immuta_internal.revoked_by_hand() r
    WHERE (g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege)
          = (r.data_source_id, r.grantee, r.kind, r.object, r.attnum, r.privilege);
    DELETE FROM immuta.class_member m USING immuta_internal.lost_memberships() l WHERE m.class_id = l.class_id AND m.user_id = l.user_id;
    RETURN QUERY SELECT * FROM immuta_internal.own_memberships();
    PERFORM immuta_internal.refresh_policy_members(NULL, NULL);
    PERFORM immuta_internal.ensure_role(w.user_id) FROM immuta_internal.users_without_role() w;
    FOR change IN
        SELECT * FROM immuta_internal.sync_objects(NULL)
        UNION ALL SELECT * FROM immuta_internal.apply_members(NULL, NULL)
        UNION ALL SELECT * FROM immuta_internal.settle_sources(NULL)
    LOOP
        -- What cannot be granted is not a change: drift() shows it.
        IF change.what <> 'not granted' THEN
            RETURN QUERY SELECT change.what, change.object, change.detail;
        END IF;
    END LOOP;
    RETURN QUERY SELECT * FROM immuta_internal.renew_row_policies();
    RETURN QUERY SELECT 'projects equalised', e || ' tables', NULL FROM immuta.equalise_projects() e WHERE e > 0;
    -- What needs an administrator.
    RETURN QUERY SELECT * FROM immuta_internal.not_adopted();
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
    original name := immuta_internal.original();
BEGIN
    IF original IS NOT NULL THEN
        UPDATE immuta.connection_state s SET version = s.version + 1;
        PERFORM immuta_internal.come_home();
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
    IF immuta_internal.is_connected(false) THEN
        PERFORM immuta_internal.catch_up();
    END IF;
    former := (SELECT r.oid FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role WHERE immuta_internal.is_home());
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
        PERFORM FROM immuta_internal.revoke_memberships(ARRAY(SELECT k.id FROM immuta.access_class k));
        PERFORM immuta_internal.revoke_all_grants();
    END IF;
    INSERT INTO immuta.system_account AS a (role_name) VALUES (set_system_account.role_name)
    ON CONFLICT ON CONSTRAINT system_account_pkey DO UPDATE SET role = EXCLUDED.role, role_name = EXCLUDED.role_name;
    PERFORM immuta_internal.catch_up();
    IF former <> account.oid THEN
        PERFORM immuta_internal.take_stock(false, false);
    END IF;
    PERFORM FROM immuta.sync();
END
$$;
REVOKE ALL ON FUNCTION immuta.set_system_account(name) FROM PUBLIC;
COMMENT ON FUNCTION immuta.set_system_account(name) IS 'names the role that creates roles and grants; for superusers';
