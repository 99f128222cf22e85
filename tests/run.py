"""Runs every suite, says what it is doing, and ends with one line that counts them all.

    tests/run.py [--only format,lint,rust,clients,inject,core,assert,upgrade,wrapped] VERSION…

One lane builds, version by version; two more run what a version's library is ready for. They mostly wait, for servers
and for time to pass.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from harness.server import BUILD, NOBODY, TRIED, VERSIONS  # noqa: E402

PARTS = ("format", "lint", "rust", "clients", "inject", "core", "assert", "upgrade")
# Drivers and poolers know little of versions.
DRIVER_VERSIONS = ("15", "18")
# The versions whose sources Debian has: PostgreSQL's own tests, and a build with assertions.
CORE_VERSIONS, ASSERT_VERSIONS = ("15", "18"), ("18",)
# `make inject` tries the faults on others as well.
INJECT_VERSIONS = ("18",)
# The shortest upgrade; `make upgrade` runs the others as well.
UPGRADE = ("17", "18")


class Tally:
    def __init__(self):
        self.passed = self.failed = 0
        self.failures = []

    def add(self, name, passed, failed, output=""):
        self.passed += passed
        self.failed += failed
        if failed:
            # The last lines of a run are often all that one gets to see of it.
            which = re.findall(r"^(?:FAILED|ERROR) (\S+)|^\[core\] failed: (.*);|^test (\S+) .*FAILED$", output, re.M)
            self.failures.append(" ".join([name, *("".join(found) for found in which[:5])]))
        print(f"[test] {name}: {passed} passed, {failed} failed", flush=True)


def build_environment(version=""):
    """The environment of tools/env.sh for a version; PWD is its crate."""
    shown = subprocess.run(["bash", "-c", '. "$0" "$1" && env -0', ROOT / "tools" / "env.sh", version], text=True,
                           check=True, stdout=subprocess.PIPE).stdout
    return dict(line.split("=", 1) for line in shown.split("\0") if line)


def run(name, words, env):
    """Runs a command with its output in a log, which is shown if it fails; returns (succeeded, output)."""
    started = time.monotonic()
    print(f"[test] {name} …", flush=True)
    log = BUILD / "logs" / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        code = subprocess.run([str(w) for w in words], cwd=env["PWD"], env=env, stdin=subprocess.DEVNULL, stdout=out,
                              stderr=subprocess.STDOUT).returncode
    output = log.read_text(errors="replace")
    if code:
        print(output[-20_000:])
    print(f"[test] {name}: {time.monotonic() - started:.0f} s", flush=True)
    return code == 0, output


def check(tally, name, words, env):
    succeeded, output = run(name, words, env)
    tally.add(name, int(succeeded), int(not succeeded), output)
    return succeeded


def rust(tally, version, env):
    """Unit tests and pg_tests, through cargo pgrx test."""
    name = f"cargo pgrx test, PostgreSQL {version}"
    words = ["cargo", "pgrx", "test", f"pg{version}", "--no-default-features"]
    env = dict(env, LD_LIBRARY_PATH=str(BUILD / "pg" / version / "lib"))
    if os.geteuid() == 0:
        # PostgreSQL refuses to be root: pgrx then goes through sudo, for which tools/ has a stand-in.
        pgdata = BUILD / "run" / "pg_test"
        pgdata.mkdir(parents=True, exist_ok=True)
        os.chown(pgdata, NOBODY, NOBODY)
        words += ["--runas", "nobody", "--pgdata", pgdata]
        env["PATH"] = f"{ROOT / 'tools'}:{env['PATH']}"
    else:
        env.setdefault("USER", subprocess.run(["id", "-un"], text=True, capture_output=True).stdout.strip())
    succeeded, output = run(name, words, env)
    counts = [tuple(map(int, m)) for m in re.findall(r"test result: \w+\. (\d+) passed; (\d+) failed", output)]
    passed, failed = (sum(column) for column in zip(*counts)) if counts else (0, 0)
    tally.add(name, passed, failed or int(not succeeded or not passed), output)


def install(tally, version, env):
    return check(tally, f"install for PostgreSQL {version}", [ROOT / "tools" / "install", version], env)


def suites(version):
    """Those of real clients against private servers; the longest first."""
    drivers = ("drivers",) if version in DRIVER_VERSIONS else ()
    return ("attacks", "subscriptions", "providers", "e2e", "audit", "masking", *drivers)


def pytest(tally, name, suite, version, env):
    words = [BUILD / "venv" / "bin" / "python", "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider",
             ROOT / "tests" / suite]
    # Servers of different suites have folders of their own.
    env = dict(env, PG_VERSION=version, PYTHONDONTWRITEBYTECODE="1", IMMUTA_RUN=f"{env.get('IMMUTA_RUN', '')}{suite}")
    succeeded, output = run(name, words, env)
    last = output.strip().splitlines()[-1] if output.strip() else ""
    count = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?)", last)}
    failed = count.get("failed", 0) + count.get("error", 0) + count.get("errors", 0)
    passed = count.get("passed", 0)
    tally.add(name, passed, failed or int(not succeeded or not passed), output)


def asserting(tally, version, env, suites):
    """The same against a server that checks itself; it gets the library that install() made."""
    if check(tally, f"PostgreSQL {version} with assertions", [ROOT / "tools" / "assert-build", version], env):
        env = dict(env, IMMUTA_PG_TREES=str(BUILD / "pg-assert"), IMMUTA_RUN="assert-")
        for suite in suites:
            pytest(tally, f"{suite}, PostgreSQL {version} with assertions", suite, version, env)


def install_with_faults(tally, version, env):
    return check(tally, f"install with faults for PostgreSQL {version}", [ROOT / "tools" / "inject-build", version], env)


def core(tally, version, env, *options):
    """PostgreSQL's own tests; install() has put the library there."""
    name = " ".join(["core, PostgreSQL", version, *options])
    words = [BUILD / "venv" / "bin" / "python", ROOT / "tests" / "core" / "run.py", "--quick", *options, version]
    succeeded, output = run(name, words, env)
    count = re.search(r"^(\d+) passed, (\d+) failed$", output, re.M)
    passed, failed = map(int, count.groups()) if count else (0, 0)
    tally.add(name, passed, failed or int(not succeeded or not passed), output)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    tally, versions = Tally(), list(arguments.versions)
    if TRIED in versions and not (BUILD / f"tools-{TRIED}").exists():
        print(f"[test] PostgreSQL {TRIED} is left out: tools/setup {TRIED} says why")
        versions.remove(TRIED)
    with ThreadPoolExecutor(2) as lanes:
        done = []

        def later(*task):
            done.append(lanes.submit(*task))

        if "format" in parts:
            env = build_environment()
            check(tally, "format", ["cargo", "fmt", "--check"], env)
            pytest(tally, "house", "house", VERSIONS[-1], env)
        for version in versions:
            env = build_environment(version)
            if "lint" in parts:
                for feature in ("pg_test", "inject") if version in INJECT_VERSIONS else ("pg_test",):
                    check(tally, f"clippy, PostgreSQL {version}, {feature}",
                          ["cargo", "clippy", "-q", *(["--all-targets"] if feature == "pg_test" else []), "--no-default-features",
                           "--features", f"pg{version} {feature}", "--", "-D", "warnings"], env)
            if "rust" in parts:
                # Before anything else of this version: it installs a library of its own.
                rust(tally, version, env)
            if "inject" in parts and (version in INJECT_VERSIONS or len(parts) == 1) and install_with_faults(tally, version, env):
                later(pytest, tally, f"faults, PostgreSQL {version}", "inject", version,
                      dict(env, IMMUTA_PG_TREES=str(BUILD / "pg-inject")))
            if "wrapped" in parts and version in CORE_VERSIONS and install_with_faults(tally, version, env):
                later(core, tally, version, dict(env, IMMUTA_PG_TREES=str(BUILD / "pg-inject")), "--wrapped")
            if not {"clients", "core", "assert", "upgrade"} & set(parts) or not install(tally, version, env):
                continue
            if "assert" in parts and version in ASSERT_VERSIONS:
                later(asserting, tally, version, env, ("attacks", "masking") if len(parts) > 1 else ("attacks", "masking", "e2e", "providers"))
            if "clients" in parts:
                for suite in suites(version):
                    later(pytest, tally, f"{suite}, PostgreSQL {version}", suite, version, env)
            if "core" in parts and version in CORE_VERSIONS:
                later(core, tally, version, env)
            if "upgrade" in parts and version == UPGRADE[1] and UPGRADE[0] in versions:
                later(pytest, tally, f"upgrade, PostgreSQL {' to '.join(UPGRADE)}", "upgrade", version, dict(env, UPGRADES=":".join(UPGRADE)))
        for future in done:
            future.result()
    shutil.rmtree(BUILD / "run" / "pg_test", ignore_errors=True)
    if tally.failures:
        print("[test] failed: " + "; ".join(tally.failures))
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
