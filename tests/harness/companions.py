"""Other libraries that a server preloads beside ours, compiled from Debian's sources."""

import subprocess

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
    headers = debian.binary(*PGAUDIT_NEEDS) / "usr" / "include"
    compile_library(version, debian.source(PGAUDIT[version]) / "pgaudit.c", "pgaudit", headers, headers / "mit-krb5")
