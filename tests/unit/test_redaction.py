"""Secrets that an app prints are not kept."""

import base64
import json
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from polyrank.redaction import MIN_LENGTH, redactor


def test_values_are_masked_however_they_are_written() -> None:
    secret = 'p@ss/"word"'
    mask = redactor([secret])
    assert mask(f"login with {secret}!") == "login with [secret]!"
    for written in (
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        base64.b64encode(secret.encode()).decode(),
    ):
        assert written not in mask(f"a {written} b")


def test_a_longer_secret_is_masked_as_a_whole() -> None:
    assert redactor(["secret", "secret-and-more"])("secret-and-more, secret") == (
        "[secret], [secret]"
    )


def test_each_line_of_a_value_is_masked() -> None:
    mask = redactor(["-----BEGIN KEY-----\nMIIabcdefg\r\n-----END KEY-----\n"])
    assert mask("it has MIIabcdefg in it") == "it has [secret] in it"


def test_short_values_are_left_as_they_are() -> None:
    mask = redactor(["1", "on", "", "x" * (MIN_LENGTH - 1)])
    assert mask("1 on xxxxx") == "1 on xxxxx"


@given(st.text(min_size=MIN_LENGTH), st.text(), st.text())
def test_a_secret_never_comes_through(secret: str, before: str, after: str) -> None:
    secret = secret.strip()
    if len(secret) < MIN_LENGTH or secret in before + "[secret]" + after:
        return
    assert secret not in redactor([secret])(before + secret + after).replace("[secret]", "")
