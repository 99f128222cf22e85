-- Who satisfies which policies, and access classes: the combinations of policies that data sources have in common.

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
