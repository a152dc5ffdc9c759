"""What a replica lets its starter know, whoever interrupts whom."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from polyrank import logs, reports
from polyrank.app.output import ReportedStream, Reporter


class Pipe:
    """A pipe, and the reports that have come through it."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def reports(self) -> list[reports.Report]:
        os.close(self.write_fd)
        with os.fdopen(self.read_fd, "rb") as file:
            return [reports.decode(line) for line in file]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    yield Pipe()


def test_a_handler_that_interrupts_a_report_adds_its_own_and_waits_for_nothing(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Reporter(pipe.write_fd)
    write, signals = os.write, iter([signal.SIGUSR1])

    def write_interrupted(fd: int, data: memoryview) -> int:
        for signum in signals:  # in the midst of the first report
            signal.raise_signal(signum)
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_interrupted)
    before = signal.signal(signal.SIGUSR1, lambda *_: reporter.send(reports.Loading(0.5)))
    try:
        reporter.send(reports.Loading(0.1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert pipe.reports() == [reports.Loading(0.1), reports.Loading(0.5)]


def test_many_threads_lose_nothing(pipe: Pipe) -> None:
    reporter = Reporter(pipe.write_fd)
    got: list[reports.Report] = []
    reader = threading.Thread(target=lambda: got.extend(pipe_reports(pipe.read_fd)))
    reader.start()
    threads = [
        threading.Thread(
            target=lambda n=n: [reporter.line(str(n), "INFO", str(i)) for i in range(500)]
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(pipe.write_fd)
    reader.join()
    for n in range(8):
        mine = [r.message for r in got if isinstance(r, reports.Line) and r.request_id == str(n)]
        assert mine == [str(i) for i in range(500)]


def pipe_reports(fd: int) -> list[reports.Report]:
    with os.fdopen(fd, "rb") as file:
        return [reports.decode(line) for line in file]


def test_only_what_is_printed_for_a_request_is_reported(pipe: Pipe, capsys) -> None:
    stream = ReportedStream(open(os.devnull, "w"), "STDOUT", Reporter(pipe.write_fd))
    print("before", file=stream)
    token = logs.request_id.set("1")
    print("one\ntwo", end="", file=stream)
    print(" more", file=stream)
    logs.request_id.reset(token)
    print("after", file=stream)
    stream._stream.close()
    lines = [(r.request_id, r.message) for r in pipe.reports() if isinstance(r, reports.Line)]
    assert lines == [("1", "one"), ("1", "two more")]


def test_a_reader_who_goes_away_is_no_fault(pipe: Pipe) -> None:
    reporter = Reporter(pipe.write_fd)
    os.close(pipe.read_fd)
    reporter.send(reports.Loading(0.1))
    reporter.send(reports.Loading(0.2))
    os.close(pipe.write_fd)
