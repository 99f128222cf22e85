"""A standby of a server of the tests."""

import os

from harness.server import NOBODY, Server


class Standby(Server):
    """A copy of another server that follows it."""

    def follow(self, primary):
        self.create()
        backup = self.home / "backup"
        primary.run_client("pg_basebackup", "-D", backup, "-R", "-c", "fast", "-d", self.connection_to(primary))
        self._as_owner(backup)
        self.data = backup
        self.password_file.write_text(primary.superuser_password)
        return self.start()

    @staticmethod
    def connection_to(primary):
        return f"host=127.0.0.1 port={primary.port} user=postgres password={primary.superuser_password}"

    @staticmethod
    def _as_owner(folder):
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
