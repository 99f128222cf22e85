"""Images: what comes out of the recipes of packaging/, built from the archive."""

import json
import os
import re
import shutil
import subprocess
import tarfile

import pytest
from harness import clean, debian
from harness.server import BUILD, ROOT, VERSIONS, Server, run_prefix
from pages import VERSION

# The newest: extension_control_path is of 18.
NEWEST = VERSIONS[-1]


class Buildah:
    """Of Debian, unpacked; images and containers are in a folder of the test."""

    def __init__(self, home):
        self.home, self.tree = home, debian.program("buildah")
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (home / "registries.conf").write_text("")

    def __call__(self, command, *words):
        options = ["--root", self.home / "store", "--runroot", self.home / "run", "--storage-driver", "vfs",
                   "--registries-conf", self.home / "registries.conf"]
        policy = ["--signature-policy", self.home / "policy.json"] if command in ("bud", "push", "from", "commit") else []
        done = subprocess.run([self.tree / "usr/bin/buildah", *options, command, *policy, *words], text=True, capture_output=True,
                              env={**os.environ, "LD_LIBRARY_PATH": f"{self.tree}/usr/lib/x86_64-linux-gnu", "BUILDAH_ISOLATION": "chroot"})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout.strip()


@pytest.fixture
def buildah():
    try:
        clean.as_root()
        if os.geteuid():
            raise debian.Unavailable("images are built by root")
        home = BUILD / "run" / f"{run_prefix()}images"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        built = Buildah(home)
    except debian.Unavailable as fault:
        pytest.skip(str(fault))
    yield built
    shutil.rmtree(home)


def unpacked(archive, folder):
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    [tree] = folder.iterdir()
    return tree


def recipe(name, tree):
    """The command that the recipe names, without its program."""
    [command] = re.findall(r"^#   buildah build (.*)$", (ROOT / "packaging" / name).read_text(), re.M)
    return [word.replace(f"immuta_ext-{VERSION}-pg18", str(tree)) for word in command.split()]


def test_extension(buildah, packed, tmp_path):
    """Its folders, put beside a server that has no extension, as CloudNativePG does it."""
    tree = unpacked(packed(NEWEST)[1], tmp_path / "archive")
    buildah("bud", "-t", "extension", *recipe("extension.Containerfile", tree))
    buildah("push", "extension", f"oci:{tmp_path}/oci:latest")

    def blob(digest):
        return tmp_path / "oci/blobs" / digest.replace(":", "/")
    index = json.loads((tmp_path / "oci/index.json").read_text())
    layers = json.loads(blob(index["manifests"][0]["digest"]).read_text())["layers"]
    for layer in layers:
        with tarfile.open(blob(layer["digest"])) as tar:
            tar.extractall(tmp_path / "mounted")
    mounted = tmp_path / "mounted"
    assert {str(file.relative_to(mounted)) for file in mounted.rglob("*") if file.is_file()} == {
        "lib/immuta_ext.so", "share/extension/immuta_ext.control", f"share/extension/immuta_ext--{VERSION}.sql", "licenses/LICENSE"}

    trees = BUILD / "run" / f"{run_prefix()}mounted"
    shutil.rmtree(trees, ignore_errors=True)
    shutil.copytree(BUILD / "pg" / NEWEST, trees / NEWEST, symlinks=True,
                    ignore=lambda _, names: [name for name in names if name.startswith("immuta_ext")])
    # Where any user can read it.
    shutil.copytree(mounted, trees / "immuta_ext")
    try:
        with Server(NEWEST, "mounted", trees=trees, options=[
                f"extension_control_path=$system:{trees}/immuta_ext/share", f"dynamic_library_path=$libdir:{trees}/immuta_ext/lib"]) as server:
            server.psql(input="CREATE EXTENSION immuta_ext; CREATE ROLE ursula; SELECT immuta.create_user('ursula', postgres_role => 'ursula')")
            assert server.psql("-At", "-c", "SELECT count(*) FROM immuta.doctor() WHERE \"check\" ~ 'library' AND ok").stdout.strip() != "0"
    finally:
        shutil.rmtree(trees)


def test_server(buildah, packed, tmp_path, system):
    """On an image with PostgreSQL 15: Debian 12, as nothing else can be had here."""
    with_postgresql = tmp_path / "base.tar"
    debian_12 = system("bookworm", "image")
    debian_12.run("apt-get install postgresql-15; tar --one-file-system -C / -cf /root/base.tar --exclude=./root --exclude=./var/cache/apt .; chmod 644 /root/base.tar")
    subprocess.run(["nsenter", f"--target={debian_12.init}", "--mount", "cp", f"{debian_12.root}/root/base.tar", with_postgresql], check=True)
    (tmp_path / "Containerfile").write_text("FROM scratch\nADD base.tar /\nENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
    buildah("bud", "-t", "base", "-f", tmp_path / "Containerfile", tmp_path)
    tree = unpacked(packed("15")[1], tmp_path / "archive")
    words = [word.replace("postgres:18", "localhost/base") for word in recipe("server.Containerfile", tree)]
    buildah("bud", "-t", "server", *words)
    command = " ".join(json.loads(buildah("inspect", "--type", "image", "server"))["OCIv1"]["config"]["Cmd"])
    container = buildah("from", "server")
    script = f"""
        initdb -D /tmp/data >/dev/null
        {command} -D /tmp/data -c listen_addresses= -c unix_socket_directories=/tmp >/tmp/log 2>&1 &
        until pg_isready -q -h /tmp; do sleep 0.1; done
        psql -h /tmp -At -c 'CREATE EXTENSION immuta_ext' -c 'SELECT extversion FROM pg_extension WHERE extname = $$immuta_ext$$' postgres
        kill %1; wait"""
    said = buildah("run", "--user", "postgres", container, "--", "bash", "-ec", script)
    assert said.splitlines()[-1] == VERSION
    assert not re.search("immuta", buildah("run", container, "--", "ls", "/tmp"))
