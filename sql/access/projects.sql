-- Projects and their members.

CREATE FUNCTION immuta_internal.project_id(project text) RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id integer;
BEGIN
    SELECT p.id INTO found_id FROM immuta.project p WHERE p.name = project_id.project;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'project "%" does not exist', immuta_internal.shown(project)
            USING ERRCODE = 'undefined_object', HINT = 'Create it with immuta.create_project().';
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION immuta_internal.project_id(text) IS 'id of a project; 42704 for one that does not exist';

-- The lock comes before the rows: two administrators never wait for each other in turn.
CREATE FUNCTION immuta_internal.lock_project(project text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up_projects();
    RETURN immuta_internal.project_id(project);
END
$$;
COMMENT ON FUNCTION immuta_internal.lock_project(text) IS 'id of a project that is about to be changed';

CREATE FUNCTION immuta.create_project(name text, postgres_role name = NULL) RETURNS name
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role_name name := coalesce(create_project.postgres_role, left('project_' || create_project.name, 63));
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'a project needs a name of 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM immuta.project p WHERE p.name = create_project.name) THEN
        RAISE EXCEPTION 'project "%" already exists', immuta_internal.shown(name) USING ERRCODE = 'duplicate_object';
    END IF;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name) THEN
        RAISE EXCEPTION 'role "%" already exists', role_name USING ERRCODE = 'duplicate_object',
            HINT = 'A project has a role of its own: give another name for it.';
    END IF;
    INSERT INTO immuta.project (name, postgres_role)
    VALUES (create_project.name, immuta_internal.make_project_role(role_name));
    RETURN role_name;
END
$$;
REVOKE ALL ON FUNCTION immuta.create_project(text, name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.create_project(text, name) TO immuta_admin;
COMMENT ON FUNCTION immuta.create_project(text, name) IS 'adds a project and makes its role, whose name it returns';

CREATE FUNCTION immuta.drop_project(project text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped integer := immuta_internal.lock_project(project);
    project_role regrole;
BEGIN
    DELETE FROM immuta.project p WHERE p.id = dropped RETURNING p.postgres_role INTO project_role;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.oid = project_role) THEN
        EXECUTE format('DROP OWNED BY %s RESTRICT', project_role);
        EXECUTE format('DROP ROLE %s', project_role);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.drop_project(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.drop_project(text) TO immuta_admin;
COMMENT ON FUNCTION immuta.drop_project(text) IS 'removes a project, and its role with what that owns; its members are themselves again';

CREATE FUNCTION immuta.add_project_data_source(project text, relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer := immuta_internal.lock_project(project);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                   AND c.relpersistence <> 't' AND NOT immuta_internal.is_system_schema(c.relnamespace)) THEN
        RAISE EXCEPTION '"%" cannot be a data source', relation USING ERRCODE = 'wrong_object_type',
            HINT = 'Tables, partitioned tables, views, materialized views and foreign tables can.';
    END IF;
    INSERT INTO immuta.project_data_source VALUES (changed, add_project_data_source.relation) ON CONFLICT DO NOTHING;
    PERFORM immuta_internal.equalise(changed);
END
$$;
REVOKE ALL ON FUNCTION immuta.add_project_data_source(text, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.add_project_data_source(text, regclass) TO immuta_admin;
COMMENT ON FUNCTION immuta.add_project_data_source(text, regclass) IS 'adds a table to a project: its role reads what all members read themselves';

CREATE FUNCTION immuta.remove_project_data_source(project text, relation regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer := immuta_internal.lock_project(project);
    was_there boolean;
BEGIN
    DELETE FROM immuta.project_data_source s WHERE s.project_id = changed AND s.relation = remove_project_data_source.relation;
    was_there := FOUND;
    PERFORM immuta_internal.equalise(changed);
    RETURN was_there;
END
$$;
REVOKE ALL ON FUNCTION immuta.remove_project_data_source(text, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.remove_project_data_source(text, regclass) TO immuta_admin;
COMMENT ON FUNCTION immuta.remove_project_data_source(text, regclass) IS 'takes a table out of a project; whether it was in it';

CREATE FUNCTION immuta.add_project_member(project text, userid text, iamid text = 'bim') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer := immuta_internal.lock_project(project);
BEGIN
    INSERT INTO immuta.project_member VALUES (changed, immuta_internal.user_id(userid, iamid), false) ON CONFLICT DO NOTHING;
    PERFORM immuta_internal.equalise(changed);
END
$$;
REVOKE ALL ON FUNCTION immuta.add_project_member(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.add_project_member(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.add_project_member(text, text, text) IS 'adds a user to a project, whose role loses what that user does not have';

CREATE FUNCTION immuta.remove_project_member(project text, userid text, iamid text = 'bim') RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer := immuta_internal.lock_project(project);
BEGIN
    DELETE FROM immuta.project_member m WHERE m.project_id = changed AND m.user_id = immuta_internal.user_id(userid, iamid);
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION immuta.remove_project_member(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.remove_project_member(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.remove_project_member(text, text, text) IS 'takes a user out of a project; whether they were in it';

CREATE FUNCTION immuta_internal.enter_project(entered integer, entering bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE immuta.project_member m SET is_current = false
    WHERE m.user_id = entering AND m.is_current AND m.project_id IS DISTINCT FROM entered;
    IF entered IS NOT NULL THEN
        UPDATE immuta.project_member m SET is_current = true WHERE m.user_id = entering AND m.project_id = entered;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the user is not a member of this project' USING ERRCODE = 'insufficient_privilege',
                DETAIL = 'IMPERSONATION_NOT_ALLOWED', HINT = 'An administrator can add them with immuta.add_project_member().';
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.enter_project(integer, bigint) IS 'makes a project the current one of a user';

CREATE FUNCTION immuta.set_current_project(project text, userid text, iamid text = 'bim') RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT immuta_internal.enter_project(CASE WHEN project IS NOT NULL THEN immuta_internal.project_id(project) END, immuta_internal.user_id(userid, iamid))
$$;
REVOKE ALL ON FUNCTION immuta.set_current_project(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.set_current_project(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.set_current_project(text, text, text) IS 'sets the project in which a user is impersonated from the next transaction on; NULL: none';

-- Users who are not members learn nothing about a project, not even whether it exists.
CREATE FUNCTION immuta.set_current_project(project text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entering bigint;
BEGIN
    SELECT u.id INTO entering FROM immuta_internal.session_state() s
    JOIN immuta.user_account u ON u.iamid = convert_from(s.iamid, 'UTF8') AND u.userid = convert_from(s.userid, 'UTF8');
    IF entering IS NULL THEN
        RAISE EXCEPTION 'only an impersonated user has a current project of their own' USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'IMPERSONATION_REQUIRED', HINT = 'Administrators name the user: immuta.set_current_project(project, userid).';
    END IF;
    PERFORM immuta_internal.enter_project(
        CASE WHEN project IS NOT NULL THEN coalesce((SELECT p.id FROM immuta.project p WHERE p.name = set_current_project.project), 0) END,
        entering);
END
$$;
COMMENT ON FUNCTION immuta.set_current_project(text) IS 'sets the project in which the impersonated user is impersonated from the next transaction on; NULL: none';

CREATE FUNCTION immuta.equalise_projects() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta_internal.catch_up_projects();
    RETURN (SELECT coalesce(sum(immuta_internal.equalise(p.id)), 0) FROM (SELECT id FROM immuta.project ORDER BY id) p);
END
$$;
REVOKE ALL ON FUNCTION immuta.equalise_projects() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.equalise_projects() TO immuta_admin;
COMMENT ON FUNCTION immuta.equalise_projects() IS
    'gives the roles of all projects what all their members have now: after grants by hand; how many tables changed';

CREATE FUNCTION immuta.current_project() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.name FROM immuta_internal.session_state() s JOIN immuta.project p ON p.postgres_role = s.mapped_role
$$;
COMMENT ON FUNCTION immuta.current_project() IS 'the project in which the user of this session is impersonated; NULL: in none';

CREATE FUNCTION immuta_internal.list_projects()
RETURNS TABLE (project text, postgres_role name, relation regclass, columns name[], members text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.name, pg_get_userbyid(p.postgres_role), s.relation, immuta_internal.granted_columns(s.relation, p.postgres_role),
           ARRAY(SELECT u.userid || CASE u.iamid WHEN 'bim' THEN '' ELSE ' (' || u.iamid || ')' END
                 FROM immuta.project_member m JOIN immuta.user_account u ON u.id = m.user_id WHERE m.project_id = p.id ORDER BY 1)
    FROM immuta.project p LEFT JOIN immuta.project_data_source s ON s.project_id = p.id
    ORDER BY p.name, s.relation
$$;
GRANT EXECUTE ON FUNCTION immuta_internal.list_projects() TO immuta_admin;
COMMENT ON FUNCTION immuta_internal.list_projects() IS 'the rows of immuta.projects';

CREATE VIEW immuta.projects AS SELECT * FROM immuta_internal.list_projects();
REVOKE ALL ON immuta.projects FROM PUBLIC;
GRANT SELECT ON immuta.projects TO immuta_admin;
COMMENT ON VIEW immuta.projects IS 'projects with their roles, tables (and the columns that can be read) and members';
