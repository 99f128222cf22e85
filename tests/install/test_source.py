"""From source, by the words of docs/installing.md, on a Debian 12 that has nothing.

Not followed: Rust comes from rustup there, and here from the machine, which lends its toolchain. By variables of its environment
cargo optimises less, which saves most of an hour of two processors. What is built is kept in build/clean for the next run.
"""

import subprocess
from pathlib import Path

from harness.clean import HOME, as_root
from harness.server import ROOT
from life import PAGE, Life
from pages import blocks

TREE, WHO, CERTIFICATES = "/home/builder/immuta_ext", "builder", Path("/etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT = {"PATH": "/opt/rust/bin:/home/builder/.cargo/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/home/builder", "USER": WHO,
               "CARGO_HTTP_CAINFO": "/root/ca-certificates.crt", "CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
               "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}


def lent():
    rust = subprocess.run(["rustc", "--print", "sysroot"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip()
    kept = [(HOME / "source" / name, f"/home/builder/{inside}", "") for name, inside in (("cargo", ".cargo"), ("target", "immuta_ext/target"))]
    subprocess.run([*as_root(), "mkdir", "-p", *(folder for folder, _, _ in kept)], check=True)
    return [(rust, "/opt/rust", "-o ro"), *kept]


def test_life(system):
    there = Life(system("bookworm", "source", binds=lent()), "15")
    there.system.run("apt-get install postgresql-15 ca-certificates")
    there.system.run(f"useradd {WHO}; echo '{WHO} ALL = NOPASSWD: ALL' >/etc/sudoers.d/{WHO}; chmod 711 /root")
    if CERTIFICATES.exists():
        there.system.put(CERTIFICATES)
    sources = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], text=True,
                             capture_output=True, check=True).stdout.split("\0")
    there.system.put_from(ROOT, [name for name in sources if (ROOT / name).is_file()], TREE)
    there.system.run(f"chown {WHO}: /home/{WHO} /home/{WHO}/.cargo; chown -R {WHO}: {TREE}")
    packages, commands = blocks(PAGE, "From source")

    def build():
        there.system.run(commands, folder=TREE, user=WHO, environment=ENVIRONMENT, timeout=4 * 3600)
    there.system.run(packages)
    build()
    there.follow("Two settings, and the extension")
    there.first_steps()
    there.works()

    there.goes_on(build)
    there.system.run("service postgresql restart")
    there.upgraded()
    there.remove(lambda by_hand: there.system.run(by_hand))
