"""Tokens of the Immuta API: who its users become, and how often it is asked."""

import datetime
import json
import os
import time
from dataclasses import replace

import psycopg2
import pytest
from conftest import INVALID, NOT_ALLOWED, NOT_MAPPED, UNAVAILABLE, outcome, transaction, who
from harness.fault_server import BROKEN, GOOD, Fault, FaultServer, faults_for, response
from harness.fixtures import carriers, refuses, wait_until
from harness.immuta_api import CURRENT_USER, ImmutaApi
from harness.world import impersonate, query


def turning(fault, answer):
    """A provider whose first answer is good."""
    def play(talk):
        if talk.number == 1:
            talk.send(talk.good)
        else:
            fault.play(talk)

    return FaultServer(replace(fault, play=play), answer=answer)


@pytest.fixture
def roles(world):
    world.sql("CREATE ROLE dora IN ROLE immuta_mappable; CREATE ROLE sales IN ROLE immuta_mappable; "
              "CREATE ROLE unmarked; CREATE ROLE admin_like CREATEROLE IN ROLE immuta_mappable")
    yield
    world.sql("DROP ROLE dora, sales, unmarked, admin_like")


# -- who becomes what --------------------------------------------------------------------------------------------


def test_a_row_of_ours_decides_first(world, api, token, connect, roles):
    api.add_user("bob", external_ids={"postgresqlUser": "sales"})
    assert who(connect(), token("bob")) == ("bim", "bob", "bob")
    world.sql("SELECT immuta.unmap_user('bob')")
    try:
        with refuses(*NOT_MAPPED):
            impersonate(connect(), token("bob"))
    finally:
        world.sql("SELECT immuta.map_user('bob', 'bob')")


@pytest.mark.parametrize("userid, external_ids, role", [
    ("dora", {}, "dora"), ("dora", {"postgresqlUser": "sales"}, "sales"), ("nobody", {"postgresqlUser": "sales"}, "sales"),
    ("dora", {"postgresqlUser": None}, "dora"), ("dora", {"postgresqlUser": ""}, "dora"),
    ("dora", {"snowflakeUser": "sales"}, "dora"),
    ("nobody", {}, NOT_MAPPED), ("unmarked", {}, NOT_MAPPED), ("Dora", {}, NOT_MAPPED), ("dora ", {}, NOT_MAPPED),
    ("dora", {"postgresqlUser": "unmarked"}, NOT_MAPPED), ("dora", {"postgresqlUser": "nosuchrole"}, NOT_MAPPED),
    ("dora", {"postgresqlUser": "none"}, NOT_MAPPED), ("dora", {"postgresqlUser": "x" * 200}, NOT_MAPPED),
    ("dora", {"postgresqlUser": "admin_like"}, NOT_ALLOWED), ("admin_like", {}, NOT_ALLOWED),
    ("dora", {"postgresqlUser": "postgres"}, NOT_MAPPED)])
def test_users_need_no_row(api, token, connect, roles, userid, external_ids, role):
    api.add_user(userid, external_ids=external_ids)
    if isinstance(role, str):
        assert who(connect(), token(userid)) == ("bim", userid, role)
    else:
        with refuses(*role):
            impersonate(connect(), token(userid))


def test_another_attribute_can_name_the_role(api, token, connect, roles, settings):
    settings(user_mapping_attribute="snowflakeUser")
    api.add_user("dora", external_ids={"postgresqlUser": "dora", "snowflakeUser": "sales"})
    assert who(connect(), token("dora")) == ("bim", "dora", "sales")


def test_users_of_other_identity_managers_are_other_users(api, token, connect, roles, settings):
    api.add_user("alice", iamid="okta")
    api.add_user("dora", iamid="okta")
    for userid in ("alice", "dora"):
        with refuses(*NOT_MAPPED):
            impersonate(connect(), token(userid, "okta"))
    settings(map_by_username_iamids="bim, okta")
    assert who(connect(), token("dora", "okta")) == ("okta", "dora", "dora")


def test_a_name_that_the_database_cannot_write_has_no_role(api, token, connect):
    api.add_user("日本")
    with refuses(*NOT_MAPPED):
        impersonate(connect(), token("日本"))


def test_refusals(world, api, token, connect):
    api.add_user("dis", disabled=True)
    api.add_user("forbidden", forbidden=True)
    for refused, expected in ((token("dis"), INVALID), (token("forbidden"), NOT_ALLOWED), ("unknown", INVALID)):
        for _ in range(2):
            with refuses(*expected):
                impersonate(connect(), refused)
    expired = token()
    api.expire(expired)
    with refuses(*INVALID):
        impersonate(connect(), expired)


def test_who_is_disabled_here_is_disabled(world, token, connect):
    connection, alices = connect(), token()
    assert who(connection, alices)[1] == "alice"
    world.sql("SELECT immuta.disable_user('alice')")
    try:
        assert outcome(connection, alices) == INVALID[1]
        assert query(connection, "SELECT immuta.check_token(%s)", (alices,)) == [({"active": False},)]
    finally:
        world.sql("SELECT immuta.disable_user('alice', disabled => false)")


def test_what_the_session_tells(api, token, connect, world):
    connection, alices = connect(), token()
    with transaction(connection, alices):
        provider, expires = query(connection, "SELECT provider, expires_at - now() FROM immuta.whoami()")[0]
        assert provider == "immuta" and datetime.timedelta(minutes=59) < expires < datetime.timedelta(minutes=61)
    answer = query(connection, "SELECT immuta.check_token(%s)", (alices,))[0][0]
    assert (answer["active"], answer["userid"]) == (True, "alice")
    assert query(connection, "SELECT immuta.check_token('nonsense')") == [({"active": False},)]


# -- how often it is asked ---------------------------------------------------------------------------------------


def asked(api):
    return api.requests[CURRENT_USER]


def test_a_known_token_is_not_asked_about_again(world, api, token, connect):
    connection, tokens = connect(), [token(user) for user in ("alice", "bob", "carol")]
    for _ in range(3):
        assert [outcome(connection, t) for t in tokens] == ["alice", "bob", "carol"]
    assert asked(api) == 3 and api.connections == 1, "one connection, kept alive"
    world.sql("CREATE ROLE passing_by; DROP ROLE passing_by")
    assert outcome(connection, tokens[0]) == "alice"
    assert asked(api) == 3, "what changes in the database is looked up in the database"
    assert outcome(connect(), tokens[0]) == "alice"
    assert asked(api) == 3, "what one session was told, all know"


def test_a_changed_mapping_counts_at_once(world, api, token, connect):
    connection, bobs = connect(), token("bob")
    assert who(connection, bobs)[2] == "bob"
    world.sql("SELECT immuta.map_user('bob', 'carol')")
    try:
        assert who(connection, bobs)[2] == "carol"
    finally:
        world.sql("SELECT immuta.map_user('bob', 'bob')")
    assert who(connection, bobs)[2] == "bob" and asked(api) == 1


def test_a_revoked_token_ends_when_it_is_asked_about(api, token, connect, settings):
    settings(token_revalidate_interval="1s")
    connection, alices = connect(), token()
    assert outcome(connection, alices) == "alice"
    impersonate(connection, alices)
    api.revoke(alices)
    time.sleep(1.1)
    assert carriers(connection) == ["UA"], "not in the middle of a transaction"
    connection.commit()
    assert outcome(connection, alices) == INVALID[1]


def test_zero_asks_in_every_transaction(api, token, connect, settings):
    settings(token_revalidate_interval=0)
    connection, alices = connect(), token()
    for count in (1, 2, 3):
        with transaction(connection, alices):
            assert carriers(connection) == carriers(connection) == ["UA"]
        assert asked(api) == count
    api.revoke(alices)
    assert outcome(connection, alices) == INVALID[1]


def test_use_keeps_the_token_alive_there(api, token, connect, settings):
    """The API counts what it sees as activity: also in a transaction that lasts."""
    settings(token_revalidate_interval="1s")
    connection, alices = connect(), token()
    impersonate(connection, alices)
    first = api.last_seen(alices)
    query(connection, "SELECT pg_sleep(9)")
    carriers(connection)
    assert api.last_seen(alices) == first, "not all the time"
    query(connection, "SELECT pg_sleep(1.5)")
    began = time.monotonic()
    api.delay = 2
    carriers(connection)
    assert time.monotonic() - began < 1.5, "nobody waits for that"
    assert wait_until(lambda: api.last_seen(alices) > first + 10)
    api.delay = 0
    connection.commit()
    assert outcome(connection, alices) == "alice"


def test_an_idle_token_is_asked_about_again(api, token, connect, settings):
    settings(token_idle_ttl="1s")
    connection, alices = connect(), token()
    assert outcome(connection, alices) == "alice"
    time.sleep(1.1)
    assert outcome(connection, alices) == "alice", "it may have been used elsewhere: the API knows"
    assert asked(api) == 2
    impersonate(connection, alices)
    time.sleep(1.2)
    with refuses(*INVALID):
        carriers(connection)


def test_a_refused_token_is_not_asked_about_again_for_a_while(api, token, connect, settings):
    settings(negative_cache_ttl="1s")
    api.add_user("forbidden", forbidden=True)
    connection, forbidden = connect(), token("forbidden")
    for refused, code in (("unknown", INVALID[1]), (forbidden, NOT_ALLOWED[1])):
        before = asked(api)
        assert [outcome(connection, refused) for _ in range(5)] == [code] * 5
        assert asked(api) == before + 1
    time.sleep(1.1)
    api.issue("alice", token="unknown")
    assert outcome(connection, "unknown") == "alice"


def test_guesses_cost_time_but_honest_users_do_not_pay(api, token, connect):
    connection, began = connect(), time.monotonic()
    assert [outcome(connection, f"guess{i}") for i in range(6)] == [INVALID[1]] * 6
    assert time.monotonic() - began > 0.6, "the fourth waits 100 ms, the fifth 200, the sixth 400"
    began = time.monotonic()
    assert outcome(connection, token()) == "alice"
    assert time.monotonic() - began < 0.3


def test_grace(world, api, token, connect, settings, server):
    settings(token_revalidate_interval="1s", provider_grace="3s")
    connection, alices, bobs = connect(), token(), token("bob")
    assert outcome(connection, alices) == "alice"
    api.__exit__()
    before = server.logged()
    with refuses(*UNAVAILABLE):
        impersonate(connection, bobs)
    connection.rollback()
    time.sleep(1.2)
    assert [outcome(connection, alices) for _ in range(3)] == ["alice"] * 3, "the last answer serves"
    assert server.log(before).count("its last answers serve meanwhile") == 1
    time.sleep(3)
    assert outcome(connection, alices) == UNAVAILABLE[1]


def test_grace_can_be_given_while_the_provider_is_down(world, api, token, connect, settings):
    """As docs/incidents.md says: for tokens that were confirmed before, refused meanwhile or not."""
    settings(token_revalidate_interval="1s")
    connection, other, alices, bobs = connect(), connect(), token(), token("bob")
    assert (outcome(connection, alices), outcome(other, bobs)) == ("alice", "bob")
    api.__exit__()
    time.sleep(1.1)
    assert outcome(connection, alices) == UNAVAILABLE[1]
    world.sql("ALTER SYSTEM SET bodata.provider_grace = '1h'")
    world.sql("SELECT pg_reload_conf()")
    try:
        assert wait_until(lambda: outcome(connection, alices) == "alice")
        assert outcome(other, bobs) == "bob"
    finally:
        world.sql("ALTER SYSTEM RESET bodata.provider_grace")
        world.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize("fault, detail", [
    *((name, UNAVAILABLE[1]) for name in ("429", "404", "204", "302 to another host", "invalid JSON", "null",
                                          "body of 10 GiB", "garbage instead of HTTP", "userid is 7")),
    *((name, "alice") for name in ("500", "502", "reset before an answer", "hangs before the headers",
                                   "closed inside the body"))])
def test_grace_is_for_silence_and_server_errors(world, connect, settings, fault, detail):
    """What the provider says in time may mean that the token counts no longer, understood or not."""
    user = {"iamid": "bim", "userid": "alice"}
    world.tokens.append("a-token-for-grace")
    settings(token_provider="immuta", token_revalidate_interval=0, provider_grace="1h", api_timeout="500ms")
    with turning(faults_for(user)[fault], user) as server:
        settings(api_url=server.url)
        connection = connect()
        assert outcome(connection, world.tokens[-1]) == "alice"
        assert outcome(connection, world.tokens[-1]) == detail
    if detail == UNAVAILABLE[1]:
        assert outcome(connection, world.tokens[-1]) == detail, "nor later, when the provider says nothing"


@pytest.mark.parametrize("status", ["400 Bad Request", "402 Payment Required", "405 Method Not Allowed",
                                    "408 Request Timeout", "410 Gone", "425 Too Early", "451 Unavailable", "301 Moved"])
def test_no_grace_for_a_status(world, connect, settings, status):
    user = {"iamid": "bim", "userid": "alice"}
    settings(token_provider="immuta", token_revalidate_interval=0, provider_grace="1h")
    play = Fault(status, BROKEN, lambda talk: talk.send(response(b"{}", status)))
    with turning(play, user) as server:
        settings(api_url=server.url)
        connection = connect()
        assert [outcome(connection, "any-token") for _ in range(2)] == ["alice", UNAVAILABLE[1]]


@pytest.mark.parametrize("profile", [r'{"name": "\ud800"}', '{"a": 1e400}', '{"a": 1, "a": 2}', "[" * 500 + "]" * 500,
                                     json.dumps("x" * 1_000_000)], ids=lambda text: text[:20])
def test_no_profile_keeps_a_disabled_user_enabled(world, connect, settings, profile):
    body = '{"iamid": "bim", "userid": "alice", "disabled": %s, "profile": ' + profile + "}"
    settings(token_provider="immuta", token_revalidate_interval=0, provider_grace="1h")
    play = Fault("disabled", GOOD, lambda talk: talk.send(response(body % "true")))
    with turning(play, {"iamid": "bim", "userid": "alice"}) as server:
        settings(api_url=server.url)
        connection = connect()
        assert [outcome(connection, "any-token") for _ in range(2)] == ["alice", INVALID[1]]


def test_without_grace_an_outage_is_one(api, token, connect, settings):
    settings(token_revalidate_interval="1s")
    connection, alices = connect(), token()
    assert outcome(connection, alices) == "alice"
    api.__exit__()
    assert outcome(connection, alices) == "alice", "not asked, not noticed"
    time.sleep(1.1)
    assert outcome(connection, alices) == UNAVAILABLE[1]
    assert query(connection, "SELECT 1") == [(1,)]


def test_check_token_tells_an_outage_from_an_inactive_token(api, connect):
    connection = connect()
    api.__exit__()
    with refuses(*UNAVAILABLE):
        query(connection, "SELECT immuta.check_token('x')")


# -- changes under way -------------------------------------------------------------------------------------------


def reload(world, **values):
    for name, value in values.items():
        world.sql(f"ALTER SYSTEM SET bodata.{name} = %s" if value is not None else
                  f"ALTER SYSTEM RESET bodata.{name}", (value,) if value is not None else None)
    world.sql("SELECT pg_reload_conf()")


def test_a_changed_provider_empties_the_caches(world, connect):
    """Also of sessions that are open, at their next transaction."""
    local = world.token()
    with ImmutaApi() as first, ImmutaApi() as second:
        for api, userid in ((first, "bob"), (second, "carol")):
            api.add_user(userid)
            api.issue(userid, token=local)
        connection = connect()
        assert outcome(connection, local) == "alice"
        impersonate(connection, local)
        try:
            reload(world, api_url=first.url, token_provider="immuta")
            time.sleep(0.3)
            assert carriers(connection) == ["UA"], "a transaction keeps its user"
            connection.commit()
            assert wait_until(lambda: outcome(connection, local) == "bob")
            reload(world, api_url=second.url)
            assert wait_until(lambda: outcome(connection, local) == "carol")
            assert query(connection, "SELECT immuta.check_token(%s)->>'userid'", (local,)) == [("carol",)]
            connection.rollback()
        finally:
            reload(world, api_url=None, token_provider=None)
        assert wait_until(lambda: outcome(connection, local) == "alice")


def test_the_token_is_sent_where_it_belongs_and_nothing_else(api, token, connect):
    assert outcome(connect(), token()) == "alice"
    assert set(api.requests) == {CURRENT_USER}


# -- TLS and proxies ---------------------------------------------------------------------------------------------


@pytest.fixture
def tls(world, settings, authority):
    """A stand-in that speaks TLS, with a certificate of our authority or any other."""
    running = []

    def start(context, host="127.0.0.1"):
        api = ImmutaApi(context=context).__enter__()
        running.append(api)
        api.add_user("alice")
        settings(token_provider="immuta", api_url=f"https://{host}:{api.port}", api_allow_http="off")
        world.tokens.append(api.issue("alice"))
        return world.tokens[-1]

    yield start
    for api in running:
        api.__exit__()


@pytest.mark.parametrize("names, host", [(("127.0.0.1",), "127.0.0.1"), (("localhost",), "localhost")])
def test_a_private_authority_is_trusted_if_we_say_so(tls, authority, settings, connect, names, host):
    good = tls(authority.server_context(*names), host)
    connection = connect()
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connection, good)
    assert "no trusted TLS connection" in seen.message
    settings(api_ca_file=authority.ca_file)
    assert outcome(connect(), good) == "alice"


@pytest.mark.parametrize("names, expired", [(("localhost",), False), (("other.example",), False),
                                            (("127.0.0.1",), True)])
def test_a_bad_certificate_is_refused(tls, authority, settings, connect, names, expired):
    good = tls(authority.server_context(*names, expired=expired))
    settings(api_ca_file=authority.ca_file)
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), good)
    assert "no trusted TLS connection" in seen.message


@pytest.mark.parametrize("is_authority, expected", [(False, "alice"), (True, UNAVAILABLE[1])])
def test_a_self_signed_certificate(tls, authority, settings, connect, is_authority, expected):
    certificate, context = authority.self_signed(authority.ca_file.parent, is_authority)
    certificate.chmod(0o644)
    good = tls(context)
    assert outcome(connect(), good) == UNAVAILABLE[1]
    settings(api_ca_file=certificate)
    assert outcome(connect(), good) == expected


def test_what_can_vouch_for_nothing_is_refused(world, authority):
    """A certificate that an authority issued to a server, or one that cannot be read, also beside good ones."""
    folder = authority.ca_file.parent / "server"
    issued = authority.server_files(folder, "127.0.0.1")[0].read_bytes()
    garbage = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    file = authority.ca_file.with_name("mixed.pem")
    for more, why in ((issued, "neither that of a certificate authority nor self-signed: number 2"),
                      (garbage, "cannot be read: number 2")):
        file.write_bytes(authority.ca_file.read_bytes() + more)
        file.chmod(0o644)
        with pytest.raises(psycopg2.Error) as raised:
            world.sql("SET bodata.api_ca_file = %s", (str(file),))
        assert raised.value.pgcode == "22023" and why in raised.value.diag.message_detail
    file.write_bytes(authority.ca_file.read_bytes() * 2)
    world.sql("SET bodata.api_ca_file = %s", (str(file),))
    world.sql("RESET bodata.api_ca_file")


@pytest.mark.skipif(not os.path.exists("/etc/ssl/certs/ca-certificates.crt"), reason="no authorities of the system")
def test_the_authorities_of_the_system(world):
    world.sql("SET bodata.api_ca_file = '/etc/ssl/certs/ca-certificates.crt'")
    world.sql("RESET bodata.api_ca_file")


def test_no_tls_on_the_other_side(api, token, connect, settings, authority):
    settings(api_url=api.url.replace("http:", "https:"), api_ca_file=authority.ca_file)
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert "no trusted TLS connection" in seen.message


def test_the_authority_can_be_changed_by_a_reload(world, tls, authority, settings, connect, tmp_path_factory):
    from harness.certificates import Authority
    other = Authority(tmp_path_factory.mktemp("other"))
    file = authority.ca_file.with_name("rotated.pem")
    file.write_bytes(other.ca_file.read_bytes())
    file.chmod(0o644)
    good = tls(authority.server_context("127.0.0.1"))
    settings(api_ca_file=file, token_revalidate_interval=0)
    connection = connect()
    assert outcome(connection, good) == UNAVAILABLE[1]
    file.write_bytes(other.ca_file.read_bytes() + authority.ca_file.read_bytes())
    world.sql("SELECT pg_reload_conf()")
    assert wait_until(lambda: outcome(connection, good) == "alice")
    file.write_bytes(b"no certificate")
    world.sql("SELECT pg_reload_conf()")
    assert wait_until(lambda: outcome(connection, good) == UNAVAILABLE[1])
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connection, good)
    assert "the file of bodata.api_ca_file holds no certificate" in seen.message


class Proxy:
    """The little of HTTP CONNECT that a proxy needs."""

    def __init__(self, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
        from harness.listener import Listener
        self.asked, self.answer = [], answer
        self.listener = Listener(self.serve)
        self.url = f"http://127.0.0.1:{self.listener.port}"

    def __enter__(self):
        self.listener.start()
        return self

    def __exit__(self, *_):
        self.listener.stop()

    def serve(self, connection):
        import socket
        import threading
        request = connection.request()
        self.asked.append((request.method, request.path))
        connection.send(self.answer)
        if b" 200 " not in self.answer:
            return
        host, port = request.path.split(":")
        with socket.create_connection((host, int(port))) as far:
            def back():
                while data := far.recv(65536):
                    connection.send(data)
            threading.Thread(target=back, daemon=True).start()
            while data := connection.stream.recv(65536):
                far.sendall(data)


def test_a_proxy_is_used_if_we_say_so(world, tls, authority, settings, connect):
    """All other tests run with proxies in the server's environment, which nobody answers at."""
    good = tls(authority.server_context("127.0.0.1"))
    settings(api_ca_file=authority.ca_file)
    with Proxy() as proxy:
        settings(api_proxy=proxy.url)
        assert outcome(connect(), good) == "alice"
        assert [method for method, _ in proxy.asked] == ["CONNECT"]
    world.sql("SELECT immuta.flush_token_cache()")
    assert outcome(connect(), good) == UNAVAILABLE[1], "not past it"
    with Proxy(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as proxy:
        settings(api_proxy=proxy.url)
        assert outcome(connect(), good) == UNAVAILABLE[1]


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, value", [
    ("token_provider", "ldap"), ("api_url", "immuta.example.com"), ("api_url", "https://"), ("api_url", "ftp://h/"),
    ("api_url", "https://u:p@h/"), ("api_url", "https://h/?a=b"), ("api_url", "https://h:99999/"),
    ("api_url", "http://h/"), ("introspection_url", "http://h/"), ("introspection_url", "https://h/#x"),
    ("api_ca_file", "/nonexistent/ca.pem"), ("api_ca_file", "/"), ("api_ca_file", "postgresql.conf"),
    ("introspection_client_secret_file", "/nonexistent/secret"), ("introspection_client_secret_file", "PG_VERSION"),
    ("introspection_client_secret_file", "/dev/null"), ("api_proxy", "socks5://h:1"), ("api_proxy", "http://u:p@h"),
    ("api_timeout", "0"), ("api_timeout", "1h"), ("provider_grace", "-1"), ("user_mapping_attribute", "a\nb"),
    ("introspection_user_claim", "a,,b"), ("introspection_audience", "a\nb")])
def test_a_bad_value_is_refused_when_it_is_set(world, name, value):
    world.sql("SET bodata.api_allow_http = off")
    if value == "PG_VERSION":
        import os
        os.chmod(world.server.data / "PG_VERSION", 0o644)
    try:
        for how in ("SET", "ALTER SYSTEM SET", "ALTER DATABASE immuta SET"):
            with refuses("22023"):
                world.sql(f"{how} bodata.{name} = %s", (value,))
    finally:
        world.sql("RESET bodata.api_allow_http")


def test_plain_http_is_not_used_once_it_is_forbidden(api, token, connect, settings):
    alices = token()
    assert outcome(connect(), alices) == "alice"
    settings(api_allow_http="off")
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), alices)
    assert "bodata.api_" in seen.message and asked(api) == 1


@pytest.mark.parametrize("value, what", [("", "bodata.api_url is not set")])
def test_a_provider_that_is_not_set_up(world, api, token, connect, settings, value, what):
    settings(api_url=value)
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert what in seen.message


def test_settings_are_for_superusers(connect, world):
    names = [row[0] for row in world.sql("SELECT name FROM pg_settings WHERE name LIKE 'bodata.%' AND context <> 'postmaster'")]
    assert len(names) > 20
    for user, password in (("svc", "service-password"), ("plain", "plain-password")):
        connection = connect(user, password)
        for name in names:
            with refuses("42501"):
                query(connection, f"SET {name} TO DEFAULT" if user == "plain" else f"SET {name} = 'x'")
            connection.rollback()
        for name in ("bodata.api_ca_file", "bodata.introspection_client_secret_file"):
            with refuses("42501"):
                query(connection, f"SHOW {name}")
            connection.rollback()
