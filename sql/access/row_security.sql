-- Rules for rows, as row level security for the roles that carry subscriptions, and the attributes of the impersonated
-- user, which they compare with.

CREATE FUNCTION immuta_internal.profile(iamid bytea, userid bytea) RETURNS TABLE (groups bytea, attributes bytea)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'immuta_profile_wrapper';
COMMENT ON FUNCTION immuta_internal.profile(bytea, bytea) IS 'groups and attributes of a user as of now';

CREATE FUNCTION immuta.user_attribute_values(attribute text) RETURNS text[]
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(SELECT jsonb_array_elements_text(convert_from(f.attributes, 'UTF8')::jsonb -> attribute))
    FROM immuta_internal.session_state() s, immuta_internal.profile(s.iamid, s.userid) f
$$;
COMMENT ON FUNCTION immuta.user_attribute_values(text) IS 'the values of an attribute of the impersonated user; NULL without an impersonation';

CREATE FUNCTION immuta.user_attribute(attribute text) RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN cardinality(v.v) = 1 THEN v.v[1] END FROM immuta.user_attribute_values(attribute) v (v) $$;
COMMENT ON FUNCTION immuta.user_attribute(text) IS 'the value of an attribute of the impersonated user; NULL if there is none, or more than one';

CREATE FUNCTION immuta.user_in_group(group_name text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM immuta_internal.session_state() s, immuta_internal.profile(s.iamid, s.userid) f
        WHERE group_name = ANY (convert_from(f.groups, 'UTF8')::text[]))
$$;
COMMENT ON FUNCTION immuta.user_in_group(text) IS 'whether the impersonated user is in a group';

CREATE FUNCTION immuta_internal.is_expression(expression bytea) RETURNS boolean
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_is_expression_wrapper';
COMMENT ON FUNCTION immuta_internal.is_expression(bytea) IS 'whether a text is one SQL expression and nothing else';

CREATE FUNCTION immuta_internal.analyse_as(role oid, statement bytea) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_analyse_as_wrapper';
COMMENT ON FUNCTION immuta_internal.analyse_as(oid, bytea) IS 'analyses a statement as a role (0: the caller), while no function runs that could do anything';

-- Literals are read, and constraints of domains run, as soon as an expression is analysed.
CREATE FUNCTION immuta_internal.analyse_expression(role oid, relation oid, expression text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on
AS $$
BEGIN
    IF NOT coalesce(immuta_internal.is_expression(convert_to(expression, 'SQL_ASCII')), false) THEN
        RAISE EXCEPTION 'a row policy must be one expression' USING ERRCODE = 'syntax_error';
    END IF;
    PERFORM immuta_internal.analyse_as(role, convert_to(
        format(E'SELECT FROM ONLY %s WHERE (%s\n)', immuta_internal.relation_name(relation), expression), 'SQL_ASCII'));
END
$$;
COMMENT ON FUNCTION immuta_internal.analyse_expression(oid, oid, text) IS 'refuses what is not an expression over a relation, or would run a function while it is analysed';

CREATE FUNCTION immuta_internal.has_policy(relation oid, policy_name text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = relation AND p.polname = policy_name) $$;
COMMENT ON FUNCTION immuta_internal.has_policy(oid, text) IS 'whether a relation has a row security policy of this name';

-- Where pg_temp is not named, the reader's temporary tables and types come first; "$user" would be a schema of theirs.
CREATE FUNCTION immuta_internal.is_path_of_nobody(path text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((array_agg(n.schema ORDER BY e.position DESC))[1] = 'pg_temp'
                    AND count(*) FILTER (WHERE n.schema = '$user' OR starts_with(n.schema, 'pg_temp')) = 1, false)
    FROM regexp_matches(path, '"((?:[^"]|"")*)"|([^,"\s][^,\s]*)', 'g') WITH ORDINALITY e (parts, position),
         LATERAL (SELECT coalesce(replace(e.parts[1], '""', '"'), lower(e.parts[2])) AS schema) n
$$;
COMMENT ON FUNCTION immuta_internal.is_path_of_nobody(text) IS 'whether a search_path names no schema of whoever uses it before its end, which is pg_temp';

-- Names in the body of a function are looked up in the search_path of whoever reads the table: what decides must not
-- depend on that. Bodies that are parsed when they are written, views, constraints of domains and policies of other
-- tables hold no names, but call functions. What is written in C only superusers create.
CREATE FUNCTION immuta_internal.function_without_path(relation oid, policy_name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE reached AS (
        SELECT p.refclassid AS class, p.refobjid AS object
        FROM pg_policy y JOIN pg_depend p ON p.classid = 'pg_policy'::regclass AND p.objid = y.oid
        WHERE y.polrelid = relation AND y.polname = policy_name
          AND (p.refclassid, p.refobjid) <> ('pg_class'::regclass::oid, relation)
        UNION
        SELECT o.class, o.object
        FROM reached r, LATERAL (
            SELECT 'pg_proc'::regclass::oid, p.oprcode::oid FROM pg_operator p
            WHERE r.class = 'pg_operator'::regclass AND p.oid = r.object
            UNION ALL
            SELECT p.refclassid, p.refobjid FROM pg_depend p
            WHERE p.classid = r.class AND p.objid = r.object
              AND (r.class IN ('pg_constraint'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass)
                   OR r.class = 'pg_proc'::regclass
                      AND EXISTS (SELECT FROM pg_proc f WHERE f.oid = r.object AND (f.prosqlbody IS NOT NULL OR f.prokind = 'a')))
            UNION ALL
            SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c
            WHERE r.class = 'pg_type'::regclass AND c.contypid = r.object
            UNION ALL
            SELECT 'pg_type'::regclass, part FROM pg_type t, unnest(ARRAY[t.typbasetype, t.typelem]) part
            WHERE r.class = 'pg_type'::regclass AND t.oid = r.object
            UNION ALL
            SELECT 'pg_type'::regclass, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
            WHERE r.class = 'pg_type'::regclass AND t.oid = r.object AND t.typtype = 'c'
            UNION ALL
            SELECT 'pg_type'::regclass, g.rngsubtype FROM pg_range g WHERE r.class = 'pg_type'::regclass AND g.rngtypid = r.object
            UNION ALL
            -- to_json() finds casts by itself.
            SELECT 'pg_proc'::regclass, c.castfunc FROM pg_cast c
            WHERE r.class = 'pg_type'::regclass AND c.castsource = r.object AND c.casttarget IN ('json'::regtype, 'jsonb'::regtype)
            UNION ALL
            SELECT 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w WHERE r.class = 'pg_class'::regclass AND w.ev_class = r.object
            UNION ALL
            SELECT 'pg_policy'::regclass, y.oid FROM pg_policy y WHERE r.class = 'pg_class'::regclass AND y.polrelid = r.object
        ) o (class, object)
        -- What came with PostgreSQL is allowed.
        WHERE o.object >= 16384
    )
    SELECT min(f.oid::regprocedure::text)
    FROM reached r JOIN pg_proc f ON f.oid = r.object
    WHERE r.class = 'pg_proc'::regclass AND f.prosqlbody IS NULL AND f.prokind <> 'a'
      AND f.prolang NOT IN (SELECT l.oid FROM pg_language l WHERE l.lanname IN ('c', 'internal'))
      AND NOT EXISTS (SELECT FROM unnest(f.proconfig) c
                      WHERE starts_with(c, 'search_path=') AND immuta_internal.is_path_of_nobody(substr(c, 13)))
      AND NOT EXISTS (SELECT FROM pg_depend e JOIN pg_extension x ON x.oid = e.refobjid AND x.extname = 'immuta_ext'
                      WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')
$$;
COMMENT ON FUNCTION immuta_internal.function_without_path(oid, text) IS 'a function behind a row security policy whose names the reader would look up, or NULL';

CREATE FUNCTION immuta_internal.switch_on_row_security(relation oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    others text;
BEGIN
    PERFORM immuta_internal.as_system('ALTER TABLE ' || immuta_internal.relation_name(relation) || ' ENABLE ROW LEVEL SECURITY');
    UPDATE immuta.data_source d SET row_security_made = true WHERE d.relation = switch_on_row_security.relation;
    SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ') INTO others
    FROM pg_class c, aclexplode(c.relacl) a
    WHERE c.oid = switch_on_row_security.relation AND a.grantee NOT IN (c.relowner, immuta_internal.system_role())
      AND NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.role = a.grantee)
      AND NOT EXISTS (SELECT FROM immuta.access_class k WHERE k.role = a.grantee);
    IF others IS NOT NULL THEN
        RAISE NOTICE 'row level security is on for "%": it no longer has rows for %', relation::regclass, others
            USING HINT = 'The owner can give them a policy of their own: CREATE POLICY ... TO ... USING (true).';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.switch_on_row_security(oid) IS 'switches row level security on, and tells who sees nothing from then on';

-- A policy reads other tables as whoever reads its own does.
CREATE FUNCTION immuta_internal.policies_that_read_masks()
RETURNS TABLE (policy_relation oid, policy_name text, relation oid, column_name name)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT y.polrelid, coalesce((SELECT r.name FROM immuta.row_policy r WHERE 'immuta_row_' || r.id = y.polname), y.polname),
           k.table_oid, a.attname
    FROM immuta.masks k JOIN pg_attribute a ON a.attrelid = k.table_oid AND a.attnum = k.column_number
    JOIN pg_depend p ON (p.classid, p.refclassid) = ('pg_policy'::regclass::oid, 'pg_class'::regclass::oid)
     AND p.refobjid = k.table_oid
    JOIN pg_policy y ON y.oid = p.objid AND y.polrelid <> k.table_oid
    -- Of a row as a whole no column is on record.
    WHERE p.refobjsubid = k.column_number OR concat(y.polqual, y.polwithcheck) ~ ':varattno 0 '
$$;
COMMENT ON FUNCTION immuta_internal.policies_that_read_masks() IS 'row policies that name a masked column of another table';

CREATE FUNCTION immuta_internal.hint_policy_reads_mask() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'Who sees the mask can see other rows by it: let the policy name a column that is not masked.' $$;
COMMENT ON FUNCTION immuta_internal.hint_policy_reads_mask() IS 'what to do about a row policy that gets masks';

CREATE FUNCTION immuta_internal.warn_of_row_policy(policy_id integer, relation oid, name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    masked record;
BEGIN
    FOR masked IN
        SELECT * FROM immuta_internal.policies_that_read_masks() m
        WHERE m.policy_relation = warn_of_row_policy.relation AND m.policy_name = warn_of_row_policy.name
    LOOP
        RAISE WARNING 'row policy "%" reads "%" of "%", which is masked: it gets the mask',
            immuta_internal.shown(name), masked.column_name, masked.relation::regclass
            USING HINT = immuta_internal.hint_policy_reads_mask();
    END LOOP;
    IF EXISTS (SELECT FROM pg_policy p, pg_get_expr(p.polqual, p.polrelid) e
               WHERE p.polrelid = warn_of_row_policy.relation AND p.polname = 'immuta_row_' || policy_id
                 AND e ~ '(?<!SELECT )immuta\.user_(attribute|attribute_values|in_group)\(') THEN
        RAISE WARNING 'row policy "%" calls a function for each row', name
            USING HINT = 'Write (SELECT immuta.user_attribute(...)): it is then evaluated once per query.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.warn_of_row_policy(integer, oid, text) IS 'what an administrator should know of a row policy';

-- The rule becomes part of the statement as it was written. Each time it is parsed first, under the same settings, so that
-- nothing in it can end the expression. It runs with the rights of whoever reads the table.
CREATE FUNCTION immuta_internal.apply_row_policy(policy_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on
AS $$
DECLARE
    rule record;
    fault text;
BEGIN
    SELECT p.*, d.relation, c.relkind, c.relowner, c.relrowsecurity INTO rule
    FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id JOIN pg_class c ON c.oid = d.relation
    WHERE p.id = policy_id;
    IF rule.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '"%" cannot have row policies', rule.relation::regclass
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Only tables and partitioned tables can. A view obeys those of its tables if it is a security '
                         || 'invoker (from PostgreSQL 15 on); else it shows what its owner sees.';
    END IF;
    IF NOT pg_has_role(immuta_internal.system_role(), rule.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'the system account may not create row policies on "%"', rule.relation::regclass
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Row policies need ownership: GRANT %I TO the system account, or make it the owner of the table.',
                                pg_get_userbyid(rule.relowner));
    END IF;
    -- Nobody changes the table between the check and the use.
    PERFORM immuta_internal.as_system(format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', immuta_internal.relation_name(rule.relation)));
    PERFORM immuta_internal.analyse_expression(immuta_internal.system_role(), rule.relation, rule.expression);
    IF NOT rule.relrowsecurity THEN
        PERFORM immuta_internal.switch_on_row_security(rule.relation);
    END IF;
    -- Where the table had row level security of its own, that decides which rows there are, and ours only takes rows away.
    IF (SELECT d.row_security_made FROM immuta.data_source d WHERE d.id = rule.data_source_id)
       AND NOT immuta_internal.has_policy(rule.relation, 'immuta_rows') THEN
        PERFORM immuta_internal.as_system(format('CREATE POLICY immuta_rows ON %s FOR ALL TO immuta_subscriber USING (true)',
                                                 immuta_internal.relation_name(rule.relation)));
    END IF;
    IF immuta_internal.has_policy(rule.relation, 'immuta_row_' || policy_id) THEN
        PERFORM immuta_internal.as_system(format('DROP POLICY %I ON %s', 'immuta_row_' || policy_id, immuta_internal.relation_name(rule.relation)));
    END IF;
    -- The line ends keep a comment in the rule from hiding what follows.
    PERFORM immuta_internal.as_system(format(
        E'CREATE POLICY %I ON %s AS RESTRICTIVE FOR ALL TO immuta_subscriber USING (%s\n) WITH CHECK (%s\n)',
        'immuta_row_' || policy_id, immuta_internal.relation_name(rule.relation), rule.expression, rule.expression));
    fault := immuta_internal.function_without_path(rule.relation, 'immuta_row_' || policy_id);
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'row policy "%" depends on the search_path of whoever reads the table', immuta_internal.shown(rule.name)
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp (other schemas it needs before pg_temp), or '
                                'give it a body with BEGIN ATOMIC.', fault);
    END IF;
    PERFORM immuta_internal.equalise(s.project_id) FROM immuta.project_data_source s WHERE s.relation = rule.relation;
    PERFORM immuta_internal.warn_of_row_policy(policy_id, rule.relation, rule.name);
END
$$;
COMMENT ON FUNCTION immuta_internal.apply_row_policy(integer) IS 'makes a row policy what it should be';

CREATE FUNCTION immuta_internal.remove_row_policies(relation oid, policy_ids integer[], all_of_them boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target text := immuta_internal.relation_name(relation);
    policy_name text;
BEGIN
    FOR policy_name IN
        SELECT p.polname FROM pg_policy p
        WHERE p.polrelid = remove_row_policies.relation
          AND (p.polname IN (SELECT 'immuta_row_' || i FROM unnest(policy_ids) i) OR all_of_them AND p.polname = 'immuta_rows')
    LOOP
        PERFORM immuta_internal.as_system(format('DROP POLICY %I ON %s', policy_name, target));
    END LOOP;
    -- It was the extension that switched it on.
    IF all_of_them AND target IS NOT NULL AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = remove_row_policies.relation) THEN
        PERFORM immuta_internal.as_system('ALTER TABLE ' || target || ' DISABLE ROW LEVEL SECURITY');
    END IF;
    PERFORM immuta_internal.equalise_after(NULL, ARRAY[remove_row_policies.relation]);
END
$$;
COMMENT ON FUNCTION immuta_internal.remove_row_policies(oid, integer[], boolean) IS 'drops row policies; with all of them what was switched on for them';
