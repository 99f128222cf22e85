"""The trail that the demo's users leave: the demo once more, unseen, then what is on record of it.

    demo/audit.py [VERSION]      default: 15
"""

import contextlib
import io
import sys

import psycopg2

import run
from run import heading, table

TRAIL = """
SELECT to_char(event_time, 'HH24:MI:SS.MS'), impersonator, coalesce(userid, '?'), coalesce(mapped_role, ''),
       CASE action WHEN 'QUERY' THEN coalesce(nullif(command, ''), '(not parsed)')
            ELSE lower(record->'auditPayload'->>'event') END,
       coalesce(objects[1], ''), coalesce(rows::text, ''), lower(status), coalesce(error_code, ''),
       regexp_replace(coalesce(query, ''), '\s+', ' ', 'g')
FROM immuta.audit_log
WHERE record->'actor'->>'identityProvider' IS DISTINCT FROM 'Okta'
ORDER BY event_time, id
"""
REPORT = """
SELECT userid, coalesce(data_source, '(none)'), statements, rows, failed, denied, array_to_string(impersonators, ', ')
FROM immuta.audit_report(now() - interval '1 hour', now() + interval '1 minute')
"""


class AuditedDemo(run.Demo):
    def show(self):
        with self.admin.cursor() as cursor:
            cursor.execute("SELECT immuta.flush_audit('30 s')")
            self.expect("all records in the table", cursor.fetchone()[0], True)
            cursor.execute(TRAIL)
            rows = cursor.fetchall()
            heading(f"The first 40 of {len(rows)} records of immuta.audit_log")
            self.expect("who impersonates", {row[1] for row in rows}, {run.SERVICE})
            self.expect("three users and more on record", {"ursula", "ann", "dora"} <= {row[2] for row in rows}, True)
            table(("time", "login", "user", "role", "what", "data source", "rows", "status", "error", "query"),
                  [(*row[:9], row[9][:50]) for row in rows[:40]])
            heading("immuta.audit_report(): who accessed what how often")
            cursor.execute(REPORT)
            rows = [tuple(str(value) for value in row) for row in cursor.fetchall()]
            self.expect("flights in the report", any(row[1] == "air.flights" for row in rows), True)
            table(("user", "data source", "statements", "rows", "failed", "denied", "by"), rows, right=(2, 3, 4, 5))
        heading("The server is still running: make demo-down stops it.")


def main(version="15"):
    demo, told = AuditedDemo(version), io.StringIO()
    print(f"The demo runs unseen on PostgreSQL {version} ...", flush=True)
    try:
        with contextlib.redirect_stdout(told):
            demo.tell()
        demo.show()
    except (run.NotAsTold, psycopg2.Error, RuntimeError, TimeoutError) as error:
        print(f"{told.getvalue()}\nFAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
