"""sqlsmith, a program that writes random SQL for the tables and functions that it finds, and how it is run."""

import os
import re
import signal
import subprocess
import time

from harness import debian

CRASH = re.compile(r"terminated by signal|PANIC: |TRAP: |panicked at|could not restore the session user")


def go(proxy, turns, minutes, seed, log, stops=True):
    """Has it talk to a proxy, for as long in each turn, which says what tables it is told of. A leak `stops` it."""
    # Debian's packages, unpacked.
    home = debian.binary("sqlsmith", "libpqxx-6.4") / "usr"
    library = next(home.glob("lib/*/libpqxx-6.4.so")).parent
    log.parent.mkdir(exist_ok=True)
    with open(log, "wb") as out:
        for turn, focus in enumerate(turns):
            ends, starts = time.monotonic() + minutes * 60 / len(turns), 0
            # It may crash; that is not what we look for.
            while time.monotonic() < ends and not (stops and proxy.leaks) and starts < 20:
                proxy.connections, proxy.focus = 0, focus
                target = f"host=127.0.0.1 port={proxy.port} dbname={proxy.dbname} user=smith sslmode=disable gssencmode=disable"
                process = subprocess.Popen(
                    [home / "bin" / "sqlsmith", f"--target={target}", f"--seed={seed + 100 * turn + starts}"],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    env=dict(os.environ, LD_LIBRARY_PATH=f"{library}:{proxy.server.tree / 'lib'}"))
                starts += 1
                while time.monotonic() < ends and process.poll() is None and not (stops and proxy.leaks):
                    time.sleep(0.5)
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.wait(30)
            if starts == 20:
                proxy.faults.append(f"sqlsmith does not stay, {process.returncode}: see {log}")


def report(proxy, crashes, *faults):
    """What came of it; whether all is well."""
    print(f"[fuzz] {proxy.statements} statements ({proxy.as_nobody} without a token), {proxy.rows} rows, "
          f"{proxy.seen} answers with what the user may see, "
          f"{proxy.errors} errors ({proxy.refused} of ours), {proxy.lost} connections lost", flush=True)
    for leak in proxy.leaks[:20]:
        print("[fuzz] LEAK:", *leak, sep="\n")
    for line in crashes[:20]:
        print("[fuzz] CRASH:", line[:500])
    for fault in (*proxy.faults, *faults)[:20]:
        print("[fuzz] FAULT:", fault[:2000])
    return not (proxy.leaks or crashes or proxy.faults or faults)
