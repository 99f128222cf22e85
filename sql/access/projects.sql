-- Projects: named sets of tables, and a role for each that reads them as far as all members may. A user whose current
-- project is set is impersonated as that role. Column numbers are known to src/pg/catalog/tables.rs: columns are only appended.

CREATE TABLE immuta.project (
    id serial NOT NULL,
    name text COLLATE "C" NOT NULL,
    postgres_role regrole NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT project_pkey PRIMARY KEY (id),
    CONSTRAINT project_name_key UNIQUE (name),
    CONSTRAINT project_role_key UNIQUE (postgres_role),
    CONSTRAINT project_name_check CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 255)
);
COMMENT ON TABLE immuta.project IS 'named sets of tables that their members read in the same way';
COMMENT ON COLUMN immuta.project.postgres_role IS 'the equalised role: has what all members have, on these tables only';

CREATE TABLE immuta.project_data_source (
    project_id integer NOT NULL,
    relation regclass NOT NULL,
    CONSTRAINT project_data_source_pkey PRIMARY KEY (project_id, relation)
);
COMMENT ON TABLE immuta.project_data_source IS 'the tables of each project';

CREATE TABLE immuta.project_member (
    project_id integer NOT NULL,
    user_id bigint NOT NULL,
    is_current boolean NOT NULL DEFAULT false,
    CONSTRAINT project_member_pkey PRIMARY KEY (project_id, user_id)
);
CREATE UNIQUE INDEX project_member_current_key ON immuta.project_member (user_id) WHERE is_current;
CREATE INDEX project_member_user_id_idx ON immuta.project_member (user_id);
COMMENT ON TABLE immuta.project_member IS 'the members of each project';
COMMENT ON COLUMN immuta.project_member.is_current IS 'the user is impersonated as the role of this project';

REVOKE ALL ON immuta.project, immuta.project_data_source, immuta.project_member FROM PUBLIC;
REVOKE ALL ON SEQUENCE immuta.project_id_seq FROM PUBLIC;
-- What was dropped is a number in a dump, which is something else elsewhere.
SELECT pg_catalog.pg_extension_config_dump(
    'immuta.project', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) postgres_role)');
SELECT pg_catalog.pg_extension_config_dump(
    'immuta.project_data_source', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) relation)');
SELECT pg_catalog.pg_extension_config_dump('immuta.project_member', '');
SELECT pg_catalog.pg_extension_config_dump('immuta.project_id_seq', '');

CREATE FUNCTION immuta.forget_project() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM immuta.project_data_source s WHERE s.project_id = OLD.id;
    DELETE FROM immuta.project_member m WHERE m.project_id = OLD.id;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.forget_project() FROM PUBLIC;
COMMENT ON FUNCTION immuta.forget_project() IS 'internal: tables and members go with their project';

CREATE TRIGGER forget_project AFTER DELETE ON immuta.project FOR EACH ROW EXECUTE FUNCTION immuta.forget_project();
CREATE TRIGGER announce_row AFTER INSERT OR DELETE OR UPDATE ON immuta.project
FOR EACH ROW EXECUTE FUNCTION immuta.announce_change();
CREATE TRIGGER announce_truncate AFTER TRUNCATE ON immuta.project
FOR EACH STATEMENT EXECUTE FUNCTION immuta.announce_change();
CREATE TRIGGER announce_row AFTER INSERT OR DELETE OR UPDATE ON immuta.project_member
FOR EACH ROW EXECUTE FUNCTION immuta.announce_change();
CREATE TRIGGER announce_truncate AFTER TRUNCATE ON immuta.project_member
FOR EACH STATEMENT EXECUTE FUNCTION immuta.announce_change();
-- Also where triggers are replayed or switched off by session_replication_role.
ALTER TABLE immuta.project ENABLE ALWAYS TRIGGER announce_row, ENABLE ALWAYS TRIGGER announce_truncate;
ALTER TABLE immuta.project_member ENABLE ALWAYS TRIGGER announce_row, ENABLE ALWAYS TRIGGER announce_truncate;

CREATE FUNCTION immuta.project_id(project text) RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id integer;
BEGIN
    SELECT p.id INTO found_id FROM immuta.project p WHERE p.name = project_id.project;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'project "%" does not exist', left(project, 63)
            USING ERRCODE = 'undefined_object', HINT = 'Create it with immuta.create_project().';
    END IF;
    RETURN found_id;
END
$$;
REVOKE ALL ON FUNCTION immuta.project_id(text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.project_id(text) IS 'internal: id of a project; 42704 for one that does not exist';

-- Whatever decides what all members may read changes under one lock, that of the connection: two administrators who
-- each see only their own change would give more together than either means to. It is written, not only locked, so that
-- a transaction that looks at an older snapshot gets a serialization failure.
CREATE FUNCTION immuta.lock_projects() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF immuta.is_connected(false) THEN
        PERFORM immuta.lock_connection();
    ELSE
        PERFORM immuta.require_no_original();
        UPDATE immuta.connection_state s SET version = s.version + 1 WHERE s.xmin <> pg_current_xact_id()::xid;
        IF FOUND AND NOT immuta.is_home() THEN
            PERFORM immuta.come_home();
        END IF;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.lock_projects() FROM PUBLIC;
COMMENT ON FUNCTION immuta.lock_projects() IS 'internal: one change of projects or mappings at a time';

-- The lock comes before the rows: two administrators never wait for each other in turn.
CREATE FUNCTION immuta.lock_project(project text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.lock_projects();
    RETURN immuta.project_id(project);
END
$$;
REVOKE ALL ON FUNCTION immuta.lock_project(text) FROM PUBLIC;
COMMENT ON FUNCTION immuta.lock_project(text) IS 'internal: id of a project that is about to be changed';

CREATE FUNCTION immuta.member_roles(project_id integer) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN immuta.target_fault(f.role) IS NULL THEN f.role END
    FROM immuta.project_member m JOIN immuta.user_account u ON u.id = m.user_id,
         LATERAL (SELECT immuta.role_of_user(convert_to(u.userid, 'UTF8'), convert_to(u.iamid, 'UTF8'))) f (role)
    WHERE m.project_id = member_roles.project_id
$$;
REVOKE ALL ON FUNCTION immuta.member_roles(integer) FROM PUBLIC;
COMMENT ON FUNCTION immuta.member_roles(integer) IS 'internal: the roles that the members of a project have outside it; NULL for one who has none';

-- What all members may read: nobody gets more by a project than he has himself. A member without a role has nothing.
CREATE FUNCTION immuta.equalised_columns(project_id integer, relation oid) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(a.attname ORDER BY a.attnum), '{}')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
      AND EXISTS (SELECT FROM immuta.member_roles(project_id))
      AND NOT EXISTS (SELECT FROM immuta.member_roles(project_id) r
                      WHERE NOT coalesce(has_column_privilege(r, relation, a.attnum, 'SELECT')
                                         AND has_schema_privilege(r, c.relnamespace, 'USAGE'), false))
      -- What takes rows from some roles only (subscribers, say) would not take them from the role of the project.
      AND NOT EXISTS (SELECT FROM pg_policy y, immuta.project p
                      WHERE y.polrelid = relation AND NOT y.polpermissive
                        AND p.id = project_id AND NOT y.polroles && ARRAY[0, p.postgres_role::oid])
$$;
REVOKE ALL ON FUNCTION immuta.equalised_columns(integer, oid) FROM PUBLIC;
COMMENT ON FUNCTION immuta.equalised_columns(integer, oid) IS 'internal: the columns that every member of a project may read';

CREATE FUNCTION immuta.granted_columns(relation oid, role oid) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(a.attname ORDER BY a.attnum), '{}')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
      AND (EXISTS (SELECT FROM aclexplode(c.relacl) g WHERE g.grantee = role AND g.privilege_type = 'SELECT')
           OR EXISTS (SELECT FROM aclexplode(a.attacl) g WHERE g.grantee = role AND g.privilege_type = 'SELECT'))
$$;
REVOKE ALL ON FUNCTION immuta.granted_columns(oid, oid) FROM PUBLIC;
COMMENT ON FUNCTION immuta.granted_columns(oid, oid) IS 'internal: the columns whose reading is granted to a role itself';

CREATE FUNCTION immuta.try_equalise(project_id integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    project_role regrole;
    source record;
    columns name[];
    changed integer := 0;
BEGIN
    SELECT p.postgres_role INTO project_role FROM immuta.project p WHERE p.id = project_id;
    IF NOT FOUND THEN
        RETURN 0; -- It is being dropped.
    END IF;
    DELETE FROM immuta.project_data_source s
    WHERE s.project_id = try_equalise.project_id AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.relation);
    FOR source IN
        -- Those of the project, and those that its role can still read.
        SELECT c.oid, c.oid::regclass AS relation, n.nspname, n.oid AS namespace, n.nspacl,
               EXISTS (SELECT FROM immuta.project_data_source s
                       WHERE s.project_id = try_equalise.project_id AND s.relation = c.oid) AS is_member
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid IN (SELECT s.relation FROM immuta.project_data_source s
                        WHERE s.project_id = try_equalise.project_id)
           OR c.oid IN (SELECT d.objid FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = project_role
                        AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
                        AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
        ORDER BY c.oid
    LOOP
        columns := CASE WHEN source.is_member THEN immuta.equalised_columns(project_id, source.oid) ELSE '{}' END;
        IF columns IS DISTINCT FROM immuta.granted_columns(source.oid, project_role) THEN
            changed := changed + 1;
            EXECUTE format('REVOKE ALL ON TABLE %s FROM %s CASCADE', source.relation, project_role);
            IF columns <> '{}' THEN
                EXECUTE format('GRANT SELECT (%s) ON TABLE %s TO %s',
                               (SELECT string_agg(quote_ident(c), ', ') FROM unnest(columns) c), source.relation, project_role);
            END IF;
        END IF;
        IF columns <> '{}' AND NOT EXISTS (SELECT FROM aclexplode(source.nspacl) g
                                           WHERE g.grantee = project_role AND g.privilege_type = 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', source.nspname, project_role);
        END IF;
    END LOOP;
    RETURN changed;
END
$$;
REVOKE ALL ON FUNCTION immuta.try_equalise(integer) FROM PUBLIC;
COMMENT ON FUNCTION immuta.try_equalise(integer) IS 'internal: see equalise()';

-- Whoever calls this holds the lock. For the attempts see immuta.apply_grants().
CREATE FUNCTION immuta.equalise(project_id integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    FOR attempt IN 1..5 LOOP
        BEGIN
            RETURN immuta.try_equalise(project_id);
        EXCEPTION WHEN internal_error OR undefined_table OR invalid_schema_name THEN
            IF attempt = 5 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION immuta.equalise(integer) FROM PUBLIC;
COMMENT ON FUNCTION immuta.equalise(integer) IS 'internal: gives the role of a project what all its members have; how many tables that changed';

CREATE FUNCTION immuta.equalise_projects() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.lock_projects();
    RETURN (SELECT coalesce(sum(immuta.equalise(p.id)), 0) FROM (SELECT id FROM immuta.project ORDER BY id) p);
END
$$;
REVOKE ALL ON FUNCTION immuta.equalise_projects() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.equalise_projects() TO immuta_admin;
COMMENT ON FUNCTION immuta.equalise_projects() IS
    'gives the roles of all projects what all their members have now: after grants by hand; how many tables changed';

-- After a change of access: of these users, to these relations or to all in these schemas. NULL stands for all.
CREATE FUNCTION immuta.equalise_after(user_ids bigint[], objects oid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.equalise(a.id) FROM (
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
REVOKE ALL ON FUNCTION immuta.equalise_after(bigint[], oid[]) FROM PUBLIC;
COMMENT ON FUNCTION immuta.equalise_after(bigint[], oid[]) IS
    'internal: equalises the projects that a change of access concerns';

CREATE FUNCTION immuta.mapping_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.lock_projects();
    PERFORM immuta.equalise_after(ARRAY[NEW.id], NULL);
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.mapping_changed() FROM PUBLIC;
COMMENT ON FUNCTION immuta.mapping_changed() IS 'internal: equalises the projects of a user who has another role now';
CREATE TRIGGER equalise_row AFTER UPDATE OF userid, mapping, postgres_role ON immuta.user_account
FOR EACH ROW EXECUTE FUNCTION immuta.mapping_changed();

CREATE FUNCTION immuta.member_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM immuta.lock_projects();
    PERFORM immuta.equalise(OLD.project_id);
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION immuta.member_gone() FROM PUBLIC;
COMMENT ON FUNCTION immuta.member_gone() IS 'internal: equalises a project that a user left, or was dropped from';
CREATE TRIGGER equalise_row AFTER DELETE ON immuta.project_member
FOR EACH ROW EXECUTE FUNCTION immuta.member_gone();

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
        RAISE EXCEPTION 'project "%" already exists', left(name, 63) USING ERRCODE = 'duplicate_object';
    END IF;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name) THEN
        RAISE EXCEPTION 'role "%" already exists', role_name USING ERRCODE = 'duplicate_object',
            HINT = 'A project has a role of its own: give another name for it.';
    END IF;
    EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', role_name);
    INSERT INTO immuta.project (name, postgres_role)
    VALUES (create_project.name, immuta.mappable_role(role_name));
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
    dropped integer := immuta.lock_project(project);
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
    changed integer := immuta.lock_project(project);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                   AND c.relpersistence <> 't' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'immuta'::regnamespace)) THEN
        RAISE EXCEPTION '"%" cannot be a data source', relation USING ERRCODE = 'wrong_object_type',
            HINT = 'Tables, partitioned tables, views, materialized views and foreign tables can.';
    END IF;
    INSERT INTO immuta.project_data_source VALUES (changed, add_project_data_source.relation) ON CONFLICT DO NOTHING;
    PERFORM immuta.equalise(changed);
END
$$;
REVOKE ALL ON FUNCTION immuta.add_project_data_source(text, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.add_project_data_source(text, regclass) TO immuta_admin;
COMMENT ON FUNCTION immuta.add_project_data_source(text, regclass) IS 'adds a table to a project: its role reads what all members read themselves';

CREATE FUNCTION immuta.remove_project_data_source(project text, relation regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer := immuta.lock_project(project);
    was_there boolean;
BEGIN
    DELETE FROM immuta.project_data_source s WHERE s.project_id = changed AND s.relation = remove_project_data_source.relation;
    was_there := FOUND;
    PERFORM immuta.equalise(changed);
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
    changed integer := immuta.lock_project(project);
BEGIN
    INSERT INTO immuta.project_member VALUES (changed, immuta.user_id(userid, iamid), false) ON CONFLICT DO NOTHING;
    PERFORM immuta.equalise(changed);
END
$$;
REVOKE ALL ON FUNCTION immuta.add_project_member(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.add_project_member(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.add_project_member(text, text, text) IS 'adds a user to a project, whose role loses what that user has not';

CREATE FUNCTION immuta.remove_project_member(project text, userid text, iamid text = 'bim') RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer := immuta.lock_project(project);
BEGIN
    DELETE FROM immuta.project_member m WHERE m.project_id = changed AND m.user_id = immuta.user_id(userid, iamid);
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION immuta.remove_project_member(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.remove_project_member(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.remove_project_member(text, text, text) IS 'takes a user out of a project; whether he was in it';

CREATE FUNCTION immuta.enter_project(entered integer, entering bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE immuta.project_member m SET is_current = false
    WHERE m.user_id = entering AND m.is_current AND m.project_id IS DISTINCT FROM entered;
    IF entered IS NOT NULL THEN
        UPDATE immuta.project_member m SET is_current = true WHERE m.user_id = entering AND m.project_id = entered;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the user is no member of this project' USING ERRCODE = 'insufficient_privilege',
                DETAIL = 'IMPERSONATION_NOT_ALLOWED', HINT = 'An administrator can add him with immuta.add_project_member().';
        END IF;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.enter_project(integer, bigint) FROM PUBLIC;
COMMENT ON FUNCTION immuta.enter_project(integer, bigint) IS 'internal: makes a project the current one of a user';

CREATE FUNCTION immuta.set_current_project(project text, userid text, iamid text = 'bim') RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT immuta.enter_project(CASE WHEN project IS NOT NULL THEN immuta.project_id(project) END, immuta.user_id(userid, iamid))
$$;
REVOKE ALL ON FUNCTION immuta.set_current_project(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.set_current_project(text, text, text) TO immuta_admin;
COMMENT ON FUNCTION immuta.set_current_project(text, text, text) IS 'sets the project in which a user is impersonated from the next transaction on; NULL: none';

-- A user who is no member learns nothing of a project, not even whether there is one.
CREATE FUNCTION immuta.set_current_project(project text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entering bigint;
BEGIN
    SELECT u.id INTO entering FROM immuta.session_state() s
    JOIN immuta.user_account u ON u.iamid = convert_from(s.iamid, 'UTF8') AND u.userid = convert_from(s.userid, 'UTF8');
    IF entering IS NULL THEN
        RAISE EXCEPTION 'only an impersonated user has a current project of his own' USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'IMPERSONATION_REQUIRED', HINT = 'Administrators name the user: immuta.set_current_project(project, userid).';
    END IF;
    PERFORM immuta.enter_project(
        CASE WHEN project IS NOT NULL THEN coalesce((SELECT p.id FROM immuta.project p WHERE p.name = set_current_project.project), 0) END,
        entering);
END
$$;
COMMENT ON FUNCTION immuta.set_current_project(text) IS 'sets the project in which the impersonated user is impersonated from the next transaction on; NULL: none';

CREATE FUNCTION immuta.current_project() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.name FROM immuta.session_state() s JOIN immuta.project p ON p.postgres_role = s.mapped_role
$$;
COMMENT ON FUNCTION immuta.current_project() IS 'the project in which the user of this session is impersonated; NULL: in none';

CREATE FUNCTION immuta.list_projects()
RETURNS TABLE (project text, postgres_role name, relation regclass, columns name[], members text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.name, pg_get_userbyid(p.postgres_role), s.relation, immuta.granted_columns(s.relation, p.postgres_role),
           ARRAY(SELECT u.userid || CASE u.iamid WHEN 'bim' THEN '' ELSE ' (' || u.iamid || ')' END
                 FROM immuta.project_member m JOIN immuta.user_account u ON u.id = m.user_id WHERE m.project_id = p.id ORDER BY 1)
    FROM immuta.project p LEFT JOIN immuta.project_data_source s ON s.project_id = p.id
    ORDER BY p.name, s.relation
$$;
REVOKE ALL ON FUNCTION immuta.list_projects() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.list_projects() TO immuta_admin;
COMMENT ON FUNCTION immuta.list_projects() IS 'internal: the rows of immuta.projects';

CREATE VIEW immuta.projects AS SELECT * FROM immuta.list_projects();
REVOKE ALL ON immuta.projects FROM PUBLIC;
GRANT SELECT ON immuta.projects TO immuta_admin;
COMMENT ON VIEW immuta.projects IS 'projects with their roles, tables (and the columns that can be read) and members';

CREATE FUNCTION immuta.doctor_of_projects() RETURNS TABLE ("check" text, ok boolean, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'projects give no more than their members have', count(*) = 0, CASE count(*) WHEN 0 THEN 'none does'
        ELSE 'SELECT immuta.equalise_projects(): grants were changed since: ' || string_agg(DISTINCT p.name || ' (' || s.relation::text || ')', ', ') END
    FROM immuta.project p JOIN immuta.project_data_source s ON s.project_id = p.id JOIN pg_class c ON c.oid = s.relation
    WHERE NOT immuta.granted_columns(s.relation, p.postgres_role) <@ immuta.equalised_columns(p.id, s.relation)
$$;
REVOKE ALL ON FUNCTION immuta.doctor_of_projects() FROM PUBLIC;
COMMENT ON FUNCTION immuta.doctor_of_projects() IS 'internal: the part of doctor() that concerns projects';
