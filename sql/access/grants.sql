-- From subscriptions and policies to roles, memberships and grants. All functions here are internal; whoever changes
-- anything holds the lock of the connection (immuta.lock_connection()).

-- Views have nothing to truncate, materialized views nothing to write.
CREATE FUNCTION immuta.privileges_of_kind(relkind "char") RETURNS TABLE (privilege text, access text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT p.privilege, p.access
    FROM (VALUES ('SELECT', 'READ', 'rpfvm'), ('INSERT', 'WRITE', 'rpfv'), ('UPDATE', 'WRITE', 'rpfv'),
                 ('DELETE', 'WRITE', 'rpfv'), ('TRUNCATE', 'WRITE', 'rpf')) p (privilege, access, kinds)
    WHERE pg_catalog.strpos(p.kinds, relkind::pg_catalog.text) OPERATOR(pg_catalog.>) 0
$$;
REVOKE ALL ON FUNCTION immuta.privileges_of_kind("char") FROM PUBLIC;
COMMENT ON FUNCTION immuta.privileges_of_kind("char") IS 'internal: what READ and WRITE are on a kind of relation';

-- What the tables of the connection say, as grants. NULL stands for all.
CREATE FUNCTION immuta.wanted_grants(source_ids bigint[], grantees oid[])
RETURNS TABLE (data_source_id bigint, grantee oid, kind "char", object oid, attnum smallint, privilege text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH reached AS (
        SELECT cs.data_source_id, k.role, k.access
        FROM immuta.class_source cs JOIN immuta.access_class k ON k.id = cs.class_id
        WHERE k.role IS NOT NULL
        UNION
        SELECT s.data_source_id, b.role, s.access
        FROM immuta.subscription s JOIN immuta.subscriber b ON b.user_id = s.user_id
        WHERE b.role IS NOT NULL AND s.state = 'approved' AND (s.valid_until IS NULL OR s.valid_until > now())
    ), relation AS (
        SELECT r.role, d.id, d.relation, d.excluded_columns, d.excluded_numbers, c.relkind, c.relnamespace, c.relowner,
               p.privilege
        FROM reached r
        JOIN immuta.data_source d ON d.id = r.data_source_id
        JOIN pg_class c ON c.oid = d.relation
        JOIN immuta.privileges_of_kind(c.relkind) p ON p.access IN ('READ', r.access)
        WHERE (source_ids IS NULL OR d.id = ANY (source_ids)) AND (grantees IS NULL OR r.role = ANY (grantees))
          AND NOT d.held
          -- Row security does not apply to TRUNCATE.
          AND NOT (p.privilege = 'TRUNCATE' AND EXISTS (SELECT FROM immuta.row_policy y WHERE y.data_source_id = d.id))
    )
    SELECT w.id, w.role, 'r', w.relation, 0::smallint, w.privilege
    FROM relation w WHERE w.excluded_columns = '{}' OR w.privilege IN ('DELETE', 'TRUNCATE')
    UNION
    SELECT w.id, w.role, 'r', w.relation, a.attnum, w.privilege
    FROM relation w JOIN pg_attribute a ON a.attrelid = w.relation
    WHERE w.excluded_columns <> '{}' AND w.privilege NOT IN ('DELETE', 'TRUNCATE')
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (w.excluded_numbers)
      AND a.attname <> ALL (w.excluded_columns)
    UNION
    -- Sequences behind the defaults of columns. A default can name any sequence: only those of the table's owner.
    SELECT w.id, w.role, 'r', q.oid, 0::smallint, 'USAGE'
    FROM relation w JOIN pg_attrdef f ON f.adrelid = w.relation
    JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = f.oid AND p.refclassid = 'pg_class'::regclass
    JOIN pg_class q ON q.oid = p.refobjid AND q.relkind = 'S' AND q.relowner = w.relowner
    WHERE w.privilege = 'INSERT'
    UNION
    SELECT w.id, w.role, 's', w.relnamespace, 0::smallint, 'USAGE' FROM relation w
$$;
REVOKE ALL ON FUNCTION immuta.wanted_grants(bigint[], oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.wanted_grants(bigint[], oid[]) IS 'internal: the grants that subscriptions and policies stand for';

CREATE FUNCTION immuta.is_grantable(role oid, kind "char", object oid, attnum smallint, privilege text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN kind = 's' THEN has_schema_privilege(role, object, privilege || ' WITH GRANT OPTION')
        WHEN privilege = 'USAGE' THEN has_sequence_privilege(role, object, privilege || ' WITH GRANT OPTION')
        WHEN attnum = 0 THEN has_table_privilege(role, object, privilege || ' WITH GRANT OPTION')
        ELSE has_column_privilege(role, object, attnum, privilege || ' WITH GRANT OPTION') END
$$;
REVOKE ALL ON FUNCTION immuta.is_grantable(oid, "char", oid, smallint, text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_grantable(oid, "char", oid, smallint, text) IS 'internal: whether a role may grant this';

CREATE FUNCTION immuta.access_entries(kind "char", object oid, attnum smallint)
RETURNS TABLE (grantor oid, grantee oid, privilege text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.grantor, a.grantee, a.privilege_type
    FROM aclexplode(CASE WHEN kind = 's' THEN (SELECT n.nspacl FROM pg_namespace n WHERE n.oid = object)
                         WHEN attnum = 0 THEN (SELECT c.relacl FROM pg_class c WHERE c.oid = object)
                         ELSE (SELECT t.attacl FROM pg_attribute t WHERE t.attrelid = object AND t.attnum = access_entries.attnum)
                    END) a
$$;
REVOKE ALL ON FUNCTION immuta.access_entries("char", oid, smallint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.access_entries("char", oid, smallint) IS 'internal: who was granted what on an object';

-- Who granted the privilege, as far as the system account can act for him: itself, an owner, a role with the grant
-- option. Which of them PostgreSQL takes differs between versions.
CREATE FUNCTION immuta.grantor_of(role oid, grantee oid, kind "char", object oid, attnum smallint, privilege text)
RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT max(a.grantor) FROM immuta.access_entries(kind, object, attnum) a
    WHERE a.grantee = grantor_of.grantee AND a.privilege = grantor_of.privilege AND pg_has_role(role, a.grantor, 'USAGE')
$$;
REVOKE ALL ON FUNCTION immuta.grantor_of(oid, oid, "char", oid, smallint, text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.grantor_of(oid, oid, "char", oid, smallint, text) IS 'internal: in whose name a role holds a privilege that the system account could have granted; NULL if it does not';

CREATE FUNCTION immuta.describe_grant(kind "char", object oid, attnum smallint, privilege text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT privilege || coalesce((SELECT ' (' || quote_ident(a.attname) || ')' FROM pg_attribute a
                                  WHERE kind = 'r' AND a.attrelid = object AND a.attnum = describe_grant.attnum AND a.attnum > 0), '')
           || ' on ' || CASE WHEN kind = 's' THEN format('schema %s', object::regnamespace) ELSE object::regclass::text END
$$;
REVOKE ALL ON FUNCTION immuta.describe_grant("char", oid, smallint, text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.describe_grant("char", oid, smallint, text) IS 'internal: a grant in words';

-- By the catalogs as they are now, also in a transaction with an older snapshot.
CREATE FUNCTION immuta.grant_target(kind "char", object oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN i.type IN ('schema', 'sequence') THEN upper(i.type) ELSE 'TABLE' END || ' ' || i.identity
    FROM pg_identify_object(CASE WHEN kind = 's' THEN 'pg_namespace'::regclass ELSE 'pg_class'::regclass END, object, 0) i
$$;
REVOKE ALL ON FUNCTION immuta.grant_target("char", oid) FROM PUBLIC;
COMMENT ON FUNCTION immuta.grant_target("char", oid) IS 'internal: an object as GRANT names it; NULL if it is gone';

-- Makes the grants on these data sources (to these roles) what they should be. Reports what it did, and what it may not
-- grant. Revoking comes first: of a privilege on a table it takes those on the columns along.
CREATE FUNCTION immuta.try_apply_grants(source_ids bigint[], grantees oid[])
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    system_role oid := immuta.system_role();
    step record;
    touched oid[] := '{}';
    target text;
    astray bigint;
    done bigint := 0;
BEGIN
    FOR step IN
        -- Set operations and groups throughout: the planner knows too little of these rows for joins.
        WITH wanted AS MATERIALIZED (
            SELECT * FROM immuta.wanted_grants(source_ids, try_apply_grants.grantees)
        ), known AS MATERIALIZED (
            SELECT g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege FROM immuta.grant_made g
            WHERE (source_ids IS NULL OR g.data_source_id = ANY (source_ids))
              AND (try_apply_grants.grantees IS NULL OR g.grantee = ANY (try_apply_grants.grantees))
        ), obsolete AS MATERIALIZED (
            SELECT * FROM known EXCEPT SELECT * FROM wanted
        ), gone AS (
            DELETE FROM immuta.grant_made g USING obsolete o
            WHERE (g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege)
                  = (o.data_source_id, o.grantee, o.kind, o.object, o.attnum, o.privilege)
            RETURNING g.*
        ), missing AS MATERIALIZED (
            SELECT w.*, immuta.is_grantable(system_role, w.kind, w.object, w.attnum, w.privilege) AS grantable
            FROM (SELECT * FROM wanted EXCEPT SELECT * FROM known) w
        ), added AS (
            INSERT INTO immuta.grant_made AS g
            SELECT m.data_source_id, m.grantee, m.kind, m.object, m.attnum, m.privilege,
                   CASE WHEN o.count > 0 THEN o.grantor
                        -- 0 until it is granted.
                        WHEN immuta.grantor_of(system_role, m.grantee, m.kind, m.object, m.attnum, m.privilege) IS NULL THEN 0 END
            FROM missing m, LATERAL (SELECT count(*), max(o.grantor) AS grantor FROM immuta.grant_made o
                                     WHERE (o.grantee, o.kind, o.object, o.attnum, o.privilege)
                                           = (m.grantee, m.kind, m.object, m.attnum, m.privilege)) o
            WHERE m.grantable
            RETURNING g.*
        ), remaining AS (
            SELECT o.data_source_id, o.grantee, o.kind, o.object, o.attnum, o.privilege FROM immuta.grant_made o
            WHERE o.object IN (SELECT x.object FROM obsolete x)
            EXCEPT SELECT * FROM obsolete
        ), leaving AS (
            -- What no data source needs any more.
            SELECT x.grantee, x.kind, x.object, x.attnum, x.privilege, max(x.grantor) AS grantor
            FROM (SELECT g.grantee, g.kind, g.object, g.attnum, g.privilege, g.grantor, true AS going FROM gone g
                  WHERE g.grantor IS NOT NULL
                  UNION ALL SELECT w.grantee, w.kind, w.object, w.attnum, w.privilege, NULL, false FROM wanted w
                  UNION ALL SELECT r.grantee, r.kind, r.object, r.attnum, r.privilege, NULL, false FROM remaining r) x
            GROUP BY x.grantee, x.kind, x.object, x.attnum, x.privilege HAVING bool_and(x.going)
        ), step AS (
            SELECT 1 AS phase, l.* FROM leaving l
            UNION
            SELECT 2, a.grantee, a.kind, a.object, a.attnum, a.privilege, NULL FROM added a WHERE a.grantor = 0
        ), worded AS (
            SELECT s.phase, s.kind, s.object, s.grantee, s.privilege, max(s.grantor) AS grantor,
                   string_agg(s.attnum::text, ',' ORDER BY s.attnum) AS attnums, s.privilege
                   || coalesce(' (' || string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE a.attnum > 0) || ')', '') AS words
            FROM step s
            LEFT JOIN pg_attribute a ON s.kind = 'r' AND a.attrelid = s.object AND a.attnum = s.attnum AND NOT a.attisdropped
            WHERE s.attnum = 0 OR a.attnum IS NOT NULL
            GROUP BY s.phase, s.kind, s.object, s.grantee, s.privilege, s.attnum > 0
        ), listed AS (
            SELECT w.phase, w.kind, w.object, w.grantee, string_agg(w.words, ', ' ORDER BY w.words) AS words,
                   array_agg(DISTINCT w.privilege) AS privileges, array_agg(DISTINCT w.grantor) AS grantors,
                   string_to_array(string_agg(w.attnums, ',' ORDER BY w.words), ',')::smallint[] AS attnums
            FROM worded w GROUP BY w.phase, w.kind, w.object, w.grantee
        )
        SELECT l.phase, l.words, l.kind, l.object, l.privileges, l.grantors, l.attnums, array_agg(l.grantee) AS grantees,
               immuta.grant_target(l.kind, l.object) AS target,
               string_agg(format('%I', r.rolname), ', ' ORDER BY r.rolname) AS roles
        FROM listed l
        JOIN pg_roles r ON r.oid = l.grantee
        GROUP BY l.phase, l.kind, l.object, l.words, l.privileges, l.grantors, l.attnums
        UNION ALL
        SELECT 3, string_agg(DISTINCT m.privilege, ', '), NULL, NULL, NULL, NULL, NULL, NULL,
               immuta.grant_target(m.kind, m.object), NULL
        FROM missing m WHERE NOT m.grantable GROUP BY m.kind, m.object
        ORDER BY phase, target, words
    LOOP
        -- It may have been renamed since the loop began; what is renamed from here on is found out below.
        target := CASE WHEN step.phase = 3 THEN step.target ELSE immuta.grant_target(step.kind, step.object) END;
        CONTINUE WHEN target IS NULL;
        CASE step.phase
        WHEN 1 THEN
            BEGIN
                PERFORM immuta.run_as(system_role, convert_to(
                    format('REVOKE %s ON %s FROM %s', step.words, target, step.roles), 'SQL_ASCII'));
            EXCEPTION WHEN insufficient_privilege THEN
                NULL; -- told below, if anything is left
            END;
        WHEN 2 THEN
            PERFORM immuta.run_as(system_role, convert_to(
                format('GRANT %s ON %s TO %s', step.words, target, step.roles), 'SQL_ASCII'));
        ELSE NULL;
        END CASE;
        touched := touched || step.object;
        done := done + 1;
        IF done % 1000 = 0 THEN
            RAISE NOTICE '% statements on data sources', done;
        END IF;
        what := (ARRAY['revoked', 'granted', 'not granted'])[step.phase];
        object := target;
        detail := step.words || coalesce(CASE step.phase WHEN 1 THEN ' from ' ELSE ' to ' END || step.roles,
                                         ': the system account has no grant option');
        IF step.phase = 1 AND EXISTS (
            SELECT FROM unnest(step.attnums) n, LATERAL immuta.access_entries(step.kind, step.object, n) a
            WHERE a.grantee = ANY (step.grantees) AND a.privilege = ANY (step.privileges) AND a.grantor = ANY (step.grantors)) THEN
            what := 'not revoked';
            RAISE WARNING 'not revoked: % on %', detail, object
                USING HINT = 'It was granted in the name of an owner for whom the system account cannot act any more: the owner can revoke it.';
        END IF;
        RETURN NEXT;
    END LOOP;
    WITH granted AS (
        UPDATE immuta.grant_made g
        SET grantor = immuta.grantor_of(system_role, g.grantee, g.kind, g.object, g.attnum, g.privilege)
        WHERE g.grantor = 0 AND (source_ids IS NULL OR g.data_source_id = ANY (source_ids))
        RETURNING g.grantor
    )
    SELECT count(*) INTO astray FROM granted g WHERE g.grantor IS NULL;
    IF astray > 0 THEN
        RAISE EXCEPTION '% grants went to objects that were renamed meanwhile', astray USING ERRCODE = 'internal_error';
    END IF;
    IF touched <> '{}' THEN
        PERFORM immuta.equalise_after(
            (SELECT array_agg(b.user_id) FROM immuta.subscriber b WHERE b.role = ANY (try_apply_grants.grantees)),
            touched);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.try_apply_grants(bigint[], oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.try_apply_grants(bigint[], oid[]) IS 'internal: makes the grants on data sources what they should be';

-- GRANT does not wait for ALTER TABLE of the same table as two ALTER TABLE do for each other: it fails afterwards, with
-- "tuple concurrently updated", or because the table has another name; or it was for another table, which then has this
-- name: the savepoint undoes that.
CREATE FUNCTION immuta.apply_grants(source_ids bigint[], grantees oid[] = NULL)
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    FOR attempt IN 1..5 LOOP
        BEGIN
            RETURN QUERY SELECT * FROM immuta.try_apply_grants(source_ids, grantees);
            RETURN;
        EXCEPTION WHEN internal_error OR undefined_table OR undefined_column OR invalid_schema_name THEN
            IF attempt = 5 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION immuta.apply_grants(bigint[], oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.apply_grants(bigint[], oid[]) IS 'internal: makes the grants on data sources what they should be';

-- Roles of users.

-- The role that the user is mapped to now, if it can carry his subscriptions; else why not, if one cannot be made.
CREATE FUNCTION immuta.carrier(user_id bigint, OUT role oid, OUT problem text)
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
    WHERE r.oid = immuta.role_of_user(convert_to(account.userid, 'UTF8'), convert_to(account.iamid, 'UTF8'));
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
        RETURN; -- He gets another one.
    END IF;
    problem := coalesce(problem,
        (SELECT format('role "%s" carries the subscriptions of another user', found_role.rolname)
         FROM immuta.subscriber b WHERE b.role = found_role.oid AND b.user_id <> carrier.user_id),
        immuta.target_fault(found_role.oid));
    IF problem IS NULL AND NOT found_role.rolinherit AND current_setting('server_version_num')::integer < 160000 THEN
        problem := format('role "%s" has NOINHERIT: memberships give it nothing', found_role.rolname);
    END IF;
    IF problem IS NULL THEN
        role := found_role.oid;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.carrier(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.carrier(bigint) IS 'internal: the role of a user that can carry subscriptions, or why there is none';

CREATE FUNCTION immuta.new_role_name(wished text, seed text) RETURNS name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    base text := regexp_replace(wished, '[[:cntrl:]]', '_', 'g');
    candidate text := base;
    attempt integer := 0;
BEGIN
    LOOP
        IF octet_length(candidate) BETWEEN 1 AND 63 AND candidate !~ '^pg_' AND candidate NOT IN ('public', 'none')
           AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = candidate) THEN
            RETURN candidate;
        END IF;
        -- Taken, reserved or too long: some digits that belong to this user.
        WHILE octet_length(base) > 52 LOOP
            base := left(base, -1);
        END LOOP;
        candidate := CASE WHEN base ~ '^pg_' THEN 'r_' ELSE '' END || base || '_'
                     || left(encode(sha256(convert_to(seed || chr(10) || attempt, 'SQL_ASCII')), 'hex'), 8);
        attempt := attempt + 1;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION immuta.new_role_name(text, text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.new_role_name(text, text) IS 'internal: a name for a new role, as wished if possible';

-- The markers of this extension are granted by its owner: the system account needs no rights on them.
CREATE FUNCTION immuta.mark_role(role oid, marker text, marked boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_has_role(mark_role.role, marker, 'USAGE') = marked THEN
        RETURN;
    END IF;
    EXECUTE CASE WHEN marked THEN format('GRANT %I TO %I', marker, pg_get_userbyid(mark_role.role)) || immuta.membership_options()
                 ELSE format('REVOKE %I FROM %I', marker, pg_get_userbyid(mark_role.role)) END;
END
$$;
REVOKE ALL ON FUNCTION immuta.mark_role(oid, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION immuta.mark_role(oid, text, boolean) IS 'internal: makes a role a member of immuta_subscriber or immuta_mappable, or no longer';

-- The role that carries the user's subscriptions, made if there is none; NULL if there cannot be one.
CREATE FUNCTION immuta.ensure_role(user_id bigint) RETURNS oid
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
    SELECT * INTO mapped FROM immuta.carrier(ensure_role.user_id);
    IF mapped.problem IS NOT NULL THEN
        RETURN NULL;
    END IF;
    IF mapped.role IS NOT NULL THEN
        PERFORM immuta.mark_role(mapped.role, 'immuta_subscriber', true);
        INSERT INTO immuta.subscriber (user_id, role_name, made) VALUES (ensure_role.user_id, pg_get_userbyid(mapped.role), false)
        ON CONFLICT ON CONSTRAINT subscriber_pkey DO UPDATE SET role = mapped.role, role_name = EXCLUDED.role_name, made = false;
        RETURN mapped.role;
    END IF;
    SELECT u.userid, u.iamid INTO account FROM immuta.user_account u WHERE u.id = ensure_role.user_id;
    -- First the identity manager: a user id may hold braces.
    new_name := immuta.new_role_name(
        (SELECT string_agg(CASE p WHEN '{userid}' THEN account.userid WHEN '{iamid}' THEN account.iamid ELSE p END, '' ORDER BY n)
         FROM (SELECT m[1] AS p, n FROM regexp_matches(template, '(\{userid\}|\{iamid\}|[^{}]+)', 'g') WITH ORDINALITY t (m, n)) parts),
        account.iamid || chr(10) || account.userid);
    PERFORM immuta.as_system(format('CREATE ROLE %I NOLOGIN INHERIT', new_name));
    IF current_setting('server_version_num')::integer >= 160000 THEN
        -- It would be a member of every user's role, and each look at its memberships would walk through all of them.
        EXECUTE format('REVOKE %I FROM %I CASCADE', new_name, pg_get_userbyid(immuta.system_role()));
    END IF;
    INSERT INTO immuta.subscriber (user_id, role_name, made) VALUES (ensure_role.user_id, new_name, true)
    ON CONFLICT ON CONSTRAINT subscriber_pkey DO UPDATE SET role = (SELECT r.oid FROM pg_roles r WHERE r.rolname = new_name),
                                                            role_name = EXCLUDED.role_name, made = true
    RETURNING role INTO new_role;
    PERFORM immuta.mark_role(new_role, 'immuta_mappable', true), immuta.mark_role(new_role, 'immuta_subscriber', true);
    UPDATE immuta.user_account u SET mapping = 'explicit', postgres_role = new_role, updated_at = now()
    WHERE u.id = ensure_role.user_id;
    RETURN new_role;
END
$$;
REVOKE ALL ON FUNCTION immuta.ensure_role(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.ensure_role(bigint) IS 'internal: the role for a user''s subscriptions, made if there is none';

CREATE FUNCTION immuta.is_used_elsewhere(role oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_shdepend s JOIN pg_database b ON b.oid = s.dbid
                   WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = is_used_elsewhere.role
                     AND b.datname <> current_database())
$$;
REVOKE ALL ON FUNCTION immuta.is_used_elsewhere(oid) FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_used_elsewhere(oid) IS 'internal: whether a role has rights in another database of the cluster';

-- A role of ours that nobody needs any more; roles of users are dropped by the owner of the extension, as the system
-- account has no ADMIN on them. One that owns something, or was granted something by hand or in another database of the
-- cluster, stays. Nobody reaches it by its name then, but row policies go on to hold for it.
CREATE FUNCTION immuta.retire_role(role oid, is_users boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role_name name := (SELECT r.rolname FROM pg_roles r WHERE r.oid = retire_role.role);
BEGIN
    IF role_name IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        IF immuta.is_shared(retire_role.role) THEN
            RAISE EXCEPTION 'it has rights in another database' USING ERRCODE = 'dependent_objects_still_exist';
        END IF;
        IF is_users THEN
            EXECUTE format('DROP ROLE %I', role_name);
        ELSE
            PERFORM immuta.as_system(format('DROP ROLE %I', role_name));
        END IF;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
        RAISE WARNING 'role "%" is not needed any more, but cannot be dropped: %', role_name, SQLERRM;
        PERFORM immuta.mark_role(retire_role.role, 'immuta_mappable', false);
    END;
END
$$;
REVOKE ALL ON FUNCTION immuta.retire_role(oid, boolean) FROM PUBLIC;
COMMENT ON FUNCTION immuta.retire_role(oid, boolean) IS 'internal: drops a role that was made by the extension';

-- Takes everything from the role that carries a user's subscriptions. Neither roles nor rights are left behind.
CREATE FUNCTION immuta.release_role(user_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    released record;
    sources bigint[];
BEGIN
    DELETE FROM immuta.subscriber b WHERE b.user_id = release_role.user_id RETURNING b.* INTO released;
    IF NOT FOUND OR released.role IS NULL THEN
        DELETE FROM immuta.class_member m WHERE m.user_id = release_role.user_id;
        RETURN;
    END IF;
    PERFORM FROM immuta.revoke_memberships(
        ARRAY(SELECT m.class_id FROM immuta.class_member m WHERE m.user_id = release_role.user_id), release_role.user_id);
    sources := ARRAY(SELECT DISTINCT g.data_source_id FROM immuta.grant_made g WHERE g.grantee = released.role);
    PERFORM FROM immuta.apply_grants(sources, ARRAY[released.role]);
    -- A role that was there before stays a member of immuta_subscriber: it may be a subscriber in another database of
    -- the cluster, where row policies must go on to hold for it. The membership itself gives nothing.
    IF released.made THEN
        PERFORM immuta.retire_role(released.role, true);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.release_role(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.release_role(bigint) IS 'internal: the user''s subscriptions leave the role that carried them';

-- Who satisfies which policies.

-- An expression is SQL/JSON path: it sees the user it is asked about, and can do nothing else. What goes wrong in it is
-- a no.
CREATE FUNCTION immuta.satisfied_policies(policy_ids integer[], user_ids bigint[])
RETURNS TABLE (policy_id integer, user_id bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.id, u.id
    FROM immuta.subscription_policy p
    CROSS JOIN immuta.user_account u LEFT JOIN immuta.user_profile f ON f.user_id = u.id
    WHERE (policy_ids IS NULL OR p.id = ANY (policy_ids)) AND (user_ids IS NULL OR u.id = ANY (user_ids))
      AND (p.groups IS NULL OR p.groups && f.groups)
      AND (p.attributes IS NULL OR NOT EXISTS (
              SELECT FROM jsonb_each(p.attributes) w
              WHERE NOT coalesce((f.attributes -> w.key) ?| ARRAY(SELECT jsonb_array_elements_text(w.value)), false)))
      AND (p.expression IS NULL OR coalesce(jsonb_path_match(
              jsonb_build_object('userid', u.userid, 'iamid', u.iamid, 'groups', to_jsonb(coalesce(f.groups, '{}')),
                                 'attributes', coalesce(f.attributes, '{}')),
              p.expression, '{}', true), false))
$$;
REVOKE ALL ON FUNCTION immuta.satisfied_policies(integer[], bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.satisfied_policies(integer[], bigint[]) IS 'internal: who satisfies which policies now';

-- Brings immuta.policy_member up to date for these policies and users; the policies for which it changed.
CREATE FUNCTION immuta.refresh_policy_members(policy_ids integer[], user_ids bigint[]) RETURNS integer[]
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    WITH now AS MATERIALIZED (
        SELECT * FROM immuta.satisfied_policies(policy_ids, user_ids)
    ), left_out AS (
        DELETE FROM immuta.policy_member m USING (
            SELECT k.policy_id, k.user_id FROM immuta.policy_member k
            WHERE (policy_ids IS NULL OR k.policy_id = ANY (policy_ids)) AND (user_ids IS NULL OR k.user_id = ANY (user_ids))
            EXCEPT SELECT * FROM now) o
        WHERE m.policy_id = o.policy_id AND m.user_id = o.user_id
        RETURNING m.policy_id
    ), added AS (
        INSERT INTO immuta.policy_member AS m SELECT n.policy_id, n.user_id FROM now n
        ON CONFLICT DO NOTHING RETURNING m.policy_id
    )
    SELECT coalesce(array_agg(DISTINCT c.policy_id), '{}')
    FROM (SELECT policy_id FROM left_out UNION ALL SELECT policy_id FROM added) c
$$;
REVOKE ALL ON FUNCTION immuta.refresh_policy_members(integer[], bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.refresh_policy_members(integer[], bigint[]) IS 'internal: records who satisfies which policies';

-- Access classes.

CREATE FUNCTION immuta.applying_policies(source_ids bigint[])
RETURNS TABLE (data_source_id bigint, policy_id integer, access text, combine text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.id, p.id, p.access, p.combine
    FROM immuta.data_source d JOIN immuta.subscription_policy p
      ON (p.tags IS NULL OR p.tags && d.tags)
     AND (p.schemas IS NULL OR d.schema_name = ANY (p.schemas))
     AND (p.data_sources IS NULL OR d.id = ANY (p.data_sources))
    WHERE source_ids IS NULL OR d.id = ANY (source_ids)
$$;
REVOKE ALL ON FUNCTION immuta.applying_policies(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.applying_policies(bigint[]) IS 'internal: which policies are for which data sources';

-- Where all policies of a data source are of the kind "any", each is a class of its own. Where some are required, the
-- combination is one, and gives WRITE only if every policy that it rests on does.
CREATE FUNCTION immuta.wanted_classes(source_ids bigint[])
RETURNS TABLE (data_source_id bigint, required integer[], shared integer[], access text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH a AS MATERIALIZED (SELECT * FROM immuta.applying_policies(source_ids)),
    combined AS (
        SELECT a.data_source_id,
               coalesce(array_agg(a.policy_id ORDER BY a.policy_id) FILTER (WHERE a.combine = 'all'), '{}') AS required,
               coalesce(array_agg(a.policy_id ORDER BY a.policy_id) FILTER (WHERE a.combine = 'any'), '{}') AS shared,
               coalesce(array_agg(a.policy_id ORDER BY a.policy_id) FILTER (WHERE a.combine = 'any' AND a.access = 'WRITE'), '{}')
                   AS shared_write,
               coalesce(bool_and(a.access = 'WRITE') FILTER (WHERE a.combine = 'all'), false) AS required_write
        FROM a GROUP BY a.data_source_id
    )
    SELECT a.data_source_id, '{}'::integer[], ARRAY[a.policy_id], a.access
    FROM a JOIN combined c ON c.data_source_id = a.data_source_id WHERE c.required = '{}'
    UNION ALL
    SELECT c.data_source_id, c.required, c.shared, 'READ' FROM combined c WHERE c.required <> '{}'
    UNION ALL
    SELECT c.data_source_id, c.required, c.shared_write, 'WRITE' FROM combined c
    WHERE c.required <> '{}' AND c.required_write AND (c.shared = '{}' OR c.shared_write <> '{}')
$$;
REVOKE ALL ON FUNCTION immuta.wanted_classes(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.wanted_classes(bigint[]) IS 'internal: the combinations of policies that data sources need';

-- Assigns the data sources to their classes; the classes whose data sources changed. Touches no role.
CREATE FUNCTION immuta.assign_classes(source_ids bigint[]) RETURNS integer[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[];
BEGIN
    INSERT INTO immuta.access_class (required, shared, access)
    SELECT DISTINCT w.required, w.shared, w.access FROM immuta.wanted_classes(source_ids) w
    WHERE NOT EXISTS (SELECT FROM immuta.access_class k
                      WHERE k.required = w.required AND k.shared = w.shared AND k.access = w.access);
    WITH wanted AS MATERIALIZED (
        SELECT w.data_source_id, k.id AS class_id
        FROM immuta.wanted_classes(source_ids) w
        JOIN immuta.access_class k ON k.required = w.required AND k.shared = w.shared AND k.access = w.access
    ), gone AS (
        DELETE FROM immuta.class_source s
        WHERE (source_ids IS NULL OR s.data_source_id = ANY (source_ids))
          AND NOT EXISTS (SELECT FROM wanted w WHERE w.data_source_id = s.data_source_id AND w.class_id = s.class_id)
        RETURNING s.class_id
    ), added AS (
        INSERT INTO immuta.class_source AS s SELECT w.class_id, w.data_source_id FROM wanted w
        ON CONFLICT DO NOTHING RETURNING s.class_id
    )
    SELECT coalesce(array_agg(DISTINCT c.class_id), '{}') INTO changed
    FROM (SELECT class_id FROM gone UNION ALL SELECT class_id FROM added) c;
    RETURN changed;
END
$$;
REVOKE ALL ON FUNCTION immuta.assign_classes(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.assign_classes(bigint[]) IS 'internal: assigns data sources to access classes';

CREATE FUNCTION immuta.wanted_members(class_ids integer[], user_ids bigint[])
RETURNS TABLE (class_id integer, user_id bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.id, m.user_id
    FROM immuta.access_class k JOIN immuta.policy_member m ON m.policy_id = ANY (k.required || k.shared)
    WHERE (class_ids IS NULL OR k.id = ANY (class_ids)) AND (user_ids IS NULL OR m.user_id = ANY (user_ids))
      AND EXISTS (SELECT FROM immuta.class_source s WHERE s.class_id = k.id)
    GROUP BY k.id, m.user_id
    HAVING count(*) FILTER (WHERE m.policy_id = ANY (k.required)) = cardinality(k.required)
       AND (k.shared = '{}' OR bool_or(m.policy_id = ANY (k.shared)))
$$;
REVOKE ALL ON FUNCTION immuta.wanted_members(integer[], bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.wanted_members(integer[], bigint[]) IS 'internal: who satisfies the policies of which access class';

-- NULL for the user: of all users.
CREATE FUNCTION immuta.revoke_memberships(class_ids integer[], of_user bigint)
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step record;
    touched bigint[] := '{}';
BEGIN
    FOR step IN
        WITH gone AS (
            DELETE FROM immuta.class_member m
            WHERE m.class_id = ANY (class_ids) AND (of_user IS NULL OR m.user_id = of_user)
            RETURNING m.class_id, m.user_id, m.role
        )
        SELECT k.rolname AS class_role, string_agg(format('%I', r.rolname), ', ' ORDER BY r.rolname) AS roles,
               array_agg(g.user_id) AS user_ids
        FROM gone g JOIN immuta.access_class c ON c.id = g.class_id JOIN pg_roles k ON k.oid = c.role
        JOIN pg_roles r ON r.oid = g.role
        GROUP BY k.rolname
    LOOP
        PERFORM immuta.as_system(format('REVOKE %I FROM %s', step.class_role, step.roles));
        touched := touched || step.user_ids;
        RETURN QUERY SELECT 'revoked', 'ROLE ' || quote_ident(step.class_role), 'from ' || step.roles;
    END LOOP;
    IF touched <> '{}' THEN
        PERFORM immuta.equalise_after(touched, NULL);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.revoke_memberships(integer[], bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.revoke_memberships(integer[], bigint) IS 'internal: takes users out of access classes';

-- Makes the memberships of these classes and users what they should be. NULL stands for all.
CREATE FUNCTION immuta.apply_members(class_ids integer[], user_ids bigint[])
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    system_role oid := immuta.system_role();
    options text := immuta.membership_options();
    one_class record;
    one_user bigint;
    step record;
    touched bigint[] := '{}';
    done bigint := 0;
BEGIN
    FOR one_class IN
        SELECT k.id, k.role_name FROM immuta.access_class k
        WHERE (class_ids IS NULL OR k.id = ANY (class_ids)) AND k.role IS NULL
          AND EXISTS (SELECT FROM immuta.class_source s WHERE s.class_id = k.id)
        ORDER BY k.id
    LOOP
        one_class.role_name := immuta.new_role_name('immuta_access_' || one_class.id, current_database() || one_class.id);
        PERFORM immuta.as_system(format('CREATE ROLE %I NOLOGIN', one_class.role_name));
        UPDATE immuta.access_class k SET role_name = one_class.role_name,
               role = (SELECT r.oid FROM pg_roles r WHERE r.rolname = one_class.role_name)
        WHERE k.id = one_class.id;
    END LOOP;
    FOR one_user IN
        SELECT w.user_id FROM immuta.wanted_members(class_ids, user_ids) w
        EXCEPT SELECT b.user_id FROM immuta.subscriber b
        WHERE b.role IS NOT NULL AND (user_ids IS NULL OR b.user_id = ANY (user_ids))
    LOOP
        PERFORM immuta.ensure_role(one_user);
        done := done + 1;
        IF done % 1000 = 0 THEN
            RAISE NOTICE '% roles of users', done;
        END IF;
    END LOOP;
    done := 0;
    FOR step IN
        WITH wanted AS MATERIALIZED (
            SELECT w.class_id, w.user_id, b.role
            FROM immuta.wanted_members(class_ids, user_ids) w
            JOIN immuta.subscriber b ON b.user_id = w.user_id AND b.role IS NOT NULL
        ), gone AS (
            DELETE FROM immuta.class_member m USING (
                SELECT k.class_id, k.user_id FROM immuta.class_member k
                WHERE (class_ids IS NULL OR k.class_id = ANY (class_ids)) AND (user_ids IS NULL OR k.user_id = ANY (user_ids))
                EXCEPT SELECT w.class_id, w.user_id FROM wanted w) o
            WHERE m.class_id = o.class_id AND m.user_id = o.user_id
            RETURNING m.class_id, m.user_id, m.role
        ), added AS (
            INSERT INTO immuta.class_member AS m SELECT w.class_id, w.user_id, w.role FROM wanted w
            ON CONFLICT DO NOTHING RETURNING m.class_id, m.user_id, m.role
        ), step AS (
            SELECT s.phase, k.rolname AS class_role, s.user_id, r.rolname,
                   row_number() OVER (PARTITION BY s.phase, k.rolname ORDER BY r.rolname) AS n
            FROM (SELECT 1 AS phase, g.* FROM gone g UNION ALL SELECT 2, a.* FROM added a) s
            JOIN immuta.access_class c ON c.id = s.class_id
            JOIN pg_roles k ON k.oid = c.role JOIN pg_roles r ON r.oid = s.role
        )
        SELECT s.phase, s.class_role, string_agg(format('%I', s.rolname), ', ' ORDER BY s.n) AS roles,
               array_agg(s.user_id) AS user_ids, count(*) AS members
        FROM step s GROUP BY s.phase, s.class_role, s.n / 500 ORDER BY 1, 2
    LOOP
        IF step.phase = 1 THEN
            PERFORM immuta.run_as(system_role, convert_to(
                format('REVOKE %I FROM %s', step.class_role, step.roles), 'SQL_ASCII'));
        ELSE
            PERFORM immuta.run_as(system_role, convert_to(
                format('GRANT %I TO %s', step.class_role, step.roles) || options, 'SQL_ASCII'));
        END IF;
        touched := touched || step.user_ids;
        done := done + step.members;
        IF step.members >= 499 THEN
            RAISE NOTICE '% memberships', done;
        END IF;
        what := CASE step.phase WHEN 1 THEN 'revoked' ELSE 'granted' END;
        object := 'ROLE ' || quote_ident(step.class_role);
        detail := CASE step.phase WHEN 1 THEN 'from ' ELSE 'to ' END || step.roles;
        RETURN NEXT;
    END LOOP;
    IF touched <> '{}' THEN
        PERFORM immuta.equalise_after(touched, NULL);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.apply_members(integer[], bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.apply_members(integer[], bigint[]) IS 'internal: makes the memberships in access classes what they should be';

CREATE FUNCTION immuta.drop_empty_classes() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    empty record;
BEGIN
    FOR empty IN
        SELECT k.id, k.role FROM immuta.access_class k
        WHERE NOT EXISTS (SELECT FROM immuta.class_source s WHERE s.class_id = k.id)
    LOOP
        PERFORM FROM immuta.revoke_memberships(ARRAY[empty.id], NULL);
        DELETE FROM immuta.access_class k WHERE k.id = empty.id;
        PERFORM immuta.retire_role(empty.role, false);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_empty_classes() FROM PUBLIC;
COMMENT ON FUNCTION immuta.drop_empty_classes() IS 'internal: drops the roles of access classes without data sources';

-- After a change of data sources, their tags, or policies. NULL stands for all data sources.
CREATE FUNCTION immuta.settle_sources(source_ids bigint[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[] := immuta.assign_classes(source_ids);
BEGIN
    RETURN QUERY SELECT * FROM immuta.apply_members(changed, NULL);
    RETURN QUERY SELECT * FROM immuta.apply_grants(source_ids);
    PERFORM immuta.drop_empty_classes();
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_sources(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_sources(bigint[]) IS 'internal: makes the access to data sources what it should be';

-- After a change of what policies look at in a user: nothing but his own memberships is touched.
CREATE FUNCTION immuta.settle_user(user_id bigint) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[] := immuta.refresh_policy_members(NULL, ARRAY[user_id]);
BEGIN
    IF changed <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta.apply_members(
            ARRAY(SELECT k.id FROM immuta.access_class k WHERE k.required && changed OR k.shared && changed), ARRAY[user_id]);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_user(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_user(bigint) IS 'internal: makes the access of a user what policies say';

-- After a change of a user's mapping.
CREATE FUNCTION immuta.settle_mapping(user_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    carried_by oid := (SELECT b.role FROM immuta.subscriber b WHERE b.user_id = settle_mapping.user_id);
    mapped_to oid := (SELECT c.role FROM immuta.carrier(settle_mapping.user_id) c);
BEGIN
    IF carried_by IS NOT NULL AND carried_by IS DISTINCT FROM mapped_to THEN
        PERFORM immuta.release_role(settle_mapping.user_id);
    END IF;
    PERFORM immuta.refresh_policy_members(NULL, ARRAY[settle_mapping.user_id]);
    PERFORM FROM immuta.apply_members(NULL, ARRAY[settle_mapping.user_id]);
    IF EXISTS (SELECT FROM immuta.subscription s WHERE s.user_id = settle_mapping.user_id AND s.state = 'approved') THEN
        mapped_to := immuta.ensure_role(settle_mapping.user_id);
        IF mapped_to IS NOT NULL THEN
            PERFORM FROM immuta.apply_grants(
                ARRAY(SELECT s.data_source_id FROM immuta.subscription s WHERE s.user_id = settle_mapping.user_id), ARRAY[mapped_to]);
        END IF;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_mapping(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_mapping(bigint) IS 'internal: subscriptions follow a user to another role';

-- Users are created, mapped and dropped by functions that know nothing of subscriptions. The lock comes before the
-- rows: two administrators never wait for each other in turn. A restore only inserts, and changes nothing else.

CREATE FUNCTION immuta.is_connected(by_insert boolean) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN immuta.is_home()
                THEN EXISTS (SELECT FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role WHERE NOT r.rolsuper)
                ELSE EXISTS (SELECT FROM immuta.system_account a JOIN pg_roles r ON r.rolname = a.role_name
                             WHERE NOT r.rolsuper) END
       AND (NOT by_insert OR EXISTS (SELECT FROM immuta.connection_state s WHERE s.active))
$$;
REVOKE ALL ON FUNCTION immuta.is_connected(boolean) FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_connected(boolean) IS 'internal: whether changes of users concern the connection';

CREATE FUNCTION immuta.before_user_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_connected(TG_OP = 'INSERT') THEN
        PERFORM immuta.lock_connection();
    ELSIF TG_OP <> 'INSERT' AND NOT immuta.is_home() THEN
        PERFORM immuta.lock_projects();
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.before_user_change() FROM PUBLIC;
COMMENT ON FUNCTION immuta.before_user_change() IS 'internal: takes the lock of the connection';

CREATE FUNCTION immuta.user_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- Before the mapping goes: nothing is granted to him again.
        DELETE FROM immuta.policy_member m WHERE m.user_id = OLD.id;
        DELETE FROM immuta.subscription s WHERE s.user_id = OLD.id;
        DELETE FROM immuta.user_profile f WHERE f.user_id = OLD.id;
        -- Without the system account nothing could be taken from his role: then he stays.
        PERFORM immuta.system_role(), immuta.release_role(OLD.id) FROM immuta.subscriber b WHERE b.user_id = OLD.id;
        RETURN OLD;
    END IF;
    IF NEW.postgres_role IS NOT NULL
       AND EXISTS (SELECT FROM immuta.subscriber b WHERE b.role = NEW.postgres_role AND b.user_id <> NEW.id) THEN
        RAISE EXCEPTION 'role "%" carries the subscriptions of another user', NEW.postgres_role
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'IMPERSONATION_NOT_ALLOWED',
                  HINT = 'Map the user to a role of his own, or subscribe him and let one be made.';
    END IF;
    IF EXISTS (SELECT FROM immuta.access_class k WHERE k.role = NEW.postgres_role) THEN
        RAISE EXCEPTION 'role "%" holds the grants of policies', NEW.postgres_role
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'IMPERSONATION_NOT_ALLOWED',
                  HINT = 'Let the user satisfy the policies, or change them.';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION immuta.user_changes() FROM PUBLIC;
COMMENT ON FUNCTION immuta.user_changes() IS 'internal: a role with subscriptions has one user, and goes with him';

CREATE FUNCTION immuta.after_user_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The role may just have been made for him.
    IF immuta.is_connected(TG_OP = 'INSERT')
       AND NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.user_id = NEW.id AND b.role = NEW.postgres_role) THEN
        PERFORM immuta.settle_mapping(NEW.id);
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.after_user_change() FROM PUBLIC;
COMMENT ON FUNCTION immuta.after_user_change() IS 'internal: subscriptions follow a user to another role';

CREATE TRIGGER connection_lock BEFORE INSERT OR DELETE OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH STATEMENT EXECUTE FUNCTION immuta.before_user_change();
CREATE TRIGGER connection_rows BEFORE INSERT OR DELETE OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta.user_changes();
CREATE TRIGGER connection_settle AFTER INSERT OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta.after_user_change();
