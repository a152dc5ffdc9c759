"""Every frame survives the wire."""

import pytest

from polyrank.distributed import wire

SOURCE = wire.WorkerSource("app", "Worker", "/app.py", None, ["/lib"], True)

TO_RANK = [
    wire.Setup(
        epoch=1,
        worker=SOURCE,
        kwargs=wire.Value(b"\x80"),
        device="cuda:1",
        seed=7,
        store_host="127.0.0.1",
        store_port=1234,
        timeout_s=60,
        threads=2,
        cwd=None,
    ),
    wire.Call(
        epoch=2,
        number=3,
        request_id="r",
        streaming=True,
        text_events=False,
        payload=wire.Value(b"\x80", [wire.Place(-1, 4), wire.Place(65536, 1 << 20)]),
        released=[0, 65536],
    ),
    wire.Settle(epoch=3),
    wire.Stop(epoch=4),
]

FROM_RANK = [
    wire.Hello(epoch=1),
    wire.Ready(epoch=1, phases={"setup": 0.5}),
    wire.Event(epoch=1, number=2, value=wire.Value(b"\xc0")),
    wire.Event(epoch=1, number=2),
    wire.Done(epoch=1, number=2, events=30, released=[], result=wire.Value(b"\xc0")),
    wire.Left(epoch=1, number=2, step=5, released=[65536]),
    wire.Failure(
        epoch=1, number=2, error_type="ValueError", message="no", traceback="tb", fatal=False
    ),
    wire.Settled(epoch=9),
]


@pytest.mark.parametrize("frame", TO_RANK, ids=lambda frame: type(frame).__name__)
def test_frames_to_a_rank_arrive_as_they_were_sent(frame: wire.Frame) -> None:
    assert wire.decode_to_rank(wire.encode(frame, [b"inline"])) == (frame, [b"inline"])


@pytest.mark.parametrize("frame", FROM_RANK, ids=lambda frame: type(frame).__name__)
def test_frames_from_a_rank_arrive_as_they_were_sent(frame: wire.Frame) -> None:
    assert wire.decode_from_rank(wire.encode(frame)) == (frame, [])
