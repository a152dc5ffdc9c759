"""What the values of secrets are encrypted with: keys in a file that only the server can read.

AES-256-GCM, as ``cryptography`` has it. The file has one key a line: the first encrypts, and all
decrypt, so that a key can be changed while values of the one before are still there.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polyrank.errors import PolyrankError

KEY_BYTES = 32
# Of a key's hash: says which one a value was encrypted with.
ID_BYTES = 8
NONCE_BYTES = 12
VERSION = b"\x01"


class KeyringUnusable(PolyrankError):
    """The key file is missing or broken, or lacks the key of a value."""

    status = 503
    code = "secrets_unavailable"


class Keyring:
    """The keys in one file, which is made when something is first encrypted.

    A value is bound to its ``place``: moved to another row, it cannot be decrypted.

    Example::

        keyring = Keyring(Path("secret.key"))
        sealed = keyring.encrypt(b"hf_abc", place=b"ann/main/HF_TOKEN")
        keyring.decrypt(sealed, place=b"ann/main/HF_TOKEN")  # b"hf_abc"
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: dict[bytes, AESGCM] = {}
        self._seen: tuple[int, int] | None = None

    def encrypt(self, value: bytes, *, place: bytes) -> bytes:
        """The value, for whoever has the file."""
        self._read(make=True)
        id, cipher = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(NONCE_BYTES)
        return VERSION + id + nonce + cipher.encrypt(nonce, value, VERSION + id + place)

    def decrypt(self, sealed: bytes, *, place: bytes) -> bytes:
        """The value that was encrypted for this place."""
        version, rest = sealed[:1], sealed[1:]
        id, rest = rest[:ID_BYTES], rest[ID_BYTES:]
        nonce, body = rest[:NONCE_BYTES], rest[NONCE_BYTES:]
        self._read()
        cipher = self._keys.get(id)
        if version != VERSION or cipher is None:
            raise KeyringUnusable(
                f"{self.path} lacks the key {id.hex()} that a secret was encrypted with: put the "
                "file back from a backup, or set the secret again"
            )
        try:
            return cipher.decrypt(nonce, body, VERSION + id + place)
        except InvalidTag:
            raise KeyringUnusable("a secret is damaged in the database: set it again") from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether the value was encrypted with the first key of the file."""
        self._read()
        return bool(self._keys) and sealed.startswith(VERSION + next(iter(self._keys)))

    def add_key(self) -> None:
        """Encrypts with a new key from now on; those before it still decrypt."""
        self._read(make=True)
        _replace(self.path, f"{_new_key()}\n{self.path.read_text()}")

    def drop_old_keys(self) -> None:
        """Forgets all keys but the first; what they encrypted is lost."""
        self._read()
        _replace(self.path, self.path.read_text().lstrip().partition("\n")[0] + "\n")

    def _read(self, make: bool = False) -> None:
        """Reads the file anew if it has changed: another process may have added a key."""
        try:
            if make and not self.path.exists():
                _create(self.path, f"{_new_key()}\n")
            state = self.path.stat()
            if (seen := (state.st_ino, state.st_mtime_ns)) == self._seen:
                return
            lines = self.path.read_text("ascii").split()
        except FileNotFoundError:
            self._keys, self._seen = {}, None
            return
        except (OSError, UnicodeDecodeError) as error:
            raise KeyringUnusable(f"the key file {self.path} cannot be used: {error}") from error
        if not lines:
            raise KeyringUnusable(f"the key file {self.path} is empty")
        self._keys = dict(self._parse(line) for line in lines)
        self._seen = seen

    def _parse(self, line: str) -> tuple[bytes, AESGCM]:
        try:
            key = base64.urlsafe_b64decode(line)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise KeyringUnusable(f"a line of {self.path} is not a key of {KEY_BYTES} bytes")
        return hashlib.sha256(b"polyrank key " + key).digest()[:ID_BYTES], AESGCM(key)


def _new_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _create(path: Path, text: str) -> None:
    """Makes the file, whole or not at all; one that another process has just made stays."""
    temporary = _write_beside(path, text)
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def _replace(path: Path, text: str) -> None:
    try:
        os.replace(_write_beside(path, text), path)
    except OSError as error:
        raise KeyringUnusable(f"the key file {path} cannot be written: {error}") from error


def _write_beside(path: Path, text: str) -> Path:
    """The text in a file of the same folder; mkstemp makes it readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
