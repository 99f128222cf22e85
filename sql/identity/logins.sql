-- Authentication by password and by API key, with the answers of the Immuta API.

CREATE FUNCTION immuta_internal.hash_password(password bytea) RETURNS text
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_hash_password_wrapper';
COMMENT ON FUNCTION immuta_internal.hash_password(bytea) IS 'argon2id hash of a password';

CREATE FUNCTION immuta_internal.user_by_password(iamid bytea, userid bytea, password bytea) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'immuta_user_by_password_wrapper';
COMMENT ON FUNCTION immuta_internal.user_by_password(bytea, bytea, bytea) IS 'checks a password, counting and throttling failures';

CREATE FUNCTION immuta_internal.user_by_api_key(digest bytea) RETURNS TABLE (key_id bigint, user_id bigint)
LANGUAGE c STRICT ROWS 1 AS 'MODULE_PATHNAME', 'immuta_user_by_api_key_wrapper';
COMMENT ON FUNCTION immuta_internal.user_by_api_key(bytea) IS 'whose key this is, as of now';

CREATE FUNCTION immuta_internal.authenticated(user_id bigint) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN user_id IS NULL THEN '{"authenticated": false}' ELSE jsonb_build_object(
        'authenticated', true,
        'token', immuta_internal.new_token(user_id),
        'tokenExpiration', to_char(
            (clock_timestamp() + current_setting('bodata.token_idle_ttl')::interval) AT TIME ZONE INTERVAL '0',
            'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) END
$$;
COMMENT ON FUNCTION immuta_internal.authenticated(bigint) IS 'the answer to an authentication; NULL for one that failed';

CREATE FUNCTION immuta_internal.require_primary() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'cannot issue tokens during recovery'
            USING ERRCODE = 'read_only_sql_transaction', HINT = 'Authenticate at the primary server.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.require_primary() IS 'raises 25006 on a standby, where neither tokens nor failures can be written';

CREATE FUNCTION immuta.set_password(userid text, password text, iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF octet_length(password) NOT BETWEEN 1 AND 1024 THEN
        RAISE EXCEPTION 'a password must have 1 to 1024 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE immuta.user_account u
    SET password_hash = immuta_internal.hash_password(convert_to(set_password.password, 'UTF8')),
        failed_logins = 0, last_failed_login = NULL, updated_at = now()
    WHERE u.id = immuta_internal.user_id(set_password.userid, set_password.iamid);
END
$$;
REVOKE ALL ON FUNCTION immuta.set_password(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.set_password(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.set_password(text, text, text) IS 'sets (or with NULL removes) the password of a user; stored as an argon2id hash';

CREATE FUNCTION immuta.authenticate(username text, password text, iamid text = 'bim') RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.conceal_statement();
    PERFORM immuta_internal.require_primary();
    -- Too long to be one: not checked, but counted like any other.
    RETURN immuta_internal.authenticated(immuta_internal.user_by_password(
        convert_to(iamid, 'UTF8'), convert_to(username, 'UTF8'),
        convert_to(CASE WHEN octet_length(password) <= 1024 THEN password ELSE '' END, 'UTF8')));
END
$$;
REVOKE ALL ON FUNCTION immuta.authenticate(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.authenticate(text, text, text) TO bodata_impersonate_user, immuta_admin;
COMMENT ON FUNCTION immuta.authenticate(text, text, text) IS 'a token for a user and password, answered as by the Immuta API; throttled';

CREATE FUNCTION immuta.create_api_key(userid text, iamid text = 'bim') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    apikey text := immuta_internal.new_secret();
BEGIN
    INSERT INTO immuta.api_key (digest, user_id)
    VALUES (immuta_internal.secret_digest(apikey), immuta_internal.user_id(create_api_key.userid, create_api_key.iamid));
    RETURN apikey;
END
$$;
REVOKE ALL ON FUNCTION immuta.create_api_key(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.create_api_key(text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.create_api_key(text, text) IS 'a fresh API key for a user; shown once, stored as a digest';

CREATE FUNCTION immuta.api_keys(userid text, iamid text = 'bim')
RETURNS TABLE (id bigint, created_at timestamptz, last_used_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.id, k.created_at, k.last_used_at FROM immuta.api_key k
    WHERE k.user_id = immuta_internal.user_id(userid, iamid) ORDER BY k.id
$$;
REVOKE ALL ON FUNCTION immuta.api_keys(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.api_keys(text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.api_keys(text, text) IS 'the API keys of a user, without the keys';

CREATE FUNCTION immuta.revoke_api_key(id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.api_key k WHERE k.id = revoke_api_key.id;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION immuta.revoke_api_key(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.revoke_api_key(bigint) TO immuta_admin;
COMMENT ON FUNCTION immuta.revoke_api_key(bigint) IS 'ends an API key (not the tokens it was exchanged for); whether there was one';

CREATE FUNCTION immuta_internal.throttle_failures() RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'immuta_throttle_failures_wrapper';
COMMENT ON FUNCTION immuta_internal.throttle_failures() IS 'makes repeated failures of one connection cost time';

CREATE FUNCTION immuta.authenticate_api_key(apikey text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key_id bigint;
    key_user bigint;
BEGIN
    PERFORM immuta_internal.conceal_statement();
    PERFORM immuta_internal.require_primary();
    SELECT k.key_id, k.user_id INTO key_id, key_user FROM immuta_internal.user_by_api_key(immuta_internal.secret_digest(apikey)) k;
    IF NOT FOUND THEN
        PERFORM immuta_internal.throttle_failures();
        RETURN immuta_internal.authenticated(NULL);
    END IF;
    -- Several transactions may use one key at a time: the second one does not wait to record it.
    UPDATE immuta.api_key k SET last_used_at = clock_timestamp()
    WHERE k.id IN (SELECT s.id FROM immuta.api_key s WHERE s.id = key_id FOR NO KEY UPDATE SKIP LOCKED);
    RETURN immuta_internal.authenticated(key_user);
END
$$;
REVOKE ALL ON FUNCTION immuta.authenticate_api_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.authenticate_api_key(text) TO bodata_impersonate_user, immuta_admin;
COMMENT ON FUNCTION immuta.authenticate_api_key(text) IS 'a token for an API key, answered as by the Immuta API; throttled';
