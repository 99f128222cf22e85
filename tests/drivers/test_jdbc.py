"""pgjdbc, which sends BEGIN with the first statement, and statements that it has seen before by name."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness import debian

PROGRAM = Path(__file__).parent / "jdbc" / "Application.java"


@pytest.mark.parametrize("mode", ["extended", "simple", "extendedForPrepared", "extendedCacheEverything"])
def test_jdbc(where, tokens, mode):
    jar = debian.binary("libpostgresql-jdbc-java") / "usr" / "share" / "java" / "postgresql.jar"
    given = dict(HOST=where["host"], PORT=str(where["port"]), DBNAME=where["dbname"], MODE=mode,
                 SERVICE=where["user"], PASSWORD=where["password"], ALICE=tokens["alice"], BOB=tokens["bob"])
    done = subprocess.run(["java", "-XX:TieredStopAtLevel=1", "-cp", jar, PROGRAM], text=True, capture_output=True,
                          env={**os.environ, **given}, timeout=120)
    assert done.returncode == 0, json.dumps(done.stdout + done.stderr)
    assert done.stdout.split() == ["prepared", "cursor", "nested", "batch", "readonly", "isolation", "refused", "copy",
                                   "done"]
