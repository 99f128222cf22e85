"""PgBouncer in front of a server."""

import os
import subprocess
import time

from .server import NOBODY, free_port, unprivileged

PROGRAM = "/usr/sbin/pgbouncer"


class PgBouncer:
    def __init__(self, server, user, password, dbname, pool_size=10, mode="transaction"):
        self.server, self.user, self.password, self.dbname = server, user, password, dbname
        self.pool_size, self.mode = pool_size, mode
        self.port = free_port()
        self.home = server.home / "pgbouncer"
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
                f"default_pool_size = {self.pool_size}", "max_client_conn = 100", ""]),
        }
        for name, content in files.items():
            (self.home / name).write_text(content)
            (self.home / name).chmod(0o600)
        if os.geteuid() == 0:
            for path in (self.home, *self.home.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        with open(self.home / "log", "wb") as log:
            self.process = subprocess.Popen([*unprivileged(self.home), PROGRAM, self.home / "pgbouncer.ini"],
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
