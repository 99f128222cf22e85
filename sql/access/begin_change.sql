-- The lock under which everything here changes: the one row of immuta.connection_state. It is written, not only locked, so
-- that a transaction that looks at an older snapshot gets a serialization failure. Two administrators who each see only
-- their own change would together give more than either intends.

CREATE FUNCTION immuta_internal.begin_change() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.require_no_original();
    UPDATE immuta.connection_state s SET version = s.version + 1 WHERE s.xmin <> pg_current_xact_id()::xid;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION immuta_internal.begin_change() IS 'takes the lock, until the end of the transaction; false if it was taken before';
