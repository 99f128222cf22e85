-- What waits for the lock: whoever gets it does this first. Commands begin with one of these two functions; what they call
-- does not lock.

CREATE FUNCTION immuta_internal.catch_up() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pending oid[];
BEGIN
    IF immuta_internal.is_home() THEN
        PERFORM immuta_internal.system_role();
    END IF;
    IF NOT immuta_internal.begin_change() THEN
        RETURN;
    END IF;
    IF NOT immuta_internal.is_home() THEN
        PERFORM immuta_internal.come_home();
        PERFORM immuta_internal.system_role();
    ELSIF NOT (SELECT s.active FROM immuta.connection_state s) THEN
        UPDATE immuta.connection_state SET active = true;
        PERFORM immuta_internal.take_stock(false, true);
    END IF;
    PERFORM immuta_internal.end_subscriptions();
    WITH gone AS (DELETE FROM immuta.pending_sync p RETURNING p.relation)
    SELECT array_agg(DISTINCT g.relation) INTO pending FROM gone g;
    IF pending IS NOT NULL THEN
        PERFORM FROM immuta_internal.sync_objects(pending);
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.catch_up() IS 'begins a change of subscriptions or policies: takes the lock and does what waited for it';

CREATE FUNCTION immuta_internal.catch_up_projects() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta_internal.is_connected(false) THEN
        PERFORM immuta_internal.catch_up();
    ELSIF immuta_internal.begin_change() AND NOT immuta_internal.is_home() THEN
        PERFORM immuta_internal.come_home();
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.catch_up_projects() IS 'begins a change of projects or mappings, also where there is no system account';
