-- From a policy and a column to the mask: an expression over the table. Nothing here runs what it makes;
-- immuta_internal.check_mask() looks at it.

CREATE FUNCTION immuta_internal.base_type(INOUT type oid, INOUT typmod integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE down AS (
        SELECT base_type.type AS oid, base_type.typmod, 0 AS depth
        UNION ALL
        SELECT t.typbasetype, t.typtypmod, d.depth + 1 FROM down d JOIN pg_type t ON t.oid = d.oid AND t.typtype = 'd'
    )
    SELECT d.oid, d.typmod FROM down d ORDER BY d.depth DESC LIMIT 1
$$;
COMMENT ON FUNCTION immuta_internal.base_type(oid, integer) IS 'what a type is behind domains';

CREATE FUNCTION immuta_internal.has_constraints(type oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE down AS (
        SELECT has_constraints.type AS oid
        UNION ALL
        SELECT t.typbasetype FROM down d JOIN pg_type t ON t.oid = d.oid AND t.typtype = 'd'
    )
    SELECT EXISTS (SELECT FROM down d JOIN pg_constraint c ON c.contypid = d.oid)
        OR EXISTS (SELECT FROM down d JOIN pg_type t ON t.oid = d.oid AND t.typtype = 'd' AND t.typnotnull)
$$;
COMMENT ON FUNCTION immuta_internal.has_constraints(oid) IS 'whether a type is a domain that not every value of its base type fits';

-- What each method takes: the names of its parameters, those that must be there, and the types of columns.
CREATE FUNCTION immuta_internal.masking_methods()
RETURNS TABLE (method text, parameters text[], required text[], types regtype[], example text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    VALUES
        ('null', '{}'::text[], '{}'::text[], NULL::regtype[], '{}'),
        ('constant', '{value}', '{value}', NULL, '{"value": "hidden"}'),
        ('hash', '{group}', '{}', '{text,varchar,bpchar,uuid,bytea,int2,int4,int8}', '{"group": "customers"}'),
        ('partial', '{prefix,suffix,fill}', '{}', '{text,varchar,bpchar}', '{"suffix": 4}'),
        ('regex', '{pattern,replacement,flags,unmatched}', '{pattern}', '{text,varchar,bpchar}',
         '{"pattern": "@.*$", "replacement": "@..."}'),
        ('round', '{to,unit}', '{}', '{int2,int4,int8,numeric,float4,float8,date,timestamp,timestamptz}', '{"to": 1000}'),
        ('expression', '{expression}', '{expression}', NULL, '{"expression": "left({column}, 1)", "never_fails": true}')
$$;
COMMENT ON FUNCTION immuta_internal.masking_methods() IS 'the methods, what they take and which types of columns they are for';

CREATE FUNCTION immuta_internal.require_parameter(fits boolean, words text, example text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF fits IS NOT TRUE THEN
        RAISE EXCEPTION '%', words USING ERRCODE = 'invalid_parameter_value', HINT = 'For example ' || example || '.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.require_parameter(boolean, text, text) IS '22023 unless it fits';

-- What can be said without a column.
CREATE FUNCTION immuta_internal.check_parameters(method text, parameters jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
    wrong text;
    p jsonb := parameters;
BEGIN
    SELECT * INTO known FROM immuta_internal.masking_methods() m WHERE m.method = check_parameters.method;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no masking method "%"', left(method, 63) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Methods are ' || (SELECT string_agg(m.method, ', ') FROM immuta_internal.masking_methods() m) || '.';
    END IF;
    PERFORM immuta_internal.require_parameter(jsonb_typeof(p) = 'object' AND octet_length(p::text) <= 100000,
        'the parameters of a mask must be an object of up to 100000 bytes', known.example);
    SELECT k INTO wrong FROM jsonb_object_keys(p) k WHERE k <> ALL (known.parameters || '{never_fails}') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the masking method "%" has no parameter "%"', method, left(wrong, 63) USING ERRCODE = 'invalid_parameter_value',
            HINT = CASE known.parameters WHEN '{}' THEN 'It takes none.' ELSE 'It takes ' || array_to_string(known.parameters, ', ') || '.' END;
    END IF;
    SELECT r INTO wrong FROM unnest(known.required) r WHERE coalesce(p -> r, 'null') = 'null';
    PERFORM immuta_internal.require_parameter(NOT FOUND, format('the masking method "%s" needs the parameter "%s"', method, wrong), known.example);
    PERFORM immuta_internal.require_parameter(
        NOT EXISTS (SELECT FROM jsonb_each(p) e WHERE e.key = ANY ('{group,fill,pattern,replacement,flags,unmatched,unit,expression}')
                    AND jsonb_typeof(e.value) <> 'string'), 'this parameter of a mask must be a text', known.example);
    PERFORM immuta_internal.require_parameter(coalesce(jsonb_typeof(p -> 'never_fails'), 'boolean') = 'boolean',
        '"never_fails" must be true or false', known.example);
    CASE method
    WHEN 'hash' THEN
        PERFORM immuta_internal.require_parameter(octet_length(coalesce(p ->> 'group', 'x')) BETWEEN 1 AND 255,
            'a group of hashes must have 1 to 255 bytes', known.example);
    WHEN 'partial' THEN
        PERFORM immuta_internal.require_parameter(
            coalesce(p ->> 'prefix', '0') ~ '^[0-9]{1,4}$' AND coalesce(p ->> 'suffix', '0') ~ '^[0-9]{1,4}$'
            AND char_length(coalesce(p ->> 'fill', '*')) = 1,
            'prefix and suffix must be numbers of characters, and fill one character', known.example);
    WHEN 'regex' THEN
        PERFORM immuta_internal.require_parameter(
            coalesce(p ->> 'flags', '') ~ '^[gimnpqswx]*$' AND coalesce(p ->> 'unmatched', 'null') IN ('null', 'show'),
            'flags must be some of gimnpqswx, and unmatched null or show', known.example);
        PERFORM immuta_internal.check_pattern(p ->> 'pattern', coalesce(p ->> 'replacement', ''), coalesce(p ->> 'flags', ''));
    WHEN 'round' THEN
        PERFORM immuta_internal.require_parameter((p ? 'to') <> (p ? 'unit'), 'rounding takes either "to" or "unit"', known.example);
        IF p ? 'to' THEN
            PERFORM immuta_internal.require_parameter(
                jsonb_typeof(p -> 'to') = 'number' AND (p ->> 'to')::numeric BETWEEN 0.000001 AND 1000000000000000
                AND scale((p ->> 'to')::numeric) <= 6, '"to" must be a number from 0.000001 to 1e15', known.example);
        ELSE
            PERFORM immuta_internal.require_parameter(
                p ->> 'unit' = ANY ('{minute,hour,day,week,month,quarter,year,decade,century}'),
                '"unit" must be minute, hour, day, week, month, quarter, year, decade or century', '{"unit": "month"}');
        END IF;
    WHEN 'constant', 'null', 'expression' THEN
        NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION immuta_internal.check_parameters(text, jsonb) IS '22023 for parameters that a method does not take';

CREATE FUNCTION immuta_internal.check_pattern(pattern text, replacement text, flags text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM regexp_replace('', pattern, replacement, flags);
EXCEPTION WHEN invalid_regular_expression OR invalid_parameter_value THEN
    RAISE EXCEPTION 'the pattern of a mask is not valid: %', SQLERRM
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Try it with regexp_replace(text, pattern, replacement, flags).';
END
$$;
COMMENT ON FUNCTION immuta_internal.check_pattern(text, text, text) IS '22023 for a pattern that is not one';

-- The salt has 244 bits of PostgreSQL's strong random source.
CREATE FUNCTION immuta_internal.keep_parameters(policy_id integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy immuta.masking_policy;
    kept integer;
BEGIN
    SELECT * INTO policy FROM immuta.masking_policy p WHERE p.id = policy_id;
    CASE policy.method
    WHEN 'hash' THEN
        SELECT m.id INTO kept FROM immuta.mask_parameters m
        WHERE m.salt IS NOT NULL AND CASE WHEN policy.parameters ? 'group' THEN m.group_name = policy.parameters ->> 'group'
                                          ELSE m.group_name IS NULL AND m.id = policy.reference END;
        IF kept IS NULL THEN
            INSERT INTO immuta.mask_parameters AS m (salt, group_name)
            VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), policy.parameters ->> 'group') RETURNING m.id INTO kept;
        END IF;
    WHEN 'regex' THEN
        SELECT m.id INTO kept FROM immuta.mask_parameters m
        WHERE m.id = policy.reference AND (m.pattern, m.replacement, m.flags)
              = (policy.parameters ->> 'pattern', coalesce(policy.parameters ->> 'replacement', ''), coalesce(policy.parameters ->> 'flags', ''));
        IF kept IS NULL THEN
            INSERT INTO immuta.mask_parameters AS m (pattern, replacement, flags)
            VALUES (policy.parameters ->> 'pattern', coalesce(policy.parameters ->> 'replacement', ''), coalesce(policy.parameters ->> 'flags', ''))
            RETURNING m.id INTO kept;
        END IF;
    ELSE
        NULL;
    END CASE;
    UPDATE immuta.masking_policy p SET reference = kept WHERE p.id = policy_id;
    PERFORM immuta_internal.forget_parameters();
END
$$;
COMMENT ON FUNCTION immuta_internal.keep_parameters(integer) IS 'gives a policy the row that keeps what its masks need and nobody may see';

CREATE FUNCTION immuta_internal.forget_parameters() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM immuta.mask_parameters m WHERE NOT EXISTS (SELECT FROM immuta.masking_policy p WHERE p.reference = m.id)
$$;
COMMENT ON FUNCTION immuta_internal.forget_parameters() IS 'what no policy needs is not kept';

-- Of a value that is not longer than what would be shown, nothing is.
CREATE FUNCTION immuta_internal.partial_mask(col text, parameters jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('CASE WHEN length(%1$s) > %4$s THEN left(%1$s, %2$s) || repeat(%5$L, length(%1$s) - %4$s) || right(%1$s, %3$s) '
                  'ELSE repeat(%5$L, length(%1$s)) END', col, p.prefix, p.suffix, p.prefix + p.suffix, p.fill)
    FROM (SELECT coalesce(parameters ->> 'prefix', '0')::integer AS prefix, coalesce(parameters ->> 'suffix', '0')::integer AS suffix,
                 coalesce(parameters ->> 'fill', '*') AS fill) p
$$;
COMMENT ON FUNCTION immuta_internal.partial_mask(text, jsonb) IS 'the expression of the method partial';

CREATE FUNCTION immuta_internal.hash_mask(col text, type oid, reference integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE type::regtype::text
        WHEN 'uuid' THEN format('left(%s, 32)::uuid', h.text)
        WHEN 'bytea' THEN format('decode(%s, ''hex'')', h.text)
        WHEN 'smallint' THEN format('((''x'' || left(%s, 4))::bit(16)::integer & 32767)::smallint', h.text)
        WHEN 'integer' THEN format('(''x'' || left(%s, 8))::bit(32)::integer & 2147483647', h.text)
        WHEN 'bigint' THEN format('(''x'' || left(%s, 16))::bit(64)::bigint & 9223372036854775807', h.text)
        ELSE h.text END
    FROM (SELECT format('immuta.mask_hash(%s, immuta_internal.mask_ref(%s))',
                        CASE type::regtype::text WHEN 'bytea' THEN format('encode(%s, ''hex'')', col) ELSE col || '::text' END,
                        reference) AS text) h
$$;
COMMENT ON FUNCTION immuta_internal.hash_mask(text, oid, integer) IS 'the expression of the method hash';

-- Towards zero, or the beginning of the unit. What is out of the range in which that cannot fail gives NULL. Days are those
-- of UTC: in the reader's own zone they would tell the time of day to whoever moves it, and so would zones by name, which
-- from PostgreSQL 18 on can be that of the reader.
CREATE FUNCTION immuta_internal.round_mask(col text, type oid, parameters jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named text := type::regtype::text;
    unit text := quote_literal(parameters ->> 'unit');
    step text := parameters ->> 'to';
    largest numeric := CASE named WHEN 'smallint' THEN 32767 WHEN 'integer' THEN 2147483647 WHEN 'bigint' THEN 9223372036854775807 END;
BEGIN
    IF (unit IS NULL) <> (named IN ('smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision')) THEN
        RAISE EXCEPTION 'a column of type % is rounded %', named, CASE WHEN unit IS NULL THEN 'by "unit"' ELSE 'by "to"' END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'For example ' || CASE WHEN unit IS NULL THEN '{"unit": "month"}' ELSE '{"to": 1000}' END || '.';
    ELSIF largest IS NOT NULL AND (step::numeric <> trunc(step::numeric) OR step::numeric > largest) THEN
        RAISE EXCEPTION '"to" does not fit a column of type %', named USING ERRCODE = 'invalid_parameter_value',
            HINT = format('It must be a whole number from 1 to %s.', largest);
    ELSIF unit IN ('''minute''', '''hour''') AND named = 'date' THEN
        RAISE EXCEPTION 'a date has no hours or minutes' USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"unit": "month"}.';
    END IF;
    RETURN CASE named
        WHEN 'numeric' THEN format('%1$s - mod(%1$s, %2$s::numeric)', col, step)
        WHEN 'real' THEN format('CASE WHEN abs(%1$s) < 1e37::real THEN (%1$s::numeric - mod(%1$s::numeric, %2$s::numeric))::real END', col, step)
        WHEN 'double precision' THEN
            format('CASE WHEN abs(%1$s) < 1e300::double precision '
                   'THEN (%1$s::numeric - mod(%1$s::numeric, %2$s::numeric))::double precision END', col, step)
        WHEN 'date' THEN
            format('CASE WHEN %1$s >= make_date(-4000, 1, 1) AND %1$s < make_date(200000, 1, 1) '
                   'THEN date_trunc(%2$s, %1$s::timestamp)::date END', col, unit)
        WHEN 'timestamp without time zone' THEN
            format('CASE WHEN %1$s >= make_timestamp(-4000, 1, 1, 0, 0, 0) AND %1$s < make_timestamp(200000, 1, 1, 0, 0, 0) '
                   'THEN date_trunc(%2$s, %1$s) END', col, unit)
        WHEN 'timestamp with time zone' THEN
            format('CASE WHEN %1$s >= to_timestamp(-188000000000) AND %1$s < to_timestamp(6000000000000) '
                   'THEN date_trunc(%2$s, %1$s AT TIME ZONE INTERVAL ''0'') AT TIME ZONE INTERVAL ''0'' END', col, unit)
        ELSE format('%1$s - %1$s %% %2$s::%3$s', col, step, named) END;
END
$$;
COMMENT ON FUNCTION immuta_internal.round_mask(text, oid, jsonb) IS 'the expression of the method round';

CREATE FUNCTION immuta_internal.require_method_fits(policy immuta.masking_policy, column_type oid, base_type oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    types regtype[] := (SELECT m.types FROM immuta_internal.masking_methods() m WHERE m.method = policy.method);
BEGIN
    IF base_type <> ALL (types) THEN
        RAISE EXCEPTION 'the masking method "%" is not for columns of type %', policy.method, format_type(column_type, NULL)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('It is for %s. The methods null, constant and expression are for every type.', array_to_string(types, ', '));
    ELSIF immuta_internal.has_constraints(column_type) AND (policy.method NOT IN ('null', 'constant') OR policy.rows IS NOT NULL) THEN
        RAISE EXCEPTION 'this mask could give values that the domain % does not allow', format_type(column_type, NULL)
            USING ERRCODE = 'feature_not_supported', HINT = 'Use the method null or constant, without rows.';
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.require_method_fits(immuta.masking_policy, oid, oid) IS 'refuses a method that is not for a type of columns';

-- The line ends keep a comment from hiding what follows.
CREATE FUNCTION immuta_internal.mask_expression(policy immuta.masking_policy, col name, column_type oid, column_typmod integer) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on
AS $$
DECLARE
    base record;
    ident text := quote_ident(col);
    length_limit integer;
    mask text;
BEGIN
    SELECT * INTO base FROM immuta_internal.base_type(column_type, column_typmod);
    PERFORM immuta_internal.require_method_fits(policy, column_type, base.type);
    IF base.type IN ('varchar'::regtype, 'bpchar'::regtype) AND base.typmod > 4 THEN
        length_limit := base.typmod - 4;
    END IF;
    CASE policy.method
    WHEN 'null' THEN
        mask := 'NULL';
    WHEN 'constant' THEN
        IF char_length(policy.parameters ->> 'value') > length_limit THEN
            RAISE EXCEPTION 'the constant is too long for type %', format_type(column_type, column_typmod)
                USING ERRCODE = 'string_data_right_truncation', HINT = format('It has up to %s characters.', length_limit);
        END IF;
        mask := quote_literal(policy.parameters ->> 'value');
        length_limit := NULL;
    WHEN 'hash' THEN
        mask := immuta_internal.hash_mask(ident, base.type, policy.reference);
    WHEN 'partial' THEN
        mask := immuta_internal.partial_mask(ident || '::text', policy.parameters);
    WHEN 'regex' THEN
        mask := format('immuta.mask_regex(%s::text, immuta_internal.mask_ref(%s))', ident, policy.reference);
        IF coalesce(policy.parameters ->> 'unmatched', 'null') = 'null' THEN
            mask := format('nullif(%s, %s::text)', mask, ident);
        END IF;
    WHEN 'round' THEN
        mask := immuta_internal.round_mask(ident, base.type, policy.parameters);
    WHEN 'expression' THEN
        mask := replace(policy.parameters ->> 'expression', '{column}', ident);
        length_limit := NULL;
    END CASE;
    IF length_limit IS NOT NULL AND policy.method <> 'null' THEN
        mask := format('left(%s, %s)', mask, length_limit);
    END IF;
    IF policy.rows IS NOT NULL THEN
        mask := format(E'CASE WHEN (%s\n) IS FALSE THEN %s ELSE %s END', replace(policy.rows, '{column}', ident), ident,
                       CASE policy.method WHEN 'expression' THEN E'(' || mask || E'\n)' ELSE mask END);
    END IF;
    RETURN mask;
END
$$;
COMMENT ON FUNCTION immuta_internal.mask_expression(immuta.masking_policy, name, oid, integer) IS 'what a policy puts in the place of a column; refuses what does not fit its type';
