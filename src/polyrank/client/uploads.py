"""Uploads: one request for most files, parts side by side for large ones."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from typing import Any

from polyrank.client.encoding import ANY_BYTES
from polyrank.client.endpoints import Endpoints
from polyrank.client.errors import UploadFailed
from polyrank.client.parts import Part
from polyrank.client.retries import attempt
from polyrank.client.steps import Answer, Flow, Request, Together
from polyrank.client.storage import StorageSettings

MULTIPART_ABOVE_BYTES = 100 * 2**20
PART_BYTES = 10 * 2**20
PARTS_AT_ONCE = 4
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# A token is taken for expired a little before it is.
MARGIN = datetime.timedelta(seconds=30)


@dataclass(frozen=True)
class Token:
    """What lets one upload for a while."""

    authorization: str
    expires_at: datetime.datetime

    @property
    def is_expired(self) -> bool:
        """Whether a new one is needed."""
        return datetime.datetime.now(datetime.UTC) >= self.expires_at - MARGIN


class Uploads:
    """Uploads to one server with one key; keeps its token."""

    def __init__(
        self, endpoints: Endpoints, headers: dict[str, str], attempts: int, timeout_s: float
    ) -> None:
        self._endpoints = endpoints
        self._headers = headers
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._token: Token | None = None

    def upload(
        self,
        whole: Part,
        content_type: str,
        file_name: str | None,
        lifecycle: StorageSettings | None,
    ) -> Flow[str]:
        """Stores some bytes; returns the URL to read them at."""
        headers = lifecycle.headers() if lifecycle else {}
        headers["content-type"] = content_type or ANY_BYTES
        if file_name is not None:
            headers["x-fal-file-name"] = CONTROL.sub("_", file_name).strip()
        if whole.size > MULTIPART_ABOVE_BYTES:
            return (yield from self._in_parts(whole, headers))
        url = self._endpoints.at("files/upload")
        answer = yield from self._send("POST", url, headers, whole)
        return _read(answer, "access_url")

    def _in_parts(self, whole: Part, headers: dict[str, str]) -> Flow[str]:
        url = self._endpoints.at("files/upload/multipart")
        begun = yield from self._send("POST", url, headers)
        access_url, upload_id = _read(begun, "access_url"), _read(begun, "uploadId")
        base = f"{access_url}/multipart/{upload_id}"
        sending = [
            self._part(f"{base}/{number}", number, part, headers["content-type"])
            for number, part in enumerate(whole.split(PART_BYTES), 1)
        ]
        etags: list[dict[str, Any]] = yield Together(sending, PARTS_AT_ONCE)
        body = json.dumps({"parts": etags}).encode()
        json_type = {"content-type": "application/json"}
        yield from self._send("POST", f"{base}/complete", json_type, body)
        return access_url

    def _part(self, url: str, number: int, part: Part, content_type: str) -> Flow[dict[str, Any]]:
        answer = yield from self._send("PUT", url, {"content-type": content_type}, part)
        if "etag" not in answer.headers:
            raise UploadFailed(f"the server's answer to part {number} of the upload has no ETag")
        return {"partNumber": number, "etag": answer.headers["etag"]}

    def _send(
        self, method: str, url: str, headers: dict[str, str], content: bytes | Part | None = None
    ) -> Flow[Answer]:
        token = yield from self._valid_token()
        headers = {**self._headers, **headers, "authorization": token.authorization}
        request = Request(method, url, headers, content, self._timeout_s)
        answer = yield from attempt(request, self._attempts, repeatable=True)
        return answer.checked()

    def _valid_token(self) -> Flow[Token]:
        if self._token is None or self._token.is_expired:
            url = self._endpoints.at("storage/auth/token?storage_type=fal-cdn-v3")
            headers = {**self._headers, "content-type": "application/json"}
            request = Request("POST", url, headers, b"{}", self._timeout_s)
            answer = yield from attempt(request, self._attempts, repeatable=True)
            said = answer.checked().json()
            expires_at = datetime.datetime.fromisoformat(_read(answer, "expires_at"))
            authorization = f"{said.get('token_type', 'Bearer')} {_read(answer, 'token')}"
            self._token = Token(authorization, expires_at)
        return self._token


def _read(answer: Answer, name: str) -> str:
    value = answer.json().get(name)
    if not isinstance(value, str):
        raise UploadFailed(f"the server's answer to the upload has no {name}")
    return value
