"""The life of an installation in a clean system, by the words of docs/installing.md."""

import psycopg2
import pytest
from pages import blocks, for_major

from harness.fixtures import wait_until

PAGE = "docs/installing.md"
APPLICATION, PASSWORD, DATABASE = "flights_app", "application-password", "immuta"


class Life:
    def __init__(self, system, major):
        self.system, self.major = system, major

    def follow(self, title, *, page=PAGE, only=slice(None), input=None, **how):
        """Types the commands of a section."""
        return [self.system.run(for_major(block, self.major), input=input, **how) for block in blocks(page, title)[only]]

    def sql(self, text, check=True):
        return self.system.run(f"sudo -u postgres psql -X -q -At -v ON_ERROR_STOP=1 -d {DATABASE}", input=text, check=check).stdout.strip()

    def application(self):
        """A connection of the application, from outside."""
        port = self.system.ask("pg_lsclusters -h | awk '{print $3}'")
        connection = psycopg2.connect(host="127.0.0.1", port=port, user=APPLICATION, password=PASSWORD, dbname=DATABASE)
        return connection, connection.cursor()

    def postmaster(self):
        return self.system.ask(f"head -n 1 /var/lib/postgresql/{self.major}/main/postmaster.pid")

    def libraries(self, pid):
        """The files of the extension that a process has open, and those of them that are gone from the disk."""
        mapped = set(self.system.ask(f"grep -o '/[^ ]*immuta_ext.*' /proc/{pid}/maps || true").splitlines())
        return mapped, {name for name in mapped if name.endswith("(deleted)")}

    # -- what the page promises --------------------------------------------------------------------------------------

    def first_steps(self):
        self.follow("First steps", input=f"{APPLICATION}\n{PASSWORD}\n{PASSWORD}\n")
        *steps, doctor = blocks(PAGE, "First steps", "sql")
        for step in steps:
            self.sql(step)
        assert self.sql(doctor) == ""
        # For PUBLIC, of which the application has nothing without a token.
        self.sql("CREATE TABLE leaflet AS SELECT 'anybody' AS reader; GRANT SELECT ON leaflet TO PUBLIC")

    def token(self):
        """As the page has it: a password becomes a token."""
        connection, cursor = self.application()
        exchange, self.transaction = blocks(PAGE, "First steps", "")
        cursor.execute(exchange.splitlines()[0])
        [(answer,)] = cursor.fetchall()
        connection.commit()
        connection.close()
        return answer["token"]

    def present(self, cursor, token):
        """The page's transaction, up to its COMMIT."""
        for statement in self.transaction.replace("'...'", f"'{token}'").split(";\n")[1:-2]:
            cursor.execute(statement)
        return cursor.fetchall()

    def works(self):
        """Right rows with a token, none without."""
        connection, cursor = self.application()
        assert self.present(cursor, self.token()) == [("EU", 10)]
        connection.commit()
        self.held_back(cursor)
        connection.close()
        # Both sinks of the page have it on record; a worker writes the table.
        recorded = "SELECT count(*) > 0 FROM immuta.audit_log WHERE record::text ~ 'FROM orders'"
        assert wait_until(lambda: self.sql(recorded) == "t")

    def held_back(self, cursor):
        with pytest.raises(psycopg2.Error) as refused:
            cursor.execute("SELECT * FROM leaflet")
        assert refused.value.pgcode == "42501", refused.value
        cursor.connection.rollback()

    def goes_on(self, change, *, reads=True):
        """A session and its transaction live through a change of the files; so does the server, with the library it has."""
        connection, cursor = self.application()
        before = self.postmaster()
        assert self.present(cursor, self.token()) == [("EU", 10)]
        cursor.execute("SELECT pg_backend_pid()")
        [(backend,)] = cursor.fetchall()
        change()
        cursor.execute("SELECT * FROM orders")
        assert cursor.fetchall() == [("EU", 10)]
        connection.commit()
        assert self.postmaster() == before
        for pid in (before, backend):
            mapped, gone = self.libraries(pid)
            assert mapped and mapped == gone, "the old library, which is no longer there"
        self.held_back(cursor)
        newcomer, its = self.application()
        self.held_back(its)
        if reads:
            assert self.present(its, self.token()) == [("EU", 10)]
        newcomer.close()
        connection.close()

    def upgraded(self):
        """After the page's restart the new library is in use."""
        mapped, gone = self.libraries(self.postmaster())
        assert mapped and not gone
        self.works()

    def remove(self, files):
        """The page's way, to the end; `files` does its last step."""
        lock, drop, roles = blocks(PAGE, "Removing", "sql")
        configuration, by_hand = (for_major(block, self.major) for block in blocks(PAGE, "Removing"))
        connection, pooled = self.application()
        self.held_back(pooled)
        self.sql(lock)
        self.sql(drop)
        with pytest.raises(psycopg2.OperationalError):
            pooled.execute("SELECT * FROM leaflet")
        connection.close()
        self.system.run(configuration)
        self.sql(roles)
        before = self.postmaster()
        files(by_hand)
        assert self.postmaster() == before
        assert self.sql("SELECT count(*) FROM orders") == "2"
        assert self.sql("SELECT rolname FROM pg_roles WHERE rolname ~ 'immuta|bodata'") == ""
        assert self.system.ask("find / -xdev -name '*immuta*' -not -path '/root/*' -not -path '/home/*'") == ""
        self.system.run("service postgresql restart")
        assert self.sql("SELECT count(*) FROM orders") == "2"
