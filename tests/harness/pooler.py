"""PgBouncer in front of a server."""

import fcntl
import os
import shutil
import subprocess
import time

from . import debian
from .server import BUILD, NOBODY, free_port, unprivileged

PROGRAM = "/usr/sbin/pgbouncer"
LATER = "1.24.1"


def later_program():
    """A PgBouncer that knows prepared statements, which that of Debian 12 does not: built from the source of a later
    Debian, once."""
    program = BUILD / "debian" / f"bin-pgbouncer-{LATER}" / "pgbouncer"
    program.parent.mkdir(parents=True, exist_ok=True)
    with open(program.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            work = program.parent / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(debian.source("pgbouncer", LATER), work, symlinks=True)
            # The names of the folders below lib differ between machines.
            libevent = debian.binary("libevent-dev", "libevent-2.1-7") / "usr"
            libraries = next(libevent.glob("lib/*/libevent.so")).parent
            headers = [libevent / "include", *libevent.glob("include/*-linux-*")]
            environment = dict(os.environ, PKG_CONFIG="true", LIBEVENT_LIBS=f"-L{libraries} -levent",
                               LIBEVENT_CFLAGS=" ".join(f"-I{folder}" for folder in headers))
            for words in (["./configure", "--without-openssl", "--without-cares"], ["make", "-s", "pgbouncer"]):
                done = subprocess.run(words, cwd=work, env=environment, text=True, capture_output=True)
                if done.returncode:
                    raise RuntimeError(f"PgBouncer {LATER}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            shutil.move(work / "pgbouncer", program)
            shutil.rmtree(work)
    return program


class PgBouncer:
    def __init__(self, server, user, password, dbname, pool_size=10, program=PROGRAM, settings=(), mode="transaction"):
        self.server, self.user, self.password, self.dbname = server, user, password, dbname
        self.pool_size, self.program, self.settings, self.mode = pool_size, program, settings, mode
        self.port = free_port()
        self.home = server.home / f"pgbouncer-{self.port}"
        self.process = None

    def __enter__(self):
        self.home.mkdir(exist_ok=True)
        files = {
            "users.txt": f'"{self.user}" "{self.password}"\n',
            "pgbouncer.ini": "\n".join([
                "[databases]",
                f"{self.dbname} = host=127.0.0.1 port={self.server.port} dbname={self.dbname}",
                "[pgbouncer]", "listen_addr = 127.0.0.1", f"listen_port = {self.port}", "unix_socket_dir =",
                "auth_type = plain", f"auth_file = {self.home / 'users.txt'}", f"pool_mode = {self.mode}",
                f"default_pool_size = {self.pool_size}", "max_client_conn = 100", *self.settings, ""]),
        }
        for name, content in files.items():
            (self.home / name).write_text(content)
            (self.home / name).chmod(0o600)
        if os.geteuid() == 0:
            for path in (self.home, *self.home.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        with open(self.home / "log", "wb") as log:
            self.process = subprocess.Popen([*unprivileged(self.home), self.program, self.home / "pgbouncer.ini"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(200):
            if b"process up" in (self.home / "log").read_bytes():
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"PgBouncer did not start:\n{(self.home / 'log').read_text()}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


class PgPool:
    """pgpool-II in front of a server, with one connection to it: what one user leaves, the next would meet."""

    def __init__(self, server, user, password, tree, settings=()):
        self.server, self.user, self.password, self.tree, self.settings = server, user, password, tree, settings
        self.port = free_port()
        self.home = server.home / f"pgpool-{self.port}"

    def __enter__(self):
        self.home.mkdir(exist_ok=True)
        files = {
            "pool_passwd": f"{self.user}:TEXT{self.password}\n", "pcp.conf": "", "pool_hba.conf": "",
            "pgpool.conf": "\n".join([
                "backend_clustering_mode = 'raw'", "listen_addresses = '127.0.0.1'", f"port = {self.port}",
                f"socket_dir = '{self.home}'", f"pcp_socket_dir = '{self.home}'", f"pcp_port = {free_port()}",
                "backend_hostname0 = '127.0.0.1'", f"backend_port0 = {self.server.port}", "backend_weight0 = 1",
                f"pid_file_name = '{self.home / 'pid'}'", f"logdir = '{self.home}'", "num_init_children = 1",
                f"pool_passwd = '{self.home / 'pool_passwd'}'", "max_pool = 1", "health_check_period = 0",
                "sr_check_period = 0", "connection_cache = on", *self.settings, ""]),
        }
        for name, content in files.items():
            (self.home / name).write_text(content)
            (self.home / name).chmod(0o600)
        if os.geteuid() == 0:
            for path in (self.home, *self.home.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        libraries = ":".join(map(str, (self.tree / "usr" / "lib", *(self.tree / "usr" / "lib").glob("*-linux-*"))))
        program = ["env", f"LD_LIBRARY_PATH={libraries}", self.tree / "usr" / "sbin" / "pgpool"]
        files = ["-f", self.home / "pgpool.conf", "-F", self.home / "pcp.conf", "-a", self.home / "pool_hba.conf"]
        with open(self.home / "log", "wb") as log:
            self.process = subprocess.Popen([*unprivileged(self.home), *program, "-n", *files], stdout=log,
                                            stdin=subprocess.DEVNULL, stderr=log)
        for _ in range(200):
            if b"successfully started" in (self.home / "log").read_bytes():
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"pgpool-II did not start:\n{(self.home / 'log').read_text()}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
