-- What an administrator should look at.

CREATE FUNCTION immuta_internal.installation_fault(OUT fault text, OUT hint text) RETURNS SETOF record
LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'immuta_installation_fault_wrapper';
COMMENT ON FUNCTION immuta_internal.installation_fault() IS 'why the library cannot work with what is installed, and what to do; no row where it can';

CREATE FUNCTION immuta_internal.provider_fault() RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_provider_fault_wrapper';
COMMENT ON FUNCTION immuta_internal.provider_fault() IS 'asks the token provider about a token that nobody has; why it cannot be asked, or NULL';

-- Lines of pg_hba.conf by which people log in with tokens (PostgreSQL 18).
CREATE FUNCTION immuta_internal.login_lines()
RETURNS TABLE (file_name text, line_number integer, type text, database text[], user_name text[], issuer text, scope text,
               problems text[])
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH lines AS (
        SELECT to_jsonb(h) AS h,
               (SELECT jsonb_object_agg(split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)) FROM unnest(h.options) o) AS o
        FROM pg_hba_file_rules h WHERE h.auth_method = 'oauth')
    SELECT l.h ->> 'file_name', (l.h ->> 'line_number')::integer, l.h ->> 'type',
           ARRAY(SELECT jsonb_array_elements_text(nullif(l.h -> 'database', 'null'))),
           ARRAY(SELECT jsonb_array_elements_text(nullif(l.h -> 'user_name', 'null'))),
           l.o ->> 'issuer', l.o ->> 'scope', ARRAY(
        SELECT p.problem FROM (VALUES
            (l.h ->> 'error' IS NOT NULL, 'PostgreSQL does not take it: ' || (l.h ->> 'error')),
            (l.h ->> 'type' <> 'hostssl', 'tokens travel in the clear: use hostssl'),
            (coalesce(l.o ->> 'delegate_ident_mapping', '') NOT IN ('1', 'true', 'on', 'yes'),
             'it lacks delegate_ident_mapping=1, without which immuta_ext refuses'),
            (current_setting('oauth_validator_libraries', true) !~ '(^|[ ,"/])immuta_ext(\.so)?($|[ ,"])',
             'immuta_ext is not in oauth_validator_libraries'),
            (NOT immuta_internal.sees_all_sessions(), 'immuta_ext is not in shared_preload_libraries'),
            (current_setting('bodata.token_provider') <> 'jwt', 'bodata.token_provider is not jwt'),
            (current_setting('bodata.jwt_audience') = '', 'bodata.jwt_audience is not set'),
            (NOT EXISTS (SELECT FROM immuta.token_issuer i
                         WHERE i.issuer = regexp_replace(l.o ->> 'issuer', '/\.well-known/[^/]+', '')),
             'its issuer is not mapped: see map_issuer()'),
            (NOT EXISTS (SELECT FROM pg_roles r
                         WHERE NOT r.rolsuper AND r.rolcanlogin AND pg_has_role(r.oid, 'bodata_impersonate_user', 'MEMBER')
                           AND (l.h -> 'user_name') ?| ARRAY['all', r.rolname::text]),
             'none of its roles is a service login')) p(is_one, problem)
        WHERE p.is_one)
    FROM lines l
$$;
GRANT EXECUTE ON FUNCTION immuta_internal.login_lines() TO immuta_admin;
COMMENT ON FUNCTION immuta_internal.login_lines() IS 'see the view login_settings';

CREATE VIEW immuta.login_settings AS SELECT * FROM immuta_internal.login_lines();
REVOKE ALL ON immuta.login_settings FROM PUBLIC;
GRANT SELECT ON immuta.login_settings TO immuta_admin;
COMMENT ON VIEW immuta.login_settings IS 'lines of pg_hba.conf by which people log in with tokens, and what is wrong with them';

CREATE FUNCTION immuta_internal.doctor_of_server() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'library loaded in every session', bool_or(every), CASE
        WHEN bool_or(every) THEN 'immuta_ext is in shared_preload_libraries'
        ELSE 'Put immuta_ext into shared_preload_libraries: a session_preload_libraries of a role, or a session of '
             'another database, leaves it out.' END
    FROM (SELECT btrim(l, ' "') ~ '(^|/)immuta_ext(\.so)?$' AS every
          FROM regexp_split_to_table(current_setting('shared_preload_libraries'), ',') l) preloaded
    UNION ALL
    SELECT 'no role loads its libraries without it', count(*) = 0, CASE count(*) WHEN 0 THEN 'none does'
        ELSE 'Add immuta_ext to session_preload_libraries of: ' || string_agg(name, ', ' ORDER BY name) END
    FROM (SELECT coalesce(r.rolname, 'every role') || coalesce(' in ' || d.datname, '') AS name
          FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase,
               unnest(s.setconfig) c
          WHERE c ~ '^session_preload_libraries=' AND c !~ 'immuta_ext' AND (s.setdatabase = 0 OR d.datname = current_database())
            AND current_setting('shared_preload_libraries') !~ 'immuta_ext') own
    UNION ALL
    SELECT 'minor release', v >= least, CASE WHEN v >= least THEN current_setting('server_version')
        ELSE 'Upgrade to ' || least / 10000 || '.' || least % 10000 || ' or later: this one lacks fixes of security that are known.' END
    FROM (SELECT current_setting('server_version_num')::integer AS v) now,
         LATERAL (SELECT CASE v / 10000 WHEN 14 THEN 140023 WHEN 15 THEN 150018 WHEN 16 THEN 160015 WHEN 17 THEN 170011
                         WHEN 18 THEN 180006 ELSE v END AS least) fixed
    UNION ALL
    SELECT 'schema public is closed', NOT open, CASE WHEN open
        THEN 'REVOKE CREATE ON SCHEMA public FROM PUBLIC: whoever creates there can catch the calls of others.'
        ELSE 'PUBLIC may not create there' END
    FROM (SELECT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                         WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE') AS open) p
    UNION ALL
    SELECT 'parse trees are not logged', count(*) = 0, CASE count(*) WHEN 0 THEN 'debug_print_* are off'
        ELSE 'Switch off ' || string_agg(name, ', ' ORDER BY name) || ': they write literals, tokens too, in a form that is not masked.' END
    FROM pg_settings WHERE name ~ '^debug_print_(raw_parse|parse|rewritten|plan)$' AND setting = 'on'
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_server() IS 'the part of doctor() that concerns the server';

CREATE FUNCTION immuta_internal.doctor_of_impersonation() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'changes are announced', count(*) = 0, CASE count(*) WHEN 0 THEN 'all triggers are enabled'
        ELSE 'Run immuta.sync(), or ALTER TABLE ... ENABLE ALWAYS TRIGGER: sessions do not hear of all changes: ' || string_agg(DISTINCT t.tgrelid::regclass::text, ', ') END
    FROM pg_trigger t
    WHERE t.tgfoid = 'immuta_internal.announce_change()'::regprocedure AND t.tgenabled <> 'A'
    UNION ALL
    SELECT 'changes of access are on record', count(*) = 0, CASE count(*) WHEN 0 THEN 'all triggers are enabled'
        ELSE 'ALTER TABLE ... ENABLE TRIGGER: nobody will know who changed ' || string_agg(DISTINCT t.tgrelid::regclass::text, ', ') END
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'immuta'::regnamespace AND t.tgname IN ('access_changes', 'access_truncated') AND t.tgenabled NOT IN ('O', 'A')
    UNION ALL
    SELECT 'clock', count(*) = 0, CASE count(*) WHEN 0 THEN 'no token was used in the future'
        ELSE count(*) || ' tokens were last used in the future, and count as dead: look at the clocks of this server and its standbys.' END
    FROM immuta.token t
    WHERE t.last_used_at > clock_timestamp() + current_setting('bodata.token_idle_ttl')::interval / 12
    UNION ALL
    SELECT 'impersonated statements are on record', sinks <> '', CASE sinks
        WHEN '' THEN 'Set bodata.audit_sink: nobody will know what was done in whose name.' ELSE 'to: ' || sinks END
    FROM (SELECT current_setting('bodata.audit_sink') AS sinks) audit
    UNION ALL
    SELECT 'errors and records reach the log', shown, CASE WHEN shown THEN 'log_min_messages = ' || level
        ELSE 'Set log_min_messages to error or lower: audit records are left out of the log, and failed statements are '
             'recorded without their SQLSTATE.' END
    FROM (SELECT current_setting('log_min_messages') AS level) l,
         LATERAL (SELECT level NOT IN ('log', 'fatal', 'panic') AS shown) s
    UNION ALL
    SELECT 'token provider', fault IS NULL, coalesce('The provider "' || provider || '" cannot be asked: ' || fault || '.', provider)
    FROM (SELECT current_setting('bodata.token_provider') AS provider, immuta_internal.provider_fault() AS fault) p
    UNION ALL
    SELECT 'tokens travel encrypted', NOT plain, CASE WHEN plain
        THEN 'Use https, and switch bodata.api_allow_http off: tokens travel in the clear to ' || url
        ELSE 'no provider is asked over http' END
    FROM (SELECT u AS url, u ~* '^http:' AND u !~* '^http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?(/|$)' AS plain
          FROM (SELECT CASE current_setting('bodata.token_provider')
                       WHEN 'immuta' THEN current_setting('bodata.api_url')
                       WHEN 'introspection' THEN current_setting('bodata.introspection_url') ELSE '' END AS u) s) p
    UNION ALL
    SELECT 'keys of issuers are shared', shared, CASE WHEN shared THEN 'all sessions have the same'
        ELSE 'Put immuta_ext into shared_preload_libraries: each new session fetches them anew.' END
    FROM (SELECT immuta_internal.sees_all_sessions() AS shared) k
    WHERE current_setting('bodata.token_provider') = 'jwt'
    UNION ALL
    SELECT 'logins with tokens', count(*) FILTER (WHERE l.problems <> '{}') = 0, coalesce(
        string_agg('line ' || l.line_number || ': ' || array_to_string(l.problems, '; '), ' -- ' ORDER BY l.line_number)
            FILTER (WHERE l.problems <> '{}'), count(*) || ' lines of pg_hba.conf')
    FROM immuta_internal.login_lines() l HAVING count(*) > 0
    UNION ALL
    SELECT 'keys of issuers travel safely', count(*) = 0, CASE count(*) WHEN 0 THEN 'no issuer is asked over http'
        ELSE 'Whoever is on the way can put keys of their own in the place of: ' || string_agg(i.issuer, ', ' ORDER BY i.issuer) END
    FROM immuta.token_issuer i, LATERAL (SELECT coalesce(i.settings ->> 'jwks_url', i.issuer) AS url) u
    WHERE i.settings -> 'jwks' IS NULL AND u.url ~* '^http:' AND u.url !~* '^http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?(/|$)'
      AND current_setting('bodata.token_provider') = 'jwt'
    HAVING current_setting('bodata.token_provider') = 'jwt'
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_impersonation() IS 'the part of doctor() that concerns tokens, their provider and records';

CREATE FUNCTION immuta_internal.doctor_of_mappings() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'mapped roles may be impersonated', count(*) = 0, CASE count(*) WHEN 0 THEN 'all of them'
        ELSE 'Map these users to other roles: ' || string_agg(u.userid || ' (' || f.fault || ')', '; ' ORDER BY u.userid) END
    FROM immuta.user_account u, LATERAL (SELECT immuta_internal.target_fault(u.postgres_role)) f(fault)
    WHERE u.mapping = 'explicit' AND f.fault IS NOT NULL
    UNION ALL
    SELECT 'roles mapped by name may be impersonated', count(*) = 0, CASE count(*) WHEN 0 THEN 'all members of immuta_mappable'
        ELSE 'Take these out of immuta_mappable: ' || string_agg(r.rolname || ' (' || f.fault || ')', '; ' ORDER BY r.rolname) END
    FROM pg_roles r, LATERAL (SELECT immuta_internal.target_fault(r.oid)) f(fault)
    WHERE NOT r.rolsuper AND immuta_internal.is_mappable(r.oid)
      AND f.fault IS NOT NULL
    UNION ALL
    SELECT 'roles mapped by name own nothing', count(*) = 0, CASE count(*) WHEN 0 THEN 'none owns a relation'
        ELSE 'Whoever registers a user of that name becomes the owner of tables: ' || string_agg(name, ', ' ORDER BY name) END
    FROM (SELECT DISTINCT r.rolname AS name FROM pg_roles r JOIN pg_class c ON c.relowner = r.oid
          WHERE NOT r.rolsuper AND immuta_internal.is_mappable(r.oid)) o
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_mappings() IS 'the part of doctor() that concerns mapped roles';

CREATE FUNCTION immuta_internal.login_findings(login oid) RETURNS TABLE (place integer, what text, found text, todo text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    WITH me AS (SELECT * FROM pg_roles WHERE oid = login),
    -- Itself and the roles whose rights it has without SET ROLE.
    held AS (SELECT r.oid, r.rolname FROM pg_roles r, me
             WHERE NOT me.rolsuper AND pg_has_role(me.oid, r.oid, 'USAGE')
               AND r.rolname NOT IN ('bodata_impersonate_user', 'immuta_impersonation', 'immuta_mappable')),
    reached AS (SELECT r.oid, r.rolname FROM pg_roles r, me
                WHERE NOT me.rolsuper AND r.oid <> me.oid AND pg_has_role(me.oid, r.oid, 'MEMBER')
                  AND r.rolname NOT IN ('bodata_impersonate_user', 'immuta_impersonation', 'immuta_mappable')),
    relations AS (SELECT c.oid, c.oid::regclass::text AS name, c.relowner, c.relacl FROM pg_class c
                  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT immuta_internal.is_system_schema(c.relnamespace))
    SELECT 1, 'is an ordinary role', r.attribute, 'Take away what it does not need'
    FROM me, LATERAL (VALUES ('SUPERUSER', rolsuper), ('CREATEROLE', rolcreaterole), ('CREATEDB', rolcreatedb),
                             ('REPLICATION', rolreplication), ('BYPASSRLS', rolbypassrls)) r(attribute, has)
    WHERE r.has
    UNION ALL
    SELECT 2, 'owns nothing', pg_describe_object(d.classid, d.objid, d.objsubid), 'Give these to another owner'
    FROM pg_shdepend d
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = login AND d.deptype = 'o'
      AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    UNION ALL
    SELECT 3, 'has no rights of its own', n.name, 'REVOKE what is granted to it, or to roles whose rights it has'
    FROM relations n
    WHERE EXISTS (SELECT FROM aclexplode(n.relacl) a JOIN held ON held.oid = a.grantee)
    UNION ALL
    SELECT 4, 'has no rights through PUBLIC', n.name, 'REVOKE what is granted to PUBLIC: without this library it counts'
    FROM relations n
    WHERE EXISTS (SELECT FROM aclexplode(n.relacl) a WHERE a.grantee = 0)
    UNION ALL
    SELECT 5, 'inherits from no other role', h.rolname, 'REVOKE these memberships'
    FROM held h WHERE h.oid <> login
    UNION ALL
    SELECT 6, 'is not a member of mapped roles', r.rolname,
           'REVOKE these memberships: the service user needs none, and without this library SET ROLE works'
    FROM reached r
    WHERE r.oid IN (SELECT u.postgres_role FROM immuta.user_account u) OR immuta_internal.is_mappable(r.oid)
    UNION ALL
    SELECT 7, 'does not administer', r.rolname, 'REVOKE the membership: it could issue tokens to itself'
    FROM reached r WHERE r.rolname = 'immuta_admin'
    UNION ALL
    SELECT 8, 'needs a token', coalesce(d.datname, 'every database'), 'RESET bodata.require_token'
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
    WHERE s.setrole IN (0, login) AND (s.setdatabase = 0 OR d.datname = current_database())
      AND c ~* '^bodata\.require_token=(off|f|fa|fal|fals|false|n|no|0)$'
    UNION ALL
    SELECT 9, 'cannot log in without a password', 'line ' || h.line_number || ' of pg_hba.conf', 'Use scram-sha-256 or certificates there'
    FROM pg_hba_file_rules h, me
    WHERE h.auth_method = 'trust' AND me.rolcanlogin
      AND h.database && ARRAY['all', current_database()::text] AND h.user_name && ARRAY['all', me.rolname::text]
    UNION ALL
    SELECT 10, 'finds no privileged functions', p.oid::regprocedure::text,
           'These run with their owner''s rights, without a token: REVOKE EXECUTE from those that read or write for anybody'
    FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner, me
    WHERE p.prosecdef AND NOT me.rolsuper
      AND NOT immuta_internal.is_system_schema(p.pronamespace)
      AND (o.rolsuper OR o.rolname::text IN (SELECT btrim(t, ' "') FROM regexp_split_to_table(current_setting('bodata.trusted_definers'), ',') t))
      AND has_schema_privilege(me.oid, p.pronamespace, 'USAGE') AND has_function_privilege(me.oid, p.oid, 'EXECUTE')
$$;
COMMENT ON FUNCTION immuta_internal.login_findings(oid) IS 'what a service user has, or may do, and should not';

CREATE FUNCTION immuta_internal.doctor_of_login(login oid) RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    WITH checks (place, what) AS (VALUES
        (1, 'is an ordinary role'), (2, 'owns nothing'), (3, 'has no rights of its own'), (4, 'has no rights through PUBLIC'),
        (5, 'inherits from no other role'), (6, 'is not a member of mapped roles'), (7, 'does not administer'),
        (8, 'needs a token'), (9, 'cannot log in without a password'), (10, 'finds no privileged functions'))
    SELECT me.rolname || ' ' || c.what, count(f.found) = 0, CASE count(f.found) WHEN 0 THEN 'nothing found'
        ELSE min(f.todo) || ': ' || string_agg(f.found, ', ' ORDER BY f.found) FILTER (WHERE f.rank <= 20)
             || CASE WHEN count(f.found) > 20 THEN ' and ' || count(f.found) - 20 || ' more' ELSE '' END END
    FROM pg_roles me CROSS JOIN checks c
    LEFT JOIN (SELECT *, row_number() OVER (PARTITION BY place ORDER BY found) AS rank FROM immuta_internal.login_findings(login)) f ON f.place = c.place
    WHERE me.oid = login
    GROUP BY me.rolname, c.place, c.what ORDER BY c.place
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_login(oid) IS 'the part of doctor() that concerns one service user';

CREATE FUNCTION immuta.doctor(service_role name = NULL) RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    login oid;
    logins integer := 0;
BEGIN
    IF service_role IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = service_role) THEN
        RAISE EXCEPTION 'role "%" does not exist', service_role USING ERRCODE = 'undefined_object';
    END IF;
    RETURN QUERY SELECT 'the extension fits its library', f.fault IS NULL, coalesce(
        f.fault || ': service logins are refused. ' || f.hint,
        'nothing is missing') FROM (SELECT) one LEFT JOIN immuta_internal.installation_fault() f ON true;
    IF EXISTS (SELECT FROM immuta_internal.installation_fault()) THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM immuta_internal.doctor_of_server();
    RETURN QUERY SELECT * FROM immuta_internal.doctor_of_impersonation();
    RETURN QUERY SELECT * FROM immuta_internal.doctor_of_place();
    RETURN QUERY SELECT * FROM immuta_internal.doctor_of_names();
    IF immuta_internal.is_home() THEN
        RETURN QUERY SELECT * FROM immuta_internal.doctor_of_mappings();
        RETURN QUERY SELECT * FROM immuta_internal.doctor_of_connection();
        RETURN QUERY SELECT * FROM immuta_internal.doctor_of_projects();
    END IF;
    FOR login IN
        SELECT r.oid FROM pg_roles r
        WHERE CASE WHEN service_role IS NULL
                   THEN r.rolcanlogin AND NOT r.rolsuper AND pg_has_role(r.oid, 'bodata_impersonate_user', 'MEMBER')
                   ELSE r.rolname = service_role END
        ORDER BY r.rolname
    LOOP
        logins := logins + 1;
        RETURN QUERY SELECT * FROM immuta_internal.doctor_of_login(login);
    END LOOP;
    RETURN QUERY SELECT 'service users', logins > 0,
        CASE WHEN logins > 0 THEN logins || ' looked at'
             ELSE 'No login is a member of bodata_impersonate_user: see sql/create-impersonation-user.sql.' END
        WHERE service_role IS NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.doctor(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.doctor(name) TO immuta_admin;
COMMENT ON FUNCTION immuta.doctor(name) IS 'what an administrator should look at, of one service user or of all: each row says what, whether it is as it should be, and what to do';
