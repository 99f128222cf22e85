"""The guides to single servers: what they say to set accepts a token of the form that they show, and the first refusal is the one that
they name."""

import json
import re
import time

import pytest
from conftest import INVALID, outcome
from harness.issuer import Issuer, b64
from harness.server import ROOT

PAGES = sorted((ROOT / "docs").glob("jwt-*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_guide(world, settings, connect, page):
    text = page.read_text()
    sql = re.search(r"```sql\n(.*?)```", text, re.S)[1]
    shown = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])
    user = re.search(r"Its user is `(.+?)`", text)[1]
    first = re.search(r"the check that fails in\n`immuta.explain_token\(\)` is `(.+?)`", text)[1]
    [mapping] = re.findall(r"SELECT (immuta.map_issuer\(.*\));", sql)
    iamid = re.search(r"map_issuer\('[^']+', '(\w+)'", mapping)[1]
    values = dict(re.findall(r"ALTER SYSTEM SET bodata.(\w+) = '(.*)';", sql))
    types = values.pop("jwt_types")
    now = int(time.time())
    with Issuer() as issuer:
        claims = {**shown["claims"], "iat": now, "exp": now + 300}
        token = issuer.forged(header=shown["header"], payload=claims)
        world.tokens.append(token)
        settings(**values)
        # The keys are those of an issuer in this process.
        keys = json.dumps(issuer.jwks()).replace("'", "''")
        world.sql(f"SELECT {mapping[:-1]}, jwks => '{keys}')".replace("%", "%%"))
        world.sql("SELECT immuta.create_user(%s, %s, 'alice')", (user, iamid))
        try:
            assert outcome(connect(), token) == INVALID[1]
            for name, value in values.items():
                world.sql(f"SET bodata.{name} = '{value}'")
            findings = dict(world.sql('SELECT "check", ok FROM immuta.explain_token(%s)', (token,)))
            assert [check for check, ok in findings.items() if not ok] == [first]
            settings(jwt_types=types)
            assert outcome(connect(), token) == user
            other = issuer.forged(header=shown["header"], payload={**claims, "aud": "other"})
            assert outcome(connect(), other) == INVALID[1]
            nobody = issuer.forged(header=shown["header"], payload=b64(token))
            assert outcome(connect(), nobody) == INVALID[1]
        finally:
            for name in values:
                world.sql(f"RESET bodata.{name}")
            world.sql("SELECT immuta.drop_user(%s, %s)", (user, iamid))
            world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")


def test_there_are_guides():
    assert len(PAGES) == 5
