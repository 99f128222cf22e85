-- What a session can see of itself. Functions that run as the caller are parsed when they are made: the caller needs no
-- USAGE of what they call.

CREATE FUNCTION immuta_internal.session_state(
    OUT iamid bytea, OUT userid bytea, OUT mapped_role oid, OUT provider text, OUT scope text,
    OUT established_at timestamptz, OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_session_state_wrapper';
COMMENT ON FUNCTION immuta_internal.session_state() IS 'the impersonation in force in this session; see whoami()';

CREATE FUNCTION immuta_internal.token_state(OUT client_id bytea, OUT token_id bytea, OUT actors bytea[])
RETURNS SETOF record
LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'immuta_token_state_wrapper';
COMMENT ON FUNCTION immuta_internal.token_state() IS 'who uses the JWT of this impersonation; see whoami()';

CREATE FUNCTION immuta_internal.claim_of_token(claim bytea) RETURNS bytea
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'immuta_claim_of_token_wrapper';
COMMENT ON FUNCTION immuta_internal.claim_of_token(bytea) IS 'see token_claim()';

CREATE FUNCTION immuta.token_claim(claim text) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT convert_from(immuta_internal.claim_of_token(convert_to(claim, 'UTF8')), 'UTF8')::jsonb $$;
COMMENT ON FUNCTION immuta.token_claim(text) IS 'a claim of the JWT of this impersonation, by its name or a JSON Pointer; NULL if there is none';

CREATE FUNCTION immuta.actor() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN (SELECT pg_catalog.convert_from(t.actors[1], 'UTF8') FROM immuta_internal.token_state() t);
COMMENT ON FUNCTION immuta.actor() IS 'who acts for the impersonated user (act of the JWT); NULL for nobody';

CREATE FUNCTION immuta.client_id() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN (SELECT pg_catalog.convert_from(t.client_id, 'UTF8') FROM immuta_internal.token_state() t);
COMMENT ON FUNCTION immuta.client_id() IS 'the client to which the JWT of this impersonation was issued; NULL if that is not known';

-- Runs as the caller, whose effective role it shows.
CREATE FUNCTION immuta.whoami(
    OUT impersonator name, OUT iamid text, OUT userid text, OUT mapped_role name, OUT effective_role name,
    OUT provider text, OUT scope text, OUT established_at timestamptz, OUT expires_at timestamptz,
    OUT client_id text, OUT actor text, OUT actor_chain text[], OUT token_id text)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT session_user, pg_catalog.convert_from(s.iamid, 'UTF8'), pg_catalog.convert_from(s.userid, 'UTF8'),
           CASE WHEN s.mapped_role IS NOT NULL THEN pg_catalog.pg_get_userbyid(s.mapped_role) END, current_user,
           s.provider, s.scope, s.established_at, s.expires_at,
           pg_catalog.convert_from(t.client_id, 'UTF8'), pg_catalog.convert_from(t.actors[1], 'UTF8'),
           (SELECT pg_catalog.array_agg(pg_catalog.convert_from(a.id, 'UTF8') ORDER BY a.place)
            FROM pg_catalog.unnest(t.actors) WITH ORDINALITY a (id, place)),
           pg_catalog.convert_from(t.token_id, 'UTF8')
    FROM (SELECT) one LEFT JOIN immuta_internal.session_state() s ON true LEFT JOIN immuta_internal.token_state() t ON true;
END;
COMMENT ON FUNCTION immuta.whoami() IS 'who impersonates whom in this session; userid is NULL without an impersonation';

CREATE FUNCTION immuta_internal.cached_tokens(
    OUT iamid bytea, OUT userid bytea, OUT mapped_role oid, OUT provider text,
    OUT last_used_at timestamptz, OUT validated_at timestamptz, OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_cached_tokens_wrapper';
COMMENT ON FUNCTION immuta_internal.cached_tokens() IS 'the token cache of this session; see token_cache()';

CREATE FUNCTION immuta.token_cache()
RETURNS TABLE (iamid text, userid text, mapped_role name, provider text, last_used_at timestamptz,
               validated_at timestamptz, expires_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT convert_from(c.iamid, 'UTF8'), convert_from(c.userid, 'UTF8'), pg_get_userbyid(c.mapped_role), c.provider,
           c.last_used_at, c.validated_at, c.expires_at
    FROM immuta_internal.cached_tokens() c
$$;
REVOKE ALL ON FUNCTION immuta.token_cache() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.token_cache() TO immuta_admin;
COMMENT ON FUNCTION immuta.token_cache() IS 'the tokens this session remembers, most recently used first, without the tokens';

CREATE FUNCTION immuta.flush_token_cache() RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_flush_token_cache_wrapper';
REVOKE ALL ON FUNCTION immuta.flush_token_cache() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.flush_token_cache() TO immuta_admin;
COMMENT ON FUNCTION immuta.flush_token_cache() IS 'makes this session forget all tokens, and the database what providers said of them; how many this session knew';

CREATE FUNCTION immuta_internal.sees_all_sessions() RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_sees_all_sessions_wrapper';
GRANT EXECUTE ON FUNCTION immuta_internal.sees_all_sessions() TO pg_monitor, immuta_admin;
COMMENT ON FUNCTION immuta_internal.sees_all_sessions() IS 'whether the counters are those of the server, and not of this session only';
