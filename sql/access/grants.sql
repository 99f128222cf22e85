-- From subscriptions and policies to grants: what is wanted, the plan (what is to be changed), the statements that it takes,
-- and the act. Whoever acts holds the lock (immuta_internal.begin_change()).

-- Views have nothing to truncate, materialized views nothing to write.
CREATE FUNCTION immuta_internal.privileges_of_kind(relkind "char") RETURNS TABLE (privilege text, access text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT p.privilege, p.access
    FROM (VALUES ('SELECT', 'READ', 'rpfvm'), ('INSERT', 'WRITE', 'rpfv'), ('UPDATE', 'WRITE', 'rpfv'),
                 ('DELETE', 'WRITE', 'rpfv'), ('TRUNCATE', 'WRITE', 'rpf')) p (privilege, access, kinds)
    WHERE pg_catalog.strpos(p.kinds, relkind::pg_catalog.text) OPERATOR(pg_catalog.>) 0
$$;
COMMENT ON FUNCTION immuta_internal.privileges_of_kind("char") IS 'what READ and WRITE are on a kind of relation';

-- By all the names that hidden columns had, and also what nobody looked at yet: columns that got the name of a hidden one, or are
-- computed from one.
CREATE FUNCTION immuta_internal.hidden_names(source_ids bigint[]) RETURNS TABLE (data_source_id bigint, names name[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH named AS (
        SELECT d.id, d.relation, d.excluded_columns || coalesce(m.names, '{}')
               || ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = d.relation
                        AND (a.attnum = ANY (d.excluded_numbers)
                             OR EXISTS (SELECT FROM immuta.masks k WHERE (k.table_oid, k.column_number) = (d.relation, a.attnum)))) AS names
        FROM immuta.data_source d
        LEFT JOIN (SELECT n.data_source_id, array_agg(n.column_name) AS names
                   FROM immuta.named_column n
                   WHERE EXISTS (SELECT FROM immuta.masking_policy y WHERE y.id = ANY (n.policies) OR y.column_tags && n.tags)
                   GROUP BY n.data_source_id) m ON m.data_source_id = d.id
        WHERE (source_ids IS NULL OR d.id = ANY (source_ids)) AND (d.excluded_columns <> '{}' OR m.names IS NOT NULL)
    )
    SELECT n.id, n.names || ARRAY(SELECT c.column_name FROM immuta_internal.computed_columns(n.relation, n.names) c) FROM named n
$$;
COMMENT ON FUNCTION immuta_internal.hidden_names(bigint[]) IS 'columns of data sources that are excluded or masked; NULL stands for all';

-- What `rows` and expressions of masks name, and what that is generated from: whoever changes it chooses where the mask is, and
-- what. Names are looked for in the text of the mask; one that is found in a constant, too, does no harm.
CREATE FUNCTION immuta_internal.deciding_columns(source_ids bigint[]) RETURNS TABLE (relation oid, column_number smallint, policy_id integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH written AS MATERIALIZED (
        SELECT DISTINCT k.table_oid AS relation, k.column_number, k.mask, k.policy_id
        FROM immuta.masks k JOIN immuta.masking_policy p ON p.id = k.policy_id AND (p.rows IS NOT NULL OR p.method = 'expression')
        JOIN immuta.data_source d ON d.relation = k.table_oid AND (source_ids IS NULL OR d.id = ANY (source_ids))
    ), named AS (
        SELECT w.relation, w.policy_id, a.attnum, a.attname, a.attgenerated
        FROM written w JOIN pg_attribute a ON a.attrelid = w.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> w.column_number
        -- Neither a cast nor a function.
        WHERE w.mask ~ ('(?<![\w$"]|::)"?' || regexp_replace(replace(a.attname, '"', '""'), '([.^$*+?(){}|\[\]\\])', '\\\1', 'g')
                        || '"?(?![\w$"(])')
    )
    SELECT n.relation, n.attnum, n.policy_id FROM named n
    UNION
    SELECT n.relation, b.attnum, n.policy_id
    FROM named n JOIN pg_attribute b ON n.attgenerated <> '' AND b.attrelid = n.relation AND b.attnum > 0 AND NOT b.attisdropped
    WHERE n.attname IN (SELECT c.column_name FROM immuta_internal.computed_columns(n.relation, ARRAY[b.attname]) c)
$$;
COMMENT ON FUNCTION immuta_internal.deciding_columns(bigint[]) IS 'columns on which the masks of other columns depend; NULL stands for all data sources';

-- What the tables of the connection say, as grants. NULL stands for all.
CREATE FUNCTION immuta_internal.wanted_grants(source_ids bigint[], grantees oid[])
RETURNS TABLE (data_source_id bigint, grantee oid, kind "char", object oid, attnum smallint, privilege text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH reached AS (
        SELECT cs.data_source_id, k.role, k.access, k.masking_policy_id AS excepted_by
        FROM immuta.class_source cs JOIN immuta.access_class k ON k.id = cs.class_id
        WHERE k.role IS NOT NULL
        UNION
        SELECT s.data_source_id, b.role, s.access, e.policy_id
        FROM immuta.subscription s JOIN immuta.subscriber b ON b.user_id = s.user_id,
             LATERAL (SELECT NULL AS policy_id
                      UNION ALL
                      SELECT m.policy_id FROM immuta.policy_member m JOIN immuta.masking_policy p ON p.id = m.policy_id
                      WHERE m.user_id = s.user_id) e
        WHERE b.role IS NOT NULL AND s.state = 'approved' AND (s.valid_until IS NULL OR s.valid_until > now())
    ), hidden AS MATERIALIZED (
        SELECT * FROM immuta_internal.hidden_names(source_ids)
    ), deciding AS MATERIALIZED (
        SELECT c.relation, c.column_number, c.policy_id FROM immuta_internal.deciding_columns(source_ids) c
    ), relation AS (
        -- Masked columns are for those whom their policy excepts, who have all others from where they are subscribed.
        SELECT r.role, r.excepted_by, d.id, d.relation, d.excluded_columns, d.excluded_numbers, c.relkind, c.relnamespace, c.relowner,
               p.privilege, m.numbers AS masked_numbers, h.names AS hidden_names, h.names IS NULL AND m.numbers = '{}' AS as_a_whole
        FROM reached r
        JOIN immuta.data_source d ON d.id = r.data_source_id
        JOIN pg_class c ON c.oid = d.relation
        JOIN immuta_internal.privileges_of_kind(c.relkind) p ON p.access IN ('READ', r.access)
        CROSS JOIN LATERAL (SELECT ARRAY(SELECT k.column_number FROM immuta.masks k WHERE k.table_oid = d.relation
                                         AND (r.excepted_by IS NULL OR k.policy_id = r.excepted_by))) m (numbers)
        LEFT JOIN hidden h ON h.data_source_id = d.id
        WHERE (source_ids IS NULL OR d.id = ANY (source_ids)) AND (grantees IS NULL OR r.role = ANY (grantees))
          AND NOT d.held
          -- Row security does not apply to TRUNCATE.
          AND NOT (p.privilege = 'TRUNCATE' AND EXISTS (SELECT FROM immuta.row_policy y WHERE y.data_source_id = d.id))
    )
    SELECT w.id, w.role, 'r', w.relation, 0::smallint, w.privilege
    FROM relation w WHERE w.excepted_by IS NULL AND (w.as_a_whole OR w.privilege IN ('DELETE', 'TRUNCATE'))
    UNION
    SELECT w.id, w.role, 'r', w.relation, a.attnum, w.privilege
    FROM relation w JOIN pg_attribute a ON a.attrelid = w.relation
    WHERE NOT w.as_a_whole AND w.privilege NOT IN ('DELETE', 'TRUNCATE')
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (w.excluded_numbers)
      AND CASE WHEN w.excepted_by IS NULL
               THEN a.attnum <> ALL (w.masked_numbers) AND a.attname <> ALL (coalesce(w.hidden_names, '{}'))
               ELSE a.attname <> ALL (w.excluded_columns)
                    AND (a.attnum = ANY (w.masked_numbers)
                         OR w.privilege = 'UPDATE' AND a.attname <> ALL (w.hidden_names) AND (w.relation, a.attnum, w.excepted_by) IN (SELECT * FROM deciding)) END
      -- Who is masked does not change what decides on the mask.
      AND NOT (w.privilege = 'UPDATE' AND EXISTS (SELECT FROM deciding c WHERE (c.relation, c.column_number) = (w.relation, a.attnum)
                                                  AND c.policy_id IS DISTINCT FROM w.excepted_by))
    UNION
    -- Sequences behind the defaults of columns. A default can name any sequence: only those of the table's owner.
    SELECT w.id, w.role, 'r', q.oid, 0::smallint, 'USAGE'
    FROM relation w JOIN pg_attrdef f ON f.adrelid = w.relation
    JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = f.oid AND p.refclassid = 'pg_class'::regclass
    JOIN pg_class q ON q.oid = p.refobjid AND q.relkind = 'S' AND q.relowner = w.relowner
    WHERE w.privilege = 'INSERT' AND w.excepted_by IS NULL
    UNION
    SELECT w.id, w.role, 's', w.relnamespace, 0::smallint, 'USAGE' FROM relation w WHERE w.excepted_by IS NULL
$$;
COMMENT ON FUNCTION immuta_internal.wanted_grants(bigint[], oid[]) IS 'the grants that subscriptions and policies stand for';

CREATE FUNCTION immuta_internal.is_grantable(role oid, kind "char", object oid, attnum smallint, privilege text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN kind = 's' THEN has_schema_privilege(role, object, privilege || ' WITH GRANT OPTION')
        WHEN privilege = 'USAGE' THEN has_sequence_privilege(role, object, privilege || ' WITH GRANT OPTION')
        WHEN attnum = 0 THEN has_table_privilege(role, object, privilege || ' WITH GRANT OPTION')
        ELSE has_column_privilege(role, object, attnum, privilege || ' WITH GRANT OPTION') END
$$;
COMMENT ON FUNCTION immuta_internal.is_grantable(oid, "char", oid, smallint, text) IS 'whether a role may grant this';

CREATE FUNCTION immuta_internal.access_entries(kind "char", object oid, attnum smallint)
RETURNS TABLE (grantor oid, grantee oid, privilege text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.grantor, a.grantee, a.privilege_type
    FROM aclexplode(CASE WHEN kind = 's' THEN (SELECT n.nspacl FROM pg_namespace n WHERE n.oid = object)
                         WHEN attnum = 0 THEN (SELECT c.relacl FROM pg_class c WHERE c.oid = object)
                         ELSE (SELECT t.attacl FROM pg_attribute t WHERE t.attrelid = object AND t.attnum = access_entries.attnum)
                    END) a
$$;
COMMENT ON FUNCTION immuta_internal.access_entries("char", oid, smallint) IS 'who was granted what on an object';

-- Who granted the privilege, as far as the system account can act for them: itself, an owner, a role with the grant
-- option. Which of them PostgreSQL takes differs between versions.
CREATE FUNCTION immuta_internal.grantor_of(role oid, grantee oid, kind "char", object oid, attnum smallint, privilege text)
RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT max(a.grantor) FROM immuta_internal.access_entries(kind, object, attnum) a
    WHERE a.grantee = grantor_of.grantee AND a.privilege = grantor_of.privilege AND pg_has_role(role, a.grantor, 'USAGE')
$$;
COMMENT ON FUNCTION immuta_internal.grantor_of(oid, oid, "char", oid, smallint, text) IS 'in whose name a role holds a privilege that the system account could have granted; NULL if it does not';

CREATE FUNCTION immuta_internal.describe_grant(kind "char", object oid, attnum smallint, privilege text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT privilege || coalesce((SELECT ' (' || quote_ident(a.attname) || ')' FROM pg_attribute a
                                  WHERE kind = 'r' AND a.attrelid = object AND a.attnum = describe_grant.attnum AND a.attnum > 0), '')
           || ' on ' || CASE WHEN kind = 's' THEN format('schema %s', object::regnamespace) ELSE object::regclass::text END
$$;
COMMENT ON FUNCTION immuta_internal.describe_grant("char", oid, smallint, text) IS 'a grant in words';

-- By the catalogs as they are now, also in a transaction with an older snapshot.
CREATE FUNCTION immuta_internal.grant_target(kind "char", object oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN i.type IN ('schema', 'sequence') THEN upper(i.type) ELSE 'TABLE' END || ' ' || i.identity
    FROM pg_identify_object(CASE WHEN kind = 's' THEN 'pg_namespace'::regclass ELSE 'pg_class'::regclass END, object, 0) i
$$;
COMMENT ON FUNCTION immuta_internal.grant_target("char", oid) IS 'an object as GRANT names it; NULL if it is gone';

CREATE TYPE immuta_internal.grant_change AS (
    phase integer,
    data_source_id bigint,
    grantee oid,
    kind "char",
    object oid,
    attnum smallint,
    privilege text,
    grantor oid,
    is_stated boolean
);
COMMENT ON TYPE immuta_internal.grant_change IS 'a privilege that is to be revoked (phase 1), granted (2), or cannot be granted (3), and whether that takes a statement: others may need it still, or have granted it before; grantor as in immuta.grant_made';

-- The plan. Set operations and groups throughout: the planner knows too little of these rows for joins.
CREATE FUNCTION immuta_internal.grant_changes(source_ids bigint[], grantees oid[]) RETURNS SETOF immuta_internal.grant_change
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH compared AS MATERIALIZED (
        SELECT x.data_source_id, x.grantee, x.kind, x.object, x.attnum, x.privilege, max(x.grantor) AS grantor,
               bool_or(x.is_made) AS is_made, bool_or(NOT x.is_made) AS is_wanted
        FROM (SELECT g.*, true AS is_made FROM immuta.grant_made g
              WHERE (source_ids IS NULL OR g.data_source_id = ANY (source_ids))
                AND (grant_changes.grantees IS NULL OR g.grantee = ANY (grant_changes.grantees))
              UNION ALL
              SELECT w.*, NULL, false FROM immuta_internal.wanted_grants(source_ids, grant_changes.grantees) w) x
        GROUP BY x.data_source_id, x.grantee, x.kind, x.object, x.attnum, x.privilege
    ), concerned AS MATERIALIZED (
        SELECT DISTINCT c.object FROM compared c WHERE c.is_made <> c.is_wanted
    ), gathered AS (
        SELECT c.*, false AS is_outside FROM compared c WHERE c.object IN (SELECT o.object FROM concerned o)
        UNION ALL
        -- What other data sources need of the same objects.
        SELECT g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege, g.grantor, true, true, true
        FROM immuta.grant_made g
        WHERE g.object IN (SELECT o.object FROM concerned o) AND g.data_source_id <> ALL (source_ids)
    ), judged AS (
        SELECT g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege, g.is_made, g.is_wanted, g.is_outside,
               bool_or(g.is_made) OVER same AS is_recorded, bool_or(g.is_wanted) OVER same AS is_needed,
               max(g.grantor) OVER same AS grantor
        FROM gathered g WINDOW same AS (PARTITION BY g.grantee, g.kind, g.object, g.attnum, g.privilege)
    ), account AS MATERIALIZED (
        SELECT immuta_internal.account_role() AS role
    ), missing AS MATERIALIZED (
        SELECT j.*, coalesce(immuta_internal.is_grantable(a.role, j.kind, j.object, j.attnum, j.privilege), false) AS is_grantable,
               NOT j.is_recorded
               AND immuta_internal.grantor_of(a.role, j.grantee, j.kind, j.object, j.attnum, j.privilege) IS NULL AS is_stated
        FROM judged j, account a WHERE j.is_wanted AND NOT j.is_made
    )
    SELECT 1, j.data_source_id, j.grantee, j.kind, j.object, j.attnum, j.privilege, j.grantor,
           NOT j.is_needed AND j.grantor IS NOT NULL
    FROM judged j WHERE j.is_made AND NOT j.is_wanted
    UNION ALL
    SELECT CASE WHEN m.is_grantable THEN 2 ELSE 3 END, m.data_source_id, m.grantee, m.kind, m.object, m.attnum, m.privilege, m.grantor,
           m.is_stated
    FROM missing m
$$;
COMMENT ON FUNCTION immuta_internal.grant_changes(bigint[], oid[]) IS 'what separates the grants that were made from those that are wanted; NULL stands for all data sources, or roles';

CREATE FUNCTION immuta_internal.grant_statements(changes immuta_internal.grant_change[])
RETURNS TABLE (phase integer, kind "char", object oid, target text, words text, roles text,
               grantees oid[], privileges text[], attnums smallint[], grantors oid[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH step AS (
        SELECT DISTINCT c.phase, c.kind, c.object, c.grantee, c.privilege, c.attnum, c.grantor
        FROM unnest(changes) c WHERE c.phase < 3 AND c.is_stated
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
    SELECT l.phase, l.kind, l.object, immuta_internal.grant_target(l.kind, l.object), l.words,
           string_agg(format('%I', r.rolname), ', ' ORDER BY r.rolname), array_agg(l.grantee), l.privileges, l.attnums, l.grantors
    FROM listed l JOIN pg_roles r ON r.oid = l.grantee
    GROUP BY l.phase, l.kind, l.object, l.words, l.privileges, l.grantors, l.attnums
    UNION ALL
    SELECT c.phase, c.kind, c.object, immuta_internal.grant_target(c.kind, c.object), string_agg(DISTINCT c.privilege, ', '),
           NULL, NULL, NULL, NULL, NULL
    FROM unnest(changes) c WHERE c.phase = 3 GROUP BY c.phase, c.kind, c.object
    -- Revoking comes first: REVOKE on a table also revokes the privilege on its columns.
    ORDER BY 1, 4, 5
$$;
COMMENT ON FUNCTION immuta_internal.grant_statements(immuta_internal.grant_change[]) IS 'the statements that a plan takes, in their order; of phase 3 what cannot be granted';

-- Records what it does, and reports that and what it may not grant.
CREATE FUNCTION immuta_internal.execute_grants(changes immuta_internal.grant_change[])
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step record;
    target text;
    done bigint := 0;
BEGIN
    DELETE FROM immuta.grant_made g USING unnest(changes) c
    WHERE c.phase = 1 AND (g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege)
                          = (c.data_source_id, c.grantee, c.kind, c.object, c.attnum, c.privilege);
    FOR step IN SELECT * FROM immuta_internal.grant_statements(changes)
    LOOP
        -- It may have been renamed since the loop began. If it is renamed from here on, record_grants() notices.
        target := CASE WHEN step.phase = 3 THEN step.target ELSE immuta_internal.grant_target(step.kind, step.object) END;
        CONTINUE WHEN target IS NULL;
        what := (ARRAY['revoked', 'granted', 'not granted'])[step.phase];
        object := target;
        detail := step.words || coalesce(CASE step.phase WHEN 1 THEN ' from ' ELSE ' to ' END || step.roles,
                                         ': the system account has no grant option');
        IF step.phase = 2 THEN
            PERFORM immuta_internal.as_system(format('GRANT %s ON %s TO %s', step.words, target, step.roles));
        ELSIF step.phase = 1 AND NOT immuta_internal.revoke_grant(
            format('REVOKE %s ON %s FROM %s', step.words, target, step.roles),
            step.kind, step.object, step.attnums, step.grantees, step.privileges, step.grantors) THEN
            what := 'not revoked';
            RAISE WARNING 'not revoked: % on %', detail, object USING HINT = immuta_internal.hint_not_revoked();
        END IF;
        done := done + 1;
        IF done % 1000 = 0 THEN
            RAISE NOTICE '% statements on data sources', done;
        END IF;
        RETURN NEXT;
    END LOOP;
    PERFORM immuta_internal.record_grants(changes);
END
$$;
COMMENT ON FUNCTION immuta_internal.execute_grants(immuta_internal.grant_change[]) IS 'does what a plan says';

CREATE FUNCTION immuta_internal.hint_not_revoked() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'It was granted in the name of an owner for whom the system account can no longer act: the owner can revoke it.' $$;
COMMENT ON FUNCTION immuta_internal.hint_not_revoked() IS 'what to do about a grant that the system account cannot revoke';

CREATE FUNCTION immuta_internal.revoke_grant(
    statement text, kind "char", object oid, attnums smallint[], grantees oid[], privileges text[], grantors oid[]) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    BEGIN
        PERFORM immuta_internal.as_system(statement);
    EXCEPTION WHEN insufficient_privilege THEN
        NULL; -- What is left is looked at below.
    END;
    RETURN NOT EXISTS (
        SELECT FROM unnest(attnums) n, LATERAL immuta_internal.access_entries(kind, object, n) a
        WHERE a.grantee = ANY (grantees) AND a.privilege = ANY (privileges) AND a.grantor = ANY (grantors));
END
$$;
COMMENT ON FUNCTION immuta_internal.revoke_grant(text, "char", oid, smallint[], oid[], text[], oid[]) IS 'runs a REVOKE; whether nothing is left of what was granted';

CREATE FUNCTION immuta_internal.record_grants(changes immuta_internal.grant_change[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    system_role oid := immuta_internal.system_role();
    renamed bigint;
BEGIN
    INSERT INTO immuta.grant_made
    SELECT c.data_source_id, c.grantee, c.kind, c.object, c.attnum, c.privilege, c.grantor
    FROM unnest(changes) c WHERE c.phase = 2 AND NOT c.is_stated;
    WITH granted AS (
        INSERT INTO immuta.grant_made AS g
        SELECT c.data_source_id, c.grantee, c.kind, c.object, c.attnum, c.privilege,
               immuta_internal.grantor_of(system_role, c.grantee, c.kind, c.object, c.attnum, c.privilege)
        FROM unnest(changes) c WHERE c.phase = 2 AND c.is_stated
        RETURNING g.grantor
    )
    SELECT count(*) INTO renamed FROM granted g WHERE g.grantor IS NULL;
    IF renamed > 0 THEN
        RAISE EXCEPTION '% grants went to objects that were renamed meanwhile', renamed USING ERRCODE = 'internal_error';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.record_grants(immuta_internal.grant_change[]) IS 'records what was granted; an error if it went to another object';

-- GRANT does not wait for ALTER TABLE of the same table as two ALTER TABLE do for each other: it fails afterwards, with
-- "tuple concurrently updated", or because the table has another name; or it was for another table, which then has this
-- name: the savepoint undoes that.
CREATE FUNCTION immuta_internal.apply_grants(source_ids bigint[], grantees oid[] = NULL)
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changes immuta_internal.grant_change[];
BEGIN
    FOR attempt IN 1..5 LOOP
        BEGIN
            changes := ARRAY(SELECT c FROM immuta_internal.grant_changes(source_ids, grantees) c);
            RETURN QUERY SELECT * FROM immuta_internal.execute_grants(changes);
            EXIT;
        EXCEPTION WHEN internal_error OR undefined_table OR undefined_column OR invalid_schema_name THEN
            IF attempt = 5 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    IF changes <> '{}' THEN
        PERFORM immuta_internal.equalise_after(
            (SELECT array_agg(b.user_id) FROM immuta.subscriber b WHERE b.role = ANY (apply_grants.grantees)),
            ARRAY(SELECT DISTINCT c.object FROM unnest(changes) c WHERE c.phase < 3 AND c.is_stated));
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.apply_grants(bigint[], oid[]) IS 'makes the grants on data sources what they should be';

CREATE FUNCTION immuta_internal.revoke_all_grants() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM immuta_internal.execute_grants(ARRAY(
        SELECT (1, g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege, g.grantor, g.grantor IS NOT NULL)::immuta_internal.grant_change
        FROM immuta.grant_made g));
END
$$;
COMMENT ON FUNCTION immuta_internal.revoke_all_grants() IS 'takes back every grant that was made';

-- Tells the administrator what the system account may not grant.
CREATE FUNCTION immuta_internal.warn_not_granted(what text, object text, detail text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF what = 'not granted' THEN
        RAISE WARNING 'not granted: % on %', detail, object
            USING HINT = 'The owner can GRANT ... TO the system account WITH GRANT OPTION; then run immuta.sync().';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.warn_not_granted(text, text, text) IS 'a warning for what could not be granted';
