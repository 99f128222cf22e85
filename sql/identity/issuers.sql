-- Issuers of OAuth tokens (bodata.token_provider = 'introspection' or 'jwt'). Tokens of an issuer that is not listed are refused.

CREATE FUNCTION immuta_internal.issuer_fault(settings bytea) RETURNS text
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'immuta_issuer_fault_wrapper';
COMMENT ON FUNCTION immuta_internal.issuer_fault(bytea) IS 'what is wrong with what is to be accepted of an issuer, or NULL';

CREATE FUNCTION immuta.map_issuer(
    issuer text, iamid text, audiences text[] = NULL, jwks_url text = NULL, jwks jsonb = NULL, algorithms text[] = NULL,
    user_claim text[] = NULL, groups_claim text = NULL, attribute_claims jsonb = NULL, required_claims jsonb = NULL,
    user_template text = NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    settings jsonb;
    fault text;
BEGIN
    IF issuer IS NULL OR iamid IS NULL THEN
        RAISE EXCEPTION 'issuer and iamid must not be null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'The empty issuer stands for responses that name none.';
    END IF;
    IF octet_length(issuer) > 2048 OR octet_length(iamid) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'issuer must have up to 2048 bytes, iamid 1 to 255' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jwks_url IS NOT NULL AND jwks IS NOT NULL THEN
        RAISE EXCEPTION 'keys are either pinned (jwks) or fetched (jwks_url)' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT coalesce(jsonb_object_agg(s.key, s.value), '{}') INTO settings
    FROM jsonb_each(jsonb_build_object(
        'audiences', audiences, 'jwks_url', jwks_url, 'jwks', jwks, 'algorithms', algorithms, 'user_claim', user_claim,
        'groups_claim', groups_claim, 'attribute_claims', attribute_claims, 'required_claims', required_claims,
        'user_template', user_template)) s
    WHERE s.value <> 'null';
    fault := immuta_internal.issuer_fault(convert_to(settings::text, 'UTF8'));
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'this cannot be accepted of an issuer' USING ERRCODE = 'invalid_parameter_value', DETAIL = immuta_internal.shown(fault, 500);
    END IF;
    INSERT INTO immuta.token_issuer AS i (issuer, iamid, settings) VALUES (map_issuer.issuer, map_issuer.iamid, settings)
    ON CONFLICT ON CONSTRAINT token_issuer_pkey DO UPDATE SET iamid = EXCLUDED.iamid, settings = EXCLUDED.settings;
END
$$;
REVOKE ALL ON FUNCTION immuta.map_issuer(text, text, text[], text, jsonb, text[], text[], text, jsonb, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.map_issuer(text, text, text[], text, jsonb, text[], text[], text, jsonb, jsonb, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.map_issuer(text, text, text[], text, jsonb, text[], text[], text, jsonb, jsonb, text) IS 'accepts the tokens of an issuer, as those of users of this identity manager; what else is given counts for its JWTs instead of bodata.jwt_*';

CREATE FUNCTION immuta_internal.forget_keys(issuer bytea) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_forget_keys_wrapper';
COMMENT ON FUNCTION immuta_internal.forget_keys(bytea) IS 'the keys of an issuer are needed no longer';

CREATE FUNCTION immuta.unmap_issuer(issuer text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.forget_keys(convert_to(issuer, 'UTF8'));
    DELETE FROM immuta.token_issuer i WHERE i.issuer = unmap_issuer.issuer;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION immuta.unmap_issuer(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unmap_issuer(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.unmap_issuer(text) IS 'refuses the tokens of an issuer from the next transaction on; whether it was accepted';

CREATE FUNCTION immuta.issuers()
RETURNS TABLE (issuer text, iamid text, audiences text[], jwks_url text, jwks jsonb, algorithms text[], user_claim text[],
               groups_claim text, attribute_claims jsonb, required_claims jsonb, user_template text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.issuer, i.iamid, s.audiences, s.jwks_url, s.jwks, s.algorithms, s.user_claim, s.groups_claim,
           s.attribute_claims, s.required_claims, s.user_template
    FROM immuta.token_issuer i, jsonb_to_record(i.settings)
         s (audiences text[], jwks_url text, jwks jsonb, algorithms text[], user_claim text[], groups_claim text,
            attribute_claims jsonb, required_claims jsonb, user_template text)
    ORDER BY i.issuer
$$;
REVOKE ALL ON FUNCTION immuta.issuers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.issuers() TO immuta_admin;
COMMENT ON FUNCTION immuta.issuers() IS 'the issuers whose tokens are accepted, and what counts for their JWTs instead of bodata.jwt_*';

CREATE FUNCTION immuta_internal.known_keys(
    issuer bytea, OUT kid bytea, OUT kty text, OUT alg text, OUT source text, OUT fetched_at timestamptz,
    OUT fresh_until timestamptz, OUT last_error text)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_known_keys_wrapper';
COMMENT ON FUNCTION immuta_internal.known_keys(bytea) IS 'the keys of an issuer, without asking it; see issuer_keys()';

CREATE FUNCTION immuta.issuer_keys()
RETURNS TABLE (issuer text, kid text, kty text, alg text, source text, fetched_at timestamptz, fresh_until timestamptz,
               last_error text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.issuer, convert_from(k.kid, 'UTF8'), k.kty, k.alg, k.source, k.fetched_at, k.fresh_until, k.last_error
    FROM immuta.token_issuer i, immuta_internal.known_keys(convert_to(i.issuer, 'UTF8')) k
    WHERE i.issuer <> ''
    ORDER BY 1, 2
$$;
REVOKE ALL ON FUNCTION immuta.issuer_keys() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.issuer_keys() TO immuta_admin;
COMMENT ON FUNCTION immuta.issuer_keys() IS 'the keys of the issuers that are mapped, as they are known now; a row without a key where none is';

CREATE FUNCTION immuta_internal.fetch_keys(issuer bytea) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_fetch_keys_wrapper';
COMMENT ON FUNCTION immuta_internal.fetch_keys(bytea) IS 'see refresh_issuer_keys()';

CREATE FUNCTION immuta.refresh_issuer_keys(issuer text) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT immuta_internal.fetch_keys(convert_to(issuer, 'UTF8')) $$;
REVOKE ALL ON FUNCTION immuta.refresh_issuer_keys(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.refresh_issuer_keys(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.refresh_issuer_keys(text) IS 'fetches the keys of an issuer now; false if it is not mapped';

CREATE FUNCTION immuta_internal.token_findings(token bytea, OUT "check" text, OUT ok boolean, OUT detail text)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_token_findings_wrapper';
COMMENT ON FUNCTION immuta_internal.token_findings(bytea) IS 'see explain_token()';

CREATE FUNCTION immuta.explain_token(token text) RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT f."check", f.ok, f.detail FROM immuta_internal.token_findings(convert_to(token, 'SQL_ASCII')) f $$;
REVOKE ALL ON FUNCTION immuta.explain_token(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.explain_token(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.explain_token(text) IS 'every check of a JWT, whether it is passed, and what to do; does not count as a use';

CREATE FUNCTION immuta_internal.token_revocation_key(token bytea, OUT issuer bytea, OUT key bytea, OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_token_revocation_key_wrapper';
COMMENT ON FUNCTION immuta_internal.token_revocation_key(bytea) IS 'by what a JWT is revoked';

CREATE FUNCTION immuta_internal.user_revocation_key(iamid bytea, userid bytea) RETURNS bytea
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'immuta_user_revocation_key_wrapper';
COMMENT ON FUNCTION immuta_internal.user_revocation_key(bytea, bytea) IS 'by what all JWTs of a user are revoked';

CREATE FUNCTION immuta_internal.revoke_jwt(token text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- What ended an hour ago is refused for that, whatever the clocks.
    DELETE FROM immuta.token_revocation r WHERE r.expires_at < clock_timestamp() - interval '1 hour';
    INSERT INTO immuta.token_revocation AS r (key, expires_at)
    SELECT k.key, k.expires_at
    FROM immuta_internal.token_revocation_key(convert_to(token, 'SQL_ASCII')) k
         JOIN immuta.token_issuer i ON i.issuer = convert_from(k.issuer, 'UTF8')
    ON CONFLICT ON CONSTRAINT token_revocation_pkey DO UPDATE SET expires_at = greatest(r.expires_at, EXCLUDED.expires_at);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION immuta_internal.revoke_jwt(text) IS 'refuses a JWT of an issuer that is mapped; whether it is one';

CREATE FUNCTION immuta_internal.revoke_user_jwts(iamid text, userid text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO immuta.token_revocation AS r (key)
    VALUES (immuta_internal.user_revocation_key(convert_to(iamid, 'UTF8'), convert_to(userid, 'UTF8')))
    ON CONFLICT ON CONSTRAINT token_revocation_pkey DO UPDATE SET revoked_at = EXCLUDED.revoked_at
$$;
COMMENT ON FUNCTION immuta_internal.revoke_user_jwts(text, text) IS 'refuses the JWTs of a user that were issued before now';
