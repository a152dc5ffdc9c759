"""Files in a folder of this machine, under URLs that cannot be guessed."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from polyrank.toolkit import datauri
from polyrank.toolkit.exceptions import FileUploadException
from polyrank.toolkit.store import FileStore

ROUTE = "/files"
INLINE_BYTES = 8 * 2**20
MAX_BYTES = 4 * 2**30
MAX_NAME = 120


@dataclass(frozen=True)
class Kept:
    """One file of a folder."""

    path: Path
    content_type: str
    file_name: str
    size: int


def clean_name(file_name: str) -> str:
    """The name as it stands in URLs and headers: no path, nothing that changes their meaning."""
    return re.sub(r"[^\w.-]+", "_", file_name)[-MAX_NAME:].strip("._") or "file"


class Folder:
    """Files by token, in a private temporary folder that ``close`` removes.

    On disk a file is called by its token, so a caller's file name cannot lead anywhere. Past
    ``max_bytes`` in all, the oldest files are removed.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._root: Path | None = None
        self._kept: dict[str, Kept] = {}

    def add(self, data: bytes, content_type: str, file_name: str) -> str:
        """Keeps the bytes; returns their token."""
        if len(data) > self._max_bytes:
            raise FileUploadException(
                f"{file_name} has {len(data)} bytes; the app's files may take {self._max_bytes}"
            )
        token, file_name = secrets.token_hex(16), clean_name(file_name)
        try:
            path = self._folder() / token
            path.write_bytes(data)
        except OSError as error:
            raise FileUploadException(f"{file_name} could not be kept: {error}") from error
        with self._lock:
            self._kept[token] = Kept(path, content_type, file_name, len(data))
            self._make_room()
        return token

    def get(self, token: str) -> Kept | None:
        """The file with this token, None if there is none any more."""
        with self._lock:
            return self._kept.get(token)

    def close(self) -> None:
        """Removes all files."""
        with self._lock:
            self._kept.clear()
            root, self._root = self._root, None
        if root is not None:
            shutil.rmtree(root, ignore_errors=True)

    def _folder(self) -> Path:
        with self._lock:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="polyrank-files-"))
            return self._root

    def _make_room(self) -> None:
        surplus = sum(kept.size for kept in self._kept.values()) - self._max_bytes
        while surplus > 0:
            oldest = self._kept.pop(next(iter(self._kept)))
            oldest.path.unlink(missing_ok=True)
            surplus -= oldest.size


@dataclass(frozen=True)
class FolderStore(FileStore):
    """A folder whose files are served below ``base_url``; small files become data URIs."""

    folder: Folder
    base_url: str
    inline_bytes: int = INLINE_BYTES

    def save(self, data: bytes, content_type: str, file_name: str) -> str:
        """A data URI, or the URL of the kept file if it is larger than ``inline_bytes``."""
        if len(data) <= self.inline_bytes:
            return datauri.make(data, content_type)
        token = self.folder.add(data, content_type, file_name)
        return f"{self.base_url}{ROUTE}/{token}/{quote(clean_name(file_name))}"

    def load(self, url: str) -> bytes | None:
        """The bytes of a kept file, whatever host name its URL has: the token is the proof."""
        _, route, rest = url.rpartition(f"{ROUTE}/")
        kept = self.folder.get(rest.partition("/")[0]) if route else None
        try:
            return kept.path.read_bytes() if kept else None
        except FileNotFoundError:  # room was made just now
            return None
