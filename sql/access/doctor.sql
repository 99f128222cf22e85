-- What doctor() says of subscriptions and projects.

CREATE FUNCTION immuta_internal.doctor_of_place() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'all that was brought here is adopted', count(*) = 0, CASE count(*) WHEN 0 THEN 'in step'
           ELSE string_agg(n.object || ': ' || n.detail, '; ' ORDER BY n.object) END
    FROM immuta_internal.not_adopted() n
    UNION ALL
    SELECT 'stored names of roles are theirs', count(*) = 0, CASE count(*) WHEN 0 THEN 'all of them'
           ELSE 'Run immuta.sync() before a dump or an upgrade: roles were renamed: ' || string_agg(DISTINCT r.rolname, ', ') END
    FROM (SELECT a.role, a.role_name FROM immuta.system_account a
          UNION ALL SELECT b.role, b.role_name FROM immuta.subscriber b
          UNION ALL SELECT k.role, k.role_name FROM immuta.access_class k
          UNION ALL SELECT u.postgres_role, u.postgres_role_name FROM immuta.user_account u WHERE u.mapping = 'explicit') s
    JOIN pg_roles r ON r.oid = s.role
    WHERE r.rolname <> s.role_name AND immuta_internal.is_home()
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_place() IS 'the part of doctor() that concerns another cluster or database';

CREATE FUNCTION immuta_internal.doctor_of_connection() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'system account', r.oid IS NOT NULL AND r.rolcreaterole AND NOT r.rolsuper,
           CASE WHEN r.oid IS NULL THEN 'role "' || a.role_name || '" does not exist: set another one with immuta.set_system_account()'
                WHEN r.rolsuper THEN 'it must not be a superuser' WHEN NOT r.rolcreaterole THEN 'it needs CREATEROLE'
                ELSE r.rolname END
    FROM immuta.system_account a LEFT JOIN pg_roles r ON r.oid = a.role
    UNION ALL
    SELECT 'memberships can be revoked', count(f.class_role) = 0, CASE count(f.class_role) WHEN 0 THEN 'all of them'
           ELSE 'Run immuta.sync(): not those in ' || string_agg(DISTINCT f.class_role::regrole::text, ', ') END
    FROM immuta.system_account a LEFT JOIN immuta_internal.foreign_memberships() f ON true GROUP BY a.one
    UNION ALL
    SELECT 'subscriptions and grants', count(d.what) = 0, CASE count(d.what) WHEN 0 THEN 'the same'
           ELSE count(*) || ' differences: see immuta.drift()' END
    FROM immuta.system_account a LEFT JOIN immuta.drift() d ON d.what <> 'mask warning' GROUP BY a.one
    UNION ALL
    SELECT 'masked columns are masked', count(m.what) = 0, CASE count(m.what) WHEN 0 THEN 'all of them'
           ELSE 'See immuta.drift(): ' || string_agg(m.what || ': ' || m.object, '; ' ORDER BY m.what, m.object) END
    FROM immuta.system_account a LEFT JOIN immuta_internal.differences_of_masks() m ON true
    WHERE EXISTS (SELECT FROM immuta.masking_policy) GROUP BY a.one
    UNION ALL
    SELECT 'DDL is watched', count(*) = 0, CASE count(*) WHEN 0 THEN 'by all event triggers'
           ELSE 'ALTER EVENT TRIGGER ... ENABLE: ' || string_agg(n.name, ', ') || '; then run immuta.sync()' END
    FROM immuta.system_account, (VALUES ('immuta_before'), ('immuta_ddl'), ('immuta_drop')) n (name)
         LEFT JOIN pg_event_trigger t ON t.evtname = n.name
    WHERE t.evtname IS NULL OR t.evtenabled NOT IN ('O', 'A')
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_connection() IS 'the part of doctor() that concerns subscriptions';

CREATE FUNCTION immuta_internal.doctor_of_projects() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'projects give no more than their members have', count(*) = 0, CASE count(*) WHEN 0 THEN 'none does'
        ELSE 'SELECT immuta.equalise_projects(): grants were changed since: ' || string_agg(p.name || ' (' || f.relation::regclass || ')', ', ') END
    FROM immuta.project p, immuta_internal.planned_columns(p.id) f WHERE NOT f.granted <@ f.wanted
$$;
COMMENT ON FUNCTION immuta_internal.doctor_of_projects() IS 'the part of doctor() that concerns projects';
