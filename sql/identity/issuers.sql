-- Issuers of OAuth tokens (bodata.token_provider = 'introspection'). Tokens of an issuer that is not listed are refused.

CREATE FUNCTION immuta.map_issuer(issuer text, iamid text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF issuer IS NULL OR iamid IS NULL THEN
        RAISE EXCEPTION 'issuer and iamid must not be null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'The empty issuer stands for responses that name none.';
    END IF;
    IF octet_length(issuer) > 2048 OR octet_length(iamid) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'issuer must have up to 2048 bytes, iamid 1 to 255' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO immuta.token_issuer (issuer, iamid) VALUES (map_issuer.issuer, map_issuer.iamid)
    ON CONFLICT ON CONSTRAINT token_issuer_pkey DO UPDATE SET iamid = EXCLUDED.iamid;
END
$$;
REVOKE ALL ON FUNCTION immuta.map_issuer(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.map_issuer(text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.map_issuer(text, text) IS 'accepts the tokens of an issuer, as those of users of this identity manager';

CREATE FUNCTION immuta.unmap_issuer(issuer text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.token_issuer i WHERE i.issuer = unmap_issuer.issuer;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION immuta.unmap_issuer(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unmap_issuer(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.unmap_issuer(text) IS 'refuses the tokens of an issuer from the next transaction on; whether it was accepted';

CREATE FUNCTION immuta.issuers() RETURNS TABLE (issuer text, iamid text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT i.issuer, i.iamid FROM immuta.token_issuer i ORDER BY i.issuer $$;
REVOKE ALL ON FUNCTION immuta.issuers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.issuers() TO immuta_admin;
COMMENT ON FUNCTION immuta.issuers() IS 'the issuers whose tokens are accepted';
