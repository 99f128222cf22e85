"""PostgreSQL's own regression tests, with immuta_ext preloaded and created in their database: nothing may differ.

    tests/core/run.py [--quick] [--wrapped] VERSION…

Without --quick the isolation tests run, too, and then all of it again beside pgaudit and pg_stat_statements, which
are preloaded before immuta_ext, and after it. Where a test fails, the same suite runs once more without immuta_ext:
a result that is the same to the letter is no fault of ours (the source that is to be had need not be exactly that of
the server).

With --wrapped every read of every user's table goes through a subquery, as if it had masked columns: once of the columns as they
are, when nothing may differ but plans, and once of masks with `rows` that hold for none, when rows may come in another order. It
takes the library with the points of src/pg/sys/inject.rs (`make wrapped`).
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from harness import companions, debian  # noqa: E402
from harness.server import BUILD, NOBODY, Server, unprivileged  # noqa: E402

OURS = "immuta_ext"
COMPANIONS = ("pgaudit", "pg_stat_statements")

# What is put in the place of columns with --wrapped: src/pg/mask/wrap.rs.
WRAPS = ("columns", "cases")
# What may differ then: of two tables that are refused the other is named; tests that are about plans only. Where columns are
# expressions they have no estimates, conditions of indexes and index-only scans, which tests show in other ways than by a plan:
# "estimated | actual", index scans and batches that are counted, JSON of EXPLAIN, "did not get bitmap indexscan", rows before an
# error, a NaN that a scan finds in a polygon and an index does not. PostgreSQL 15 itself has "could not find commutator" for a view
# of that shape.
WRAPPED = {"rules": ("permission denied for table ruletest_t2", "permission denied for table ruletest_t3")}
OF_PLANS = {"columns": ("explain",), "cases": ("explain", "brin", "brin_bloom", "brin_multi", "create_index", "equivclass", "gin", "gist",
                                              "incremental_sort", "join_hash", "mvcc", "partition_prune", "psql", "select_parallel", "stats", "stats_ext")}

# Queries that print every SECURITY DEFINER function, every partitioned table and index, and every event trigger of the
# database. That ours are among them is no fault.
LISTS_ALL = {
    "event_trigger": [
        ("FROM pg_event_trigger as e,", "FROM (SELECT * FROM pg_event_trigger WHERE evtname !~ '^immuta') as e,"),
    ],
    "opr_sanity": [("WHERE prosecdef\n", "WHERE prosecdef AND pronamespace::regnamespace::text !~ '^immuta'\n")],
    "type_sanity": [
        ("WHERE relkind NOT IN (", "WHERE relnamespace <> to_regnamespace('immuta') AND relkind NOT IN ("),
        ("WHERE c1.relkind NOT IN (", "WHERE c1.relnamespace <> to_regnamespace('immuta') AND c1.relkind NOT IN ("),
    ],
}


@dataclass
class Suite:
    name: str
    # Folder in the source, pg_regress or its twin, and what tells it which tests to run.
    folder: str
    program: str
    arguments: tuple


def suites(source, quick):
    makefile = (source / "src/pl/plpgsql/src/Makefile").read_text().replace("\\\n", " ")
    plpgsql = re.search(r"^REGRESS = (.*)$", makefile, re.M)[1].split()
    yield Suite("core", "src/test/regress", "regress/pg_regress", ("--schedule=parallel_schedule",))
    yield Suite("plpgsql", "src/pl/plpgsql/src", "regress/pg_regress", tuple(plpgsql))
    if not quick:
        yield Suite("isolation", "src/test/isolation", "isolation/pg_isolation_regress",
                    ("--schedule=isolation_schedule",))


class Run:
    """One suite on a server of its own."""

    def __init__(self, version, source, suite, libraries, wrap=None):
        self.version, self.source, self.suite, self.libraries = version, source, suite, libraries
        self.server = Server(version, "core", options=[
            f"shared_preload_libraries={','.join(libraries)}", "pgaudit.log=all", "pgaudit.log_catalog=on",
            # Made for this: query identifiers are computed, for pg_stat_statements, but not shown.
            "compute_query_id=regress",
            f"dynamic_library_path=$libdir:{companions.folder(version)}"],
            environment={"IMMUTA_WRAP": wrap} if wrap else {})
        self.results = {}

    def __enter__(self):
        self.server.create()
        self.home = self.server.home / "suite"
        self._lay_out()
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.destroy()

    def _lay_out(self):
        given = self.source / self.suite.folder
        (self.home / "out").mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(self.home / "out", NOBODY, NOBODY)
        for folder in ("sql", "expected", "data", "specs"):
            if (given / folder).exists():
                shutil.copytree(given / folder, self.home / folder)
        for file in (*given.glob("*_schedule"), *given.glob("resultmap")):
            shutil.copy(file, self.home)
        for test, queries in LISTS_ALL.items():
            for file in (self.home / "sql" / f"{test}.sql", self.home / "expected" / f"{test}.out"):
                text = file.read_text() if file.exists() else ""
                for query, instead in queries:
                    assert not text or text.count(query) == 1, f"{file.name} is not what it was"
                    text = text.replace(query, instead)
                if text:
                    file.write_text(text)

    def go(self):
        """Runs it; which test passed."""
        server, tree = self.server, self.server.tree
        words = [*unprivileged(server.program("postgres")), tree / "lib/pgxs/src/test" / self.suite.program,
                 f"--inputdir={self.home}", f"--outputdir={self.home / 'out'}", f"--bindir={tree / 'bin'}",
                 f"--dlpath={companions.folder(self.version)}", "--max-connections=20", "--host=127.0.0.1",
                 f"--port={server.port}", "--user=postgres",
                 *(a.replace("=", f"={self.home}/", 1) if a.startswith("--schedule") else a
                   for a in self.suite.arguments)]
        if OURS in self.libraries:
            words.append(f"--load-extension={OURS}")
        done = subprocess.run([str(w) for w in words], env=server.client_environment(), text=True, errors="replace",
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.results = passed(done.stdout)
        if not self.results or server.process.poll() is not None:
            raise RuntimeError(f"{done.stdout[-3000:]}\n{server.log()[-3000:]}")
        return self.results

    def output(self, test):
        file = self.home / "out" / "results" / f"{test}.out"
        return file.read_text(errors="replace") if file.exists() else None

    def unexplained(self, test, wrap):
        """What is not explained by other plans, compared with the nearest of the expected outputs."""
        told = self.output(test)
        for this, that in (WRAPPED[test],) if test in WRAPPED else ():
            told = told.replace(this, that)
        if test in OF_PLANS[wrap]:
            return []
        order = sorted if wrap == "cases" else list
        expected = (file.read_text(errors="replace") for file in (self.home / "expected").glob(f"{test}*.out")
                    if re.fullmatch(rf"{test}(_\d)?", file.stem))
        return min((list(difflib.unified_diff(order(without_plans(text)), order(without_plans(told)), test, n=0, lineterm=""))
                    for text in expected), key=len)

    def keep_differences(self, unexplained):
        kept = BUILD / "logs" / f"{self.suite.name}-{self.version}.diffs"
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(self.home / "out" / "regression.diffs", kept)
        print(f"[core] differences: {kept}", flush=True)
        for lines in unexplained.values() or [kept.read_text(errors="replace").splitlines()]:
            print("\n".join(lines)[:4000], flush=True)


def without_plans(output):
    return re.sub(r"^ *(?:QUERY PLAN|explain_\w+) *\n(?s:.*?)^\(\d+ rows?\)$", "", output, flags=re.M).splitlines()


def passed(output):
    """Which test passed, of pg_regress's report: TAP since PostgreSQL 16."""
    tap = re.findall(r"^(not )?ok +\d+ +[-+] (\S+) ", output, re.M)
    if tap:
        return {name: not failed for failed, name in tap}
    plain = re.findall(r"^(?:test| {4}) +(\S+) +\.\.\. (ok|FAILED|failed)", output, re.M)
    return {name: result == "ok" for name, result in plain}


def compare(version, source, suite, libraries, wrap):
    """How many tests passed with us, or gave what they give without us; and how many did not."""
    with Run(version, source, suite, libraries, wrap) as ours:
        results = ours.go()
        failed, unexplained = [test for test, ok in results.items() if not ok], {}
        if wrap:
            if suite.name == "core" and len(failed) < 10:
                raise RuntimeError("nothing was wrapped: is the library that with the points of src/pg/sys/inject.rs?")
            unexplained = {test: lines for test in failed if (lines := ours.unexplained(test, wrap))}
            failed = list(unexplained)
        outputs = {test: ours.output(test) for test in failed}
        if failed:
            ours.keep_differences(unexplained)
    if failed:
        print(f"[core] failed: {' '.join(failed)}; once more without {OURS}", flush=True)
        with Run(version, source, suite, tuple(l for l in libraries if l != OURS)) as theirs:
            without = theirs.go()
            failed = [t for t in failed if without.get(t) is not False or theirs.output(t) != outputs[t]]
    return len(results) - len(failed), len(failed)


def prepare(version, quick):
    """The source, and the libraries that the tests load; which companions there are."""
    tree = BUILD / "pg" / version
    exact = ".".join((tree / ".version").read_text().strip().split(".")[:2])
    source = debian.source(f"postgresql-{version}", exact)
    print(f"[core] PostgreSQL {exact}, tests of {source.name}", flush=True)
    companions.compile_library(version, source / "src/test/regress/regress.c", "regress")
    for library in ("refint", "autoinc"):
        shutil.copy(tree / "lib" / f"{library}.so", companions.folder(version))
    if not quick:
        companions.pgaudit(version)
    return source


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--wrapped", action="store_true")
    parser.add_argument("versions", nargs="+")
    arguments = parser.parse_args()
    total = [0, 0]
    for version in arguments.versions:
        source = prepare(version, arguments.quick)
        for libraries in ((OURS,),) if arguments.quick else ((OURS,), (*COMPANIONS, OURS), (OURS, *COMPANIONS)):
            for suite, wrap in product(suites(source, arguments.quick), WRAPS if arguments.wrapped else (None,)):
                started = time.monotonic()
                counts = compare(version, source, suite, libraries, wrap)
                total = [a + b for a, b in zip(total, counts)]
                print(f"[core] PostgreSQL {version}, {suite.name}{f', {wrap} wrapped' if wrap else ''}, preloaded {','.join(libraries)}: "
                      f"{counts[0]} passed, {counts[1]} failed ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{total[0]} passed, {total[1]} failed")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
