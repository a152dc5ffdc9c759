"""polyrank itself as a wheel, made of what runs here: a release and a checkout travel alike."""

from __future__ import annotations

import base64
import hashlib
import uuid
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from polyrank.errors import BuildFailed

DISTRIBUTION = "polyrank"
PACKAGE = Path(__file__).resolve().parents[1]
# The earliest date that a zip can hold.
EPOCH = (1980, 1, 1, 0, 0, 0)
WHEEL = "Wheel-Version: 1.0\nGenerator: polyrank\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True)
class OwnWheel:
    """The files of the wheel by name; ``digest`` names their content."""

    version: str
    requires_python: str
    files: dict[str, bytes]
    digest: str

    def write(self, folder: Path) -> Path:
        """Puts the wheel into a folder of its own in ``folder``, unless it is there."""
        path = folder / self.digest / f"{DISTRIBUTION}-{self.version}-py3-none-any.whl"
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.files.items():
                archive.writestr(zipfile.ZipInfo(name, EPOCH), content)
        part.replace(path)
        return path


def read() -> OwnWheel:
    """The wheel of the running polyrank. Raises BuildFailed where it is not installed."""
    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise BuildFailed(
            "polyrank is not installed here, only importable, so that it is not known what it "
            "needs; install it (pip install -e . in a checkout)"
        ) from None
    files = _sources(PACKAGE)
    info = f"{DISTRIBUTION}-{installed.version}.dist-info"
    files[f"{info}/METADATA"] = (installed.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files[f"{info}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    record = "".join(f"{name},{_told(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    digest = hashlib.sha256(files[f"{info}/RECORD"]).hexdigest()[:16]
    wanted = installed.metadata["Requires-Python"] or ""
    return OwnWheel(installed.version, wanted, files, digest)


def _sources(package: Path) -> dict[str, bytes]:
    return {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _told(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()},{len(content)}"
