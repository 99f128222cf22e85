-- Creates the service user: the login that an application pools, and that presents the tokens of its end users.
-- A psql script, to be run by an administrator in the database with the extension:
--
--     psql -d immuta -f sql/create-impersonation-user.sql
--
-- It asks for the name and the password. psql hashes the password before it sends it, so that the server's log can
-- hold no more than the hash. It may be run again for a user that exists: that sets a new password.

\set ON_ERROR_STOP on
\pset pager off

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'immuta_ext') THEN
        RAISE EXCEPTION 'extension immuta_ext is not installed in database "%"', current_database()
            USING HINT = 'Connect to the database in which CREATE EXTENSION immuta_ext was run.';
    END IF;
END
$$;

\prompt 'name of the service user: ' service_user

-- A superuser would not be kept from anything; other privileges of its own are more than this login needs.
SELECT format('DO $do$ BEGIN RAISE EXCEPTION %L; END $do$',
              CASE WHEN :'service_user' = '' THEN 'the service user needs a name'
                   ELSE 'the service user must be an ordinary role without special attributes' END)
WHERE :'service_user' = ''
   OR EXISTS (SELECT FROM pg_catalog.pg_roles
              WHERE rolname = :'service_user'
                AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls))
\gexec

SELECT format('CREATE ROLE %I LOGIN', :'service_user')
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :'service_user')
\gexec

ALTER ROLE :"service_user" LOGIN;
\password :"service_user"
GRANT bodata_impersonate_user TO :"service_user";

\echo
\echo 'What this user may do:'
SELECT r.rolname AS "service user",
       r.rolcanlogin AND has_database_privilege(r.oid, current_database(), 'CONNECT') AS "connects",
       pg_has_role(r.oid, 'bodata_impersonate_user', 'MEMBER') AS "presents tokens",
       (SELECT count(*) FROM pg_catalog.pg_auth_members m
        WHERE m.member = r.oid AND m.roleid <> 'bodata_impersonate_user'::regrole) AS "member of other roles",
       (SELECT count(*) FROM pg_catalog.pg_class c
        WHERE c.relowner = r.oid
           OR EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = r.oid)) AS "relations of its own"
FROM pg_catalog.pg_roles r
WHERE r.rolname = :'service_user';
\echo 'Without a token it reads no table. With one it runs the rest of the transaction as the mapped role.'
\echo 'The last two columns should be 0: this login needs no rights of its own.'
