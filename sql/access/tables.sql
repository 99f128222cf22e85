-- The connection: data sources, the users subscribed to them, and the roles and grants that this becomes. Design and
-- limits are in docs/subscriptions.md. The column numbers of immuta.subscriber are known to src/pg/catalog/tables.rs. There are no
-- foreign keys: see sql/identity/tables.sql.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'immuta_subscriber') THEN
        CREATE ROLE immuta_subscriber NOLOGIN;
    END IF;
END
$$;

-- Its one row is the lock under which everything here changes. A row and not an advisory lock: nobody else can take
-- it, and a transaction that looks at an older snapshot gets a serialization failure instead of losing an update.
CREATE TABLE immuta.connection_state (
    one boolean NOT NULL DEFAULT true CONSTRAINT connection_state_pkey PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    active boolean NOT NULL DEFAULT false,
    CONSTRAINT connection_state_one_check CHECK (one)
);
INSERT INTO immuta.connection_state DEFAULT VALUES;
COMMENT ON TABLE immuta.connection_state IS 'one row: the lock of the connection. Not dumped';
COMMENT ON COLUMN immuta.connection_state.active IS 'false until the first change after CREATE EXTENSION or a restore';

CREATE TABLE immuta.system_account (
    one boolean NOT NULL DEFAULT true CONSTRAINT system_account_pkey PRIMARY KEY,
    role oid,
    role_name name NOT NULL,
    CONSTRAINT system_account_one_check CHECK (one)
);
COMMENT ON TABLE immuta.system_account IS 'one row: the role that creates roles and grants';
COMMENT ON COLUMN immuta.system_account.role IS 'OID of the role in this cluster: it may be renamed';

CREATE TABLE immuta.registered_schema (
    schema_name name NOT NULL CONSTRAINT registered_schema_pkey PRIMARY KEY,
    namespace oid CONSTRAINT registered_schema_namespace_key UNIQUE,
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE immuta.registered_schema IS 'schemas all of whose tables are data sources';
COMMENT ON COLUMN immuta.registered_schema.namespace IS 'OID of the schema in this database; NULL when it could not be adopted';

CREATE TABLE immuta.data_source (
    id bigserial NOT NULL CONSTRAINT data_source_pkey PRIMARY KEY,
    relation oid CONSTRAINT data_source_relation_key UNIQUE,
    schema_name name NOT NULL,
    table_name name NOT NULL,
    by_schema boolean NOT NULL DEFAULT false,
    tags text[] COLLATE "C" NOT NULL DEFAULT '{}',
    excluded_columns name[] NOT NULL DEFAULT '{}',
    excluded_numbers smallint[] NOT NULL DEFAULT '{}',
    row_security_made boolean NOT NULL DEFAULT false,
    held boolean NOT NULL DEFAULT false,
    confirmed bigint[] NOT NULL DEFAULT '{}',
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE immuta.data_source IS 'tables and views to which users may be subscribed';
COMMENT ON COLUMN immuta.data_source.relation IS 'OID of the relation in this database; NULL when it could not be adopted';
COMMENT ON COLUMN immuta.data_source.by_schema IS 'registered with its schema, not by itself';
COMMENT ON COLUMN immuta.data_source.excluded_columns IS 'columns that no subscription reaches, by all the names they had: also those that come later';
COMMENT ON COLUMN immuta.data_source.excluded_numbers IS 'their numbers now: columns may be renamed';
COMMENT ON COLUMN immuta.data_source.row_security_made IS 'row level security was switched on for row policies';
COMMENT ON COLUMN immuta.data_source.held IS 'nobody is granted it before an administrator confirms it';
COMMENT ON COLUMN immuta.data_source.confirmed IS 'data sources of which it may show what they hide';

CREATE TABLE immuta.guarded_name (
    schema_name name NOT NULL,
    table_name name NOT NULL,
    CONSTRAINT guarded_name_pkey PRIMARY KEY (schema_name, table_name)
);
COMMENT ON TABLE immuta.guarded_name IS 'names that data sources with row policies, or excluded or masked columns, had: what takes their place is held';

CREATE TABLE immuta.user_profile (
    user_id bigint NOT NULL CONSTRAINT user_profile_pkey PRIMARY KEY,
    groups text[] COLLATE "C" NOT NULL DEFAULT '{}',
    attributes jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT user_profile_attributes_check CHECK (pg_catalog.jsonb_typeof(attributes) = 'object')
);
COMMENT ON TABLE immuta.user_profile IS 'groups and attributes of users, for policies';
COMMENT ON COLUMN immuta.user_profile.attributes IS 'a list of texts for each attribute';

CREATE TABLE immuta.subscriber (
    user_id bigint NOT NULL CONSTRAINT subscriber_pkey PRIMARY KEY,
    role oid CONSTRAINT subscriber_role_key UNIQUE,
    role_name name NOT NULL,
    made boolean NOT NULL
);
COMMENT ON TABLE immuta.subscriber IS 'the role that carries a user''s subscriptions; it is nobody else''s';
COMMENT ON COLUMN immuta.subscriber.role IS 'OID of the role in this cluster; NULL when it could not be adopted';
COMMENT ON COLUMN immuta.subscriber.made IS 'the role was made for the user, and goes with them';
CREATE INDEX user_account_postgres_role_idx ON immuta.user_account (postgres_role);

CREATE TABLE immuta.subscription (
    user_id bigint NOT NULL,
    data_source_id bigint NOT NULL,
    access text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    valid_until timestamptz,
    reason text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    decided_at timestamptz,
    decided_by text COLLATE "C",
    CONSTRAINT subscription_pkey PRIMARY KEY (user_id, data_source_id),
    CONSTRAINT subscription_access_check CHECK (access IN ('READ', 'WRITE')),
    CONSTRAINT subscription_state_check CHECK (state IN ('requested', 'approved', 'denied', 'expired'))
);
CREATE INDEX subscription_data_source_id_idx ON immuta.subscription (data_source_id);
CREATE INDEX subscription_valid_until_idx ON immuta.subscription (valid_until) WHERE state = 'approved' AND valid_until IS NOT NULL;
COMMENT ON TABLE immuta.subscription IS 'subscriptions of single users, apart from policies';

CREATE TABLE immuta.subscription_policy (
    id serial NOT NULL CONSTRAINT subscription_policy_pkey PRIMARY KEY,
    name text COLLATE "C" NOT NULL CONSTRAINT subscription_policy_name_key UNIQUE,
    tags text[] COLLATE "C",
    schemas name[],
    data_sources bigint[],
    groups text[] COLLATE "C",
    attributes jsonb,
    expression jsonpath,
    access text COLLATE "C" NOT NULL DEFAULT 'READ',
    combine text COLLATE "C" NOT NULL DEFAULT 'any',
    CONSTRAINT subscription_policy_name_check CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 255),
    CONSTRAINT subscription_policy_access_check CHECK (access IN ('READ', 'WRITE')),
    CONSTRAINT subscription_policy_combine_check CHECK (combine IN ('any', 'all'))
);
COMMENT ON TABLE immuta.subscription_policy IS 'who is subscribed to what without being named';
COMMENT ON COLUMN immuta.subscription_policy.combine IS 'any: one such policy is enough; all: each such policy is required';

CREATE TABLE immuta.access_class (
    id serial NOT NULL CONSTRAINT access_class_pkey PRIMARY KEY,
    required integer[] NOT NULL,
    shared integer[] NOT NULL,
    access text COLLATE "C" NOT NULL,
    role oid CONSTRAINT access_class_role_key UNIQUE,
    role_name name,
    masking_policy_id integer,
    CONSTRAINT access_class_key UNIQUE (required, shared, access)
);
COMMENT ON TABLE immuta.access_class IS 'combinations of policies that data sources have in common; the role of each holds the grants';
COMMENT ON COLUMN immuta.access_class.required IS 'policies all of which a member satisfies';
COMMENT ON COLUMN immuta.access_class.shared IS 'policies of which a member satisfies one, if there are any';
COMMENT ON COLUMN immuta.access_class.masking_policy_id IS 'among the required ones, the masking policy that excepts the members: they are granted what it masks, and nothing else';

CREATE TABLE immuta.row_policy (
    id serial NOT NULL CONSTRAINT row_policy_pkey PRIMARY KEY,
    data_source_id bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    expression text NOT NULL,
    CONSTRAINT row_policy_key UNIQUE (data_source_id, name),
    CONSTRAINT row_policy_name_check CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 255)
);
COMMENT ON TABLE immuta.row_policy IS 'rules for the rows of a data source';

-- What follows from the tables above, and what was made of it in this cluster. Not dumped: see immuta_internal.take_stock().
CREATE TABLE immuta.policy_member (
    policy_id integer NOT NULL,
    user_id bigint NOT NULL,
    CONSTRAINT policy_member_pkey PRIMARY KEY (user_id, policy_id)
);
CREATE INDEX policy_member_policy_id_idx ON immuta.policy_member (policy_id);
COMMENT ON TABLE immuta.policy_member IS 'which users satisfy which policies, or are excepted by them';

CREATE TABLE immuta.class_source (
    class_id integer NOT NULL,
    data_source_id bigint NOT NULL,
    CONSTRAINT class_source_pkey PRIMARY KEY (data_source_id, class_id)
);
CREATE INDEX class_source_class_id_idx ON immuta.class_source (class_id);
COMMENT ON TABLE immuta.class_source IS 'which data sources the members of an access class reach';

CREATE TABLE immuta.class_member (
    class_id integer NOT NULL,
    user_id bigint NOT NULL,
    role oid NOT NULL,
    CONSTRAINT class_member_pkey PRIMARY KEY (user_id, class_id)
);
CREATE INDEX class_member_class_id_idx ON immuta.class_member (class_id);
COMMENT ON TABLE immuta.class_member IS 'memberships in the roles of access classes that were granted';

CREATE TABLE immuta.grant_made (
    data_source_id bigint NOT NULL,
    grantee oid NOT NULL,
    kind "char" NOT NULL,
    object oid NOT NULL,
    attnum smallint NOT NULL,
    privilege text COLLATE "C" NOT NULL,
    grantor oid,
    CONSTRAINT grant_made_pkey PRIMARY KEY (data_source_id, grantee, kind, object, attnum, privilege)
);
CREATE INDEX grant_made_object_idx ON immuta.grant_made (object, grantee);
COMMENT ON TABLE immuta.grant_made IS 'the grants that data sources need: only these are ever revoked';
COMMENT ON COLUMN immuta.grant_made.kind IS 'r: relation; s: schema';
COMMENT ON COLUMN immuta.grant_made.grantor IS 'in whose name it was granted; NULL: somebody had granted it before, so it stays';

CREATE TABLE immuta.part (
    relation oid,
    data_source_id bigint NOT NULL,
    schema_name name NOT NULL,
    table_name name NOT NULL,
    CONSTRAINT part_key UNIQUE (relation, data_source_id)
);
COMMENT ON TABLE immuta.part IS 'partitions and children of data sources with row policies, or excluded or masked columns, also former ones';
COMMENT ON COLUMN immuta.part.relation IS 'OID of the relation in this database; NULL when it could not be adopted';

CREATE TABLE immuta.pending_sync (
    relation oid NOT NULL
);
COMMENT ON TABLE immuta.pending_sync IS 'relations whose DDL did not get the lock of the connection in time: the next change looks at them';

-- Projects: named sets of tables, and a role for each that reads them as far as all members may. A user whose current
-- project is set is impersonated as that role. Column numbers are known to src/pg/catalog/tables.rs: columns are only appended.

CREATE TABLE immuta.project (
    id serial NOT NULL,
    name text COLLATE "C" NOT NULL,
    postgres_role regrole NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT project_pkey PRIMARY KEY (id),
    CONSTRAINT project_name_key UNIQUE (name),
    CONSTRAINT project_role_key UNIQUE (postgres_role),
    CONSTRAINT project_name_check CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 255)
);
COMMENT ON TABLE immuta.project IS 'named sets of tables that their members read in the same way';
COMMENT ON COLUMN immuta.project.postgres_role IS 'the equalised role: has what all members have, on these tables only';

CREATE TABLE immuta.project_data_source (
    project_id integer NOT NULL,
    relation regclass NOT NULL,
    CONSTRAINT project_data_source_pkey PRIMARY KEY (project_id, relation)
);
COMMENT ON TABLE immuta.project_data_source IS 'the tables of each project';

CREATE TABLE immuta.project_member (
    project_id integer NOT NULL,
    user_id bigint NOT NULL,
    is_current boolean NOT NULL DEFAULT false,
    CONSTRAINT project_member_pkey PRIMARY KEY (project_id, user_id)
);
CREATE UNIQUE INDEX project_member_current_key ON immuta.project_member (user_id) WHERE is_current;
CREATE INDEX project_member_user_id_idx ON immuta.project_member (user_id);
COMMENT ON TABLE immuta.project_member IS 'the members of each project';
COMMENT ON COLUMN immuta.project_member.is_current IS 'the user is impersonated as the role of this project';

REVOKE ALL ON immuta.connection_state, immuta.system_account, immuta.registered_schema, immuta.data_source, immuta.user_profile,
    immuta.guarded_name, immuta.part, immuta.subscriber, immuta.subscription, immuta.subscription_policy,
    immuta.access_class, immuta.row_policy, immuta.policy_member, immuta.class_source, immuta.class_member, immuta.grant_made, immuta.pending_sync FROM PUBLIC;
REVOKE ALL ON SEQUENCE immuta.data_source_id_seq, immuta.subscription_policy_id_seq, immuta.access_class_id_seq,
    immuta.row_policy_id_seq FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('immuta.system_account', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.registered_schema', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.data_source', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.guarded_name', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.part', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.user_profile', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.subscriber', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.subscription', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.subscription_policy', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.access_class', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.row_policy', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.data_source_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.subscription_policy_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.access_class_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.row_policy_id_seq', '');

REVOKE ALL ON immuta.project, immuta.project_data_source, immuta.project_member FROM PUBLIC;
REVOKE ALL ON SEQUENCE immuta.project_id_seq FROM PUBLIC;
-- In a dump what was dropped is a number, which is something else elsewhere.
SELECT pg_catalog.pg_extension_config_dump(
    'immuta.project', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) postgres_role)');
SELECT pg_catalog.pg_extension_config_dump(
    'immuta.project_data_source', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) relation)');
SELECT pg_catalog.pg_extension_config_dump('immuta.project_member', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.project_id_seq', '');
