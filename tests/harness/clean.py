"""Clean systems: Debian as debootstrap makes it, below build/clean. A test has one to itself, in namespaces of its own that
end with it, whatever runs there; of the machine it sees the network, and what the test puts into it.

Needs root, or a sudo that asks for no password.
"""

import fcntl
import functools
import os
import shlex
import subprocess
from pathlib import Path

from . import debian
from .server import BUILD, run_prefix

HOME = BUILD / "clean"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
               "DEBIAN_FRONTEND": "noninteractive"}
# The copy is an overlay where the file system of the build folder can carry one.
BEGIN = """
mount -t overlay overlay -o lowerdir="$base",upperdir="$work/upper",workdir="$work/work" "$work/root" 2>/dev/null ||
    cp -a --reflink=auto "$base/." "$work/root"
cd "$work/root"
mount -t proc proc proc
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o ptmxmode=666 devpts dev/pts
{binds}
echo ready
while :; do sleep 60; done
"""
# Whoever installs a package says yes. What is cut off in the middle is thrown away: no need to wait for the disk.
CONFIGURATION = {
    "etc/apt/apt.conf.d/90clean": 'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n'
                                  'Acquire::Retries "3";\nAcquire::Languages "none";\n',
    "etc/dpkg/dpkg.cfg.d/clean": "force-unsafe-io\n",
    # Packages start their services, as they do where there is an init.
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 0\n",
}


@functools.cache
def as_root():
    """The words that make a command root's."""
    words = [] if os.geteuid() == 0 else ["sudo", "-n"]
    namespaces = subprocess.run([*words, "unshare", "--mount", "--pid", "--fork", "true"], capture_output=True)
    if namespaces.returncode:
        raise debian.Unavailable("clean systems need root (or a sudo without password) that may make namespaces: "
                                 + namespaces.stderr.decode(errors="replace").strip())
    return words


def _root(*words, **options):
    done = subprocess.run([*as_root(), *map(str, words)], text=True, capture_output=True, timeout=1200,
                          **{"stdin": subprocess.DEVNULL, **options})
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def _write(path, text):
    _root("tee", path, input=text, stdin=None)


def base(suite, *packages):
    """The tree of a release, with these packages, made once."""
    as_root()
    tool = debian.program("debootstrap")
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = HOME / "-".join([suite, *packages])
        if not folder.exists():
            try:
                _make(folder, suite, packages, tool, debian.mirrors())
            except (RuntimeError, subprocess.TimeoutExpired) as fault:
                raise debian.Unavailable(f"no clean system of {suite}: {fault}") from fault
    return folder


def _make(folder, suite, packages, tool, mirrors):
    part = HOME / f"{folder.name}.part"
    _root("rm", "-rf", part)
    _root("env", f"DEBOOTSTRAP_DIR={tool}/usr/share/debootstrap", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin:{tool}/usr/bin",
          "sh", tool / "usr/sbin/debootstrap", "--variant=minbase", f"--keyring={debian.KEYRING}",
          f"--include={','.join(packages)}", suite, part, mirrors[0])
    security = [f"deb {uri.rstrip('/')}-security {suite}-security main" for uri in mirrors]
    _write(part / "etc/apt/sources.list", "\n".join(
        [f"deb {mirrors[0]} {name} main" for name in (suite, f"{suite}-updates")] + security[:1]) + "\n")
    for name, text in CONFIGURATION.items():
        _write(part / name, text)
    _root("chmod", "755", part / "usr/sbin/policy-rc.d")
    # How this machine reaches the mirror.
    _write(part / "etc/apt/apt.conf.d/80machine",
           subprocess.run(["apt-config", "dump", "Acquire::http", "Acquire::https"], text=True, capture_output=True).stdout)
    for name in ("resolv.conf", "hosts"):
        _root("cp", "-L", f"/etc/{name}", part / "etc" / name)
    _root("chroot", part, "apt-get", "-q", "update")
    _root("mv", part, folder)


class System:
    """A copy of a release, and what runs in it."""

    def __init__(self, suite, name, *packages, binds=()):
        """`binds`: folders of the machine that it has as well, where, and options of mount."""
        self.base = base(suite, *packages)
        self.work = HOME / f"{run_prefix()}{name}"
        self.root = self.work / "root"
        self.binds = binds

    def __enter__(self):
        _root("rm", "-rf", self.work)
        _root("mkdir", "-p", self.work / "upper", self.work / "work", self.root)
        binds = "\n".join(f"mkdir -p {shlex.quote(f'.{inside}')} && mount --bind {options} {shlex.quote(str(outside))} {shlex.quote(f'.{inside}')}"
                          for outside, inside, options in self.binds)
        values = {"base": self.base, "work": self.work}
        self.holder = subprocess.Popen(
            [*as_root(), "setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "env", *(f"{k}={v}" for k, v in values.items()), "sh", "-ec", BEGIN.format(binds=binds)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise debian.Unavailable(f"no clean system: {self.holder.communicate()[1]}")
        # Of the namespaces' first process; sudo stands before unshare.
        self.init = self._init(self.holder.pid)
        return self

    @staticmethod
    def _init(pid):
        """The shell that unshare has started: the first process that is in another namespace."""
        while Path(f"/proc/{pid}/comm").read_text().strip() != "sh":
            [pid] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1:]
        return pid

    def __exit__(self, *_):
        # Everything in them ends with the namespaces' first process, and so do the mounts.
        _root("kill", "-KILL", self.init)
        self.holder.communicate()
        _root("rm", "-rf", self.work)

    def run(self, script, *, input=None, check=True, folder="/root", user="root", environment=(), timeout=1200):
        """A script of a shell."""
        values = {**ENVIRONMENT, **dict(environment)}
        done = subprocess.run(
            [*as_root(), "nsenter", f"--target={self.init}", "--mount", "--pid", "chroot", str(self.root), "runuser", "-u", user, "--",
             "env", "-i", *(f"{k}={v}" for k, v in values.items()), "sh", "-ec", f"cd {shlex.quote(folder)}\n{script}"],
            text=True, capture_output=True, errors="replace", timeout=timeout, **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}))
        if check and done.returncode:
            raise RuntimeError(f"in the clean system:\n{script}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done

    def ask(self, script, **options):
        """What a script answers."""
        return self.run(script, **options).stdout.strip()

    def put(self, *files, folder="/root"):
        """Copies files of the machine into it."""
        for file in map(Path, files):
            self.put_from(file.parent, [file.name], folder)

    def put_from(self, source, names, folder):
        """Copies what a folder of the machine holds under these names."""
        archive = subprocess.run(["tar", "-C", source, "--null", "-T", "-", "-cf", "-"], input="\0".join(names).encode(),
                                 capture_output=True, check=True).stdout
        subprocess.run([*as_root(), "nsenter", f"--target={self.init}", "--mount", "tar", "-C", f"{self.root}{folder}",
                        "--no-same-owner", "-xf", "-"], input=archive, check=True)

    def get(self, path, to):
        """Copies a file or folder of its own to the machine."""
        _root("nsenter", f"--target={self.init}", "--mount", "cp", "-r", "--no-preserve=all", f"{self.root}{path}", to)
