"""A server whose socket somebody else listens on, as systemd does."""

import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from polyrank_program import POLYRANK

LIMIT_S = 60


def start(listening: socket.socket, data: Path) -> subprocess.Popen[str]:
    """Starts a server as systemd does: with the socket as its descriptor 3."""
    handed = listening.fileno()
    hand_over = f'exec 3<&{handed}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", hand_over, "sh", *POLYRANK, "serve", "--port", "1"],
        env={**os.environ, "POLYRANK_DATA_DIR": str(data)},
        pass_fds=[handed],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    port = listening.getsockname()[1]
    for line in process.stderr:
        if f"serving at http://127.0.0.1:{port};" in line:
            return process
    raise AssertionError("the server did not start")


def end(process: subprocess.Popen[str], signum: signal.Signals = signal.SIGTERM) -> None:
    process.send_signal(signum)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0


def test_a_restart_refuses_no_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as pool:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/health"

        def ask() -> int:
            return httpx.get(url, timeout=LIMIT_S, trust_env=False).status_code

        first = start(listening, tmp_path)
        assert ask() == 200
        end(first)
        meanwhile = [pool.submit(ask) for _ in range(3)]  # no server is there
        second = start(listening, tmp_path)
        assert [each.result(LIMIT_S) for each in meanwhile] == [200] * 3
        end(second, signal.SIGINT)
