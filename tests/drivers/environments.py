"""Where the clients of other packages are: installed below build/, once for each list of versions."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import debian
from harness.server import BUILD

HERE = Path(__file__).resolve().parent
CLIENTS = HERE / "clients"


def once(name, wanted, make):
    """A folder below build/ that `make(folder)` fills, anew whenever what is wanted changes."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(wanted.encode()).hexdigest()
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / ".installed"
        if not stamp.exists() or stamp.read_text() != mark:
            make(folder)
            stamp.write_text(mark)
    return folder


def python(requirements=HERE / "requirements.txt", name="python", option="--only-binary=:all:"):
    """An interpreter with these packages."""
    def make(folder):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True)
        subprocess.run([folder / "venv" / "bin" / "pip", "install", "-q", "--disable-pip-version-check",
                        option, "-r", requirements], check=True)

    return once(f"drivers-{name}", requirements.read_text() + sys.version, make) / "venv" / "bin" / "python"


def node():
    """A folder with the packages of node/package.json: modules are found from where a program lies."""
    manifest, lock = HERE / "node" / "package.json", HERE / "node" / "package-lock.json"

    def make(folder):
        for file in (manifest, lock):
            shutil.copy(file, folder)
        # No program of a package runs while it is installed.
        subprocess.run(["npm", "ci", "--silent", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL)

    return once("drivers", manifest.read_text() + lock.read_text(), make)


def node_program(*files):
    """The first of these programs, put where its packages are found."""
    folder = node()
    for file in files:
        shutil.copy(file, folder / file.name)
    return folder / files[0].name


def prisma():
    """A program with Prisma's client and what Prisma generates from its schema. The engine that it looks for beforehand makes
    migrations, comes from elsewhere, and is not run."""
    sources = [HERE / "prisma" / name for name in ("package.json", "package-lock.json", "schema.prisma")]

    def make(folder):
        for file in sources:
            shutil.copy(file, folder)
        subprocess.run(["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)
        (folder / "prisma.config.mjs").write_text("export default { schema: 'schema.prisma', datasource: { url: 'postgresql://' } };")
        subprocess.run(["node_modules/.bin/prisma", "generate"], cwd=folder, check=True, capture_output=True, timeout=120,
                       env={**os.environ, "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true", "CHECKPOINT_DISABLE": "1"})

    folder = once("drivers-prisma", "".join(file.read_text() for file in sources), make)
    for name in ("scenario.mjs", "prisma.mjs"):
        shutil.copy(CLIENTS / name, folder / name)
    return folder / "prisma.mjs"


def rust(program):
    """A program of clients/rust, built below build/."""
    crate = CLIENTS / "rust"

    def make(folder):
        subprocess.run(["cargo", "build", "-q", "--locked", "--manifest-path", crate / "Cargo.toml"], check=True,
                       env={**os.environ, "CARGO_TARGET_DIR": str(folder / "target")})

    files = [crate / name for name in ("Cargo.toml", "Cargo.lock", "src/main.rs", "src/sqlx.rs")]
    return once("drivers-rust", "".join(file.read_text() for file in files), make) / "target" / "debug" / program


def java(*names):
    """A class path with the jars of these names: pgjdbc, HikariCP, Spring, which Debian has."""
    return jars(("libpostgresql-jdbc-java", "libhikaricp-java", "libspring-jdbc-java", "libslf4j-java"), ("postgresql", *names))


def jars(packages, names):
    """A class path with the jars of these names, from these packages of Debian's."""
    folders = [debian.program(package) / "usr" / "share" / "java" for package in packages]
    folders.append(Path("/usr/share/java"))

    def find(name):
        return next(folder / f"{name}.jar" for folder in folders if (folder / f"{name}.jar").exists())

    return ":".join(str(find(name)) for name in names)


def libraries(tree):
    """Where a program that Debian built finds the libraries that were unpacked with it."""
    folders = [*(tree / "usr" / "lib").glob("*-linux-*"), *(tree / "usr" / "lib").glob("*-linux-*/pulseaudio")]
    return ":".join(map(str, folders))


def ruby(package="ruby-activerecord"):
    """Words that run a Ruby program with this package, and the environment for them."""
    tree = debian.program(package, "ruby-pg", "ruby")
    usr = tree / "usr"
    lib = usr / "lib" / "ruby"
    folders = [*lib.glob("3.*"), *lib.glob("vendor_ruby"), *usr.glob("share/rubygems-integration/*/gems/*/lib"),
               *usr.glob("lib/*/ruby/3.*"), *usr.glob("lib/*/ruby/vendor_ruby/3.*")]
    folders += [folder for path in folders for folder in path.glob("*-linux-gnu")]
    gems = [*usr.glob("share/rubygems-integration/*"), *usr.glob("lib/*/rubygems-integration/*"), *lib.glob("gems/3.*")]
    environment = {"LD_LIBRARY_PATH": libraries(tree), "RUBYLIB": ":".join(map(str, folders)), "RUBYOPT": "-W0",
                   "GEM_PATH": ":".join(map(str, gems))}
    return [next((usr / "bin").glob("ruby3.*"), "ruby")], environment


PHP_EXTENSIONS = ("pdo", "pgsql", "pdo_pgsql", "mbstring", "ctype", "tokenizer", "iconv", "dom", "simplexml", "xml", "fileinfo", "posix")


def php(*packages):
    """Words that run a PHP program with PDO, and with what these packages have."""
    tree = debian.program(*packages, "php-cli", "php-pgsql")
    modules = next((tree / "usr" / "lib" / "php").glob("2*"))
    extensions = [name for name in PHP_EXTENSIONS if (modules / f"{name}.so").exists()]
    return [next((tree / "usr" / "bin").glob("php8.*")), "-n", "-d", f"extension_dir={modules}",
            "-d", f"include_path={tree / 'usr' / 'share' / 'php'}", *(word for name in extensions for word in ("-d", f"extension={name}"))]


def odbc():
    """psqlODBC's library, and the environment for it."""
    tree = debian.program("odbc-postgresql", "libodbc2")
    return next(tree.glob("usr/lib/*/odbc/psqlodbcw.so")), {"LD_LIBRARY_PATH": libraries(tree)}


def go_program(source):
    """A Go program, built with the compiler and pgx 5 of the Debian to come: this one has neither."""
    def make(folder):
        tree = debian.later("forky", "golang-1.27-go", "golang-1.27-src")
        packages = debian.later("forky", *(f"golang-{name}-dev" for name in (
            "github-jackc-pgx-v5", "github-jackc-puddle-v2", "github-jackc-pgpassfile", "github-jackc-pgservicefile", "golang-x-crypto",
            "golang-x-text", "golang-x-sync")))
        root = next((tree / "usr" / "lib").glob("go-*"))
        subprocess.run([root / "bin" / "go", "build", "-o", folder / "program", source], check=True, env={
            **os.environ, "GOROOT": str(root), "GOPATH": str(packages / "usr" / "share" / "gocode"), "GO111MODULE": "off",
            "GOFLAGS": "-p=2", "CGO_ENABLED": "0", "GOCACHE": str(BUILD / "drivers-go-cache")})

    return once(f"drivers-go-{source.stem}", source.read_text(), make) / "program"


def browser():
    """Debian's Chromium, and the environment for it: its own fonts, as the machine may have none."""
    tree = debian.program("chromium", "fonts-dejavu-core")
    fonts = tree / "fonts.conf"
    fonts.write_text(f'<?xml version="1.0"?><fontconfig><dir>{tree / "usr" / "share" / "fonts"}</dir><dir>/usr/share/fonts</dir>'
                     f"<cachedir>{BUILD / 'run' / 'fonts'}</cachedir></fontconfig>")
    return tree / "usr" / "lib" / "chromium" / "chromium", {"LD_LIBRARY_PATH": libraries(tree), "FONTCONFIG_FILE": str(fonts)}
