-- What the library does with masks. A mask names its parameters by a value of a type of which nobody can make one: it has no
-- text and no binary form. Only the library makes one, where a mask is read in.

CREATE TYPE immuta.mask_ref;

CREATE FUNCTION immuta_internal.mask_ref_in(text cstring) RETURNS immuta.mask_ref
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'immuta_mask_ref_in_wrapper';
COMMENT ON FUNCTION immuta_internal.mask_ref_in(cstring) IS 'internal: refuses';

CREATE FUNCTION immuta_internal.mask_ref_out(reference immuta.mask_ref) RETURNS cstring
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'immuta_mask_ref_out_wrapper';
COMMENT ON FUNCTION immuta_internal.mask_ref_out(immuta.mask_ref) IS 'internal: for plans that are shown';

CREATE TYPE immuta.mask_ref (
    INPUT = immuta_internal.mask_ref_in, OUTPUT = immuta_internal.mask_ref_out, INTERNALLENGTH = 4, PASSEDBYVALUE, ALIGNMENT = int4
);
COMMENT ON TYPE immuta.mask_ref IS 'internal: parameters of a mask, which only a mask can name';

CREATE FUNCTION immuta_internal.mask_ref(id integer) RETURNS immuta.mask_ref
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'immuta_mask_ref_wrapper';
COMMENT ON FUNCTION immuta_internal.mask_ref(integer) IS 'internal: how a mask writes a mask_ref. Refuses to run';

CREATE FUNCTION immuta.mask_hash(value text, reference immuta.mask_ref) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'immuta_mask_hash_wrapper';
COMMENT ON FUNCTION immuta.mask_hash(text, immuta.mask_ref) IS 'internal: HMAC-SHA-256 in hexadecimal digits; masks call it';

CREATE FUNCTION immuta.mask_regex(value text, reference immuta.mask_ref) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'immuta_mask_regex_wrapper';
COMMENT ON FUNCTION immuta.mask_regex(text, immuta.mask_ref) IS 'internal: regexp_replace() with parameters that nobody sees; masks call it';

CREATE FUNCTION immuta_internal.check_mask(table_oid oid, column_number smallint, expression text) RETURNS text
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_check_mask_wrapper';
COMMENT ON FUNCTION immuta_internal.check_mask(oid, smallint, text) IS 'the mask in the form in which it is stored; an error if it may not be one';

CREATE FUNCTION immuta_internal.mask_may_fail(table_oid oid, column_number smallint, expression text) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_mask_may_fail_wrapper';
COMMENT ON FUNCTION immuta_internal.mask_may_fail(oid, smallint, text) IS 'whether an expression passes a column to a function that is not LEAKPROOF';

CREATE FUNCTION immuta_internal.masks_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'immuta_masks_changed_wrapper';
COMMENT ON FUNCTION immuta_internal.masks_changed() IS 'trigger: plans of the tables are made anew, in all sessions';

CREATE TRIGGER masks_changed AFTER INSERT OR UPDATE OR DELETE ON immuta.masks
    FOR EACH ROW EXECUTE FUNCTION immuta_internal.masks_changed();
CREATE TRIGGER masks_changed AFTER INSERT OR UPDATE OR DELETE ON immuta.mask_parameters
    FOR EACH ROW EXECUTE FUNCTION immuta_internal.masks_changed();

-- Users' plans call them; without a mask_ref they answer nothing.
GRANT EXECUTE ON FUNCTION immuta.mask_hash(text, immuta.mask_ref), immuta.mask_regex(text, immuta.mask_ref) TO PUBLIC;
