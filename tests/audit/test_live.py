"""Who impersonates whom now, and how often it went so far."""

import json
import re

import promql_parser
import psycopg2
import pytest
import yaml
from conftest import Session, audited_server, world_of
from harness.server import ROOT
from harness.world import query


def stats(world):
    return {(name, label): value for name, label, value, _ in world.sql("SELECT * FROM immuta.impersonation_stats")}


def test_impersonations_of_all_sessions_are_shown(world, connect):
    one, other, idle = connect(), connect("extended", application_name="reports"), connect()
    one.begin()
    other.begin("bob")
    other.ok("SELECT 1")
    other.ok("SELECT 2")
    rows = {row[0]: row[1:] for row in world.sql(
        "SELECT userid, impersonator, iamid, mapped_role, database, statements, state, application_name, "
        "now() - established_at < '1 min', coverage, pid <> pg_backend_pid() FROM immuta.impersonations")}
    assert rows == {"alice": ("svc", "bim", "alice", "immuta", 0, "idle in transaction", "", True, "server", True),
                    "bob": ("svc", "bim", "bob", "immuta", 2, "idle in transaction", "reports", True, "server", True)}
    one.ok("COMMIT")
    other.run("SELECT 1/0")
    other.ok("ROLLBACK")
    idle.ok("SELECT 1")
    assert world.sql("SELECT * FROM immuta.impersonations") == []


def test_names_of_all_lengths_are_shown(world, connect):
    longest, iam = "é" * 127 + "x", "I" * 255
    world.sql("SELECT immuta.create_user(%s, %s, 'alice')", (longest, iam))
    token = world.token(longest, iam)
    session = connect()
    session.ok("BEGIN")
    session.ok(f"SET LOCAL bodata.impersonation_token = '{token}'")
    assert world.sql("SELECT userid, iamid FROM immuta.impersonations") == [(longest, iam)]
    session.ok("COMMIT")


def test_a_session_that_dies_is_not_shown(world, connect):
    session = connect()
    session.begin()
    pid = session.ok("SELECT pg_backend_pid()").rows[0][0]
    world.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert world.sql("SELECT * FROM immuta.impersonations") == []


def test_counters(world, connect):
    world.sql("SELECT immuta.reset_impersonation_stats()")
    assert {value for (name, _), value in stats(world).items() if name.endswith("_total")} == {0}
    session = connect()
    for _ in range(3):
        session.begin()
        session.ok("SELECT 1")
        session.ok("COMMIT")
    session.ok("BEGIN")
    session.run("SET LOCAL bodata.impersonation_token = 'nonsense'")
    session.ok("ROLLBACK")
    session.begin()
    session.run("RESET ROLE")
    session.ok("ROLLBACK")
    session.run("SELECT * FROM app.everyone")
    seen = stats(world)
    assert seen["immuta_impersonation_switches_total", None] == 4
    assert seen["immuta_impersonation_statements_total", None] == 4
    assert seen["immuta_token_cache_hits_total", None] == 3
    assert seen["immuta_token_cache_misses_total", None] == 2
    refusals = {label: value for (name, label), value in seen.items() if name == "immuta_impersonation_refusals_total"}
    assert {label: value for label, value in refusals.items() if value} == {"token_invalid": 1, "active": 1, "required": 1}
    assert seen["immuta_audit_records_total", None] == 3 * 3 + 1 + 3 + 1


def test_only_monitors_and_administrators_see_them(world, connect):
    world.sql("CREATE ROLE monitor LOGIN PASSWORD 'm' IN ROLE pg_monitor; CREATE ROLE manager LOGIN PASSWORD 'm' IN ROLE immuta_admin")
    statements = ("SELECT * FROM immuta.impersonations", "SELECT * FROM immuta.impersonation_stats",
                  "SELECT immuta.reset_impersonation_stats()")
    for login in ("monitor", "manager"):
        with world.connect(login, "m") as connection:
            for statement in statements:
                query(connection, statement)
    session = connect()
    session.begin()
    for statement in statements:
        session.ok("SAVEPOINT s")
        assert session.run(statement).error["C"] == "42501"
        session.ok("ROLLBACK TO s")
    session.ok("COMMIT")
    with world.connect("plain", "plain-password") as connection, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(connection, statements[0])


def test_without_shared_memory_a_session_sees_itself_and_says_so():
    with audited_server("audit-own", preload="session") as server:
        world = world_of(server)
        world.sql("GRANT pg_monitor TO postgres")
        admin = world.connect("postgres", server.superuser_password)
        query(admin, "SET LOCAL bodata.impersonation_token = %s", (world.token("alice"),))
        admin.commit()
        assert query(admin, "SELECT DISTINCT coverage FROM immuta.impersonation_stats") == [("this session",)]
        assert query(admin, "SELECT value FROM immuta.impersonation_stats "
                            "WHERE name = 'immuta_impersonation_switches_total'") == [(1.0,)]
        admin.close()
        session = Session(world)
        session.begin()
        assert world.sql("SELECT * FROM immuta.impersonations") == []
        session.wire.close()


def test_the_queries_for_prometheus_work_and_the_dashboard_uses_them(world):
    folder = ROOT / "docs" / "observability"
    collector = yaml.safe_load((folder / "sql_exporter.yml").read_text())
    known = {metric["metric_name"] for metric in collector["metrics"]}
    with world.connect("postgres", world.server.superuser_password) as connection:
        query(connection, "SET ROLE pg_monitor")
        for metric in collector["metrics"]:
            with connection.cursor() as cursor:
                cursor.execute(metric["query"])
                columns = {column.name for column in cursor.description}
                assert columns == {*metric.get("key_labels", []), *metric["values"]}, metric["metric_name"]
                assert cursor.rowcount or metric["metric_name"] == "immuta_impersonations"
    dashboard = json.loads((folder / "grafana-dashboard.json").read_text())
    used = {name for panel in dashboard["panels"] for target in panel["targets"]
            for name in re.findall(r"immuta_\w+", target["expr"])}
    assert used and used <= known


def test_alert_rules_are_about_what_there_is(world):
    """Each expression can be read, and names metrics and labels of the collector, and sections that a page has."""
    folder = ROOT / "docs" / "observability"
    metrics = {metric["metric_name"]: metric for metric in yaml.safe_load((folder / "sql_exporter.yml").read_text())["metrics"]}
    reasons, results = ({row[0] for row in world.sql(metrics[name]["query"])} for name in
                        ("immuta_impersonation_refusals_total", "immuta_token_cache_total"))
    [group] = yaml.safe_load((folder / "alerts.yml").read_text())["groups"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) >= 8
    for rule in group["rules"]:
        promql_parser.parse(rule["expr"])
        assert set(re.findall(r"\bimmuta_\w+", rule["expr"])) <= set(metrics), rule["alert"]
        assert set(re.findall(r"\w+", "|".join(re.findall(r'reason=~?"([^"]*)"', rule["expr"])))) <= reasons, rule["alert"]
        assert set(re.findall(r'result="([^"]*)"', rule["expr"])) <= results, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        page, section = rule["annotations"]["runbook"].split("#")
        headings = re.findall(r"^#+ (.*)", (ROOT / page).read_text(), re.M)
        assert section in {heading.lower().replace(" ", "-") for heading in headings}, rule["alert"]
