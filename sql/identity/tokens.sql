-- Tokens of the embedded provider. Only digests are stored.

CREATE FUNCTION immuta_internal.new_secret() RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_new_secret_wrapper';
COMMENT ON FUNCTION immuta_internal.new_secret() IS '256 random bits in 43 characters';

-- convert_to(…, 'SQL_ASCII') gives the bytes as they are, in every database encoding.
CREATE FUNCTION immuta_internal.secret_digest(secret text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT sha256(convert_to(secret, 'SQL_ASCII')) $$;
COMMENT ON FUNCTION immuta_internal.secret_digest(text) IS 'what is stored of a token or API key';

CREATE FUNCTION immuta_internal.conceal_statement() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_conceal_statement_wrapper';
COMMENT ON FUNCTION immuta_internal.conceal_statement() IS 'the running statement, which holds a secret, is shown and logged without its literals';

CREATE FUNCTION immuta_internal.new_token(user_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    token text := immuta_internal.new_secret();
BEGIN
    INSERT INTO immuta.token (digest, user_id, issued_at, last_used_at)
    VALUES (immuta_internal.secret_digest(token), new_token.user_id, clock_timestamp(), clock_timestamp());
    RETURN token;
END
$$;
COMMENT ON FUNCTION immuta_internal.new_token(bigint) IS 'issues a token to a user';

CREATE FUNCTION immuta.issue_token(userid text, iamid text = 'bim') RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta_internal.new_token(immuta_internal.user_id(userid, iamid)) $$;
REVOKE ALL ON FUNCTION immuta.issue_token(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.issue_token(text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.issue_token(text, text) IS 'a fresh token for a user; shown once, stored as a digest';

CREATE FUNCTION immuta.revoke_token(token text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.conceal_statement();
    DELETE FROM immuta.token t WHERE t.digest = immuta_internal.secret_digest(revoke_token.token);
    RETURN FOUND OR immuta_internal.revoke_jwt(revoke_token.token);
END
$$;
REVOKE ALL ON FUNCTION immuta.revoke_token(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.revoke_token(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.revoke_token(text) IS 'ends a token, or a JWT of an issuer that is mapped, in every session from its next transaction on; whether there was one';

CREATE FUNCTION immuta.revoke_user_tokens(userid text, iamid text = 'bim') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    revoked bigint;
BEGIN
    -- Users of issuers need no row here.
    IF current_setting('bodata.token_provider') = 'jwt' THEN
        PERFORM immuta_internal.revoke_user_jwts(revoke_user_tokens.iamid, revoke_user_tokens.userid);
    END IF;
    DELETE FROM immuta.token t USING immuta.user_account u
    WHERE t.user_id = u.id AND u.userid = revoke_user_tokens.userid AND u.iamid = revoke_user_tokens.iamid;
    GET DIAGNOSTICS revoked = ROW_COUNT;
    IF current_setting('bodata.token_provider') <> 'jwt' THEN
        PERFORM immuta_internal.user_id(revoke_user_tokens.userid, revoke_user_tokens.iamid);
    END IF;
    RETURN revoked;
END
$$;
REVOKE ALL ON FUNCTION immuta.revoke_user_tokens(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.revoke_user_tokens(text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.revoke_user_tokens(text, text) IS 'ends all tokens of a user, JWTs by the time of their issue; how many of them are known here';

CREATE FUNCTION immuta_internal.active_token(token bytea, OUT iamid bytea, OUT userid bytea, OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_active_token_wrapper';
COMMENT ON FUNCTION immuta_internal.active_token(bytea) IS 'the user of an active token';

CREATE FUNCTION immuta.check_token(token text) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT jsonb_build_object('active', true, 'iamid', convert_from(t.iamid, 'UTF8'),
                                   'userid', convert_from(t.userid, 'UTF8'), 'expires_at', t.expires_at)
         FROM immuta_internal.active_token(convert_to(token, 'SQL_ASCII')) t),
        '{"active": false}')
$$;
REVOKE ALL ON FUNCTION immuta.check_token(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.check_token(text) TO bodata_impersonate_user, immuta_admin;
COMMENT ON FUNCTION immuta.check_token(text) IS 'whose token this is and when it expires; does not count as a use';

CREATE FUNCTION immuta.prune_tokens(idle_ttl interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pruned bigint;
BEGIN
    DELETE FROM immuta.token t WHERE t.id IN (
        SELECT d.id FROM immuta.token d WHERE d.last_used_at < clock_timestamp() - 2 * prune_tokens.idle_ttl
        ORDER BY d.id LIMIT 10000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;
REVOKE ALL ON FUNCTION immuta.prune_tokens(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.prune_tokens(interval) TO immuta_admin;
COMMENT ON FUNCTION immuta.prune_tokens(interval) IS 'removes tokens that have been idle for twice the time to live; now and then the background worker does it too';

CREATE FUNCTION immuta_internal.perform(job text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '30s'
AS $$
DECLARE
    j jsonb := job;
    microsecond interval := '1 microsecond';
    used_at timestamptz;
BEGIN
    CASE j->>'job'
    WHEN 'token_used' THEN
        used_at := '2000-01-01 00:00:00+00'::timestamptz + (j->>'at')::bigint * microsecond;
        UPDATE immuta.token t SET last_used_at = used_at
        WHERE t.id = (j->>'id')::bigint AND t.last_used_at <= used_at - (j->>'within')::bigint * microsecond;
        IF random() < 0.01 THEN
            -- The longest time to live that any session can have: twice that is dead for all.
            PERFORM immuta.prune_tokens(interval '30 days');
        END IF;
    WHEN 'login_failed' THEN
        UPDATE immuta.user_account u SET failed_logins = u.failed_logins + 1, last_failed_login = clock_timestamp()
        WHERE u.id = (j->>'id')::bigint;
    WHEN 'login_succeeded' THEN
        UPDATE immuta.user_account u SET failed_logins = 0, last_failed_login = NULL WHERE u.id = (j->>'id')::bigint;
    WHEN 'expire_subscriptions' THEN
        NULL; -- The worker does that after every job.
    END CASE;
END
$$;
COMMENT ON FUNCTION immuta_internal.perform(text) IS 'what a background worker writes on behalf of a session that must not write';
