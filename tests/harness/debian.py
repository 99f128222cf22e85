"""Debian's packages, unpacked below build/ and not installed: sources (PostgreSQL, pgAudit, PgBouncer) and programs.

Whence they come the machine's own apt says. Its mirror holds other suites of Debian, too, with other versions.
"""

import fcntl
import functools
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from .server import BUILD

HOME = BUILD / "debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = ("bookworm", "trixie", "forky", "sid")


class Unavailable(Exception):
    """Not to be had on this machine."""


def _one_at_a_time(function):
    """Suites run beside each other, and share these folders and apt's lists."""
    @functools.wraps(function)
    def locked(*arguments):
        HOME.mkdir(parents=True, exist_ok=True)
        with open(HOME / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return function(*arguments)
    return locked


@_one_at_a_time
def source(package, version=None):
    """The folder with the unpacked source of a package: that of this upstream version, or else the nearest of those
    with the same major version."""
    if version and (HOME / f"{package}-{version}").exists():
        return HOME / f"{package}-{version}"
    apt = _sources()
    shown = _run("apt-cache", *apt, "showsrc", "--only-source", package, check=False).stdout
    found = {v: _upstream(v) for v in re.findall(r"^Version: (\S+)$", shown, re.M)}
    if version:
        found = {v: u for v, u in found.items() if u.split(".")[0] == version.split(".")[0]}
    faults = [] if found else [f"no source of {package} {version or ''} in the Debian suites of this machine's mirror"]
    # The mirror may no longer hold what its index names.
    for chosen in sorted(found, key=lambda v: _distance(found[v], version) if version else (0,)):
        folder = HOME / f"{package}-{found[chosen]}"
        if folder.exists():
            return folder
        work = _fresh(HOME / f"{package}.part")
        try:
            _run("apt-get", *apt, "source", "--tar-only", "--only-source", f"{package}={chosen}", cwd=work)
        except Unavailable as fault:
            faults.append(str(fault))
            shutil.rmtree(work)
            continue
        archive = next(p for p in work.iterdir() if re.search(r"\.orig\.tar\.\w+$", p.name))
        # Python of Debian 12 knows no filters yet.
        how = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        with tarfile.open(archive) as tar:
            tar.extractall(work / "unpacked", **how)
        next((work / "unpacked").iterdir()).rename(folder)
        shutil.rmtree(work)
        return folder
    # Next time with a new index.
    (HOME / "apt-source" / ".updated").unlink()
    raise Unavailable("\n".join(faults))


@_one_at_a_time
def binary(*packages):
    """The folder into which these packages of the machine's own release are unpacked."""
    return _unpack("bin-" + "-".join(packages), packages)


@_one_at_a_time
def program(package, *more):
    """The same with whatever these packages need that is not installed on the machine."""
    folder = HOME / f"program-{package}"
    if folder.exists():
        return folder
    shown = _run("apt-get", *_binaries(), "-s", "install", "--no-install-recommends", package, *more, check=False)
    needed = re.findall(r"^Inst (\S+)", shown.stdout, re.M)
    if not needed:
        # Installed already, or not to be had.
        needed = [package, *more]
    return _unpack(folder.name, needed)


@_one_at_a_time
def later(suite, *packages):
    """The same of exactly these packages, as a later Debian has them."""
    return _unpack(f"{suite}-{packages[0]}", packages, _lists(f"apt-{suite}", "deb", [suite]))


@_one_at_a_time
def server(major, suites):
    """The folder with the server of a major as the newest of these suites has it, and with all libraries that it needs, down to
    C's; and its version."""
    apt = _lists(f"apt-{'-'.join(suites)}", "deb", suites)
    own = [f"postgresql-{major}", f"postgresql-client-{major}", f"postgresql-server-dev-{major}", "libpq5", "libpq-dev"]
    shown = _run("apt-cache", *apt, "policy", own[0], check=False).stdout
    found = re.search(r"Candidate: (\d\S*)", shown)
    if not found:
        raise Unavailable(f"no package {own[0]} in the suites {' and '.join(suites)} of this machine's mirror")
    version = found[1]
    # Those that are linked with it. What it asks for besides is for systems on which it is installed.
    libraries, asked = set(), own[:2]
    while asked:
        shown = _run("apt-cache", *apt, "depends", "--important", *asked).stdout
        asked = sorted(set(re.findall(r"Depends: (lib[^\s<]+)$", shown, re.M)) - libraries - {*own})
        libraries.update(asked)
    return _unpack(f"server-{version}", [*(f"{name}={version}" for name in own), *sorted(libraries)], apt), version


def _unpack(name, packages, apt=None):
    folder = HOME / name
    if not folder.exists():
        work = _fresh(HOME / f"{folder.name}.part")
        done = _run("apt-get", *(apt or _binaries()), "download", *packages, cwd=work, check=False)
        if done.returncode:
            raise Unavailable(f"no package {' or '.join(packages)}: {done.stderr[-500:]}")
        for archive in list(work.glob("*.deb")):
            _run("dpkg-deb", "-x", archive, work)
            archive.unlink()
        work.rename(folder)
    return folder


def mirrors():
    """The mirrors of Debian that the machine's apt knows."""
    targets = _run("apt-get", *_binaries(), "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").stdout
    found = [uri for uri in sorted(set(targets.split())) if uri.rstrip("/").endswith("/debian")]
    if not found:
        raise Unavailable("packages of Debian, and this machine's apt knows no mirror of Debian's")
    return found


def _binaries():
    """What makes apt use lists of its own, made by its user, with the machine's configuration."""
    state = HOME / "apt"
    options = _options(state)
    if not (state / ".updated").exists():
        _prepare(state)
        # A repository of somebody else's that is down does not matter.
        _run("apt-get", *options, "update", check=False)
        (state / ".updated").touch()
    return options


def _sources():
    """The same for sources, from every suite."""
    return _lists("apt-source", "deb-src", SUITES)


def _lists(name, kind, suites):
    state = HOME / name
    options = [*_options(state), "-o", f"Dir::Etc::sourcelist={state / 'sources.list'}",
               "-o", "Dir::Etc::sourceparts=-"]
    if not (state / ".updated").exists():
        if not shutil.which("apt-get"):
            raise Unavailable("packages of Debian, and this machine has no apt-get")
        signed = f" [signed-by={KEYRING}]" if KEYRING.exists() else ""
        lines = [f"{kind}{signed} {uri} {suite} main" for uri in mirrors() for suite in suites]
        _prepare(state)
        (state / "sources.list").write_text("\n".join(lines) + "\n")
        _run("apt-get", *options, "update", check=False)
        (state / ".updated").touch()
    return options


def _options(state):
    return ["-q", "-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}",
            "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3",
            # A mirror may stand still for longer than its lists count.
            "-o", "Acquire::Check-Valid-Until=false"]


def _prepare(state):
    _fresh(state)
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True)


def _fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _upstream(version):
    """15.18 of 1:15.18-0+deb12u1."""
    return version.split(":")[-1].rsplit("-", 1)[0]


def _distance(version, wanted):
    """Nearer versions first; of two that are as near the newer."""
    numbers = [tuple(map(int, re.findall(r"\d+", v)))[:3] for v in (version, wanted)]
    length = max(map(len, numbers))
    have, want = ((*n, *(0,) * (length - len(n))) for n in numbers)
    return tuple(abs(a - b) for a, b in zip(have, want)), tuple(-n for n in have)


def _run(*words, cwd=None, check=True):
    words = [str(word) for word in words]
    done = subprocess.run(words, cwd=cwd, text=True, capture_output=True, stdin=subprocess.DEVNULL,
                          env=dict(os.environ, LC_ALL="C"))
    if check and done.returncode:
        raise Unavailable(f"{' '.join(words[:1] + words[-2:])}: {(done.stderr or done.stdout)[-1000:]}")
    return done
