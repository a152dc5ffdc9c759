"""Statements that the server signs."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from polyrank.files.seals import Sealer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_was_sealed_is_believed_for_its_purpose_and_time() -> None:
    clock = Clock()
    sealer = Sealer(b"key", clock)
    token = sealer.seal("file", 60, sub="1")
    assert (sealer.open("file", token) or {})["sub"] == "1"
    assert sealer.open("upload", token) is None
    assert Sealer(b"another", clock).open("file", token) is None
    clock.now += 60
    assert sealer.open("file", token) is None


def test_a_changed_token_is_not_believed() -> None:
    sealer = Sealer(b"key", Clock())
    payload, signature = sealer.seal("file", 60, sub="1").split(".")
    other = base64.urlsafe_b64encode(b'{"sub":"2","exp":9999999999}').decode().rstrip("=")
    assert sealer.open("file", f"{other}.{signature}") is None
    assert sealer.open("file", f"{payload}.{signature[:-2]}") is None
    assert sealer.open("file", None) is None


@given(st.text() | st.from_regex(r"[\w-]+\.[\w-]+"))
def test_nonsense_is_not_believed(token: str) -> None:
    assert Sealer(b"key").open("file", token) is None
