"""Other libraries that a server preloads beside ours, compiled from Debian's sources."""

import fcntl
import shutil
import subprocess
from pathlib import Path

from . import debian
from .server import BUILD

# Debian's name of pgaudit's source for a version of PostgreSQL, and what its compilation needs besides the server's
# headers.
PGAUDIT = {"14": "pgaudit-1.6", "15": "pgaudit-1.7", "16": "pgaudit-16", "17": "pgaudit-17", "18": "pgaudit-18"}
PGAUDIT_NEEDS = ("libkrb5-dev", "krb5-multidev")


def folder(version):
    """Where the libraries are; the server finds them there by `dynamic_library_path`."""
    return BUILD / "core" / version


def compile_library(version, file, name, *folders):
    tree = BUILD / "pg" / version
    includes = subprocess.run([tree / "bin" / "pg_config", "--includedir-server"], text=True, check=True,
                              capture_output=True).stdout.strip()
    target = folder(version)
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O1", "-w", "-fPIC", "-shared", f"-I{includes}", *(f"-I{f}" for f in folders),
                    "-o", target / f"{name}.so", file], check=True)


def pgaudit(version):
    """Compiles pgaudit. Raises `debian.Unavailable` where it cannot be had."""
    if version not in PGAUDIT:
        raise debian.Unavailable(f"no pgaudit for PostgreSQL {version}")
    headers = debian.binary(*PGAUDIT_NEEDS) / "usr" / "include"
    compile_library(version, debian.source(PGAUDIT[version]) / "pgaudit.c", "pgaudit", headers, headers / "mit-krb5")


def set_user(version):
    """Compiles set_user; its functions, as SQL. Raises `debian.Unavailable` where it cannot be had."""
    source = debian.source("postgresql-set-user")
    compile_library(version, source / "src" / "set_user.c", "set_user", source / "src")
    script = (source / "extension" / "set_user.sql").read_text()
    return script[script.index("CREATE FUNCTION"):].replace("@extschema@", "public").replace("MODULE_PATHNAME", "set_user")


def build_extension(version, package):
    """Compiles an extension from Debian's source into the tree of a version, once."""
    tree = BUILD / "pg" / version
    with open(BUILD / "debian" / "companions.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = tree / f".{package}"
        if done.exists():
            return
        work = BUILD / "debian" / f"{package}-for-{version}"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(debian.source(package), work)
        words = ["make", "-s", f"PG_CONFIG={tree / 'bin' / 'pg_config'}", "OPTFLAGS=", "with_llvm=no"]
        for more in ([], ["install"]):
            made = subprocess.run([*words, *more], cwd=work, text=True, capture_output=True)
            if made.returncode:
                raise debian.Unavailable(f"{package} for {version}: {made.stderr[-1000:]}")
        shutil.rmtree(work)
        done.touch()


def unpack_extension(version, *names):
    """Puts an extension that Debian built for a version into its tree; returns where the libraries lie that it needs."""
    packages = debian.program(*(f"postgresql-{version}-{name}" for name in names))
    tree = BUILD / "pg" / version

    def folder(option):
        return subprocess.run([tree / "bin" / "pg_config", option], text=True, check=True, capture_output=True).stdout.strip()

    for file in (packages / "usr" / "lib" / "postgresql" / version / "lib").glob("*.so"):
        shutil.copy(file, folder("--pkglibdir"))
    shutil.copytree(packages / "usr" / "share" / "postgresql" / version / "extension", f"{folder('--sharedir')}/extension",
                    dirs_exist_ok=True)
    # What Debian's alternatives would do: postgis-3.control stands for postgis.control.
    for file in Path(f"{folder('--sharedir')}/extension").glob("*-3.control"):
        shutil.copy(file, file.with_name(file.name.replace("-3.control", ".control")))
    return ":".join(str(folder) for folder in (packages / "usr" / "lib").glob("*-linux-*"))
