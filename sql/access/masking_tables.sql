-- Masking: which columns subscribers see masked, how, and who sees them as they are. A masked column is granted to nobody but
-- those whom its policy excepts; what everybody else's queries get in its place stands in immuta.masks, which the library reads.
-- The column numbers of immuta.masks and immuta.mask_parameters are known to src/pg/catalog/tables.rs. See docs/masking.md.

CREATE TABLE immuta.masking_policy (
    -- Among the members of policies and in access classes the two kinds of policies have one space of numbers.
    id integer NOT NULL DEFAULT pg_catalog.nextval('immuta.subscription_policy_id_seq') CONSTRAINT masking_policy_pkey PRIMARY KEY,
    name text COLLATE "C" NOT NULL CONSTRAINT masking_policy_name_key UNIQUE,
    method text COLLATE "C" NOT NULL,
    parameters jsonb NOT NULL,
    column_tags text[] COLLATE "C",
    except_groups text[] COLLATE "C",
    except_attributes jsonb,
    except_expression jsonpath,
    rows text,
    reference integer,
    CONSTRAINT masking_policy_name_check CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 255)
);
COMMENT ON TABLE immuta.masking_policy IS 'how columns are masked, and for whom they are not';
COMMENT ON COLUMN immuta.masking_policy.rows IS 'an expression: only where it is not false the value is masked';
COMMENT ON COLUMN immuta.masking_policy.reference IS 'what the mask needs and nobody may see: its row in immuta.mask_parameters';

-- Expressions name a row of it by a value that users cannot make: see immuta.mask_ref. What a row says never changes: another
-- one takes its place, so that no plan goes on with the former.
CREATE TABLE immuta.mask_parameters (
    id serial NOT NULL CONSTRAINT mask_parameters_pkey PRIMARY KEY,
    salt bytea,
    pattern text,
    replacement text,
    flags text,
    group_name text COLLATE "C"
);
COMMENT ON TABLE immuta.mask_parameters IS 'secrets of masks: salts, patterns';
COMMENT ON COLUMN immuta.mask_parameters.group_name IS 'policies that name this group share the salt: their hashes can be joined';

CREATE TABLE immuta.named_column (
    data_source_id bigint NOT NULL,
    column_name name NOT NULL,
    column_number smallint,
    tags text[] COLLATE "C" NOT NULL DEFAULT '{}',
    policies integer[] NOT NULL DEFAULT '{}',
    CONSTRAINT named_column_pkey PRIMARY KEY (data_source_id, column_name)
);
COMMENT ON TABLE immuta.named_column IS 'columns of data sources that have tags or are named by masking policies, by all the names they had: also those that come later';
COMMENT ON COLUMN immuta.named_column.column_number IS 'its number now, by which it is known when it is renamed; NULL: there is no such column';

CREATE TABLE immuta.masks (
    table_oid oid NOT NULL,
    column_number smallint NOT NULL,
    mask text,
    policy_id integer,
    schema_name name NOT NULL,
    table_name name NOT NULL,
    column_name name NOT NULL,
    CONSTRAINT masks_pkey PRIMARY KEY (table_oid, column_number)
);
COMMENT ON TABLE immuta.masks IS 'what subscribers get in the place of columns that they may not read; made from the policies by immuta_internal.settle_masks()';
COMMENT ON COLUMN immuta.masks.mask IS 'an expression over the table, of the type of the column; NULL: it is computed from masked columns; empty: it is refused';
COMMENT ON COLUMN immuta.masks.policy_id IS 'whom it excepts may read the column; NULL: nobody';

REVOKE ALL ON immuta.masking_policy, immuta.mask_parameters, immuta.named_column, immuta.masks FROM PUBLIC;
REVOKE ALL ON SEQUENCE immuta.mask_parameters_id_seq FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('immuta.masking_policy', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.mask_parameters', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.mask_parameters_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.named_column', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.masks', '');
