"""A private PostgreSQL server: made in the build folder, on 127.0.0.1 and a free port, stopped by its own pid."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("IMMUTA_BUILD", ROOT / "build"))
# Other trees of PostgreSQL than those of the build (with assertions, say).
TREES = Path(os.environ.get("IMMUTA_PG_TREES", BUILD / "pg"))
# Those that are supported, and the next, which is only tried.
VERSIONS = tuple(re.findall(r"(\d+):\d", (ROOT / "tools/versions.sh").read_text()))
TRIED = re.search(r"^TRIED=(\d+)", (ROOT / "tools/versions.sh").read_text(), re.M)[1]
NOBODY = 65534


def run_prefix():
    """Lets several runs in one checkout keep out of each other's way."""
    run = os.environ.get("IMMUTA_RUN")
    return f"{run}-" if run else ""


def server_environment(tree, **extra):
    """PostgreSQL's programs with their own libraries, without the caller's PG* and Rust variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "RUST_", "LC_", "LANG"))}
    return {**env, "LD_LIBRARY_PATH": str(tree / "lib"), "LC_ALL": "C", "TZ": "UTC", **extra}


def unprivileged(path):
    """The words that run a command as an ordinary user, because PostgreSQL refuses to be root. Where that user cannot
    reach the checkout (a home folder of root's), it keeps the one capability that lets it."""
    if os.geteuid() != 0:
        return []
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if subprocess.run([*words, "test", "-x", str(path)], stderr=subprocess.DEVNULL).returncode == 0:
        return words
    return [*words, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One cluster of one PostgreSQL version."""

    def __init__(self, version, name, *, encoding="UTF8", options=(), preload="shared", environment=None, trees=None):
        self.version = version
        self.tree = (trees or TREES) / version
        self.home = BUILD / "run" / f"{run_prefix()}{name}-{version}"
        self.data = self.home / "data"
        self.log_file = self.home / "server.log"
        self.password_file = self.home / "superuser-password"
        self.encoding = encoding
        self.options = list(options)
        self.preload = preload
        self.environment = environment or {}
        self.port = None
        self.process = None
        self.as_user = unprivileged(self.program("postgres"))

    # -- life ----------------------------------------------------------------------------------------------------

    def create(self, *initdb_options, password=None):
        if self.home.exists():
            shutil.rmtree(self.home)
        if initdb_options or password or self.tree.parent.parent != BUILD:
            self._init(self.home, password or secrets.token_hex(16), *initdb_options)
        else:
            self.home.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", self._template(), self.home], check=True)
        return self

    def _init(self, home, password, *initdb_options):
        home.mkdir(parents=True)
        password_file = home / self.password_file.name
        password_file.write_text(password)
        password_file.chmod(0o600)
        if self.as_user:
            os.chown(home, NOBODY, NOBODY)
            os.chown(password_file, NOBODY, NOBODY)
        self._run("initdb", "-D", home / self.data.name, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password_file,
                  "-E", self.encoding, "--no-locale", "--no-sync", *initdb_options)

    def _template(self):
        """A cluster that initdb made once, of which those of the tests are copies: that is quicker."""
        of = f"{self.tree} {(self.tree / '.version').read_text()} {self.encoding}"
        home = BUILD / "clusters" / f"{self.version}-{self.encoding}-{hashlib.sha256(of.encode()).hexdigest()[:16]}"
        home.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{home}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not home.exists():
                unfinished = home.with_suffix(".new")
                shutil.rmtree(unfinished, ignore_errors=True)
                self._init(unfinished, secrets.token_hex(16))
                unfinished.rename(home)
        return home

    def start(self):
        self.port = self.port or free_port()
        settings = [
            "listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "fsync=off",
            "logging_collector=off", "log_min_messages=info", "max_connections=60", "max_prepared_transactions=5",
            "max_worker_processes=16", *self.options,
        ]
        if self.preload == "shared":
            settings.append("shared_preload_libraries=immuta_ext" if not any(
                o.startswith("shared_preload_libraries=") for o in self.options) else "cluster_name=immuta")
        words = [w for s in settings for w in ("-c", s)]
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [*self.as_user, self.program("postgres"), "-D", self.data, *words],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env=server_environment(self.tree, **self.environment))
        self._wait_until_ready()
        return self

    def _wait_until_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL {self.version} did not start:\n{self.log()[-3000:]}")
            if subprocess.run([self.program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                              env=server_environment(self.tree)).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL {self.version} is not ready after 30 s")

    def stop(self, how=signal.SIGINT):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(30)
        self.process = None

    def restart(self):
        self.stop()
        self.start()

    def destroy(self):
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self):
        return self.create().start()

    def __exit__(self, *_):
        self.destroy()

    def program(self, name):
        return self.tree / "bin" / name

    # -- use -----------------------------------------------------------------------------------------------------

    @property
    def superuser_password(self):
        return self.password_file.read_text()

    def dsn(self, user="postgres", password=None, dbname="postgres", **extra):
        return dict(host="127.0.0.1", port=self.port, user=user, dbname=dbname,
                    password=self.superuser_password if password is None else password, **extra)

    def client_environment(self, user="postgres", password=None, dbname="postgres"):
        """For psql, pg_dump and pgbench."""
        return server_environment(
            self.tree, PGHOST="127.0.0.1", PGPORT=str(self.port), PGUSER=user, PGDATABASE=dbname,
            PGPASSWORD=self.superuser_password if password is None else password)

    def psql(self, *args, input=None, check=True, **who):
        return self.run_client("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *args, input=input, check=check, **who)

    def run_client(self, program, *args, input=None, check=True, **who):
        done = subprocess.run([self.program(program), *map(str, args)], input=input, text=True,
                              capture_output=True, env=self.client_environment(**who))
        if check and done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")
        return done

    def log(self, since=0):
        """From this byte on."""
        if not self.log_file.exists():
            return ""
        with open(self.log_file, "rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def logged(self):
        """How many bytes there are of it."""
        return self.log_file.stat().st_size

    def lines_with(self, *texts):
        """Lines of the log in which one of these texts stands: with grep, which looks for thousands of them at once."""
        if not texts or not self.log_file.exists():
            return []
        found = subprocess.run(["grep", "-aF", "-f", "-", str(self.log_file)], input="\n".join(texts).encode(),
                               capture_output=True, env={"LC_ALL": "C", "PATH": os.environ["PATH"]})
        assert found.returncode in (0, 1), found.stderr
        return found.stdout.decode(errors="replace").splitlines()

    def _run(self, program, *args):
        done = subprocess.run([*self.as_user, self.program(program), *map(str, args)], text=True,
                              capture_output=True, env=server_environment(self.tree))
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")
