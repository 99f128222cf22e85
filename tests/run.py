"""Runs every suite, says what it is doing, and ends with one line that counts them all.

    tests/run.py [--only format,lint,rust,clients,inject,core,assert,upgrade,install,wrapped] VERSION…

One lane builds, version by version; three more run what a version's library is ready for, the longest first. They also
wait, for servers and for time to pass.
"""

import argparse
import heapq
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from harness.server import BUILD, NOBODY, TRIED, VERSIONS  # noqa: E402

PARTS = ("format", "lint", "rust", "clients", "inject", "core", "assert", "upgrade", "install")
# Drivers and poolers know little of versions.
DRIVER_VERSIONS = ("15", "18")
# The versions whose sources Debian has: PostgreSQL's own tests, and a build with assertions.
CORE_VERSIONS, ASSERT_VERSIONS = ("15", "18"), ("18",)
# `make inject` tries the faults on others as well.
INJECT_VERSIONS = ("18",)
# The shortest upgrade; `make upgrade` runs the others as well.
UPGRADE = ("17", "18")
# The one that Debian 12 has: its package, on a new system; `make install-test` has other ways and Debian 13.
INSTALL_VERSION = "15"
LANES = 3
# In seconds of two idle cores, roughly: the longest begin first, so that at the end no lane is left alone with one.
LENGTHS = {"assert": 400, "providers": 300, "drivers": 250, "subscriptions": 200, "e2e": 150, "upgrade": 150, "attacks": 130, "inject": 100,
           "core": 90, "install": 90, "audit": 70, "masking": 30}


class Lanes:
    """Threads that run what is ready. Whoever leaves waits until all of it is done, and lends a hand meanwhile."""

    def __init__(self, count):
        self.ready, self.order, self.closed, self.faults = [], itertools.count(), False, []
        self.changed = threading.Condition()
        self.threads = [threading.Thread(target=self._work) for _ in range(count)]

    def later(self, what, task, *arguments):
        with self.changed:
            heapq.heappush(self.ready, (-LENGTHS[what], next(self.order), task, arguments))
            self.changed.notify()

    def _work(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.ready or self.closed)
                if not self.ready:
                    return
                _, _, task, arguments = heapq.heappop(self.ready)
            try:
                task(*arguments)
            except Exception as fault:  # noqa: BLE001 - whatever it is, the run ends with it
                self.faults.append(fault)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._work()
        for thread in self.threads:
            thread.join()
        if self.faults:
            raise self.faults[0]


class Tally:
    def __init__(self):
        self.passed = self.failed = 0
        self.failures = []
        self.lock = threading.Lock()

    def add(self, name, passed, failed, output=""):
        with self.lock:
            self.passed += passed
            self.failed += failed
        if failed:
            # The last lines of a run are often all that one gets to see of it.
            which = re.findall(r"^(?:FAILED|ERROR) (\S+)|^\[core\] failed: (.*);|^test (\S+) .*FAILED$", output, re.M)
            self.failures.append(" ".join([name, *("".join(found) for found in which[:5])]))
        print(f"[test] {name}: {passed} passed, {failed} failed", flush=True)


def build_environment(version=""):
    """The environment of tools/env.sh for a version; PWD is its crate."""
    shown = subprocess.run(["bash", "-c", '. "$0" "$1" && env -0', ROOT / "tools" / "env.sh", version], check=True, stdout=subprocess.PIPE)
    env = dict(entry.split("=", 1) for entry in os.fsdecode(shown.stdout).split("\0") if entry)
    if not any((Path(env.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "incremental").glob("*")):
        # A fifth of a first build goes into what makes the next one quicker: for whoever changes things, which is who has it.
        env.setdefault("CARGO_INCREMENTAL", "0")
    return env


def linted(env):
    """In which what is compiled is linted as well: as `cargo clippy` does it, which compiles nothing that can be run."""
    return dict(env, RUSTC_WORKSPACE_WRAPPER="clippy-driver", CLIPPY_ARGS="-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__")


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


def lint(tally, version, feature, env):
    """Compiles what rust() and install_with_faults() run."""
    targets = ["--lib", "--tests"] if feature == "pg_test" else ["--lib", "--examples"]
    check(tally, f"clippy, PostgreSQL {version}, {feature}",
          ["cargo", "build", "-q", *targets, "--no-default-features", "--features", f"pg{version} {feature}"], linted(env))


def rust(tally, version, env):
    """Unit tests and pg_tests, through cargo pgrx test."""
    name = f"cargo pgrx test, PostgreSQL {version}"
    words = ["cargo", "pgrx", "test", f"pg{version}", "--no-default-features"]
    env = linted(dict(env, LD_LIBRARY_PATH=str(BUILD / "pg" / version / "lib")))
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


def pytest(tally, name, suite, version, env, *options):
    words = [BUILD / "venv" / "bin" / "python", "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider",
             ROOT / "tests" / suite, *options]
    # Servers of different suites have folders of their own.
    env = dict(env, PG_VERSION=version, PYTHONDONTWRITEBYTECODE="1", IMMUTA_RUN=f"{env.get('IMMUTA_RUN', '')}{suite}")
    succeeded, output = run(name, words, env)
    last = output.strip().splitlines()[-1] if output.strip() else ""
    count = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?)", last)}
    failed = count.get("failed", 0) + count.get("error", 0) + count.get("errors", 0)
    passed = count.get("passed", 0)
    tally.add(name, passed, failed or int(not succeeded or not passed), output)
    return output


def packaged(tally, version, env):
    """The package of what install() has built."""
    output = pytest(tally, f"package for PostgreSQL {version}", "install", version, env, "-rs", "-k", version)
    for reason in re.findall(r"^SKIPPED .*", output, re.M):
        print(f"[test] {reason}", flush=True)


def asserting(lanes, tally, version, env, suites):
    """The same against a server that checks itself; it gets the library that install() made."""
    if check(tally, f"PostgreSQL {version} with assertions", [ROOT / "tools" / "assert-build", version], env):
        env = dict(env, IMMUTA_PG_TREES=str(BUILD / "pg-assert"), IMMUTA_RUN="assert-")
        for suite in suites:
            lanes.later(suite, pytest, tally, f"{suite}, PostgreSQL {version} with assertions", suite, version, env)


def install_with_faults(tally, version, env):
    return check(tally, f"install with faults for PostgreSQL {version}", [ROOT / "tools" / "inject-build", version], linted(env))


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
    with Lanes(LANES) as lanes:
        if "format" in parts:
            env = build_environment()
            check(tally, "format", ["cargo", "fmt", "--check"], env)
            pytest(tally, "house", "house", VERSIONS[-1], env)
        # Those with the most to do first.
        installed = set()
        for version in sorted(versions, key=lambda v: (v in (*CORE_VERSIONS, *UPGRADE)) + (v in ASSERT_VERSIONS), reverse=True):
            env = build_environment(version)
            if "lint" in parts:
                for feature in ("pg_test", "inject") if version in INJECT_VERSIONS else ("pg_test",):
                    lint(tally, version, feature, env)
            if "rust" in parts:
                # Before anything else of this version: it installs a library of its own.
                rust(tally, version, env)
            if {"clients", "core", "assert", "upgrade", "install"} & set(parts) and install(tally, version, env):
                installed.add(version)
                if "assert" in parts and version in ASSERT_VERSIONS:
                    lanes.later("assert", asserting, lanes, tally, version, env,
                                ("attacks", "masking") if len(parts) > 1 else ("attacks", "masking", "e2e", "providers"))
                if "clients" in parts:
                    for suite in suites(version):
                        lanes.later(suite, pytest, tally, f"{suite}, PostgreSQL {version}", suite, version, env)
                if "install" in parts and version == INSTALL_VERSION:
                    lanes.later("install", packaged, tally, version, env)
                if "core" in parts and version in CORE_VERSIONS:
                    lanes.later("core", core, tally, version, env)
                if "upgrade" in parts and version in UPGRADE and installed.issuperset(UPGRADE):
                    lanes.later("upgrade", pytest, tally, f"upgrade, PostgreSQL {' to '.join(UPGRADE)}", "upgrade", UPGRADE[1],
                                dict(env, UPGRADES=":".join(UPGRADE)))
            with_faults = dict(env, IMMUTA_PG_TREES=str(BUILD / "pg-inject"))
            if "inject" in parts and (version in INJECT_VERSIONS or len(parts) == 1) and install_with_faults(tally, version, env):
                lanes.later("inject", pytest, tally, f"faults, PostgreSQL {version}", "inject", version, with_faults)
            if "wrapped" in parts and version in CORE_VERSIONS and install_with_faults(tally, version, env):
                lanes.later("core", core, tally, version, with_faults, "--wrapped")
    shutil.rmtree(BUILD / "run" / "pg_test", ignore_errors=True)
    if tally.failures:
        print("[test] failed: " + "; ".join(tally.failures))
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
