-- Roles of users.

-- The role that the user is mapped to now, if it can carry their subscriptions; else, if none can be made either, why not.
CREATE FUNCTION immuta_internal.carrier(user_id bigint, OUT role oid, OUT problem text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account record;
    found_role record;
BEGIN
    SELECT u.* INTO account FROM immuta.user_account u WHERE u.id = carrier.user_id;
    IF account.mapping = 'none' THEN
        problem := 'the user is mapped to no role';
        RETURN;
    END IF;
    SELECT r.oid, r.rolname, r.rolinherit INTO found_role FROM pg_roles r
    WHERE r.oid = immuta_internal.role_of_user(convert_to(account.userid, 'UTF8'), convert_to(account.iamid, 'UTF8'));
    IF NOT FOUND THEN
        IF account.mapping = 'explicit' THEN
            problem := 'the mapped role does not exist';
        END IF;
        RETURN;
    END IF;
    SELECT format('role "%s" is also the role of user "%s"', found_role.rolname, o.userid) INTO problem
    FROM immuta.user_account o WHERE o.postgres_role = found_role.oid AND o.id <> account.id LIMIT 1;
    IF problem IS NOT NULL AND account.mapping = 'username' THEN
        problem := NULL;
        RETURN; -- They get another one.
    END IF;
    problem := coalesce(problem,
        (SELECT format('role "%s" carries the subscriptions of another user', found_role.rolname)
         FROM immuta.subscriber b WHERE b.role = found_role.oid AND b.user_id <> carrier.user_id),
        immuta_internal.target_fault(found_role.oid));
    IF problem IS NULL AND NOT found_role.rolinherit AND current_setting('server_version_num')::integer < 160000 THEN
        problem := format('role "%s" has NOINHERIT: memberships give it nothing', found_role.rolname);
    END IF;
    IF problem IS NULL THEN
        role := found_role.oid;
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.carrier(bigint) IS 'the role of a user that can carry subscriptions, or why there is none';

CREATE FUNCTION immuta_internal.new_role_name(wanted text, seed text) RETURNS name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    base text := regexp_replace(wanted, '[[:cntrl:]]', '_', 'g');
    candidate text := base;
    attempt integer := 0;
BEGIN
    LOOP
        IF octet_length(candidate) BETWEEN 1 AND 63 AND candidate !~ '^pg_' AND candidate NOT IN ('public', 'none')
           AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = candidate) THEN
            RETURN candidate;
        END IF;
        -- Taken, reserved or too long: add digits that are this user's.
        WHILE octet_length(base) > 52 LOOP
            base := left(base, -1);
        END LOOP;
        candidate := CASE WHEN base ~ '^pg_' THEN 'r_' ELSE '' END || base || '_'
                     || left(encode(sha256(convert_to(seed || chr(10) || attempt, 'SQL_ASCII')), 'hex'), 8);
        attempt := attempt + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.new_role_name(text, text) IS 'a name for a new role: the one that is wanted, if possible';

-- The markers of this extension are granted by its owner: the system account needs no rights on them.
CREATE FUNCTION immuta_internal.mark_role(role oid, marker text, marked boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_has_role(mark_role.role, marker, 'USAGE') = marked THEN
        RETURN;
    END IF;
    EXECUTE CASE WHEN marked THEN format('GRANT %I TO %I', marker, pg_get_userbyid(mark_role.role)) || immuta_internal.membership_options()
                 ELSE format('REVOKE %I FROM %I', marker, pg_get_userbyid(mark_role.role)) END;
END
$$;
COMMENT ON FUNCTION immuta_internal.mark_role(oid, text, boolean) IS 'makes a role a member of immuta_subscriber or immuta_mappable, or no longer';

-- The role that carries the user's subscriptions, made if there is none; NULL if there cannot be one.
CREATE FUNCTION immuta_internal.ensure_role(user_id bigint) RETURNS oid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    mapped record;
    account record;
    new_name name;
    new_role oid;
    template text := coalesce(nullif(current_setting('bodata.role_name_template'), ''), 'user_{userid}');
BEGIN
    SELECT b.role INTO new_role FROM immuta.subscriber b WHERE b.user_id = ensure_role.user_id;
    IF FOUND AND new_role IS NOT NULL THEN
        RETURN new_role;
    END IF;
    SELECT * INTO mapped FROM immuta_internal.carrier(ensure_role.user_id);
    IF mapped.problem IS NOT NULL THEN
        RETURN NULL;
    END IF;
    IF mapped.role IS NOT NULL THEN
        PERFORM immuta_internal.mark_role(mapped.role, 'immuta_subscriber', true);
        INSERT INTO immuta.subscriber (user_id, role_name, made) VALUES (ensure_role.user_id, pg_get_userbyid(mapped.role), false)
        ON CONFLICT ON CONSTRAINT subscriber_pkey DO UPDATE SET role = mapped.role, role_name = EXCLUDED.role_name, made = false;
        RETURN mapped.role;
    END IF;
    SELECT u.userid, u.iamid INTO account FROM immuta.user_account u WHERE u.id = ensure_role.user_id;
    -- First the identity manager: a user id may hold braces.
    new_name := immuta_internal.new_role_name(
        (SELECT string_agg(CASE p WHEN '{userid}' THEN account.userid WHEN '{iamid}' THEN account.iamid ELSE p END, '' ORDER BY n)
         FROM (SELECT m[1] AS p, n FROM regexp_matches(template, '(\{userid\}|\{iamid\}|[^{}]+)', 'g') WITH ORDINALITY t (m, n)) parts),
        account.iamid || chr(10) || account.userid);
    PERFORM immuta_internal.as_system(format('CREATE ROLE %I NOLOGIN INHERIT', new_name));
    IF current_setting('server_version_num')::integer >= 160000 THEN
        -- It would be a member of every user's role, and each look at its memberships would walk through all of them.
        EXECUTE format('REVOKE %I FROM %I CASCADE', new_name, pg_get_userbyid(immuta_internal.system_role()));
    END IF;
    INSERT INTO immuta.subscriber (user_id, role_name, made) VALUES (ensure_role.user_id, new_name, true)
    ON CONFLICT ON CONSTRAINT subscriber_pkey DO UPDATE SET role = (SELECT r.oid FROM pg_roles r WHERE r.rolname = new_name),
                                                            role_name = EXCLUDED.role_name, made = true
    RETURNING role INTO new_role;
    PERFORM immuta_internal.mark_role(new_role, 'immuta_mappable', true), immuta_internal.mark_role(new_role, 'immuta_subscriber', true);
    UPDATE immuta.user_account u SET mapping = 'explicit', postgres_role = new_role, updated_at = now()
    WHERE u.id = ensure_role.user_id;
    RETURN new_role;
END
$$;
COMMENT ON FUNCTION immuta_internal.ensure_role(bigint) IS 'the role for a user''s subscriptions, made if there is none';

CREATE FUNCTION immuta_internal.is_used_elsewhere(role oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_shdepend s JOIN pg_database b ON b.oid = s.dbid
                   WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = is_used_elsewhere.role
                     AND b.datname <> current_database())
$$;
COMMENT ON FUNCTION immuta_internal.is_used_elsewhere(oid) IS 'whether a role has rights in another database of the cluster';

CREATE FUNCTION immuta_internal.is_shared(role oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT immuta_internal.is_used_elsewhere(role)
        OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
                   WHERE m.member = is_shared.role AND r.rolname NOT IN ('immuta_mappable', 'immuta_subscriber')
                     AND immuta_internal.is_used_elsewhere(r.oid))
$$;
COMMENT ON FUNCTION immuta_internal.is_shared(oid) IS 'whether a role, or one that it is a member of, has rights in another database of the cluster';

-- For a role of ours that is no longer needed. Roles of users are dropped by the owner of the extension, as the system
-- account has no ADMIN on them. One that owns something, or was granted something by hand or in another database of the
-- cluster, stays. Nobody can reach it by its name then, but row policies still apply to it.
CREATE FUNCTION immuta_internal.retire_role(role oid, is_users boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role_name name := (SELECT r.rolname FROM pg_roles r WHERE r.oid = retire_role.role);
BEGIN
    IF role_name IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        IF immuta_internal.is_shared(retire_role.role) THEN
            RAISE EXCEPTION 'it has rights in another database' USING ERRCODE = 'dependent_objects_still_exist';
        END IF;
        IF is_users THEN
            EXECUTE format('DROP ROLE %I', role_name);
        ELSE
            PERFORM immuta_internal.as_system(format('DROP ROLE %I', role_name));
        END IF;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
        RAISE WARNING 'role "%" is no longer needed, but cannot be dropped: %', role_name, SQLERRM;
        PERFORM immuta_internal.mark_role(retire_role.role, 'immuta_mappable', false);
    END;
END
$$;
COMMENT ON FUNCTION immuta_internal.retire_role(oid, boolean) IS 'drops a role that was made by the extension';
