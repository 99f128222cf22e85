-- Why a user has access to a data source, or does not.

-- Whether the mask applies is what the role may do, however it came to it.
CREATE FUNCTION immuta_internal.why_masked(user_id bigint, source_id bigint, role oid)
RETURNS TABLE (source text, name text, applies boolean, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'masking policy', p.name, NOT coalesce(has_column_privilege(role, m.relation, m.column_number, 'SELECT'), false),
           quote_ident(m.column_name) || ': ' || CASE
               WHEN k.mask = '' THEN 'refused, as it has no mask: see immuta.masked_columns'
               WHEN e.user_id IS NOT NULL THEN 'the user is excepted'
               WHEN m.is_computed THEN 'computed from masks' ELSE p.method END
           || CASE WHEN e.user_id IS NULL AND has_column_privilege(role, m.relation, m.column_number, 'SELECT')
                   THEN ', but the role may read it: see immuta.drift()' ELSE '' END
    FROM immuta_internal.masked_columns(ARRAY[source_id]) m
    JOIN immuta.masks k ON (k.table_oid, k.column_number) = (m.relation, m.column_number)
    LEFT JOIN immuta.masking_policy p ON p.id = k.policy_id
    LEFT JOIN immuta.policy_member e ON e.policy_id = k.policy_id AND e.user_id = why_masked.user_id
    ORDER BY m.column_number
$$;
COMMENT ON FUNCTION immuta_internal.why_masked(bigint, bigint, oid) IS 'the rows of why() about masks';

CREATE FUNCTION immuta.why(userid text, data_source regclass, iamid text = 'bim')
RETURNS TABLE (source text, name text, applies boolean, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked_user bigint := immuta_internal.user_id(why.userid, why.iamid);
    source_id bigint := immuta_internal.data_source_id(why.data_source);
    carried_by record;
    relation_kind "char" := (SELECT c.relkind FROM pg_class c WHERE c.oid = why.data_source);
BEGIN
    RETURN QUERY
    SELECT 'subscription', NULL::text, s.state = 'approved' AND (s.valid_until IS NULL OR s.valid_until > now()),
           s.access || ', ' || s.state || coalesce(' until ' || s.valid_until, '') || coalesce(': ' || s.reason, '')
    FROM immuta.subscription s WHERE s.user_id = asked_user AND s.data_source_id = source_id;
    RETURN QUERY
    WITH satisfied AS MATERIALIZED (SELECT * FROM immuta_internal.satisfied_policies(NULL, ARRAY[asked_user])),
    applying AS (
        SELECT a.*, p.name, EXISTS (SELECT FROM satisfied s WHERE s.policy_id = a.policy_id) AS ok
        FROM immuta_internal.applying_policies(ARRAY[source_id]) a JOIN immuta.subscription_policy p ON p.id = a.policy_id
    )
    SELECT 'policy', a.name,
           a.ok AND NOT EXISTS (SELECT FROM applying o WHERE o.combine = 'all' AND NOT o.ok)
           AND (NOT EXISTS (SELECT FROM applying o WHERE o.combine = 'any') OR EXISTS (SELECT FROM applying o WHERE o.combine = 'any' AND o.ok)),
           a.access || CASE a.combine WHEN 'all' THEN ', required of everybody' ELSE '' END
           || CASE WHEN a.ok THEN ': the user satisfies it' ELSE ': the user does not satisfy it' END
           || CASE WHEN a.ok AND EXISTS (SELECT FROM applying o WHERE o.combine = 'all' AND NOT o.ok)
                   THEN ', but not every policy that is required' ELSE '' END
           || CASE WHEN a.ok AND a.combine = 'all' AND EXISTS (SELECT FROM applying o WHERE o.combine = 'any')
                        AND NOT EXISTS (SELECT FROM applying o WHERE o.combine = 'any' AND o.ok)
                   THEN ', but none of the others' ELSE '' END
    FROM applying a ORDER BY a.combine, a.name;
    RETURN QUERY
    SELECT 'data source', NULL::text, false, 'not confirmed: ' || u.reason
    FROM immuta_internal.unconfirmed(ARRAY[why.data_source::oid]) u WHERE u.held;
    SELECT b.role, c.problem INTO carried_by
    FROM immuta_internal.carrier(asked_user) c LEFT JOIN immuta.subscriber b ON b.user_id = asked_user;
    RETURN QUERY
    SELECT 'role', r.rolname::text, carried_by.problem IS NULL AND r.oid IS NOT NULL,
           coalesce(carried_by.problem, CASE WHEN r.oid IS NULL THEN 'none yet' ELSE 'carries the subscriptions of this user' END)
    FROM (SELECT) one LEFT JOIN pg_roles r ON r.oid = carried_by.role;
    RETURN QUERY
    SELECT 'access', k.privilege,
           CASE WHEN k.privilege IN ('DELETE', 'TRUNCATE') THEN has_table_privilege(carried_by.role, why.data_source, k.privilege)
                ELSE has_any_column_privilege(carried_by.role, why.data_source, k.privilege) END
           AND has_schema_privilege(carried_by.role, (SELECT c.relnamespace FROM pg_class c WHERE c.oid = why.data_source), 'USAGE'),
           'what the role may do, however it came to it'
    FROM immuta_internal.privileges_of_kind(relation_kind) k WHERE EXISTS (SELECT FROM pg_roles r WHERE r.oid = carried_by.role);
    RETURN QUERY
    SELECT * FROM immuta_internal.why_masked(asked_user, source_id, carried_by.role);
    RETURN QUERY
    SELECT 'row policy', p.name, true, p.expression FROM immuta.row_policy p WHERE p.data_source_id = source_id ORDER BY p.name;
END
$$;
REVOKE ALL ON FUNCTION immuta.why(text, regclass, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.why(text, regclass, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.why(text, regclass, text) IS 'why a user has access to a data source, or does not: each subscription, policy and privilege';
