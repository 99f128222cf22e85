-- What has to follow a change.

-- Takes everything from the role that carries a user's subscriptions. Neither roles nor rights are left behind.
CREATE FUNCTION immuta_internal.release_role(user_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    released record;
    sources bigint[];
BEGIN
    DELETE FROM immuta.subscriber b WHERE b.user_id = release_role.user_id RETURNING b.* INTO released;
    IF NOT FOUND OR released.role IS NULL THEN
        DELETE FROM immuta.class_member m WHERE m.user_id = release_role.user_id;
        RETURN;
    END IF;
    PERFORM FROM immuta_internal.revoke_memberships(
        ARRAY(SELECT m.class_id FROM immuta.class_member m WHERE m.user_id = release_role.user_id), release_role.user_id);
    sources := ARRAY(SELECT DISTINCT g.data_source_id FROM immuta.grant_made g WHERE g.grantee = released.role);
    PERFORM FROM immuta_internal.apply_grants(sources, ARRAY[released.role]);
    -- A role that was there before stays a member of immuta_subscriber: it may be a subscriber in another database of
    -- the cluster, where row policies must continue to apply to it. The membership itself gives nothing.
    IF released.made THEN
        PERFORM immuta_internal.retire_role(released.role, true);
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.release_role(bigint) IS 'the user''s subscriptions leave the role that carried them';

-- After a change of data sources, their columns, their tags, or policies. NULL stands for all data sources.
CREATE FUNCTION immuta_internal.settle_sources(source_ids bigint[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[];
BEGIN
    RETURN QUERY SELECT * FROM immuta_internal.settle_masks(source_ids);
    changed := immuta_internal.assign_classes(source_ids);
    RETURN QUERY SELECT * FROM immuta_internal.apply_members(changed, NULL);
    RETURN QUERY SELECT * FROM immuta_internal.apply_grants(source_ids);
    PERFORM immuta_internal.drop_empty_classes();
END
$$;
COMMENT ON FUNCTION immuta_internal.settle_sources(bigint[]) IS 'makes the access to data sources what it should be';

-- Who is subscribed by themselves is granted by themselves what a masking policy excepts them from. NULL stands for all users.
CREATE FUNCTION immuta_internal.settle_exceptions(policy_ids integer[], user_ids bigint[])
RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    concerned bigint[] := ARRAY(
        SELECT DISTINCT d.id FROM immuta.masks k JOIN immuta.data_source d ON d.relation = k.table_oid WHERE k.policy_id = ANY (policy_ids));
BEGIN
    IF concerned <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta_internal.apply_grants(concerned, CASE WHEN user_ids IS NOT NULL THEN
            ARRAY(SELECT b.role FROM immuta.subscriber b WHERE b.user_id = ANY (user_ids) AND b.role IS NOT NULL) END);
        IF current_setting('server_version_num')::integer < 150000 THEN
            -- There plans are not made anew for a change of memberships.
            UPDATE immuta.masks k SET mask = k.mask WHERE k.policy_id = ANY (policy_ids);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.settle_exceptions(integer[], bigint[]) IS 'grants users what masking policies except them from';

-- After a change of what policies look at in a user: only their own memberships are touched.
CREATE FUNCTION immuta_internal.settle_user(user_id bigint) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[] := immuta_internal.refresh_policy_members(NULL, ARRAY[user_id]);
BEGIN
    IF changed <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta_internal.settle_exceptions(changed, ARRAY[user_id]);
        RETURN QUERY SELECT * FROM immuta_internal.apply_members(
            ARRAY(SELECT k.id FROM immuta.access_class k WHERE k.required && changed OR k.shared && changed), ARRAY[user_id]);
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.settle_user(bigint) IS 'makes the access of a user what policies say';

-- After a change of a user's mapping.
CREATE FUNCTION immuta_internal.settle_mapping(user_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    carried_by oid := (SELECT b.role FROM immuta.subscriber b WHERE b.user_id = settle_mapping.user_id);
    mapped_to oid := (SELECT c.role FROM immuta_internal.carrier(settle_mapping.user_id) c);
BEGIN
    IF carried_by IS NOT NULL AND carried_by IS DISTINCT FROM mapped_to THEN
        PERFORM immuta_internal.release_role(settle_mapping.user_id);
    END IF;
    PERFORM immuta_internal.refresh_policy_members(NULL, ARRAY[settle_mapping.user_id]);
    PERFORM FROM immuta_internal.apply_members(NULL, ARRAY[settle_mapping.user_id]);
    IF EXISTS (SELECT FROM immuta.subscription s WHERE s.user_id = settle_mapping.user_id AND s.state = 'approved') THEN
        mapped_to := immuta_internal.ensure_role(settle_mapping.user_id);
        IF mapped_to IS NOT NULL THEN
            PERFORM FROM immuta_internal.apply_grants(
                ARRAY(SELECT s.data_source_id FROM immuta.subscription s WHERE s.user_id = settle_mapping.user_id), ARRAY[mapped_to]);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.settle_mapping(bigint) IS 'subscriptions follow a user to another role';

-- The members of classes may change although no data source does.
CREATE FUNCTION immuta_internal.settle_policy(source_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.warn_not_granted(s.what, s.object, s.detail) FROM immuta_internal.settle_sources(source_ids) s;
    PERFORM FROM immuta_internal.apply_members(
        ARRAY(SELECT DISTINCT c.class_id FROM immuta.class_source c WHERE c.data_source_id = ANY (source_ids)), NULL);
END
$$;
COMMENT ON FUNCTION immuta_internal.settle_policy(bigint[]) IS 'makes the access to data sources what it should be after a change of a policy';

CREATE FUNCTION immuta_internal.end_subscriptions() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    expired record;
BEGIN
    FOR expired IN
        UPDATE immuta.subscription s SET state = 'expired' WHERE s.state = 'approved' AND s.valid_until <= now()
        RETURNING s.data_source_id, s.user_id
    LOOP
        PERFORM FROM immuta_internal.apply_grants(
            ARRAY[expired.data_source_id], ARRAY(SELECT b.role FROM immuta.subscriber b WHERE b.user_id = expired.user_id));
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.end_subscriptions() IS 'subscriptions that have ended lose their grants';
