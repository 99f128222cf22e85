-- Masks, and what of them nobody may see. Column numbers are known to src/pg/catalog/tables.rs.

CREATE TABLE immuta.masks (
    table_oid oid NOT NULL,
    column_number smallint NOT NULL,
    mask text NOT NULL,
    CONSTRAINT masks_pkey PRIMARY KEY (table_oid, column_number)
);
COMMENT ON TABLE immuta.masks IS 'what subscribers see of a column on which they have no SELECT';
COMMENT ON COLUMN immuta.masks.mask IS 'an expression over the columns of the table, as immuta_internal.check_mask() writes it';

CREATE TABLE immuta.mask_parameters (
    id integer NOT NULL CONSTRAINT mask_parameters_pkey PRIMARY KEY,
    salt bytea,
    pattern text,
    replacement text,
    flags text
);
COMMENT ON TABLE immuta.mask_parameters IS 'what masks name by a mask_ref only: a plan can be seen';

REVOKE ALL ON immuta.masks, immuta.mask_parameters FROM PUBLIC;
