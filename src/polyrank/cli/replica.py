"""A replica as a child process of the command line: started, announced, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import IO, Any

from polyrank.app.projects import AppRef
from polyrank.scaler.local import ReplicaArguments


def arguments_for(
    ref: AppRef,
    host: str = "127.0.0.1",
    port: int = 0,
    device: str | None = None,
    ranks: int | None = None,
    verbose: bool = False,
) -> ReplicaArguments:
    """What a replica of the app at ``ref`` is started with."""
    return ReplicaArguments(str(ref), ref.options, ref.module, host, port, device, ranks, verbose)


class ReplicaProcess:
    """The process; ``wait_ready`` gives its announcement, ``end`` and ``wait`` its end."""

    def __init__(self, arguments: ReplicaArguments, log: IO[str] | None = None) -> None:
        """Starts it; what it and its ranks write goes to ``log``, or to this terminal."""
        read_fd, write_fd = os.pipe()
        os.set_inheritable(write_fd, True)
        self._process = subprocess.Popen(
            arguments.command(write_fd),
            pass_fds=[write_fd],
            env=arguments.environment(),
            stdout=log,
            stderr=log,
        )
        os.close(write_fd)
        self._announcement = os.fdopen(read_fd)

    def wait_ready(self) -> dict[str, Any] | None:
        """What the replica announced once it served; None if it ended before."""
        with self._announcement:
            line = self._announcement.readline()
        return json.loads(line) if line else None

    def signal(self, signum: int) -> None:
        """Passes a signal on."""
        if self._process.poll() is None:
            self._process.send_signal(signum)

    def wait(self) -> int:
        """Waits for the end; the exit status as a shell would give it."""
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def end(self) -> int:
        """Ends it in order and waits."""
        self.signal(signal.SIGTERM)
        return self.wait()
