"""sqlsmith, and short statements of ours, as a user who sees masks: nothing crashes, and no byte of what the server sends holds what is
masked. Then as a user who is excepted: the same search finds it.

    tests/fuzz/masks.py [--minutes 10] [--seed N] [--unguarded] [VERSION]      default: 18

With --unguarded a masked column is granted to the user by hand, and the run must report the leak.
"""

import argparse
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import masked  # noqa: E402
import smith  # noqa: E402
from harness.server import BUILD, Server  # noqa: E402
from proxy import Proxy, Session, Watch  # noqa: E402

# Which tables sqlsmith is told of, turn by turn: all, ours, those that the user reads.
READ = b"table_schema || '.' || table_name IN (" + ", ".join(f"'{name}'" for name in masked.COLUMNS).encode() + b")"
TURNS = (b"", b"table_schema IN ('data', 'play')", READ, READ)


def watch(kind, scene, user, seed):
    return kind(scene.server, scene.dbname, masked.SERVICE, scene.token(user), scene.hidden(), scene.granted, seed, masked)


def sweep(scene):
    """Each masked column by itself: fay reads it and sees nothing, eve sees what is hidden. Else what is wrong."""
    for user, sees in (("fay", False), ("eve", True)):
        watched = watch(Watch, scene, user, 0)
        session = Session(watched)
        for table, columns in masked.COLUMNS.items():
            for column in columns.split():
                before = len(watched.leaks), watched.errors
                session.try_out(f"SELECT {column} FROM {table}\0".encode())
                if (len(watched.leaks) > before[0]) != sees or watched.errors != before[1]:
                    yield f"{user} reads {table}.{column}, and it is {'found' if len(watched.leaks) > before[0] else 'not found'}"
        session.wire.close()


def of_ours(scene, internal):
    """Internal errors that the same statement does not raise where nothing is rewritten."""
    watched = watch(Watch, scene, "eve", 0)
    session = Session(watched)
    for body, error in internal:
        before = len(watched.internal)
        session.try_out(body)
        if len(watched.internal) == before:
            yield f"{error}: {body.decode(errors='replace')}"
    session.wire.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--unguarded", action="store_true")
    parser.add_argument("version", nargs="?", default="18")
    given = parser.parse_args()
    with Server(given.version, "fuzz-masks") as server:
        scene = masked.Scene(server, given.seed)
        faults = list(sweep(scene))
        if given.unguarded:
            server.psql("-c", "GRANT SELECT (secret) ON data.people TO fay", dbname=scene.dbname)
        print(f"[fuzz] PostgreSQL {given.version} in {server.tree.parent.name}: {given.minutes:g} minutes of sqlsmith beside masks, seed {given.seed}", flush=True)
        log = BUILD / "logs" / "sqlsmith-masks.log"
        proxy, control = watch(Proxy, scene, "fay", given.seed), watch(Proxy, scene, "eve", given.seed)
        smith.go(proxy, TURNS, given.minutes * 0.85, given.seed, log)
        smith.go(control, (READ,), given.minutes * 0.15, given.seed, log.with_stem("sqlsmith-masks-control"), stops=False)
        proxy.close()
        control.close()
        faults += control.faults
        crashes = [line for line in server.log().splitlines() if smith.CRASH.search(line[:1000])]
        faults += [] if crashes else of_ours(scene, proxy.internal)
    is_well = smith.report(proxy, crashes, *faults)
    print(f"[fuzz] masked tables are named by {proxy.named[0]} statements of sqlsmith's ({proxy.ran[0]} ran) and {proxy.named[1]} of ours "
          f"({proxy.ran[1]} ran); {len(proxy.internal)} internal errors", flush=True)
    for error in sorted({error for _, error in proxy.internal}):
        print("[fuzz] internal error:", error[:500])
    print(f"[fuzz] control: of {control.statements} statements of a user who is excepted {len(control.leaks)} show what is masked", flush=True)
    if not is_well:
        return 1
    if not (proxy.ran[0] > 20 and proxy.ran[1] > 100 and proxy.seen > 100 and proxy.as_nobody > 100 and len(control.leaks) > 50):
        print("[fuzz] hardly anything was tried: see", log)
        return 1
    print("[fuzz] nothing that is masked was seen")
    return 0


if __name__ == "__main__":
    sys.exit(main())
