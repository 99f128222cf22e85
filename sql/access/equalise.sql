-- What the roles of projects may read: what all members may.

CREATE FUNCTION immuta_internal.member_roles(project_id integer) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN immuta_internal.target_fault(f.role) IS NULL THEN f.role END
    FROM immuta.project_member m JOIN immuta.user_account u ON u.id = m.user_id,
         LATERAL (SELECT immuta_internal.role_of_user(convert_to(u.userid, 'UTF8'), convert_to(u.iamid, 'UTF8'))) f (role)
    WHERE m.project_id = member_roles.project_id
$$;
COMMENT ON FUNCTION immuta_internal.member_roles(integer) IS 'the roles that the members of a project have outside it; NULL for one who has none';

-- What its members see masked the role of a project sees masked: it is a subscriber, but no row policy is for it.
CREATE FUNCTION immuta_internal.make_project_role(role_name name) RETURNS regrole
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', role_name);
    EXECUTE format('GRANT immuta_subscriber TO %I', role_name)
            || CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN ' WITH INHERIT FALSE, SET FALSE' ELSE '' END;
    RETURN immuta_internal.mappable_role(role_name);
END
$$;
COMMENT ON FUNCTION immuta_internal.make_project_role(name) IS 'makes a role for a project';

-- What all members may read: nobody gets more by a project than they have themselves. A member without a role has nothing.
CREATE FUNCTION immuta_internal.equalised_columns(project_id integer, relation oid) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(a.attname ORDER BY a.attnum), '{}')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
      AND EXISTS (SELECT FROM immuta_internal.member_roles(project_id))
      AND NOT EXISTS (SELECT FROM immuta_internal.member_roles(project_id) r
                      WHERE NOT coalesce(has_column_privilege(r, relation, a.attnum, 'SELECT')
                                         AND has_schema_privilege(r, c.relnamespace, 'USAGE'), false))
      -- What takes rows from some roles only (subscribers, say) would not take them from the role of the project.
      AND NOT EXISTS (SELECT FROM pg_policy y, immuta.project p
                      WHERE y.polrelid = relation AND NOT y.polpermissive
                        AND p.id = project_id AND NOT y.polroles && ARRAY[0, p.postgres_role::oid])
$$;
COMMENT ON FUNCTION immuta_internal.equalised_columns(integer, oid) IS 'the columns that every member of a project may read';

CREATE FUNCTION immuta_internal.granted_columns(relation oid, role oid) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(a.attname ORDER BY a.attnum), '{}')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
      AND (EXISTS (SELECT FROM aclexplode(c.relacl) g WHERE g.grantee = role AND g.privilege_type = 'SELECT')
           OR EXISTS (SELECT FROM aclexplode(a.attacl) g WHERE g.grantee = role AND g.privilege_type = 'SELECT'))
$$;
COMMENT ON FUNCTION immuta_internal.granted_columns(oid, oid) IS 'the columns whose reading is granted to a role itself';

-- The plan: what the role of a project is to read of each table of the project, and of those that it can still read.
CREATE FUNCTION immuta_internal.planned_columns(project_id integer)
RETURNS TABLE (role oid, relation oid, wanted name[], granted name[], lacks_usage boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.postgres_role, c.oid, f.wanted, immuta_internal.granted_columns(c.oid, p.postgres_role),
           f.wanted <> '{}' AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) g
                                            WHERE g.grantee = p.postgres_role AND g.privilege_type = 'USAGE')
    FROM immuta.project p, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
         LATERAL (SELECT EXISTS (SELECT FROM immuta.project_data_source s
                                 WHERE s.project_id = p.id AND s.relation = c.oid)) m (is_member),
         LATERAL (SELECT CASE WHEN m.is_member THEN immuta_internal.equalised_columns(p.id, c.oid) ELSE '{}' END) f (wanted)
    WHERE p.id = planned_columns.project_id
      AND (m.is_member
           OR c.oid IN (SELECT d.objid FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = p.postgres_role
                        AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
                        AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())))
    ORDER BY c.oid
$$;
COMMENT ON FUNCTION immuta_internal.planned_columns(integer) IS 'what the role of a project is to read, and what is granted to it';

-- The act.
CREATE FUNCTION immuta_internal.try_equalise(project_id integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    planned record;
    project_role regrole;
    changed integer := 0;
BEGIN
    DELETE FROM immuta.project_data_source s
    WHERE s.project_id = try_equalise.project_id AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.relation);
    FOR planned IN SELECT p.*, c.relnamespace::regnamespace AS namespace
                   FROM immuta_internal.planned_columns(project_id) p JOIN pg_class c ON c.oid = p.relation
    LOOP
        project_role := planned.role;
        IF planned.wanted <> planned.granted THEN
            changed := changed + 1;
            EXECUTE format('REVOKE ALL ON TABLE %s FROM %s CASCADE', planned.relation::regclass, project_role);
            IF planned.wanted <> '{}' THEN
                EXECUTE format('GRANT SELECT (%s) ON TABLE %s TO %s',
                               (SELECT string_agg(quote_ident(c), ', ') FROM unnest(planned.wanted) c), planned.relation::regclass, project_role);
            END IF;
        END IF;
        IF planned.lacks_usage THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %s TO %s', planned.namespace, project_role);
        END IF;
    END LOOP;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION immuta_internal.try_equalise(integer) IS 'see equalise()';

-- Call it with the lock held. For the attempts see immuta_internal.apply_grants().
CREATE FUNCTION immuta_internal.equalise(project_id integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    FOR attempt IN 1..5 LOOP
        BEGIN
            RETURN immuta_internal.try_equalise(project_id);
        EXCEPTION WHEN internal_error OR undefined_table OR invalid_schema_name THEN
            IF attempt = 5 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.equalise(integer) IS 'gives the role of a project what all its members have; how many tables that changed';

-- After a change of access: of these users, to these relations or to all in these schemas. NULL stands for all.
CREATE FUNCTION immuta_internal.equalise_after(user_ids bigint[], objects oid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.equalise(a.id) FROM (
        SELECT p.id FROM immuta.project p
        WHERE (user_ids IS NULL OR EXISTS (
                  SELECT FROM immuta.project_member m
                  WHERE m.project_id = p.id AND m.user_id IN (SELECT unnest(user_ids))))
          AND (objects IS NULL OR EXISTS (
                  SELECT FROM immuta.project_data_source s JOIN pg_class c ON c.oid = s.relation
                  WHERE s.project_id = p.id
                    AND (c.oid IN (SELECT unnest(objects)) OR c.relnamespace IN (SELECT unnest(objects)))))
        ORDER BY p.id) a;
END
$$;
COMMENT ON FUNCTION immuta_internal.equalise_after(bigint[], oid[]) IS
    'equalises the projects that a change of access concerns';
