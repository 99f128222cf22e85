-- Who may impersonate whom. Without any rule every login that may present tokens may impersonate every user.

CREATE FUNCTION immuta.add_impersonation_rule(
    impersonator text, users text, allow boolean = true, iamid text = '*', client_addr inet[] = NULL,
    actors text = '*')
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stars integer := length(impersonator) - length(replace(impersonator, '*', ''));
    rule_id integer;
BEGIN
    IF impersonator IS NULL OR users IS NULL OR allow IS NULL OR iamid IS NULL OR actors IS NULL THEN
        RAISE EXCEPTION 'impersonator, users, allow, iamid and actors must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF octet_length(impersonator) NOT BETWEEN 1 AND 255 OR octet_length(users) NOT BETWEEN 1 AND 255
       OR octet_length(iamid) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'patterns must have 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(actors) > 255 THEN
        RAISE EXCEPTION 'the pattern for actors must have up to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM regexp_matches(users, '\$([1-9])', 'g') m WHERE m[1]::integer > stars) THEN
        RAISE EXCEPTION 'the pattern for users refers to a * that the pattern for the impersonator does not have'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = '$1 is what the first * of the impersonator''s pattern stands for.';
    END IF;
    IF array_position(client_addr, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'client_addr must not have null elements' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    INSERT INTO immuta.impersonation_rule AS r (impersonator, users, allow, iamid, client_addr, actors)
    VALUES (add_impersonation_rule.impersonator, add_impersonation_rule.users, add_impersonation_rule.allow,
            add_impersonation_rule.iamid, add_impersonation_rule.client_addr, add_impersonation_rule.actors)
    RETURNING r.id INTO rule_id;
    RETURN rule_id;
END
$$;
REVOKE ALL ON FUNCTION immuta.add_impersonation_rule(text, text, boolean, text, inet[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.add_impersonation_rule(text, text, boolean, text, inet[], text) TO immuta_admin;
COMMENT ON FUNCTION immuta.add_impersonation_rule(text, text, boolean, text, inet[], text) IS 'adds a rule after all others: the first that matches decides; once there is one, what none matches is denied';

CREATE FUNCTION immuta.drop_impersonation_rule(id integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.impersonation_rule r WHERE r.id = drop_impersonation_rule.id;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_impersonation_rule(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drop_impersonation_rule(integer) TO immuta_admin;
COMMENT ON FUNCTION immuta.drop_impersonation_rule(integer) IS 'removes a rule; whether there was one. Without the last one every holder may impersonate everybody again';

CREATE FUNCTION immuta.impersonation_rules()
RETURNS TABLE (id integer, impersonator text, users text, allow boolean, iamid text, client_addr inet[], actors text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.id, r.impersonator, r.users, r.allow, r.iamid, r.client_addr, r.actors FROM immuta.impersonation_rule r ORDER BY r.id
$$;
REVOKE ALL ON FUNCTION immuta.impersonation_rules() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.impersonation_rules() TO immuta_admin;
COMMENT ON FUNCTION immuta.impersonation_rules() IS 'the impersonation rules, in the order in which they are tried';
