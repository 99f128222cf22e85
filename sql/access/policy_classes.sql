-- Who satisfies which policies, and access classes: the combinations of policies that data sources have in common.

-- An expression is SQL/JSON path: it sees the user it is asked about, and can do nothing else. An error in it
-- counts as false.
CREATE FUNCTION immuta_internal.satisfied_policies(policy_ids integer[], user_ids bigint[])
RETURNS TABLE (policy_id integer, user_id bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.id, u.id
    FROM (SELECT s.id, s.groups, s.attributes, s.expression FROM immuta.subscription_policy s
          UNION ALL
          SELECT m.id, m.except_groups, m.except_attributes, m.except_expression FROM immuta.masking_policy m
          WHERE num_nonnulls(m.except_groups, m.except_attributes, m.except_expression) > 0) p
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
COMMENT ON FUNCTION immuta_internal.satisfied_policies(integer[], bigint[]) IS 'who satisfies which policies now, or is excepted by them';

-- Brings immuta.policy_member up to date for these policies and users; the policies for which it changed.
CREATE FUNCTION immuta_internal.refresh_policy_members(policy_ids integer[], user_ids bigint[]) RETURNS integer[]
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    WITH now AS MATERIALIZED (
        SELECT * FROM immuta_internal.satisfied_policies(policy_ids, user_ids)
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
COMMENT ON FUNCTION immuta_internal.refresh_policy_members(integer[], bigint[]) IS 'records who satisfies which policies';

CREATE FUNCTION immuta_internal.applying_policies(source_ids bigint[])
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
COMMENT ON FUNCTION immuta_internal.applying_policies(bigint[]) IS 'which policies are for which data sources';

CREATE FUNCTION immuta_internal.sources_of_policy(policy_id integer) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(a.data_source_id), '{}') FROM immuta_internal.applying_policies(NULL) a
    WHERE a.policy_id = sources_of_policy.policy_id
$$;
COMMENT ON FUNCTION immuta_internal.sources_of_policy(integer) IS 'the data sources that a policy is for';

-- Where all policies of a data source are of the kind "any", each is a class of its own. Where some are required, the
-- combination is one, and gives WRITE only if every policy that it rests on does. Whom a masking policy excepts reads what it
-- masks only on data sources to which they are subscribed: for each class there is one of those who are excepted as well.
CREATE FUNCTION immuta_internal.wanted_classes(source_ids bigint[])
RETURNS TABLE (data_source_id bigint, required integer[], shared integer[], access text, masking_policy_id integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH a AS MATERIALIZED (SELECT * FROM immuta_internal.applying_policies(source_ids)),
    combined AS (
        SELECT a.data_source_id,
               coalesce(array_agg(a.policy_id ORDER BY a.policy_id) FILTER (WHERE a.combine = 'all'), '{}') AS required,
               coalesce(array_agg(a.policy_id ORDER BY a.policy_id) FILTER (WHERE a.combine = 'any'), '{}') AS shared,
               coalesce(array_agg(a.policy_id ORDER BY a.policy_id) FILTER (WHERE a.combine = 'any' AND a.access = 'WRITE'), '{}')
                   AS shared_write,
               coalesce(bool_and(a.access = 'WRITE') FILTER (WHERE a.combine = 'all'), false) AS required_write
        FROM a GROUP BY a.data_source_id
    ), class AS (
        SELECT a.data_source_id, '{}'::integer[] AS required, ARRAY[a.policy_id] AS shared, a.access
        FROM a JOIN combined c ON c.data_source_id = a.data_source_id WHERE c.required = '{}'
        UNION ALL
        SELECT c.data_source_id, c.required, c.shared, 'READ' FROM combined c WHERE c.required <> '{}'
        UNION ALL
        SELECT c.data_source_id, c.required, c.shared_write, 'WRITE' FROM combined c
        WHERE c.required <> '{}' AND c.required_write AND (c.shared = '{}' OR c.shared_write <> '{}')
    )
    SELECT c.*, NULL::integer FROM class c
    UNION ALL
    SELECT DISTINCT c.data_source_id, ARRAY(SELECT r FROM unnest(c.required || p.id) r ORDER BY 1), c.shared, c.access, p.id
    FROM class c JOIN immuta.data_source d ON d.id = c.data_source_id JOIN immuta.masks k ON k.table_oid = d.relation
    JOIN immuta.masking_policy p ON p.id = k.policy_id
    WHERE num_nonnulls(p.except_groups, p.except_attributes, p.except_expression) > 0
$$;
COMMENT ON FUNCTION immuta_internal.wanted_classes(bigint[]) IS 'the combinations of policies that data sources need';

-- Assigns the data sources to their classes; the classes whose data sources changed. Touches no role.
CREATE FUNCTION immuta_internal.assign_classes(source_ids bigint[]) RETURNS integer[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[];
BEGIN
    INSERT INTO immuta.access_class (required, shared, access, masking_policy_id)
    SELECT DISTINCT w.required, w.shared, w.access, w.masking_policy_id FROM immuta_internal.wanted_classes(source_ids) w
    WHERE NOT EXISTS (SELECT FROM immuta.access_class k
                      WHERE k.required = w.required AND k.shared = w.shared AND k.access = w.access);
    WITH wanted AS MATERIALIZED (
        SELECT w.data_source_id, k.id AS class_id
        FROM immuta_internal.wanted_classes(source_ids) w
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
COMMENT ON FUNCTION immuta_internal.assign_classes(bigint[]) IS 'assigns data sources to access classes';

CREATE FUNCTION immuta_internal.wanted_members(class_ids integer[], user_ids bigint[])
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
COMMENT ON FUNCTION immuta_internal.wanted_members(integer[], bigint[]) IS 'who satisfies the policies of which access class';

CREATE TYPE immuta_internal.membership_change AS (phase integer, class_id integer, user_id bigint, role oid);
COMMENT ON TYPE immuta_internal.membership_change IS 'a membership in the role of an access class that is to be revoked (phase 1) or granted (2)';

-- The plan, for users who have a role.
CREATE FUNCTION immuta_internal.membership_changes(class_ids integer[], user_ids bigint[])
RETURNS SETOF immuta_internal.membership_change
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN bool_or(x.is_made) THEN 1 ELSE 2 END, x.class_id, x.user_id, max(x.role)
    FROM (SELECT m.class_id, m.user_id, m.role, true AS is_made FROM immuta.class_member m
          WHERE (class_ids IS NULL OR m.class_id = ANY (class_ids)) AND (user_ids IS NULL OR m.user_id = ANY (user_ids))
          UNION ALL
          SELECT w.class_id, w.user_id, b.role, false
          FROM immuta_internal.wanted_members(class_ids, user_ids) w
          JOIN immuta.subscriber b ON b.user_id = w.user_id AND b.role IS NOT NULL) x
    GROUP BY x.class_id, x.user_id HAVING count(*) = 1
$$;
COMMENT ON FUNCTION immuta_internal.membership_changes(integer[], bigint[]) IS 'what separates the memberships in access classes that were granted from those that are wanted; NULL stands for all';

CREATE FUNCTION immuta_internal.membership_statements(changes immuta_internal.membership_change[])
RETURNS TABLE (phase integer, class_role name, roles text, members bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.phase, s.class_role, string_agg(format('%I', s.rolname), ', ' ORDER BY s.n), count(*)
    FROM (SELECT c.phase, k.rolname AS class_role, r.rolname,
                 row_number() OVER (PARTITION BY c.phase, k.rolname ORDER BY r.rolname) - 1 AS n
          FROM unnest(changes) c JOIN immuta.access_class a ON a.id = c.class_id
          JOIN pg_roles k ON k.oid = a.role JOIN pg_roles r ON r.oid = c.role) s
    GROUP BY s.phase, s.class_role, s.n / 500 ORDER BY 1, 2, min(s.n)
$$;
COMMENT ON FUNCTION immuta_internal.membership_statements(immuta_internal.membership_change[]) IS 'the statements that a plan takes, in their order';

CREATE FUNCTION immuta_internal.execute_memberships(changes immuta_internal.membership_change[])
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    options text := immuta_internal.membership_options();
    step record;
    done bigint := 0;
BEGIN
    IF changes = '{}' THEN
        RETURN;
    END IF;
    DELETE FROM immuta.class_member m USING unnest(changes) c
    WHERE c.phase = 1 AND m.class_id = c.class_id AND m.user_id = c.user_id;
    INSERT INTO immuta.class_member SELECT c.class_id, c.user_id, c.role FROM unnest(changes) c WHERE c.phase = 2;
    FOR step IN SELECT * FROM immuta_internal.membership_statements(changes)
    LOOP
        object := 'ROLE ' || quote_ident(step.class_role);
        IF step.phase = 1 THEN
            PERFORM immuta_internal.as_system(format('REVOKE %I FROM %s', step.class_role, step.roles));
            what := 'revoked';
            detail := 'from ' || step.roles;
        ELSE
            PERFORM immuta_internal.as_system(format('GRANT %I TO %s', step.class_role, step.roles) || options);
            what := 'granted';
            detail := 'to ' || step.roles;
        END IF;
        done := done + step.members;
        IF step.members >= 500 THEN
            RAISE NOTICE '% memberships', done;
        END IF;
        RETURN NEXT;
    END LOOP;
    PERFORM immuta_internal.equalise_after(ARRAY(SELECT DISTINCT c.user_id FROM unnest(changes) c), NULL);
END
$$;
COMMENT ON FUNCTION immuta_internal.execute_memberships(immuta_internal.membership_change[]) IS 'does what a plan says, and records and reports it';

CREATE FUNCTION immuta_internal.revoke_memberships(class_ids integer[], of_user bigint = NULL)
RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM immuta_internal.execute_memberships(ARRAY(
        SELECT (1, m.class_id, m.user_id, m.role)::immuta_internal.membership_change FROM immuta.class_member m
        WHERE m.class_id = ANY (class_ids) AND (of_user IS NULL OR m.user_id = of_user)))
$$;
COMMENT ON FUNCTION immuta_internal.revoke_memberships(integer[], bigint) IS 'takes a user, or without one all users, out of access classes';

CREATE FUNCTION immuta_internal.make_class_roles(class_ids integer[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    class_id integer;
    new_name name;
BEGIN
    FOR class_id IN
        SELECT k.id FROM immuta.access_class k
        WHERE (class_ids IS NULL OR k.id = ANY (class_ids)) AND k.role IS NULL
          AND EXISTS (SELECT FROM immuta.class_source s WHERE s.class_id = k.id)
        ORDER BY k.id
    LOOP
        new_name := immuta_internal.new_role_name('immuta_access_' || class_id, current_database() || class_id);
        PERFORM immuta_internal.as_system(format('CREATE ROLE %I NOLOGIN', new_name));
        UPDATE immuta.access_class k SET role_name = new_name, role = (SELECT r.oid FROM pg_roles r WHERE r.rolname = new_name)
        WHERE k.id = class_id;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.make_class_roles(integer[]) IS 'gives access classes with data sources their roles';

CREATE FUNCTION immuta_internal.make_member_roles(class_ids integer[], user_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    member bigint;
    done bigint := 0;
BEGIN
    FOR member IN
        SELECT w.user_id FROM immuta_internal.wanted_members(class_ids, user_ids) w
        EXCEPT SELECT b.user_id FROM immuta.subscriber b
        WHERE b.role IS NOT NULL AND (user_ids IS NULL OR b.user_id = ANY (user_ids))
    LOOP
        PERFORM immuta_internal.ensure_role(member);
        done := done + 1;
        IF done % 1000 = 0 THEN
            RAISE NOTICE '% roles of users', done;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.make_member_roles(integer[], bigint[]) IS 'gives users who belong to access classes their roles, as far as they can have one';

-- NULL stands for all.
CREATE FUNCTION immuta_internal.apply_members(class_ids integer[], user_ids bigint[])
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.make_class_roles(class_ids), immuta_internal.make_member_roles(class_ids, user_ids);
    RETURN QUERY SELECT * FROM immuta_internal.execute_memberships(
        ARRAY(SELECT c FROM immuta_internal.membership_changes(class_ids, user_ids) c));
END
$$;
COMMENT ON FUNCTION immuta_internal.apply_members(integer[], bigint[]) IS 'makes the memberships in access classes what they should be';

CREATE FUNCTION immuta_internal.drop_empty_classes() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    empty record;
BEGIN
    FOR empty IN
        SELECT k.id, k.role FROM immuta.access_class k
        WHERE NOT EXISTS (SELECT FROM immuta.class_source s WHERE s.class_id = k.id)
    LOOP
        PERFORM FROM immuta_internal.revoke_memberships(ARRAY[empty.id]);
        DELETE FROM immuta.access_class k WHERE k.id = empty.id;
        PERFORM immuta_internal.retire_role(empty.role, false);
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.drop_empty_classes() IS 'drops the roles of access classes without data sources';
