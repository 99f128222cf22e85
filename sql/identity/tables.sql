-- The tables. Column numbers are known to src/pg/catalog/tables.rs: columns are only ever appended. There are no foreign keys:
-- pg_restore with several jobs loads the tables of an extension in any order.

CREATE TABLE immuta.user_account (
    id bigserial NOT NULL CONSTRAINT user_account_id_key UNIQUE,
    iamid text COLLATE "C" NOT NULL DEFAULT 'bim',
    userid text COLLATE "C" NOT NULL,
    mapping text COLLATE "C" NOT NULL DEFAULT 'username',
    postgres_role regrole,
    disabled boolean NOT NULL DEFAULT false,
    profile jsonb NOT NULL DEFAULT '{}',
    password_hash text,
    failed_logins integer NOT NULL DEFAULT 0,
    last_failed_login timestamptz,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    postgres_role_name name,
    CONSTRAINT user_account_pkey PRIMARY KEY (iamid, userid),
    CONSTRAINT user_account_iamid_check CHECK (pg_catalog.octet_length(iamid) BETWEEN 1 AND 255),
    CONSTRAINT user_account_userid_check CHECK (pg_catalog.octet_length(userid) BETWEEN 1 AND 255),
    CONSTRAINT user_account_mapping_check CHECK (mapping IN ('username', 'explicit', 'none')),
    CONSTRAINT user_account_role_check CHECK ((mapping = 'explicit') = (postgres_role IS NOT NULL)),
    CONSTRAINT user_account_profile_check CHECK (pg_catalog.jsonb_typeof(profile) = 'object')
);
COMMENT ON TABLE immuta.user_account IS 'users of the embedded provider and mappings of users to roles';
COMMENT ON COLUMN immuta.user_account.iamid IS 'identity manager; case-sensitive';
COMMENT ON COLUMN immuta.user_account.userid IS 'user id in the identity manager, compared byte by byte';
COMMENT ON COLUMN immuta.user_account.mapping IS 'username: the role of the same name; explicit: postgres_role; none: no role';
COMMENT ON COLUMN immuta.user_account.postgres_role IS 'mapped role, by OID: follows a rename, ends with DROP ROLE; 0 if it could not be adopted';
COMMENT ON COLUMN immuta.user_account.postgres_role_name IS 'its name, by which it is known in another cluster';
COMMENT ON COLUMN immuta.user_account.password_hash IS 'argon2id, PHC string format';
COMMENT ON COLUMN immuta.user_account.failed_logins IS 'failed logins in a row';

CREATE TABLE immuta.token (
    digest bytea NOT NULL,
    id bigserial NOT NULL CONSTRAINT token_id_key UNIQUE,
    user_id bigint NOT NULL,
    issued_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    last_used_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT token_pkey PRIMARY KEY (digest),
    CONSTRAINT token_digest_check CHECK (pg_catalog.octet_length(digest) = 32)
) WITH (fillfactor = 80);
CREATE INDEX token_user_id_idx ON immuta.token (user_id);
COMMENT ON TABLE immuta.token IS 'tokens of the embedded provider, as SHA-256 digests';
COMMENT ON COLUMN immuta.token.last_used_at IS 'last use that was recorded: exact to a twelfth of bodata.token_idle_ttl';

CREATE TABLE immuta.api_key (
    digest bytea NOT NULL,
    id bigserial NOT NULL CONSTRAINT api_key_id_key UNIQUE,
    user_id bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    last_used_at timestamptz,
    CONSTRAINT api_key_pkey PRIMARY KEY (digest),
    CONSTRAINT api_key_digest_check CHECK (pg_catalog.octet_length(digest) = 32)
);
CREATE INDEX api_key_user_id_idx ON immuta.api_key (user_id);
COMMENT ON TABLE immuta.api_key IS 'API keys, as SHA-256 digests';

CREATE TABLE immuta.token_issuer (
    issuer text COLLATE "C" NOT NULL,
    iamid text COLLATE "C" NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT token_issuer_pkey PRIMARY KEY (issuer),
    CONSTRAINT token_issuer_settings_check CHECK (pg_catalog.jsonb_typeof(settings) = 'object'),
    CONSTRAINT token_issuer_iamid_check CHECK (pg_catalog.octet_length(iamid) BETWEEN 1 AND 255)
);
COMMENT ON TABLE immuta.token_issuer IS 'issuers of OAuth tokens and the identity managers they stand for';
COMMENT ON COLUMN immuta.token_issuer.issuer IS 'claim iss of a token or an introspection response, compared byte by byte; empty for responses without one';
COMMENT ON COLUMN immuta.token_issuer.settings IS 'what is accepted of this issuer''s JWTs, instead of bodata.jwt_*; see map_issuer()';

CREATE TABLE immuta.token_revocation (
    key bytea NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    expires_at timestamptz,
    CONSTRAINT token_revocation_pkey PRIMARY KEY (key),
    CONSTRAINT token_revocation_key_check CHECK (pg_catalog.octet_length(key) = 32)
);
COMMENT ON TABLE immuta.token_revocation IS 'revoked JWTs, and users whose JWTs are revoked that were issued before';
COMMENT ON COLUMN immuta.token_revocation.key IS 'SHA-256 of issuer and jti, of what was signed, or of the user';
COMMENT ON COLUMN immuta.token_revocation.expires_at IS 'when the token ends anyway; NULL: never, or for a user';

CREATE TABLE immuta.impersonation_rule (
    id serial NOT NULL,
    impersonator text COLLATE "C" NOT NULL,
    users text COLLATE "C" NOT NULL,
    allow boolean NOT NULL DEFAULT true,
    iamid text COLLATE "C" NOT NULL DEFAULT '*',
    client_addr inet[],
    actors text COLLATE "C" NOT NULL DEFAULT '*',
    CONSTRAINT impersonation_rule_pkey PRIMARY KEY (id),
    CONSTRAINT impersonation_rule_impersonator_check CHECK (pg_catalog.octet_length(impersonator) BETWEEN 1 AND 255),
    CONSTRAINT impersonation_rule_users_check CHECK (pg_catalog.octet_length(users) BETWEEN 1 AND 255),
    CONSTRAINT impersonation_rule_iamid_check CHECK (pg_catalog.octet_length(iamid) BETWEEN 1 AND 255),
    CONSTRAINT impersonation_rule_actors_check CHECK (pg_catalog.octet_length(actors) <= 255),
    CONSTRAINT impersonation_rule_client_addr_check CHECK (pg_catalog.array_position(client_addr, NULL) IS NULL)
);
COMMENT ON TABLE immuta.impersonation_rule IS 'who may impersonate whom: the first rule that matches, by id, decides; no rule: everybody';
COMMENT ON COLUMN immuta.impersonation_rule.impersonator IS 'pattern for the login; * stands for any text';
COMMENT ON COLUMN immuta.impersonation_rule.users IS 'pattern for the user id; $1 is what the first * of impersonator stood for';
COMMENT ON COLUMN immuta.impersonation_rule.client_addr IS 'networks that the login connects from; NULL: any, local sockets too';
COMMENT ON COLUMN immuta.impersonation_rule.actors IS 'pattern for who acts for the user (act of a JWT); empty: nobody';

REVOKE ALL ON immuta.user_account, immuta.token, immuta.api_key, immuta.token_issuer, immuta.token_revocation,
    immuta.impersonation_rule FROM PUBLIC;
-- pg_stats shows values to pg_read_all_data, even of tables that nobody may read.
ALTER TABLE immuta.user_account ALTER COLUMN password_hash SET STATISTICS 0, ALTER COLUMN profile SET STATISTICS 0;
ALTER TABLE immuta.token ALTER COLUMN digest SET STATISTICS 0;
ALTER TABLE immuta.api_key ALTER COLUMN digest SET STATISTICS 0;
REVOKE ALL ON SEQUENCE immuta.user_account_id_seq, immuta.token_id_seq, immuta.api_key_id_seq, immuta.impersonation_rule_id_seq
FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('immuta.user_account', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.token', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.api_key', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.token_issuer', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.token_revocation', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.impersonation_rule', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.user_account_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.token_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.api_key_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.impersonation_rule_id_seq', '');

-- A change that may end or redirect an impersonation reaches every backend. Recording a use or a failed
-- login is not such a change.
CREATE FUNCTION immuta_internal.announce_change() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'immuta_announce_change_wrapper';
COMMENT ON FUNCTION immuta_internal.announce_change() IS 'makes every backend look at users, mappings and tokens again';

CREATE FUNCTION immuta_internal.forget_user() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.token t WHERE t.user_id = OLD.id;
    DELETE FROM immuta.api_key k WHERE k.user_id = OLD.id;
    DELETE FROM immuta.project_member m WHERE m.user_id = OLD.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION immuta_internal.forget_user() IS 'tokens, API keys and memberships in projects go with their user';

-- A dump shows a role that was dropped as a number, which is another role elsewhere.
CREATE FUNCTION immuta_internal.keep_role_name() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named name := (SELECT r.rolname FROM pg_roles r WHERE r.oid = NEW.postgres_role);
BEGIN
    IF TG_OP = 'INSERT' AND NEW.postgres_role_name IS NOT NULL THEN
        IF NEW.postgres_role IS NOT NULL AND NEW.postgres_role_name IS DISTINCT FROM named THEN
            NEW.postgres_role := 0;
        END IF;
    ELSIF named IS NOT NULL OR NEW.postgres_role IS NULL THEN
        NEW.postgres_role_name := named;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION immuta_internal.keep_role_name() IS 'stores the name of a mapped role, and takes from a dump only what agrees with it';

CREATE TRIGGER keep_role_name BEFORE INSERT OR UPDATE OF postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta_internal.keep_role_name();
CREATE TRIGGER forget_user AFTER DELETE ON immuta.user_account FOR EACH ROW EXECUTE FUNCTION immuta_internal.forget_user();
