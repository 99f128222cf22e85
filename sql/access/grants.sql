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
