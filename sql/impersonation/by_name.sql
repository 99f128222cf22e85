-- Impersonation by name, in the words of other platforms.

-- Without a SET clause, which would undo what it sets: everything in it is qualified.
CREATE PROCEDURE immuta_procedures.impersonate_user(user_id text)
LANGUAGE sql
AS $$
    SELECT pg_catalog.set_config('immuta.impersonation_userid', coalesce(user_id, ''),
                                 NOT pg_catalog.current_setting('bodata.allow_session_impersonation')::pg_catalog.bool)
$$;
COMMENT ON PROCEDURE immuta_procedures.impersonate_user(text) IS 'impersonates a user by name, for the session if that is allowed, else for the transaction; NULL ends it';

CREATE FUNCTION immuta_internal.may_impersonate(login oid, by_name boolean) RETURNS boolean
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'immuta_may_impersonate_wrapper';
COMMENT ON FUNCTION immuta_internal.may_impersonate(oid, boolean) IS 'whether a login may present names, or else tokens';

CREATE FUNCTION immuta_internal.rule_names(
    impersonator bytea, users bytea, iamids bytea, login bytea, iamid bytea, userid bytea) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'immuta_rule_names_wrapper';
COMMENT ON FUNCTION immuta_internal.rule_names(bytea, bytea, bytea, bytea, bytea, bytea) IS 'whether a rule is about this login and this user';

CREATE FUNCTION immuta_internal.list_impersonators()
RETURNS TABLE (impersonator name, means text, iamid text, userid text, mapped_role name, rule integer, client_addr inet[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH login AS (
        SELECT r.oid, r.rolname AS impersonator, m.means FROM pg_roles r, (VALUES ('token', false), ('name', true)) m (means, by_name)
        WHERE r.rolcanlogin AND immuta_internal.may_impersonate(r.oid, m.by_name)),
    account AS (
        SELECT l.impersonator, l.means, u.iamid, u.userid, r.rolname AS mapped_role
        FROM login l CROSS JOIN immuta.user_account u JOIN pg_roles r
        ON r.oid = immuta_internal.impersonated_role(convert_to(u.userid, 'UTF8'), convert_to(u.iamid, 'UTF8'), l.oid)),
    -- The first rule that is about both decides. One with addresses decides for some clients only: then the next counts, too.
    matching AS (
        SELECT a.impersonator, a.means, a.iamid, a.userid, a.mapped_role, r.id, r.allow, r.client_addr,
               min(r.id) FILTER (WHERE r.client_addr IS NULL) OVER (PARTITION BY a.impersonator, a.means, a.iamid, a.userid) AS last
        FROM account a JOIN immuta.impersonation_rule r ON immuta_internal.rule_names(
            convert_to(r.impersonator, 'UTF8'), convert_to(r.users, 'UTF8'), convert_to(r.iamid, 'UTF8'),
            convert_to(a.impersonator, 'UTF8'), convert_to(a.iamid, 'UTF8'), convert_to(a.userid, 'UTF8')))
    SELECT m.impersonator, m.means, m.iamid, m.userid, m.mapped_role, m.id, m.client_addr FROM matching m
    WHERE m.allow AND m.id <= coalesce(m.last, m.id)
    UNION ALL
    SELECT a.impersonator, a.means, a.iamid, a.userid, a.mapped_role, NULL, NULL FROM account a
    WHERE NOT EXISTS (SELECT FROM immuta.impersonation_rule)
$$;
GRANT EXECUTE ON FUNCTION immuta_internal.list_impersonators() TO immuta_admin;
COMMENT ON FUNCTION immuta_internal.list_impersonators() IS 'the rows of immuta.impersonators';

CREATE VIEW immuta.impersonators AS SELECT * FROM immuta_internal.list_impersonators();
REVOKE ALL ON immuta.impersonators FROM PUBLIC;
GRANT SELECT ON immuta.impersonators TO immuta_admin;
COMMENT ON VIEW immuta.impersonators IS 'which login may impersonate which user of the extension''s own tables, by token or by name, and by which rule';

CREATE FUNCTION immuta_internal.explained(userid bytea, iamid bytea, statement text, search_path text) RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_explained';
COMMENT ON FUNCTION immuta_internal.explained(bytea, bytea, text, text) IS 'the plan of a query as a user; see test_access()';

CREATE FUNCTION immuta_internal.record_dry_run(userid bytea, iamid bytea, statement text, code text) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_record_dry_run_wrapper';
COMMENT ON FUNCTION immuta_internal.record_dry_run(bytea, bytea, text, text) IS 'puts a dry run on record; see test_access()';

-- The last argument is evaluated where the caller is, before the path is that of this function.
CREATE FUNCTION immuta.test_access(userid text, sql text, iamid text = 'bim',
                                   search_path text = pg_catalog.current_setting('search_path'))
RETURNS TABLE (allowed boolean, sqlstate text, object text, message text, plan text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    explained text;
    code text;
    said text;
    "user" bytea := convert_to(userid, 'UTF8');
    iam bytea := convert_to(iamid, 'UTF8');
BEGIN
    IF userid IS NULL OR sql IS NULL OR iamid IS NULL OR search_path IS NULL THEN
        RAISE EXCEPTION 'userid, sql, iamid and search_path must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    BEGIN
        explained := immuta_internal.explained("user", iam, sql, search_path);
        -- Whatever functions did that the planner called is rolled back.
        RAISE EXCEPTION 'rolled back';
    -- OTHERS does not include two errors that functions called by the planner can raise: they are recorded all the same.
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        IF explained IS NULL THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT;
            IF code = '57014' THEN
                PERFORM immuta_internal.record_dry_run("user", iam, sql, code);
                RAISE;
            END IF;
        END IF;
    END;
    -- For a user without a role this raises what explained() did.
    PERFORM immuta_internal.record_dry_run("user", iam, sql, code);
    RETURN QUERY SELECT
        CASE WHEN explained IS NOT NULL THEN true WHEN code = '42501' THEN false END,
        code, substring(said, '^permission denied for (.*)$'), said, explained;
END
$$;
REVOKE ALL ON FUNCTION immuta.test_access(text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.test_access(text, text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.test_access(text, text, text, text) IS 'what a query would do as this user, without running it: whether it is allowed (NULL: it fails for another reason), what is refused, or its plan';

CREATE FUNCTION immuta_internal.doctor_of_names() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'no login presents both tokens and names', count(*) = 0, CASE count(*) WHEN 0 THEN 'none does'
        ELSE 'REVOKE bodata_impersonate_user or immuta_impersonation from these: who sends SQL in their sessions needs no '
             'token to choose a user: ' || string_agg(r.rolname, ', ' ORDER BY r.rolname) END
    FROM pg_roles r
    WHERE r.rolcanlogin AND NOT r.rolsuper AND immuta_internal.may_impersonate(r.oid, true) AND immuta_internal.may_impersonate(r.oid, false)
    UNION ALL
    -- From 16 on a login with CREATEROLE has ADMIN on every role it makes, also on one that CREATE EXTENSION finds later.
    SELECT 'only superusers grant the control roles', count(*) = 0, CASE count(*) WHEN 0 THEN 'nobody else has ADMIN on one'
        ELSE 'Others can make anybody an administrator or impersonator: ' || string_agg(f.remedy, '; ' ORDER BY f.remedy) END
    FROM immuta_internal.foreign_administrators() f (remedy)
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_names() IS 'the part of doctor() that concerns impersonation by name';
