-- Impersonation by name, in the words of other platforms.

DO $$
DECLARE
    owner_is_superuser boolean;
BEGIN
    SELECT r.rolsuper INTO owner_is_superuser
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
    WHERE n.nspname OPERATOR(pg_catalog.=) 'immuta_procedures';
    IF NOT FOUND THEN
        CREATE SCHEMA immuta_procedures;
    ELSIF NOT owner_is_superuser THEN
        RAISE EXCEPTION 'schema "immuta_procedures" exists and is not owned by a superuser'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Drop or rename the schema, or make a superuser its owner.';
    END IF;
END
$$;
COMMENT ON SCHEMA immuta_procedures IS 'procedures that begin and end an impersonation (extension immuta_ext)';
REVOKE ALL ON SCHEMA immuta_procedures FROM PUBLIC;
GRANT USAGE ON SCHEMA immuta_procedures TO PUBLIC;

-- Without a SET clause, which would undo what it sets: everything in it is qualified.
CREATE PROCEDURE immuta_procedures.impersonate_user(user_id text)
LANGUAGE sql
AS $$
    SELECT pg_catalog.set_config('immuta.impersonation_userid', coalesce(user_id, ''),
                                 NOT pg_catalog.current_setting('bodata.allow_session_impersonation')::pg_catalog.bool)
$$;
COMMENT ON PROCEDURE immuta_procedures.impersonate_user(text) IS 'impersonates a user by name, for the session if that is allowed, else for the transaction; NULL ends it';
