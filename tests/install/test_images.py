"""Images: what comes out of the recipes of packaging/, built from the archive."""

import json
import re
import shlex
import shutil
import tarfile

from harness.server import BUILD, ROOT, VERSIONS, Server, run_prefix
from pages import VERSION

# The newest: extension_control_path is of 18.
NEWEST = VERSIONS[-1]
# Debian's buildah, in a clean system.
BUILDAH = "export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot\n"


def recipe(name, major):
    """The command that the recipe names."""
    [command] = re.findall(r"^#   (buildah build .*)$", (ROOT / "packaging" / name).read_text(), re.M)
    return command.replace("pg18", f"pg{major}")


def test_images(system, packed, tmp_path):
    there = system("bookworm", "images")
    for major in ("15", NEWEST):
        archive = packed(major)[1]
        there.put(archive)
        there.run(f"tar xzf {archive.name}")
    there.run("apt-get install buildah postgresql-15")
    server(there)
    there.run(BUILDAH + recipe("extension.Containerfile", NEWEST) + " -t extension; buildah push extension oci:/root/oci:latest")
    there.get("/root/oci", tmp_path)
    extension(tmp_path)


def server(there):
    """On an image with PostgreSQL: Debian's, as no registry of images can be had here."""
    there.run("tar --one-file-system -C / -cf /tmp/base.tar --exclude=./root --exclude=./tmp --exclude=./var/cache .")
    there.run(BUILDAH + """
        mkdir /tmp/base; mv /tmp/base.tar /tmp/base
        printf 'FROM scratch\\nADD base.tar /\\nRUN mkdir -m 1777 /tmp\\nENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin\\n' >/tmp/base/Containerfile
        buildah build -t base /tmp/base""")
    there.run(BUILDAH + recipe("server.Containerfile", "15").replace("postgres:18", "localhost/base") + " -t server")
    command = " ".join(json.loads(there.ask(BUILDAH + "buildah inspect --type image server"))["OCIv1"]["config"]["Cmd"])
    script = f"""
        initdb -D /tmp/data >/dev/null
        {command} -D /tmp/data -c listen_addresses= -c unix_socket_directories=/tmp >/tmp/log 2>&1 &
        for _ in $(seq 600); do ! pg_isready -q -h /tmp || break; sleep 0.1; done
        psql -h /tmp -At -c "CREATE EXTENSION immuta_ext" -c "SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'" postgres
        kill $!; wait"""
    said = there.ask(BUILDAH + f"container=$(buildah from server)\nbuildah run $container -- ls /tmp\n"
                               f"buildah run --user postgres $container -- bash -ec {shlex.quote(script)}")
    assert said.splitlines() == ["CREATE EXTENSION", VERSION], "and nothing of the archive is left in /tmp"


def extension(folder):
    """Its folders, put beside a server that has no extension, as CloudNativePG does it."""
    def blob(digest):
        return folder / "oci/blobs" / digest.replace(":", "/")
    index = json.loads((folder / "oci/index.json").read_text())
    trees = BUILD / "run" / f"{run_prefix()}mounted"
    mounted = trees / "immuta_ext"
    shutil.rmtree(trees, ignore_errors=True)
    for layer in json.loads(blob(index["manifests"][0]["digest"]).read_text())["layers"]:
        with tarfile.open(blob(layer["digest"])) as tar:
            tar.extractall(mounted)
    assert {str(file.relative_to(mounted)) for file in mounted.rglob("*") if file.is_file()} == {
        "lib/immuta_ext.so", "share/extension/immuta_ext.control", f"share/extension/immuta_ext--{VERSION}.sql", "licenses/LICENSE", "licenses/THIRD-PARTY-LICENSES"}
    shutil.copytree(BUILD / "pg" / NEWEST, trees / NEWEST, symlinks=True,
                    ignore=lambda _, names: [name for name in names if name.startswith("immuta_ext")])
    try:
        with Server(NEWEST, "mounted", trees=trees, options=[
                f"extension_control_path=$system:{mounted}/share", f"dynamic_library_path=$libdir:{mounted}/lib"]) as one:
            said = one.psql("-At", "-c", "CREATE EXTENSION immuta_ext", "-c",
                            "SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'").stdout
            assert said.strip() == VERSION
    finally:
        shutil.rmtree(trees)
