"""Where the clients of other packages are: installed below build/, once for each list of versions."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from harness.server import BUILD

HERE = Path(__file__).resolve().parent
CLIENTS = HERE / "clients"


def once(name, wanted, make):
    """A folder below build/ that `make(folder)` fills, anew whenever what is wanted changes."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(wanted.encode()).hexdigest()
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / ".installed"
        if not stamp.exists() or stamp.read_text() != mark:
            make(folder)
            stamp.write_text(mark)
    return folder


def python():
    """An interpreter with the packages of requirements.txt."""
    requirements = HERE / "requirements.txt"

    def make(folder):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True)
        subprocess.run([folder / "venv" / "bin" / "pip", "install", "-q", "--disable-pip-version-check",
                        "--only-binary=:all:", "-r", requirements], check=True)

    return once("drivers-python", requirements.read_text() + sys.version, make) / "venv" / "bin" / "python"


def node():
    """A folder with the packages of node/package.json: modules are found from where a program lies."""
    manifest, lock = HERE / "node" / "package.json", HERE / "node" / "package-lock.json"

    def make(folder):
        for file in (manifest, lock):
            shutil.copy(file, folder)
        # No program of a package runs while it is installed.
        subprocess.run(["npm", "ci", "--silent", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL)

    return once("drivers", manifest.read_text() + lock.read_text(), make)


def node_program(*files):
    """The first of these programs, put where its packages are found."""
    folder = node()
    for file in files:
        shutil.copy(file, folder / file.name)
    return folder / files[0].name
