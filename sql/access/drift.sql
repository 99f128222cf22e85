-- Where the catalogs differ from what subscriptions and policies say.

-- The differences between what should be and what the catalogs say.
CREATE FUNCTION immuta.differences() RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH account AS MATERIALIZED (SELECT r.oid AS role FROM immuta.system_account a JOIN pg_roles r ON r.oid = a.role),
    wanted AS MATERIALIZED (SELECT * FROM immuta.wanted_grants(NULL, NULL)),
    managed AS MATERIALIZED (
        SELECT b.role FROM immuta.subscriber b WHERE b.role IS NOT NULL
        UNION SELECT k.role FROM immuta.access_class k WHERE k.role IS NOT NULL
    ), entry AS (
        SELECT d.relation, 0::smallint AS attnum, a.grantor, a.grantee, a.privilege_type AS privilege
        FROM immuta.data_source d JOIN pg_class c ON c.oid = d.relation, aclexplode(c.relacl) a
        UNION ALL
        SELECT d.relation, t.attnum, a.grantor, a.grantee, a.privilege_type
        FROM immuta.data_source d JOIN pg_attribute t ON t.attrelid = d.relation AND NOT t.attisdropped, aclexplode(t.attacl) a
    )
    SELECT 'not granted', immuta.describe_grant(w.kind, w.object, w.attnum, w.privilege), 'to ' || w.grantee::regrole
    FROM wanted w
    WHERE NOT EXISTS (SELECT FROM immuta.grant_made g
                      WHERE (g.data_source_id, g.grantee, g.kind, g.object, g.attnum, g.privilege)
                            = (w.data_source_id, w.grantee, w.kind, w.object, w.attnum, w.privilege))
    UNION
    SELECT 'revoked by hand', immuta.describe_grant(g.kind, g.object, g.attnum, g.privilege), 'from ' || g.grantee::regrole
    FROM immuta.grant_made g, account a
    WHERE immuta.grantor_of(a.role, g.grantee, g.kind, g.object, g.attnum, g.privilege) IS NULL
    UNION
    SELECT 'granted by hand', immuta.describe_grant('r', e.relation, e.attnum, e.privilege),
           'to ' || e.grantee::regrole || ' by ' || e.grantor::regrole
    FROM entry e JOIN managed m ON m.role = e.grantee, account a
    WHERE NOT EXISTS (SELECT FROM immuta.grant_made g
                      WHERE (g.grantee, g.kind, g.object, g.attnum, g.privilege) = (e.grantee, 'r'::"char", e.relation, e.attnum, e.privilege)
                        AND g.grantor IS NOT NULL)
       OR NOT pg_has_role(a.role, e.grantor, 'USAGE')
    UNION
    SELECT 'membership by hand', 'ROLE ' || m.roleid::regrole, 'of ' || m.member::regrole
    FROM pg_auth_members m JOIN immuta.access_class k ON k.role = m.roleid
    -- From 16 on whoever created a role has ADMIN on it, which alone gives nothing.
    WHERE coalesce((to_jsonb(m) ->> 'inherit_option')::boolean OR (to_jsonb(m) ->> 'set_option')::boolean,
                   m.member <> (SELECT a.role FROM account a))
      AND NOT EXISTS (SELECT FROM immuta.class_member c WHERE c.class_id = k.id AND c.role = m.member)
    UNION
    SELECT 'membership missing', 'ROLE ' || k.role::regrole, 'of ' || m.role::regrole
    FROM immuta.class_member m JOIN immuta.access_class k ON k.id = m.class_id
    WHERE NOT EXISTS (SELECT FROM pg_auth_members c WHERE c.roleid = k.role AND c.member = m.role)
    UNION
    -- Row policies are for this role.
    SELECT 'membership missing', 'ROLE immuta_subscriber', 'of ' || b.role::regrole
    FROM immuta.subscriber b JOIN pg_roles r ON r.oid = b.role WHERE NOT pg_has_role(b.role, 'immuta_subscriber', 'USAGE')
    UNION
    SELECT 'user without a role', u.userid || ' (' || u.iamid || ')', coalesce(c.problem, 'not made yet')
    FROM (SELECT w.user_id FROM immuta.wanted_members(NULL, NULL) w
          UNION SELECT s.user_id FROM immuta.subscription s WHERE s.state = 'approved') s
    JOIN immuta.user_account u ON u.id = s.user_id, LATERAL immuta.carrier(u.id) c
    WHERE c.problem IS NOT NULL OR NOT EXISTS (SELECT FROM immuta.subscriber b WHERE b.user_id = u.id AND b.role IS NOT NULL)
    UNION
    SELECT 'not revocable', 'ROLE ' || f.class_role::regrole,
           coalesce('of ' || f.member::regrole, 'the system account has no ADMIN on it')
    FROM immuta.foreign_memberships() f
    UNION
    SELECT 'data source changed', format('%I.%I', d.schema_name, d.table_name),
           CASE WHEN c.is_gone THEN 'it is gone' ELSE format('it is %I.%I now, or its columns changed', c.schema_name, c.table_name) END
    FROM immuta.changed_data_sources(NULL) c JOIN immuta.data_source d ON d.id = c.id
    UNION
    SELECT 'data source missing', format('%I.%I', r.schema_name, r.table_name), 'its schema is registered'
    FROM immuta.registered_relations(NULL) r WHERE NOT EXISTS (SELECT FROM immuta.data_source d WHERE d.relation = r.relation)
    UNION
    SELECT 'not confirmed', format('%I.%I', d.schema_name, d.table_name),
           u.reason || CASE WHEN u.held THEN ': nobody is granted it' ELSE '' END
    FROM immuta.unconfirmed(NULL) u JOIN immuta.data_source d ON d.id = u.id
    UNION
    SELECT 'row policy missing', format('%I.%I', d.schema_name, d.table_name), p.name
    FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id
    WHERE NOT immuta.has_policy(d.relation, 'immuta_row_' || p.id)
    UNION
    SELECT 'row policy unsafe', format('%I.%I', d.schema_name, d.table_name), p.name || ': no search_path is set for ' || f.fault
    FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id,
         LATERAL immuta.function_without_path(d.relation, 'immuta_row_' || p.id) f (fault)
    WHERE f.fault IS NOT NULL
    UNION
    SELECT * FROM immuta.not_adopted()
    ORDER BY 1, 2, 3
$$;
REVOKE ALL ON FUNCTION immuta.differences() FROM PUBLIC;
COMMENT ON FUNCTION immuta.differences() IS 'internal: the rows of drift(), where the stored OIDs hold';

CREATE FUNCTION immuta.drift() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_home() THEN
        RETURN QUERY SELECT * FROM immuta.differences();
    ELSE
        RETURN QUERY SELECT * FROM immuta.not_adopted();
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.drift() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drift() TO immuta_admin;
COMMENT ON FUNCTION immuta.drift() IS 'where the catalogs differ from what subscriptions and policies say; what was done by hand stays as it is';
