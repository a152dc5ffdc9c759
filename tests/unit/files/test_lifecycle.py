"""The wishes for a file, as clients write them."""

import pytest

from polyrank.errors import InvalidInput
from polyrank.files.lifecycle import Acl, parse


def test_lifetimes() -> None:
    assert parse(None).lifetime_s is None
    assert parse('{"expiration_duration_seconds": 3600}').lifetime_s == 3600
    assert parse('{"expiration_duration_seconds": 0}').lifetime_s is None
    assert parse('{"unknown": 1}').initial_acl is None


def test_the_rule_of_a_user_comes_before_the_default() -> None:
    acl = parse(
        '{"initial_acl": {"default": "hide", "rules": [{"user": "ann", "decision": "allow"}]}}'
    ).initial_acl
    assert acl is not None
    assert [acl.decide(who) for who in ("ann", "ben", None)] == ["allow", "hide", "hide"]
    assert Acl().decide(None) == "forbid"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no JSON", "JSON"),
        ("[]", "JSON"),
        ('{"expiration_duration_seconds": -1}', "expiration_duration_seconds"),
        ('{"expiration_duration_seconds": 1e999}', "expiration_duration_seconds"),
        ('{"expiration_duration_seconds": "NaN"}', "expiration_duration_seconds"),
        ('{"initial_acl": {"default": "maybe"}}', "initial_acl.default"),
        ('{"initial_acl": {"rules": [{"user": "ann"}]}}', "initial_acl.rules.0.decision"),
    ],
)
def test_what_cannot_be_understood_is_named(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(text)
