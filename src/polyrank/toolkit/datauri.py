"""Data URIs (RFC 2397): a file's bytes inside its URL."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote, unquote_to_bytes

from polyrank.errors import InvalidInput

DEFAULT_TYPE = "text/plain;charset=US-ASCII"


def is_data_uri(url: str) -> bool:
    """Whether the URL carries its file."""
    return url[:5].lower() == "data:"


def make(data: bytes, content_type: str) -> str:
    """The URL that carries these bytes."""
    content_type = content_type.replace("%", "%25").replace(",", "%2C")
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def read(uri: str) -> tuple[bytes, str]:
    """The bytes and the content type of a data URI; as forgiving as browsers are."""
    head, comma, body = uri[5:].partition(",")
    if not is_data_uri(uri) or not comma:
        raise InvalidInput("not a data URI: it has no comma")
    content_type, is_base64 = unquote(head).strip(), False
    if content_type.lower().endswith(";base64"):
        content_type, is_base64 = content_type[: -len(";base64")], True
    if content_type.startswith(";"):
        content_type = f"text/plain{content_type}"
    data = unquote_to_bytes(body)
    if is_base64:
        data = _from_base64(data)
    return data, content_type or DEFAULT_TYPE


def _from_base64(text: bytes) -> bytes:
    text = b"".join(text.split())
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"not a data URI: {error}") from None
