"""The words of `polyrank call`."""

from pathlib import Path

import pytest

from polyrank.cli.values import Upload, parse
from polyrank.errors import InvalidInput


def test_words_are_texts_json_and_files(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    file.touch()
    words = ["prompt=a=b: c", "steps:=3", "list:=[1, {}]", f"image=@{file}", "empty="]
    assert parse(words) == {
        "prompt": "a=b: c",
        "steps": 3,
        "list": [1, {}],
        "image": Upload(file),
        "empty": "",
    }


def test_words_come_on_top_of_an_object() -> None:
    assert parse(["a=x"], '{"a": 1, "b": 2}') == {"a": "x", "b": 2}


@pytest.mark.parametrize(
    ("words", "base", "reason"),
    [
        (["prompt"], None, "none of key=text"),
        (["=x"], None, "none of key=text"),
        (["n:=x"], None, "n is not JSON"),
        (["f=@/no/such"], None, "f: there is no file /no/such"),
        ([], "{", "--json is not JSON"),
        ([], "[1]", "--json is an object"),
    ],
)
def test_what_cannot_be_understood_is_refused(
    words: list[str], base: str | None, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse(words, base)
