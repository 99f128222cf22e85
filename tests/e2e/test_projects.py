"""Projects: in one, a user is the project's role, which reads what all members may read."""

import pytest
from conftest import refuses
from harness.world import impersonate, query

FLIGHTS = ["id", "carrier", "delay", "secret"]


@pytest.fixture
def project(world):
    assert world.value("SELECT immuta.create_project('mobility')") == "project_mobility"
    world.sql("CREATE POLICY mobility_sees ON app.flights TO project_mobility USING (carrier = 'DL')")
    world.sql("SELECT immuta.add_project_data_source('mobility', 'app.flights')")
    yield "mobility"
    world.sql("DROP POLICY mobility_sees ON app.flights")
    world.sql("SELECT immuta.drop_project('mobility')")
    assert world.value("SELECT count(*) FROM pg_roles WHERE rolname = 'project_mobility'") == 0


def columns(world, relation="app.flights"):
    return world.value("SELECT columns FROM immuta.projects WHERE relation = %s::regclass", (relation,))


def add(world, *users):
    for user in users:
        world.sql("SELECT immuta.add_project_member('mobility', %s)", (user,))


def test_nobody_gets_more_than_he_has(world, project):
    """The role has what all members have: a member with less takes it from all, and nobody in it has nothing."""
    assert columns(world) == []
    add(world, "alice")
    assert columns(world) == FLIGHTS
    add(world, "carol")
    assert columns(world) == FLIGHTS[:3]
    world.sql("SELECT immuta.add_project_data_source('mobility', 'private.notes')")
    assert columns(world, "private.notes") == []
    world.sql("SELECT immuta.remove_project_member('mobility', 'carol')")
    assert columns(world) == FLIGHTS and columns(world, "private.notes") == ["body"]
    assert world.value("SELECT immuta.remove_project_data_source('mobility', 'private.notes')") is True
    assert world.value("SELECT immuta.remove_project_data_source('mobility', 'private.notes')") is False
    assert not world.value("SELECT has_table_privilege('project_mobility', 'private.notes', 'SELECT')")


@pytest.mark.parametrize("change, back", [
    ("SELECT immuta.map_user('alice', 'carol')", "SELECT immuta.map_user('alice', 'alice')"),
    ("SELECT immuta.unmap_user('alice')", "SELECT immuta.map_user('alice', 'alice')")])
def test_a_changed_mapping_changes_the_project(world, project, change, back):
    add(world, "alice")
    world.sql(change)
    assert columns(world) in (FLIGHTS[:3], [])
    world.sql(back)
    assert columns(world) == FLIGHTS


def test_a_disabled_member_counts(world, project):
    """They may be enabled again."""
    add(world, "alice", "carol")
    world.sql("SELECT immuta.disable_user('carol')")
    world.sql("SELECT immuta.equalise_projects()")
    assert columns(world) == FLIGHTS[:3]
    world.sql("SELECT immuta.disable_user('carol', disabled => false)")


def test_a_member_without_a_role_has_nothing(world, project):
    world.sql("SELECT immuta.create_user('later')")
    try:
        add(world, "alice", "later")
        assert columns(world) == []
        world.sql("CREATE ROLE later IN ROLE immuta_mappable")
        world.sql("SELECT immuta.equalise_projects()")
        assert columns(world) == []
    finally:
        world.sql("SELECT immuta.drop_user('later')")
        world.sql("DROP ROLE IF EXISTS later")


def test_grants_that_change_are_found(world, project):
    def doctor():
        return world.sql("SELECT ok, detail FROM immuta.doctor() WHERE \"check\" LIKE 'projects%%'")

    add(world, "alice")
    assert doctor() == [(True, "none does")]
    world.sql("REVOKE SELECT ON app.flights FROM alice")
    try:
        [(ok, detail)] = doctor()
        assert not ok and "mobility (app.flights)" in detail and "equalise_projects" in detail
        assert world.value("SELECT immuta.equalise_projects()") == 1
        assert columns(world) == []
        assert doctor() == [(True, "none does")]
        assert world.value("SELECT immuta.equalise_projects()") == 0
    finally:
        world.sql("GRANT SELECT ON app.flights TO alice")


@pytest.mark.parametrize("roles, is_open", [
    ("alice", False), ("alice, carol", False), ("PUBLIC", True), ("alice, project_mobility", True)])
def test_restrictive_policies_are_not_evaded(world, service, project, roles, is_open):
    """The role of a project is none of those from whom a policy takes rows."""
    world.sql("CREATE TABLE app.shared (id int); INSERT INTO app.shared VALUES (1), (2); "
              "GRANT SELECT ON app.shared TO alice; ALTER TABLE app.shared ENABLE ROW LEVEL SECURITY; "
              "CREATE POLICY everybody ON app.shared USING (true); "
              f"CREATE POLICY fewer ON app.shared AS RESTRICTIVE TO {roles} USING (id = 1)")
    try:
        add(world, "alice")
        world.sql("SELECT immuta.add_project_data_source('mobility', 'app.shared')")
        assert (columns(world, "app.shared") == ["id"]) is is_open
        for project_name in (None, "mobility"):
            world.sql("SELECT immuta.set_current_project(%s, 'alice')", (project_name,))
            impersonate(service, world.token("alice"))
            if is_open or not project_name:
                assert query(service, "SELECT id FROM app.shared") == [(1,)]
            else:
                with refuses("42501"):
                    query(service, "SELECT id FROM app.shared")
            service.rollback()
    finally:
        world.sql("DROP TABLE app.shared")


def test_in_the_project_only_its_data_can_be_seen(world, service, project):
    """As the role of the project: its tables, its row policies; from the next transaction on, and back."""
    add(world, "alice", "carol")
    impersonate(service, world.token("alice"))
    query(service, "SELECT immuta.set_current_project('mobility')")
    assert query(service, "SELECT current_user, immuta.current_project(), count(*) FROM app.flights") == [
        ("alice", None, 100)]
    service.commit()
    impersonate(service, world.token("alice"))
    assert query(service, "SELECT current_user, immuta.current_project(), userid, mapped_role FROM immuta.whoami()") == [
        ("project_mobility", "mobility", "alice", "project_mobility")]
    assert query(service, "SELECT count(id), min(carrier) FROM app.flights") == [(100, "DL")]
    for statement in ("SELECT secret FROM app.flights", "SELECT * FROM private.notes", "DELETE FROM app.flights",
                      "CREATE TABLE alice.x (a int)"):
        query(service, "SAVEPOINT s")
        with refuses("42501"):
            query(service, statement)
        query(service, "ROLLBACK TO s")
    query(service, "SELECT immuta.set_current_project(NULL)")
    service.commit()
    impersonate(service, world.token("alice"))
    assert query(service, "SELECT current_user, immuta.current_project(), count(*) FROM app.flights") == [
        ("alice", None, 100)]
    service.commit()


def test_the_project_holds_for_names_and_sessions(world, project):
    world.sql("CREATE ROLE namer LOGIN PASSWORD 'namer' IN ROLE immuta_impersonation; "
              "ALTER ROLE namer SET bodata.allow_session_impersonation = on")
    connection = world.connect("namer", "namer")
    connection.autocommit = True
    try:
        add(world, "alice")
        world.sql("SELECT immuta.set_current_project('mobility', 'alice')")
        query(connection, "SET immuta.immuta_user = 'alice'")
        assert query(connection, "SELECT current_user, current_setting('immuta.immuta_user')") == [
            ("project_mobility", "alice")]
        world.sql("SELECT immuta.set_current_project(NULL, 'alice')")
        with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
            query(connection, "SELECT 1")
        query(connection, "SET immuta.immuta_user = 'alice'")
        assert query(connection, "SELECT current_user") == [("alice",)]
    finally:
        connection.close()
        world.sql("DROP ROLE namer")


def test_who_may_enter(world, service, project):
    add(world, "alice")
    impersonate(service, world.token("bob"))
    for name in ("mobility", "no such project"):
        query(service, "SAVEPOINT s")
        with refuses("42501", "IMPERSONATION_NOT_ALLOWED") as seen:
            query(service, "SELECT immuta.set_current_project(%s)", (name,))
        assert "not a member" in seen.message
        query(service, "ROLLBACK TO s")
    for statement in ("SELECT immuta.set_current_project('mobility', 'alice')", "SELECT * FROM immuta.projects",
                      "SELECT immuta_internal.enter_project(1, 1)", "UPDATE immuta.project_member SET is_current = true",
                      "SELECT immuta.add_project_member('mobility', 'bob')", "SELECT immuta.equalise_projects()"):
        query(service, "SAVEPOINT s")
        with refuses("42501"):
            query(service, statement)
        query(service, "ROLLBACK TO s")
    service.rollback()
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        query(service, "SELECT immuta.set_current_project('mobility')")
    service.rollback()
    with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
        world.sql("SELECT immuta.set_current_project('mobility', 'bob')")
    with refuses("42704"):
        world.sql("SELECT immuta.set_current_project('no such project', 'alice')")


def test_one_current_project(world, project):
    world.sql("SELECT immuta.create_project('other', 'other_role')")
    try:
        add(world, "alice")
        world.sql("SELECT immuta.add_project_member('other', 'alice')")
        for name in ("mobility", "other", "mobility"):
            world.sql("SELECT immuta.set_current_project(%s, 'alice')", (name,))
            assert world.sql("SELECT p.name FROM immuta.project p JOIN immuta.project_member m ON m.project_id = p.id "
                             "WHERE m.is_current") == [(name,)]
    finally:
        world.sql("SELECT immuta.drop_project('other')")


def test_who_leaves_the_project_is_himself(world, service, project):
    add(world, "alice")
    world.sql("SELECT immuta.set_current_project('mobility', 'alice')")
    assert world.value("SELECT immuta.remove_project_member('mobility', 'alice')") is True
    assert world.value("SELECT immuta.remove_project_member('mobility', 'alice')") is False
    impersonate(service, world.token("alice"))
    assert query(service, "SELECT current_user") == [("alice",)]


def test_a_role_that_grew_is_refused(world, service, project):
    """As any mapped role: with privileges beyond those on data nobody becomes it, nor where it is gone."""
    add(world, "alice")
    world.sql("SELECT immuta.set_current_project('mobility', 'alice')")
    world.sql("ALTER ROLE project_mobility CREATEROLE")
    try:
        with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
            impersonate(service, world.token("alice"))
        service.rollback()
    finally:
        world.sql("ALTER ROLE project_mobility NOCREATEROLE")
    world.sql("SELECT immuta.unmap_user('alice')")
    try:
        with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
            impersonate(service, world.token("alice"))
    finally:
        world.sql("SELECT immuta.map_user('alice', 'alice')")


def test_dump_and_restore(world, project, tmp_path):
    add(world, "alice")
    world.sql("SELECT immuta.set_current_project('mobility', 'alice')")
    token = world.token("alice")
    world.server.run_client("pg_dump", "-Fc", "-f", tmp_path / "dump", dbname="immuta")
    world.sql("CREATE DATABASE restored_projects")
    try:
        world.server.run_client("pg_restore", "-d", "restored_projects", "--exit-on-error", tmp_path / "dump")
        connection = world.connect(dbname="restored_projects")
        impersonate(connection, token)
        assert query(connection, "SELECT current_user, immuta.current_project(), min(carrier) FROM app.flights") == [
            ("project_mobility", "mobility", "DL")]
        connection.close()
    finally:
        world.sql("DROP DATABASE restored_projects WITH (FORCE)")


@pytest.mark.parametrize("call, sqlstate", [
    ("create_project('mobility')", "42710"), ("create_project('')", "22023"), ("create_project(NULL)", "22023"),
    ("create_project('x', 'alice')", "42710"), ("create_project('alice', 'alice')", "42710"),
    ("create_project('x', 'pg_x')", "42939"), ("drop_project('none')", "42704"),
    ("add_project_member('mobility', 'nobody')", "42704"), ("add_project_member('none', 'alice')", "42704"),
    ("add_project_data_source('mobility', 'pg_authid')", "42809"),
    ("add_project_data_source('mobility', 'immuta.token')", "42809"),
    ("add_project_data_source('mobility', 'app.none')", "42P01")])
def test_bad_input(world, project, call, sqlstate):
    with refuses(sqlstate):
        world.sql(f"SELECT immuta.{call}")


def test_odd_names(world, service):
    name = "x\"y'z; DROP ROLE alice --é" + "n" * 100
    role = world.value("SELECT immuta.create_project(%s)", (name,))
    world.sql('CREATE SCHEMA "odd ""schema"; GRANT USAGE ON SCHEMA "odd ""schema" TO alice; '
              'CREATE TABLE "odd ""schema"."odd ""table" ("odd ""column" int, b int); '
              'GRANT SELECT ("odd ""column") ON "odd ""schema"."odd ""table" TO alice')
    try:
        assert len(role.encode()) <= 63
        world.sql("SELECT immuta.add_project_data_source(%s, '\"odd \"\"schema\".\"odd \"\"table\"')", (name,))
        world.sql("SELECT immuta.add_project_member(%s, 'alice')", (name,))
        world.sql("SELECT immuta.set_current_project(%s, 'alice')", (name,))
        impersonate(service, world.token("alice"))
        assert query(service, "SELECT current_user, immuta.current_project()") == [(role, name)]
        assert query(service, 'SELECT "odd ""column" FROM "odd ""schema"."odd ""table"') == []
        service.rollback()
        world.sql('DROP TABLE "odd ""schema"."odd ""table"')
        assert world.value("SELECT immuta.equalise_projects()") == 0
    finally:
        world.sql("SELECT immuta.drop_project(%s)", (name,))
        world.sql('DROP SCHEMA "odd ""schema" CASCADE')
