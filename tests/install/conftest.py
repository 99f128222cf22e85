"""Installing, upgrading and removing, on systems where nothing of this project was before."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
pytest.register_assert_rewrite("life")

from harness import clean, debian  # noqa: E402
from harness.server import BUILD, ROOT  # noqa: E402
from pages import VERSION  # noqa: E402


@pytest.fixture(scope="session")
def packed():
    """The package and the archive of a major: those of `PACKAGES`, a folder, or made of what tools/install has built."""
    made = {}

    def of(major):
        if major not in made:
            folder = Path(os.environ.get("PACKAGES") or BUILD / "dist-tests").resolve()
            if not os.environ.get("PACKAGES"):
                if not (BUILD / "pg" / major / "lib" / "immuta_ext.so").exists():
                    pytest.skip(f"no library for PostgreSQL {major} is built: tools/install {major}")
                subprocess.run([ROOT / "tools" / "package", "--installed", major], check=True, stdout=subprocess.DEVNULL)
            made[major] = (folder / f"postgresql-{major}-immuta-ext_{VERSION}-1_amd64.deb",
                           folder / f"immuta_ext-{VERSION}-pg{major}-linux-x86_64.tar.gz")
        return made[major]
    return of


@pytest.fixture
def system():
    """Makes a clean system, which is gone after the test."""
    def of(suite, name, **options):
        try:
            return systems.enter_context(clean.System(suite, name, "sudo", **options))
        except debian.Unavailable as fault:
            pytest.skip(str(fault))
    with contextlib.ExitStack() as systems:
        yield of
