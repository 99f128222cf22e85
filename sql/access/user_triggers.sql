-- Users are created, mapped and dropped by functions that know nothing of subscriptions. The lock comes before the
-- rows: two administrators never wait for each other in turn. A restore only inserts, and changes nothing else.

CREATE FUNCTION immuta_internal.before_user_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta_internal.is_connected(TG_OP = 'INSERT') THEN
        PERFORM immuta_internal.catch_up();
    ELSIF TG_OP <> 'INSERT' AND NOT immuta_internal.is_home() THEN
        PERFORM immuta_internal.catch_up_projects();
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.before_user_change() IS 'takes the lock of the connection';

CREATE FUNCTION immuta_internal.user_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- Before the mapping goes, so that nothing is granted again.
        DELETE FROM immuta.policy_member m WHERE m.user_id = OLD.id;
        DELETE FROM immuta.subscription s WHERE s.user_id = OLD.id;
        DELETE FROM immuta.user_profile f WHERE f.user_id = OLD.id;
        -- Without the system account nothing could be revoked from the role: then the user stays.
        PERFORM immuta_internal.system_role(), immuta_internal.release_role(OLD.id) FROM immuta.subscriber b WHERE b.user_id = OLD.id;
        RETURN OLD;
    END IF;
    IF NEW.postgres_role IS NOT NULL
       AND EXISTS (SELECT FROM immuta.subscriber b WHERE b.role = NEW.postgres_role AND b.user_id <> NEW.id) THEN
        RAISE EXCEPTION 'role "%" carries the subscriptions of another user', NEW.postgres_role
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'IMPERSONATION_NOT_ALLOWED',
                  HINT = 'Map the user to a role of their own, or subscribe them and let one be made.';
    END IF;
    IF EXISTS (SELECT FROM immuta.access_class k WHERE k.role = NEW.postgres_role) THEN
        RAISE EXCEPTION 'role "%" holds the grants of policies', NEW.postgres_role
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'IMPERSONATION_NOT_ALLOWED',
                  HINT = 'Let the user satisfy the policies, or change them.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION immuta_internal.user_changes() IS 'a role with subscriptions has one user, and goes with them';

CREATE FUNCTION immuta_internal.after_user_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The role may just have been made for this user.
    IF immuta_internal.is_connected(TG_OP = 'INSERT')
       AND NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.user_id = NEW.id AND b.role = NEW.postgres_role) THEN
        PERFORM immuta_internal.settle_mapping(NEW.id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.after_user_change() IS 'subscriptions follow a user to another role';

CREATE TRIGGER connection_lock BEFORE INSERT OR DELETE OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH STATEMENT EXECUTE FUNCTION immuta_internal.before_user_change();
CREATE TRIGGER connection_rows BEFORE INSERT OR DELETE OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta_internal.user_changes();
CREATE TRIGGER connection_settle AFTER INSERT OR UPDATE OF iamid, userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta_internal.after_user_change();
