-- What has to follow a change.

-- After a change of data sources, their tags, or policies. NULL stands for all data sources.
CREATE FUNCTION immuta.settle_sources(source_ids bigint[]) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[] := immuta.assign_classes(source_ids);
BEGIN
    RETURN QUERY SELECT * FROM immuta.apply_members(changed, NULL);
    RETURN QUERY SELECT * FROM immuta.apply_grants(source_ids);
    PERFORM immuta.drop_empty_classes();
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_sources(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_sources(bigint[]) IS 'internal: makes the access to data sources what it should be';

-- After a change of what policies look at in a user: nothing but his own memberships is touched.
CREATE FUNCTION immuta.settle_user(user_id bigint) RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer[] := immuta.refresh_policy_members(NULL, ARRAY[user_id]);
BEGIN
    IF changed <> '{}' THEN
        RETURN QUERY SELECT * FROM immuta.apply_members(
            ARRAY(SELECT k.id FROM immuta.access_class k WHERE k.required && changed OR k.shared && changed), ARRAY[user_id]);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_user(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_user(bigint) IS 'internal: makes the access of a user what policies say';

-- After a change of a user's mapping.
CREATE FUNCTION immuta.settle_mapping(user_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    carried_by oid := (SELECT b.role FROM immuta.subscriber b WHERE b.user_id = settle_mapping.user_id);
    mapped_to oid := (SELECT c.role FROM immuta.carrier(settle_mapping.user_id) c);
BEGIN
    IF carried_by IS NOT NULL AND carried_by IS DISTINCT FROM mapped_to THEN
        PERFORM immuta.release_role(settle_mapping.user_id);
    END IF;
    PERFORM immuta.refresh_policy_members(NULL, ARRAY[settle_mapping.user_id]);
    PERFORM FROM immuta.apply_members(NULL, ARRAY[settle_mapping.user_id]);
    IF EXISTS (SELECT FROM immuta.subscription s WHERE s.user_id = settle_mapping.user_id AND s.state = 'approved') THEN
        mapped_to := immuta.ensure_role(settle_mapping.user_id);
        IF mapped_to IS NOT NULL THEN
            PERFORM FROM immuta.apply_grants(
                ARRAY(SELECT s.data_source_id FROM immuta.subscription s WHERE s.user_id = settle_mapping.user_id), ARRAY[mapped_to]);
        END IF;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_mapping(bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_mapping(bigint) IS 'internal: subscriptions follow a user to another role';

-- The members of classes may change although no data source does.
CREATE FUNCTION immuta.settle_policy(source_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.warn_not_granted(s.what, s.object, s.detail) FROM immuta.settle_sources(source_ids) s;
    PERFORM FROM immuta.apply_members(
        ARRAY(SELECT DISTINCT c.class_id FROM immuta.class_source c WHERE c.data_source_id = ANY (source_ids)), NULL);
END
$$;
REVOKE ALL ON FUNCTION immuta.settle_policy(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.settle_policy(bigint[]) IS 'internal: makes the access to data sources what it should be after a change of a policy';
