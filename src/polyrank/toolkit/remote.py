"""The server's storage as an app uses it: files that outlive the replica, over HTTP."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from polyrank.settings import StorageSettings
from polyrank.toolkit import urls
from polyrank.toolkit.exceptions import (
    FileTooLarge,
    FileUploadException,
    StorageError,
    UnreadableURL,
)
from polyrank.toolkit.store import FileStore

# Set by the server for each request: where its caller finds files, and in whose name they are kept.
BASE_HEADER = "x-polyrank-files-base"
TOKEN_HEADER = "x-polyrank-files-token"
LIFECYCLE_HEADER = "x-fal-object-lifecycle-preference"
CONNECT_RETRIES = 3
TIMEOUT = httpx.Timeout(600, connect=10)
_FILE_PATH = re.compile(r"/files/[0-9a-f]{32}/[^/]+")


class Storage:
    """The storage of one server, at an address that this machine reaches; ``token`` opens it."""

    def __init__(self, address: str, token: str, ca: Path | None = None) -> None:
        """``ca`` is the certificate of who vouches for a server that speaks TLS."""
        self.address = address.rstrip("/")
        self.token = token
        # No proxy of the environment stands between a replica and its server.
        trust = ssl.create_default_context(cafile=ca) if ca is not None else True
        transport = httpx.HTTPTransport(verify=trust, retries=CONNECT_RETRIES)
        self._client = httpx.Client(transport=transport, timeout=TIMEOUT, trust_env=False)

    @classmethod
    def of(cls, settings: StorageSettings) -> Self | None:
        """The storage that the settings name; None if no server started this process."""
        if settings.storage_address is None:
            return None
        token = settings.storage_token.get_secret_value()
        return cls(settings.storage_address, token, settings.storage_ca)

    def send(
        self,
        method: str,
        *path: str,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> httpx.Response:
        """The server's answer. Raises StorageError, with the ``status`` if there was one."""
        url = "/".join([self.address, *(quote(part, safe="") for part in path)])
        authorization = {"authorization": f"Bearer {token or self.token}"}
        all_headers = httpx.Headers({**authorization, **(headers or {})}, encoding="utf-8")
        try:
            answer = self._client.request(method, url, headers=all_headers, **request)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise StorageError(f"the server at {self.address} did not answer: {reason}") from error
        if not answer.is_success:
            status = answer.status_code
            raise StorageError(f"the server answered {status}: {_detail(answer)}", status=status)
        return answer

    def fetch(self, path_and_query: str, token: str) -> bytes | None:
        """The bytes of a file of the server's; None if it has none there.

        Raises UnreadableURL if whoever ``token`` stands for may not have it.
        """
        policy = urls.current_policy()
        headers = {"authorization": f"Bearer {token}"}
        url = self.address + path_and_query
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                if answer.status_code == 404:
                    return None
                if not answer.is_success:
                    answer.read()
                    raise UnreadableURL(f"{path_and_query} cannot be opened: {_detail(answer)}")
                return _read(answer, policy.max_bytes)
        except httpx.HTTPError as error:
            raise UnreadableURL(f"{path_and_query} cannot be opened: {error}") from error


@dataclass(frozen=True)
class RemoteStore(FileStore):
    """Files of the request with these ``headers``: kept by the server, in its caller's name."""

    storage: Storage
    headers: Mapping[str, str]

    @property
    def base_url(self) -> str:
        """The address at which the caller finds files."""
        return self.headers.get(BASE_HEADER) or self.storage.address

    @property
    def token(self) -> str:
        """What opens the caller's storage."""
        return self.headers.get(TOKEN_HEADER) or self.storage.token

    def save(self, data: bytes, content_type: str, file_name: str) -> str:
        """The URL at which the request's caller finds the file."""
        headers = {
            "content-type": content_type,
            # What no header may have, no name needs.
            "x-fal-file-name": re.sub(r"[\x00-\x1f\x7f]", "_", file_name).strip(),
        }
        if wishes := self.headers.get(LIFECYCLE_HEADER):
            headers[LIFECYCLE_HEADER] = wishes
        try:
            answer = self.storage.send(
                "POST", "files", "upload", token=self.token, headers=headers, content=data
            )
        except StorageError as error:
            raise FileUploadException(f"{file_name} could not be kept: {error}") from error
        return self.base_url + urlsplit(str(answer.json()["access_url"])).path

    def load(self, url: str) -> bytes | None:
        """The bytes of a file of the server's, whatever host name its URL has: callers reach the
        server by many, and nobody can guess the path."""
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not _FILE_PATH.fullmatch(parts.path):
            return None
        query = f"?{parts.query}" if parts.query else ""
        data = self.storage.fetch(parts.path + query, self.token)
        if data is None and url.startswith((f"{self.base_url}/", f"{self.storage.address}/")):
            raise UnreadableURL(f"{url} cannot be opened: there is no such file here")
        return data


def _read(answer: httpx.Response, max_bytes: int) -> bytes:
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > max_bytes:
            raise FileTooLarge(f"the file holds more than {max_bytes} bytes", max_bytes=max_bytes)
    return bytes(data)


def _detail(answer: httpx.Response) -> str:
    """The reason in an answer that is an error."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
