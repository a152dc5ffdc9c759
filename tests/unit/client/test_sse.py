"""The decoder of server-sent events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.client.sse import Decoder, Event

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n"
    b'data: {"step": 1}\n\n'
    b"id: 7\nevent: log\ndata: two\r\ndata:lines\r\n\r\n"
    b"retry: 1500\nid: 8\n\n"
    b"data: caf\xc3\xa9\r\r"
    b"data: cut off"
)
EVENTS = [
    Event('{"step": 1}'),
    Event("two\nlines", "log", "7"),
    Event("café", "message", "8"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    decoder = Decoder()
    events = [
        event
        for start, end in zip(edges, edges[1:], strict=False)
        for event in decoder.feed(STREAM[start:end])
    ]
    assert events == EVENTS
    assert (decoder.last_id, decoder.retry_s) == ("8", 1.5)


@pytest.mark.parametrize("line", [b"data\n\n", b"data:\n\n"])
def test_an_event_may_be_empty(line: bytes) -> None:
    assert Decoder().feed(line) == [Event("")]


def test_an_event_without_data_is_none() -> None:
    assert Decoder().feed(b"event: ping\n\nid: bad\0id\n\n") == []
