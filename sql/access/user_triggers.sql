-- Users are created, mapped and dropped by functions that know nothing of subscriptions. The lock comes before the
-- rows: two administrators never wait for each other in turn. A restore only inserts, and changes nothing else.

CREATE FUNCTION immuta.is_connected(by_insert boolean) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN immuta.is_home()
                THEN EXISTS (SELECT FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role WHERE NOT r.rolsuper)
                ELSE EXISTS (SELECT FROM immuta.system_account a JOIN pg_roles r ON r.rolname = a.role_name
                             WHERE NOT r.rolsuper) END
       AND (NOT by_insert OR EXISTS (SELECT FROM immuta.connection_state s WHERE s.active))
$$;
REVOKE ALL ON FUNCTION immuta.is_connected(boolean) FROM PUBLIC;
COMMENT ON FUNCTION immuta.is_connected(boolean) IS 'internal: whether changes of users concern the connection';

CREATE FUNCTION immuta.before_user_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_connected(TG_OP = 'INSERT') THEN
        PERFORM immuta.lock_connection();
    ELSIF TG_OP <> 'INSERT' AND NOT immuta.is_home() THEN
        PERFORM immuta.lock_projects();
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.before_user_change() FROM PUBLIC;
COMMENT ON FUNCTION immuta.before_user_change() IS 'internal: takes the lock of the connection';

CREATE FUNCTION immuta.user_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- Before the mapping goes: nothing is granted to him again.
        DELETE FROM immuta.policy_member m WHERE m.user_id = OLD.id;
        DELETE FROM immuta.subscription s WHERE s.user_id = OLD.id;
        DELETE FROM immuta.user_profile f WHERE f.user_id = OLD.id;
        -- Without the system account nothing could be taken from his role: then he stays.
        PERFORM immuta.system_role(), immuta.release_role(OLD.id) FROM immuta.subscriber b WHERE b.user_id = OLD.id;
        RETURN OLD;
    END IF;
    IF NEW.postgres_role IS NOT NULL
       AND EXISTS (SELECT FROM immuta.subscriber b WHERE b.role = NEW.postgres_role AND b.user_id <> NEW.id) THEN
        RAISE EXCEPTION 'role "%" carries the subscriptions of another user', NEW.postgres_role
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'IMPERSONATION_NOT_ALLOWED',
                  HINT = 'Map the user to a role of his own, or subscribe him and let one be made.';
    END IF;
    IF EXISTS (SELECT FROM immuta.access_class k WHERE k.role = NEW.postgres_role) THEN
        RAISE EXCEPTION 'role "%" holds the grants of policies', NEW.postgres_role
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'IMPERSONATION_NOT_ALLOWED',
                  HINT = 'Let the user satisfy the policies, or change them.';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION immuta.user_changes() FROM PUBLIC;
COMMENT ON FUNCTION immuta.user_changes() IS 'internal: a role with subscriptions has one user, and goes with him';

CREATE FUNCTION immuta.after_user_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The role may just have been made for him.
    IF immuta.is_connected(TG_OP = 'INSERT')
       AND NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.user_id = NEW.id AND b.role = NEW.postgres_role) THEN
        PERFORM immuta.settle_mapping(NEW.id);
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.after_user_change() FROM PUBLIC;
COMMENT ON FUNCTION immuta.after_user_change() IS 'internal: subscriptions follow a user to another role';

CREATE TRIGGER connection_lock BEFORE INSERT OR DELETE OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH STATEMENT EXECUTE FUNCTION immuta.before_user_change();
CREATE TRIGGER connection_rows BEFORE INSERT OR DELETE OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta.user_changes();
CREATE TRIGGER connection_settle AFTER INSERT OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta.after_user_change();
