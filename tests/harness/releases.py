"""Other versions of the extension than the one in the build folder: trees of PostgreSQL of which a test changes the library
and the scripts while servers run, as packages do."""

import os
import re
import shutil
import subprocess

from harness.server import BUILD, ROOT, TREES, run_prefix

CURRENT = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
# What the library of build/pg-inject/ is where IMMUTA_NEXT_VERSION is in the environment of the server.
NEXT = f"{CURRENT}.1"
LIBRARY = "immuta_ext.so"
# How each update begins: without the library nobody would hear of it.
PRELOADED = "SELECT immuta_internal.require_preload();\n"


def library_of_next(version):
    """The library that can be of the next version; built where it is missing or older than the sources."""
    library = BUILD / "pg-inject" / version / "lib" / LIBRARY
    newest = max(file.stat().st_mtime for file in (ROOT / "src").rglob("*") if file.is_file())
    if not library.exists() or library.stat().st_mtime < newest:
        subprocess.run([ROOT / "tools" / "inject-build", version], check=True)
    return library


class Tree:
    """PostgreSQL of one major with links to the files of the build, except those of the extension."""

    def __init__(self, version, name):
        self.version = version
        self.root = BUILD / "run" / f"{run_prefix()}{name}-tree"
        shutil.rmtree(self.root, ignore_errors=True)
        self.of_build = TREES / version
        ours = shutil.ignore_patterns("immuta_ext*")
        shutil.copytree(self.of_build, self.root / version, symlinks=True, ignore=ours, copy_function=os.link)
        self.scripts = self.root / version / "share" / "extension"
        self.script = (self.of_build / "share" / "extension" / f"immuta_ext--{CURRENT}.sql").read_text()
        self.install(self.of_build / "lib" / LIBRARY)
        self.offer(CURRENT, {f"immuta_ext--{CURRENT}.sql": self.script})

    def install(self, library):
        """Takes the place of the library at once, whoever runs with the former."""
        to = self.root / self.version / "lib" / LIBRARY
        shutil.copy(library, to.with_suffix(".new"))
        to.with_suffix(".new").rename(to)

    def offer(self, version, scripts):
        """Makes this the default version, and adds scripts."""
        control = (self.of_build / "share" / "extension" / "immuta_ext.control").read_text()
        default = re.sub(r"^default_version = .*", f"default_version = '{version}'", control, flags=re.M)
        for name, text in {"immuta_ext.control": default, **scripts}.items():
            (self.scripts / name).write_text(text)

    def remove(self):
        shutil.rmtree(self.root, ignore_errors=True)


def shape(server, dbname):
    """Whatever the extension is made of in a database, in words: what pg_dump writes to make it again in an upgraded cluster
    (columns, functions, triggers, comments, privileges), what a dump takes along of it, and the privileges that it began with."""
    dump = server.run_client("pg_dump", "--schema-only", "--binary-upgrade", "--dbname", dbname).stdout
    # Numbers, and the key that psql wants to hear again.
    dump = re.sub(r"^SET relfrozenxid = .*|^WHERE oid = .*|'\d+'::pg_catalog\.(?:oid|regclass)|'\{[\d,]+\}'|^\\(?:un)?restrict .*", "", dump, flags=re.M)
    rest = server.psql("-At", "-c", """
        SELECT c.name, x.condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) x (relation, condition),
               CAST(x.relation::regclass AS text) c (name) WHERE e.extname = 'immuta_ext' ORDER BY 1;
        SELECT o.identity, i.objsubid, a.acl FROM pg_init_privs i, pg_identify_object(i.classoid, i.objoid, 0) o,
               LATERAL (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(i.initprivs) x) a (acl)
        WHERE o.identity ~ '^immuta' ORDER BY 1, 2""", dbname=dbname).stdout
    return dump.splitlines() + rest.splitlines()


# -- what was released -------------------------------------------------------------------------------------------------

RELEASED = ROOT / "sql" / "released"
SUMS = RELEASED / "SHA256SUMS"


def script():
    """What CREATE EXTENSION runs, from this tree: the files that src/sql.rs names, in its order."""
    files = re.findall(r'"\.\./(sql/[\w/]+\.sql)"', (ROOT / "src/sql.rs").read_text())
    return "\n".join((ROOT / file).read_text() for file in files)


def statements(generated):
    """A script that cargo-pgrx made, without what it says of Rust sources: no two of its runs need to agree on that."""
    objects = re.findall(r"^/\* <begin connected objects> \*/\n(-- src/sql\.rs:.*?)\n/\* </end connected objects> \*/$", generated, re.M | re.S)
    return "\n".join(re.sub(r"\A-- src/sql\.rs:\d+\n(-- bootstrap\n|-- requires:\n(--   \w+\n)+\n?)", "", text) + "\n" for text in objects)


def sums():
    """The files of all releases, and their checksums."""
    lines = SUMS.read_text().splitlines() if SUMS.exists() else []
    return {name: checksum for checksum, name in (line.split("  ") for line in lines)}


def number(version):
    return [int(digits) for digits in re.findall(r"\d+", version)]


def releases():
    """The versions of all releases, the oldest first."""
    return sorted((name[1] for name in map(re.compile(r"immuta_ext--([^-]+)\.sql$").match, sums()) if name), key=number)


def trees_of(version, major):
    """Trees of PostgreSQL, in which that of a major has a released version: built from its tag, once."""
    trees = BUILD / "released" / version
    if not (trees / major / "lib" / LIBRARY).exists():
        sources = trees / "sources"
        for folder in (sources, trees / major):
            shutil.rmtree(folder, ignore_errors=True)
        sources.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", f"v{version}"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x", "-C", sources], input=archive, check=True)
        shutil.copytree(BUILD / "pg" / major, trees / major, symlinks=True, ignore=shutil.ignore_patterns("immuta_ext*"), copy_function=os.link)
        # Crates with a folder of their own: what it is built from is not what this tree is built from.
        subprocess.run([sources / "tools/install", major], check=True,
                       env=dict(os.environ, IMMUTA_BUILD=str(BUILD), IMMUTA_PG_TREES=str(trees), CARGO_TARGET_DIR=str(BUILD / "released/target")))
        shutil.rmtree(sources)
    return trees


def symbols(text):
    """The functions in C that a script names."""
    return set(re.findall(r"'MODULE_PATHNAME', '(\w+)'", text))
