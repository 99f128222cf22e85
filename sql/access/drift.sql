-- Where the catalogs differ from what subscriptions and policies say. What drift() shows and sync() mends is read by the same
-- functions.

CREATE FUNCTION immuta_internal.revoked_by_hand() RETURNS SETOF immuta.grant_made
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    -- As grantor_of() finds them, for all at once: each list of an object is looked through once, not for each of its entries.
    WITH account AS MATERIALIZED (
        SELECT immuta_internal.account_role() AS role
    ), object AS MATERIALIZED (
        SELECT DISTINCT g.kind, g.object, g.attnum FROM immuta.grant_made g
    ), entry AS (
        SELECT e.grantee, o.kind, o.object, o.attnum, e.privilege
        FROM object o, account a, LATERAL immuta_internal.access_entries(o.kind, o.object, o.attnum) e
        WHERE pg_has_role(a.role, e.grantor, 'USAGE')
    ), lost AS MATERIALIZED (
        SELECT g.grantee, g.kind, g.object, g.attnum, g.privilege FROM immuta.grant_made g
        EXCEPT SELECT e.grantee, e.kind, e.object, e.attnum, e.privilege FROM entry e
    )
    SELECT g.* FROM immuta.grant_made g
    WHERE EXISTS (SELECT FROM lost l WHERE (l.grantee, l.kind, l.object, l.attnum, l.privilege) = (g.grantee, g.kind, g.object, g.attnum, g.privilege))
$$;
COMMENT ON FUNCTION immuta_internal.revoked_by_hand() IS 'grants that were made and are not there';

CREATE FUNCTION immuta_internal.lost_memberships() RETURNS SETOF immuta.class_member
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.* FROM immuta.class_member m JOIN immuta.access_class k ON k.id = m.class_id
    WHERE NOT EXISTS (SELECT FROM pg_auth_members c WHERE c.roleid = k.role AND c.member = m.role)
$$;
COMMENT ON FUNCTION immuta_internal.lost_memberships() IS 'memberships in access classes that were granted and are not there';

-- Row policies are for this role.
CREATE FUNCTION immuta_internal.unmarked_subscribers() RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.oid FROM immuta.subscriber b JOIN pg_roles r ON r.oid = b.role
    WHERE NOT pg_has_role(r.oid, 'immuta_subscriber', 'USAGE')
$$;
COMMENT ON FUNCTION immuta_internal.unmarked_subscribers() IS 'roles of users that are not members of immuta_subscriber';

CREATE FUNCTION immuta_internal.users_without_role() RETURNS TABLE (user_id bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    (SELECT w.user_id FROM immuta_internal.wanted_members(NULL, NULL) w
     UNION SELECT s.user_id FROM immuta.subscription s WHERE s.state = 'approved')
    EXCEPT SELECT b.user_id FROM immuta.subscriber b WHERE b.role IS NOT NULL
$$;
COMMENT ON FUNCTION immuta_internal.users_without_role() IS 'users with access by subscriptions or policies, and no role to carry it';

CREATE FUNCTION immuta_internal.row_policy_faults()
RETURNS TABLE (policy_id integer, relation oid, schema_name name, table_name name, name text, is_missing boolean, unsafe text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.id, d.relation, d.schema_name, d.table_name, p.name, f.is_missing, f.unsafe
    FROM immuta.row_policy p JOIN immuta.data_source d ON d.id = p.data_source_id,
         LATERAL (SELECT NOT immuta_internal.has_policy(d.relation, 'immuta_row_' || p.id) AS is_missing,
                         immuta_internal.function_without_path(d.relation, 'immuta_row_' || p.id) AS unsafe) f
    WHERE f.is_missing OR f.unsafe IS NOT NULL
$$;
COMMENT ON FUNCTION immuta_internal.row_policy_faults() IS 'row policies that are not there, or rest on the search_path of whoever reads the table';

CREATE FUNCTION immuta_internal.differences_of_grants() RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH managed AS MATERIALIZED (
        SELECT b.role FROM immuta.subscriber b WHERE b.role IS NOT NULL
        UNION SELECT k.role FROM immuta.access_class k WHERE k.role IS NOT NULL
    ), entry AS (
        SELECT d.relation, 0::smallint AS attnum, a.grantor, a.grantee, a.privilege_type AS privilege
        FROM immuta.data_source d JOIN pg_class c ON c.oid = d.relation, aclexplode(c.relacl) a
        UNION ALL
        SELECT d.relation, t.attnum, a.grantor, a.grantee, a.privilege_type
        FROM immuta.data_source d JOIN pg_attribute t ON t.attrelid = d.relation AND NOT t.attisdropped, aclexplode(t.attacl) a
    ), account AS MATERIALIZED (
        SELECT r.oid AS role FROM immuta_internal.account_role() a JOIN pg_roles r ON r.oid = a
    )
    SELECT 'not granted', immuta_internal.describe_grant(c.kind, c.object, c.attnum, c.privilege), 'to ' || c.grantee::regrole
    FROM immuta_internal.grant_changes(NULL, NULL) c WHERE c.phase > 1
    UNION
    SELECT 'revoked by hand', immuta_internal.describe_grant(g.kind, g.object, g.attnum, g.privilege), 'from ' || g.grantee::regrole
    FROM account, immuta_internal.revoked_by_hand() g
    UNION
    SELECT 'granted by hand', immuta_internal.describe_grant('r', e.relation, e.attnum, e.privilege),
           'to ' || e.grantee::regrole || ' by ' || e.grantor::regrole
    FROM entry e JOIN managed m ON m.role = e.grantee, account a
    WHERE NOT EXISTS (SELECT FROM immuta.grant_made g
                      WHERE (g.grantee, g.kind, g.object, g.attnum, g.privilege) = (e.grantee, 'r'::"char", e.relation, e.attnum, e.privilege)
                        AND g.grantor IS NOT NULL)
       OR NOT pg_has_role(a.role, e.grantor, 'USAGE')
$$;
COMMENT ON FUNCTION immuta_internal.differences_of_grants() IS 'the rows of drift() about privileges';

CREATE FUNCTION immuta_internal.differences_of_roles() RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'membership by hand', 'ROLE ' || m.roleid::regrole, 'of ' || m.member::regrole
    FROM pg_auth_members m JOIN immuta.access_class k ON k.role = m.roleid
    -- From 16 on whoever created a role has ADMIN on it, which alone gives nothing.
    WHERE coalesce((to_jsonb(m) ->> 'inherit_option')::boolean OR (to_jsonb(m) ->> 'set_option')::boolean,
                   m.member <> (SELECT immuta_internal.account_role()))
      AND NOT EXISTS (SELECT FROM immuta.class_member c WHERE c.class_id = k.id AND c.role = m.member)
    UNION
    SELECT 'membership missing', 'ROLE ' || k.role::regrole, 'of ' || m.role::regrole
    FROM immuta_internal.lost_memberships() m JOIN immuta.access_class k ON k.id = m.class_id
    UNION
    SELECT 'membership missing', 'ROLE immuta_subscriber', 'of ' || u::regrole FROM immuta_internal.unmarked_subscribers() u
    UNION
    SELECT 'user without a role', u.userid || ' (' || u.iamid || ')', coalesce(c.problem, 'not made yet')
    FROM (SELECT w.user_id FROM immuta_internal.wanted_members(NULL, NULL) w
          UNION SELECT s.user_id FROM immuta.subscription s WHERE s.state = 'approved') s
    JOIN immuta.user_account u ON u.id = s.user_id, LATERAL immuta_internal.carrier(u.id) c
    WHERE c.problem IS NOT NULL OR u.id IN (SELECT w.user_id FROM immuta_internal.users_without_role() w)
    UNION
    SELECT 'not revocable', 'ROLE ' || f.class_role::regrole,
           coalesce('of ' || f.member::regrole, 'the system account has no ADMIN on it')
    FROM immuta_internal.foreign_memberships() f
$$;
COMMENT ON FUNCTION immuta_internal.differences_of_roles() IS 'the rows of drift() about roles and memberships';

CREATE FUNCTION immuta_internal.differences_of_sources() RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE c.phase WHEN 3 THEN 'data source missing' ELSE 'data source changed' END,
           CASE c.phase WHEN 3 THEN quote_ident(c.schema_name) || '.' || quote_ident(c.table_name)
                        ELSE quote_ident(c.old_schema) || '.' || quote_ident(c.old_table) END,
           CASE c.phase WHEN 1 THEN 'it is gone' WHEN 3 THEN 'its schema is registered'
                        ELSE format('it is %I.%I now, or its columns changed', c.schema_name, c.table_name) END
    FROM immuta_internal.data_source_changes(NULL) c
    UNION
    SELECT 'not confirmed', format('%I.%I', d.schema_name, d.table_name),
           u.reason || CASE WHEN u.held THEN ': nobody is granted it' ELSE '' END
    FROM immuta_internal.unconfirmed(NULL) u JOIN immuta.data_source d ON d.id = u.id
    UNION
    SELECT CASE WHEN f.is_missing THEN 'row policy missing' ELSE 'row policy unsafe' END, format('%I.%I', f.schema_name, f.table_name),
           f.name || coalesce(': no search_path that ends with pg_temp is set for ' || f.unsafe, '')
    FROM immuta_internal.row_policy_faults() f
$$;
COMMENT ON FUNCTION immuta_internal.differences_of_sources() IS 'the rows of drift() about data sources and their row policies';

CREATE FUNCTION immuta_internal.differences_of_masks() RETURNS TABLE (what text, object text, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE c.what WHEN 'mask added' THEN 'mask missing' WHEN 'mask changed' THEN 'mask differs' ELSE 'mask not wanted' END,
           format('%I.%I.%I', c.schema_name, c.table_name, c.column_name), 'immuta.sync() puts it right'
    FROM immuta_internal.mask_changes(NULL) c
    UNION
    SELECT 'column refused', format('%I.%I.%I', w.schema_name, w.table_name, w.column_name), w.fault
    FROM immuta_internal.wanted_masks(NULL) w WHERE w.fault IS NOT NULL
    UNION
    SELECT 'unmasked by hand', h.object, h.detail FROM immuta_internal.unmasked_by_hand() h
$$;
COMMENT ON FUNCTION immuta_internal.differences_of_masks() IS 'the rows of drift() about masks';

CREATE FUNCTION immuta.drift() RETURNS TABLE (what text, object text, detail text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta_internal.is_home() THEN
        RETURN QUERY
        SELECT * FROM immuta_internal.differences_of_grants()
        UNION SELECT * FROM immuta_internal.differences_of_roles()
        UNION SELECT * FROM immuta_internal.differences_of_sources()
        UNION SELECT * FROM immuta_internal.differences_of_masks()
        UNION SELECT 'mask warning', r.relation::regclass || coalesce('.' || quote_ident(r.column_name), ''), r.words
              FROM immuta_internal.mask_remarks(NULL, NULL) r
        UNION SELECT * FROM immuta_internal.not_adopted()
        ORDER BY 1, 2, 3;
    ELSE
        RETURN QUERY SELECT * FROM immuta_internal.not_adopted();
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.drift() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drift() TO immuta_admin;
COMMENT ON FUNCTION immuta.drift() IS 'where the catalogs differ from what subscriptions and policies say; what was done by hand stays as it is';
