-- Subscriptions of single users.

CREATE FUNCTION immuta_internal.clean_access(access text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF access IS NULL OR upper(access) NOT IN ('READ', 'WRITE') THEN
        RAISE EXCEPTION 'access must be READ or WRITE' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN upper(access);
END
$$;
COMMENT ON FUNCTION immuta_internal.clean_access(text) IS 'READ or WRITE; 22023 for anything else';

CREATE FUNCTION immuta_internal.check_reason(reason text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF length(reason) > 1000 THEN
        RAISE EXCEPTION 'the reason has more than 1000 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.check_reason(text) IS '22023 for a reason that is too long for a record';

-- Grants what an approved subscription says, all of it or nothing.
CREATE FUNCTION immuta_internal.grant_subscription(
    user_id bigint, data_source regclass, access text, valid_until timestamptz, reason text)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source_id bigint := immuta_internal.data_source_id(data_source);
    carried_by oid;
    refused text;
BEGIN
    PERFORM immuta_internal.check_reason(grant_subscription.reason);
    IF valid_until <= now() THEN
        RAISE EXCEPTION 'the subscription would end before it begins' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF (SELECT d.held FROM immuta.data_source d WHERE d.id = source_id) THEN
        RAISE EXCEPTION 'data source "%" is not confirmed', data_source
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = (SELECT u.reason FROM immuta_internal.unconfirmed(ARRAY[data_source::oid]) u),
                  HINT = 'Confirm it with immuta.register_data_source().';
    END IF;
    carried_by := immuta_internal.ensure_role(grant_subscription.user_id);
    IF carried_by IS NULL THEN
        RAISE EXCEPTION 'the user has no role that could carry subscriptions: %',
                (SELECT c.problem FROM immuta_internal.carrier(grant_subscription.user_id) c)
            USING ERRCODE = 'undefined_object', DETAIL = 'IMPERSONATION_NOT_MAPPED',
                  HINT = 'Map the user to a role of their own with immuta.map_user().';
    END IF;
    INSERT INTO immuta.subscription AS s (user_id, data_source_id, access, state, valid_until, reason, decided_at, decided_by)
    VALUES (grant_subscription.user_id, source_id, immuta_internal.clean_access(grant_subscription.access), 'approved',
            grant_subscription.valid_until, grant_subscription.reason, now(), session_user)
    ON CONFLICT ON CONSTRAINT subscription_pkey DO UPDATE
    SET access = EXCLUDED.access, state = 'approved', valid_until = EXCLUDED.valid_until,
        reason = coalesce(EXCLUDED.reason, s.reason), decided_at = now(), decided_by = EXCLUDED.decided_by;
    SELECT string_agg(g.object || ' (' || g.detail || ')', '; ') INTO refused
    FROM immuta_internal.apply_grants(ARRAY[source_id], ARRAY[carried_by]) g WHERE g.what = 'not granted';
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'not granted: %', refused
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'The owner can GRANT ... TO the system account WITH GRANT OPTION.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.grant_subscription(bigint, regclass, text, timestamptz, text) IS 'approves a subscription and grants it';

CREATE FUNCTION immuta.subscribe(
    userid text, data_source regclass, access text = 'READ', iamid text = 'bim', until timestamptz = NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up();
    PERFORM immuta_internal.grant_subscription(immuta_internal.user_id(subscribe.userid, subscribe.iamid), data_source,
                                      immuta_internal.clean_access(subscribe.access), until, NULL);
END
$$;
REVOKE ALL ON FUNCTION immuta.subscribe(text, regclass, text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.subscribe(text, regclass, text, text, timestamptz) TO immuta_admin;
COMMENT ON FUNCTION immuta.subscribe(text, regclass, text, text, timestamptz) IS 'gives a user READ or WRITE access to a data source, and a role if they have none';

CREATE FUNCTION immuta.unsubscribe(userid text, data_source regclass, iamid text = 'bim') RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    subscribed_user bigint;
    source_id bigint;
    kept text;
BEGIN
    PERFORM immuta_internal.catch_up();
    subscribed_user := immuta_internal.user_id(unsubscribe.userid, unsubscribe.iamid);
    source_id := immuta_internal.data_source_id(unsubscribe.data_source);
    DELETE FROM immuta.subscription s WHERE s.user_id = subscribed_user AND s.data_source_id = source_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT string_agg(g.object || ' (' || g.detail || ')', '; ') INTO kept
    FROM immuta_internal.apply_grants(ARRAY[source_id], ARRAY(SELECT b.role FROM immuta.subscriber b WHERE b.user_id = subscribed_user)) g
    WHERE g.what = 'not revoked';
    IF kept IS NOT NULL THEN
        RAISE EXCEPTION 'not revoked: %', kept
            USING ERRCODE = 'insufficient_privilege',
                  HINT = immuta_internal.hint_not_revoked();
    END IF;
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION immuta.unsubscribe(text, regclass, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.unsubscribe(text, regclass, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.unsubscribe(text, regclass, text) IS 'ends a user''s own subscription, in whatever state; what policies give them stays';

-- When a request of this time lapses; NULL: never.
CREATE FUNCTION immuta_internal.request_lapses_at(requested_at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT requested_at + nullif(coalesce(current_setting('bodata.request_lapse_after', true), '0')::interval, interval '0')
$$;
COMMENT ON FUNCTION immuta_internal.request_lapses_at(timestamptz) IS 'when a request lapses that was made then; NULL: never';

-- The state of a subscription as it is now.
CREATE FUNCTION immuta_internal.state_of(subscription immuta.subscription) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN subscription.state = 'approved' AND subscription.valid_until <= now() THEN 'expired'
            WHEN subscription.state = 'requested' AND immuta_internal.request_lapses_at(subscription.created_at) <= now() THEN 'lapsed'
            ELSE subscription.state END;
COMMENT ON FUNCTION immuta_internal.state_of(immuta.subscription) IS 'the state of a subscription, with what time has made of it';

-- Whoever waits for requests is told that there is one, and not of whom: everybody may LISTEN.
CREATE FUNCTION immuta_internal.add_request(user_id bigint, source_id bigint, access text, reason text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.check_reason(reason);
    INSERT INTO immuta.subscription AS s (user_id, data_source_id, access, state, reason)
    VALUES (add_request.user_id, source_id, immuta_internal.clean_access(add_request.access), 'requested', add_request.reason)
    ON CONFLICT ON CONSTRAINT subscription_pkey DO UPDATE
    SET access = EXCLUDED.access, state = 'requested', valid_until = NULL, reason = EXCLUDED.reason, created_at = now(),
        decided_at = NULL, decided_by = NULL
    WHERE immuta_internal.state_of(s) <> 'approved'
      AND (s.access, s.reason, immuta_internal.state_of(s)) IS DISTINCT FROM (EXCLUDED.access, EXCLUDED.reason, 'requested');
    IF FOUND THEN
        PERFORM pg_notify('immuta_requests', '');
    ELSIF (SELECT immuta_internal.state_of(s) FROM immuta.subscription s
           WHERE s.user_id = add_request.user_id AND s.data_source_id = source_id) = 'approved' THEN
        RAISE EXCEPTION 'the user is already subscribed' USING ERRCODE = 'duplicate_object',
            HINT = 'An administrator can change the access with immuta.subscribe().';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.add_request(bigint, bigint, text, text) IS 'records a request and tells who waits for them';

CREATE FUNCTION immuta.request_subscription(
    userid text, data_source regclass, access text = 'READ', iamid text = 'bim', reason text = NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up();
    PERFORM immuta_internal.add_request(immuta_internal.user_id(request_subscription.userid, request_subscription.iamid),
                               immuta_internal.data_source_id(request_subscription.data_source), access, reason);
END
$$;
REVOKE ALL ON FUNCTION immuta.request_subscription(text, regclass, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.request_subscription(text, regclass, text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.request_subscription(text, regclass, text, text, text) IS 'records that a user asks for access; nothing is granted before it is approved';

CREATE FUNCTION immuta_internal.impersonated_user() RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    impersonated record;
BEGIN
    SELECT s.userid, u.id INTO impersonated FROM immuta_internal.session_state() s
    LEFT JOIN immuta.user_account u ON u.iamid = convert_from(s.iamid, 'UTF8') AND u.userid = convert_from(s.userid, 'UTF8');
    IF impersonated.userid IS NULL THEN
        RAISE EXCEPTION 'nobody is impersonated in this session' USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'IMPERSONATION_REQUIRED', HINT = 'Administrators name the user: immuta.request_subscription(userid, data_source).';
    ELSIF impersonated.id IS NULL THEN
        RAISE EXCEPTION 'the user is not known in this database' USING ERRCODE = 'undefined_object',
            DETAIL = 'IMPERSONATION_NOT_MAPPED', HINT = 'An administrator can add the user with immuta.create_user().';
    END IF;
    RETURN impersonated.id;
END
$$;
COMMENT ON FUNCTION immuta_internal.impersonated_user() IS 'the user who is impersonated in this session';

-- By name, as who asks for access may not be able to look the table up.
CREATE FUNCTION immuta.request_my_subscription(data_source text, access text = 'READ', reason text = NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asking bigint := immuta_internal.impersonated_user();
    source_id bigint;
    parts text[];
BEGIN
    -- Two names in quotation marks; what is longer is none, and no error is to repeat it.
    IF octet_length(data_source) <= 300 THEN
        parts := parse_ident(data_source);
    END IF;
    SELECT d.id INTO source_id FROM immuta.data_source d
    WHERE d.schema_name = parts[1] AND d.table_name = parts[2] AND array_length(parts, 1) = 2;
    IF source_id IS NULL THEN
        RAISE EXCEPTION 'there is no data source "%"', immuta_internal.shown(data_source) USING ERRCODE = 'undefined_object',
            HINT = 'Name it with its schema: ''sales.orders''.';
    END IF;
    PERFORM immuta_internal.add_request(asking, source_id, access, reason);
END
$$;
COMMENT ON FUNCTION immuta.request_my_subscription(text, text, text) IS 'the impersonated user asks for access to a data source';

CREATE FUNCTION immuta.my_subscriptions()
RETURNS TABLE (schema_name name, table_name name, access text, state text, valid_until timestamptz, reason text,
               requested_at timestamptz, lapses_at timestamptz, decided_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.schema_name, d.table_name, s.access, immuta_internal.state_of(s), s.valid_until, s.reason, s.created_at,
           CASE WHEN s.state = 'requested' THEN immuta_internal.request_lapses_at(s.created_at) END, s.decided_at
    FROM immuta.subscription s JOIN immuta.data_source d ON d.id = s.data_source_id
    WHERE s.user_id = immuta_internal.impersonated_user()
    ORDER BY d.schema_name, d.table_name
$$;
COMMENT ON FUNCTION immuta.my_subscriptions() IS 'the impersonated user''s own subscriptions and requests';

CREATE FUNCTION immuta.approve_subscription(
    userid text, data_source regclass, iamid text = 'bim', until timestamptz = NULL, reason text = NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    subscribed_user bigint;
    source_id bigint;
    wanted record;
BEGIN
    PERFORM immuta_internal.catch_up();
    subscribed_user := immuta_internal.user_id(approve_subscription.userid, approve_subscription.iamid);
    source_id := immuta_internal.data_source_id(approve_subscription.data_source);
    SELECT s.access, immuta_internal.state_of(s) AS state INTO wanted FROM immuta.subscription s
    WHERE s.user_id = subscribed_user AND s.data_source_id = source_id AND s.state IN ('requested', 'denied');
    IF NOT FOUND OR wanted.state = 'lapsed' THEN
        RAISE EXCEPTION '%', CASE wanted.state WHEN 'lapsed' THEN 'the request has lapsed' ELSE 'there is no such request' END
            USING ERRCODE = 'undefined_object', HINT = 'Subscribe the user with immuta.subscribe().';
    END IF;
    PERFORM immuta_internal.grant_subscription(subscribed_user, data_source, wanted.access, until, approve_subscription.reason);
END
$$;
REVOKE ALL ON FUNCTION immuta.approve_subscription(text, regclass, text, timestamptz, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.approve_subscription(text, regclass, text, timestamptz, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.approve_subscription(text, regclass, text, timestamptz, text) IS 'grants what a user asked for';

CREATE FUNCTION immuta.deny_subscription(userid text, data_source regclass, iamid text = 'bim', reason text = NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    denied_user bigint;
    source_id bigint;
BEGIN
    PERFORM immuta_internal.check_reason(deny_subscription.reason);
    PERFORM immuta_internal.catch_up();
    denied_user := immuta_internal.user_id(deny_subscription.userid, deny_subscription.iamid);
    source_id := immuta_internal.data_source_id(deny_subscription.data_source);
    UPDATE immuta.subscription s
    SET state = 'denied', decided_at = now(), decided_by = session_user, reason = coalesce(deny_subscription.reason, s.reason)
    WHERE s.user_id = denied_user AND s.data_source_id = source_id AND s.state IN ('requested', 'denied');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such request' USING ERRCODE = 'undefined_object',
            HINT = 'End a subscription with immuta.unsubscribe().';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.deny_subscription(text, regclass, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.deny_subscription(text, regclass, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.deny_subscription(text, regclass, text, text) IS 'denies what a user asked for; it may be approved later';

-- The lock is taken only if there are any, or all is to be adopted; whoever takes it ends them.
CREATE FUNCTION immuta.expire_subscriptions() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    due bigint := (SELECT count(*) FROM immuta.subscription s WHERE s.state = 'approved' AND s.valid_until <= now());
BEGIN
    IF due > 0 OR NOT immuta_internal.is_home() AND immuta_internal.original() IS NULL AND EXISTS (SELECT FROM immuta.system_account)
                  AND (SELECT s.active FROM immuta.connection_state s) THEN
        PERFORM immuta_internal.catch_up();
    END IF;
    RETURN due;
END
$$;
REVOKE ALL ON FUNCTION immuta.expire_subscriptions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.expire_subscriptions() TO immuta_admin;
COMMENT ON FUNCTION immuta.expire_subscriptions() IS 'revokes subscriptions that have ended; how many there were';

CREATE VIEW immuta.subscriptions AS
SELECT u.iamid, u.userid, d.schema_name, d.table_name, s.access, immuta_internal.state_of(s) AS state,
       s.valid_until, s.reason, s.created_at, s.decided_at, s.decided_by
FROM immuta.subscription s JOIN immuta.user_account u ON u.id = s.user_id JOIN immuta.data_source d ON d.id = s.data_source_id
WHERE pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY u.iamid, u.userid, d.schema_name, d.table_name;
REVOKE ALL ON immuta.subscriptions FROM PUBLIC;
GRANT SELECT ON immuta.subscriptions TO immuta_admin;
COMMENT ON VIEW immuta.subscriptions IS 'subscriptions of single users and requests for them';

CREATE VIEW immuta.subscription_requests AS
SELECT u.iamid, u.userid, d.schema_name, d.table_name, s.access, s.reason, s.created_at AS requested_at,
       immuta_internal.request_lapses_at(s.created_at) AS lapses_at
FROM immuta.subscription s JOIN immuta.user_account u ON u.id = s.user_id JOIN immuta.data_source d ON d.id = s.data_source_id
WHERE immuta_internal.state_of(s) = 'requested' AND pg_catalog.pg_has_role('immuta_admin', 'MEMBER')
ORDER BY s.created_at, u.iamid, u.userid, d.schema_name, d.table_name;
REVOKE ALL ON immuta.subscription_requests FROM PUBLIC;
GRANT SELECT ON immuta.subscription_requests TO immuta_admin;
GRANT EXECUTE ON FUNCTION immuta_internal.state_of(immuta.subscription), immuta_internal.request_lapses_at(timestamptz) TO immuta_admin;
COMMENT ON VIEW immuta.subscription_requests IS 'requests that wait for a decision, the oldest first; NOTIFY immuta_requests tells of new ones';
