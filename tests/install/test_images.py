"""The images that the recipes of packaging/ make of the archive."""

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
BUILDAH = "export BUILDAH_ISOLATION=chroot\n"
# Where overlays cannot be had. Told in a file, or the next command takes another for the last that was used.
STORAGE = """apt-get install buildah
printf '[storage]\\ndriver = "vfs"\\nrunroot = "/run/storage"\\ngraphroot = "/var/lib/storage"\\n' >/etc/containers/storage.conf
"""


# In the image: a server as it starts there, and a transaction with a token.
SERVER = """
    initdb -D /tmp/data >/dev/null
    postgres -D /tmp/data -C shared_preload_libraries
    {command} -D /tmp/data -c listen_addresses= -c unix_socket_directories=/tmp >/tmp/log 2>&1 &
    for _ in $(seq 600); do ! pg_isready -q -h /tmp || break; sleep 0.1; done
    psql -X -q -At -h /tmp postgres <<'END'
    CREATE EXTENSION immuta_ext;
    CREATE ROLE svc LOGIN IN ROLE bodata_impersonate_user;
    CREATE ROLE ursula;
    CREATE TABLE orders AS SELECT 'EU' AS region;
    GRANT SELECT ON orders TO ursula;
    CREATE TABLE leaflet AS SELECT 'anybody';
    GRANT SELECT ON leaflet TO PUBLIC;
    SELECT immuta.create_user('ursula', postgres_role => 'ursula') IS NULL AS none \\gset
    SELECT immuta.issue_token('ursula') AS token \\gset
    \\connect - svc
    BEGIN;
    SET LOCAL bodata.impersonation_token = :'token';
    SELECT current_user, region FROM orders;
    COMMIT;
    TABLE leaflet;
    \\echo :SQLSTATE
END
    kill $!
    wait
"""


def recipe(name, tag, major=NEWEST):
    """The command that the recipe names, with a place for the image."""
    [command] = re.findall(r"^#   (buildah build .*)$", (ROOT / "packaging" / name).read_text(), re.M)
    return command.replace("pg18", f"pg{major}").replace("build ", f"build -t {tag} ", 1)


def test_server(system, packed):
    """On Debian's PostgreSQL, of which the base is made as it is installed: no registry of images is asked."""
    archive = packed("15")[1]
    there = system("bookworm", "server-image")
    there.put(archive)
    there.run(f"tar xzf {archive.name}; apt-get install postgresql-15")
    left = " ".join(f"--exclude={name}" for name in ("./root", "./tmp", "./var/cache", "./var/lib/apt", "'*llvm*'", "'*LLVM*'", "./usr/share/doc"))
    there.run(f"tar --one-file-system -C / -cf /tmp/base.tar {left} .\n" + STORAGE)
    there.run(BUILDAH + """
        mkdir /tmp/base; mv /tmp/base.tar /tmp/base
        printf 'FROM scratch\\nADD base.tar /\\nRUN mkdir -m 1777 /tmp\\nENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin\\n' >/tmp/base/Containerfile
        buildah build -t base /tmp/base""")
    there.run(BUILDAH + recipe("server.Containerfile", "server", "15").replace("postgres:18", "localhost/base"))
    command = " ".join(json.loads(there.ask(BUILDAH + "buildah inspect --type image server"))["OCIv1"]["config"]["Cmd"])
    there.run(BUILDAH + "buildah from --name one server")
    assert there.ask(BUILDAH + "buildah run one -- ls /tmp") == "", "nothing of the archive is left"
    said = there.run(BUILDAH + f"buildah run --user postgres one -- bash -c {shlex.quote(SERVER.format(command=command))}")
    assert said.stdout.splitlines() == ["immuta_ext", "ursula|EU", "42501"], said.stdout + said.stderr


def test_extension(system, packed, tmp_path):
    archive = packed(NEWEST)[1]
    there = system("bookworm", "images")
    there.put(archive)
    there.run(f"tar xzf {archive.name}\n" + STORAGE)
    there.run(BUILDAH + recipe("extension.Containerfile", "oci:/root/oci:latest"))
    there.get("/root/oci", tmp_path)
    extension(tmp_path)


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
