-- What a session can see of itself.

CREATE FUNCTION immuta_internal.session_state(
    OUT iamid bytea, OUT userid bytea, OUT mapped_role oid, OUT provider text, OUT scope text,
    OUT established_at timestamptz, OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_session_state_wrapper';
COMMENT ON FUNCTION immuta_internal.session_state() IS 'the impersonation in force in this session; see whoami()';

-- Runs as the caller, whose effective role it shows. What it calls was looked up when it was made: the caller needs no USAGE.
CREATE FUNCTION immuta.whoami(
    OUT impersonator name, OUT iamid text, OUT userid text, OUT mapped_role name, OUT effective_role name,
    OUT provider text, OUT scope text, OUT established_at timestamptz, OUT expires_at timestamptz)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT session_user, pg_catalog.convert_from(s.iamid, 'UTF8'), pg_catalog.convert_from(s.userid, 'UTF8'),
           CASE WHEN s.mapped_role IS NOT NULL THEN pg_catalog.pg_get_userbyid(s.mapped_role) END, current_user,
           s.provider, s.scope, s.established_at, s.expires_at
    FROM (SELECT) one LEFT JOIN immuta_internal.session_state() s ON true;
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
COMMENT ON FUNCTION immuta.flush_token_cache() IS 'makes this session forget all tokens; how many there were';
