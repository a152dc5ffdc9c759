"""Range headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.files.ranges import RangeNotSatisfiable, Span, parse


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=2-4", Span(2, 5)),
        ("bytes=8-", Span(8, 10)),
        ("bytes=8-1000", Span(8, 10)),
        ("bytes=-3", Span(7, 10)),
        ("bytes=-1000", Span(0, 10)),
        ("BYTES= 1-2", Span(1, 3)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=٣-٤", None),
    ],
)
def test_spans_of_a_file_of_ten_bytes(header: str | None, span: Span | None) -> None:
    assert parse(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=-0"])
def test_spans_outside_of_the_file(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable, match="10 bytes"):
        parse(header, 10)
    with pytest.raises(RangeNotSatisfiable):
        parse("bytes=0-", 0)


@given(st.text(max_size=30) | st.from_regex(r"bytes=\d*-\d*"), st.integers(0, 100))
def test_a_span_lies_in_the_file_whatever_is_asked_for(header: str, size: int) -> None:
    try:
        span = parse(header, size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span.start < span.end <= size
