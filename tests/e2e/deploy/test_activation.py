"""A server on a socket that systemd, or whoever else, holds open for it."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from polyrank_program import POLYRANK


@contextlib.contextmanager
def serve(
    listening: socket.socket, folder: Path, count: int = 1
) -> Iterator[subprocess.Popen[str]]:
    """As systemd does it: the socket as descriptor 3, and the process that it is for."""
    given = f'exec 3<&{listening.fileno()}; LISTEN_PID=$$ LISTEN_FDS={count} exec "$@"'
    server = subprocess.Popen(
        ["bash", "-c", given, "bash", *POLYRANK, "serve", "--port", "1"],
        pass_fds=[listening.fileno()],
        env={**os.environ, "POLYRANK_DATA_DIR": str(folder), "POLYRANK_SLOTS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield server
    finally:
        server.kill()
        server.communicate()


def test_a_restart_refuses_no_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as callers:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/health"

        def call() -> int:
            return httpx.get(url, timeout=60, trust_env=False).status_code

        with serve(listening, tmp_path) as first:
            assert call() == 200
            first.terminate()
            first.wait(60)
        between = callers.submit(call)
        with serve(listening, tmp_path) as second:
            assert between.result() == 200
            second.terminate()
            assert url.removesuffix("/health") in second.communicate(timeout=60)[1]


def test_what_cannot_be_listened_on_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with serve(listening, tmp_path, count=2) as server:
            told = server.communicate(timeout=60)[1]
    assert "one ListenStream=" in told
