"""Reports through a pipe that nobody reads any more."""

import os
import threading

from polyrank.app.output import Reporter
from polyrank.reports import Loading


def test_a_report_to_nobody_is_dropped_however_many_wait() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    reporter = Reporter(write_fd)
    senders = [
        threading.Thread(
            target=lambda: [reporter.send(Loading(0.5, "x" * 100)) for _ in range(200)], daemon=True
        )
        for _ in range(8)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    # What waited when the reader went is not waited for.
    reporter._waiting.append(b"left over\n")
    reporter.send(Loading(1.0))
    os.close(write_fd)
