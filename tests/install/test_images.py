"""The image that the recipe of packaging/ makes of the archive."""

import json
import re
import shutil
import tarfile

from harness.server import BUILD, ROOT, VERSIONS, Server, run_prefix
from pages import VERSION

# The newest: extension_control_path is of 18.
NEWEST = VERSIONS[-1]
# Debian's buildah, in a clean system.
BUILDAH = "export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot\n"


def recipe(name, tag):
    """The command that the recipe names, with a place for the image."""
    [command] = re.findall(r"^#   (buildah build .*)$", (ROOT / "packaging" / name).read_text(), re.M)
    return command.replace("pg18", f"pg{NEWEST}").replace("build ", f"build -t {tag} ", 1)


def test_extension(system, packed, tmp_path):
    archive = packed(NEWEST)[1]
    there = system("bookworm", "images")
    there.put(archive)
    there.run(f"tar xzf {archive.name}; apt-get install buildah")
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
