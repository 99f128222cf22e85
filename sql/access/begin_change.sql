-- The lock under which everything here changes.

CREATE FUNCTION immuta.lock_connection() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was_active boolean;
    pending oid[];
BEGIN
    PERFORM immuta.require_no_original();
    IF immuta.is_home() THEN
        PERFORM immuta.system_role();
    END IF;
    IF EXISTS (SELECT FROM immuta.connection_state s WHERE s.xmin = pg_current_xact_id()::xid) THEN
        RETURN; -- This transaction has it.
    END IF;
    UPDATE immuta.connection_state s SET version = s.version + 1 RETURNING s.active INTO was_active;
    IF NOT immuta.is_home() THEN
        PERFORM immuta.come_home();
        PERFORM immuta.system_role();
    ELSIF NOT was_active THEN
        UPDATE immuta.connection_state SET active = true;
        PERFORM immuta.take_stock(false, true);
    END IF;
    PERFORM immuta.end_subscriptions();
    WITH gone AS (DELETE FROM immuta.pending_sync p RETURNING p.relation)
    SELECT array_agg(DISTINCT g.relation) INTO pending FROM gone g;
    IF pending IS NOT NULL THEN
        PERFORM FROM immuta.sync_objects(pending);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.lock_connection() FROM PUBLIC;
COMMENT ON FUNCTION immuta.lock_connection() IS 'internal: one change of the connection at a time, until the end of the transaction';

-- Whatever decides what all members may read changes under one lock, that of the connection: two administrators who
-- each see only their own change would give more together than either means to. It is written, not only locked, so that
-- a transaction that looks at an older snapshot gets a serialization failure.
CREATE FUNCTION immuta.lock_projects() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_connected(false) THEN
        PERFORM immuta.lock_connection();
    ELSE
        PERFORM immuta.require_no_original();
        UPDATE immuta.connection_state s SET version = s.version + 1 WHERE s.xmin <> pg_current_xact_id()::xid;
        IF FOUND AND NOT immuta.is_home() THEN
            PERFORM immuta.come_home();
        END IF;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.lock_projects() FROM PUBLIC;
COMMENT ON FUNCTION immuta.lock_projects() IS 'internal: one change of projects or mappings at a time';
