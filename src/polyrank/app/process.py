"""Serving an app in a process: what a signal means to it, and how it ends in time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

import uvicorn

from polyrank.app.app import App
from polyrank.app.server import build
from polyrank.serving import websocket_options

log = logging.getLogger("polyrank.app")

KEEP_ALIVE_S = 300
# What the last words of a process get that has to end.
FAREWELL_S = 0.5
# What threads get once everything else has ended.
LAST_MOMENT_S = 1.0


def serve(app: App, *, host: str, port: int, grace_s: float = 5.0) -> None:
    """Serves the app until a signal ends it: SIGTERM or Ctrl-C in order, twice Ctrl-C at once."""
    config = uvicorn.Config(
        build(app),
        host=host,
        port=port,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        log_config=None,
        access_log=False,
        **websocket_options(ping_timeout_s=None),
    )
    server = AppServer(config, app)
    try:
        server.run()
    finally:
        server.spare_the_process()


class AppServer(uvicorn.Server):
    """uvicorn, telling the app at once that it is asked to end, and ending in time.

    Requests get the grace period, ``teardown`` as much again. What then still runs can only be a
    thread, which nothing can stop: the process ends without it.
    """

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app
        self._grace_s = float(config.timeout_graceful_shutdown or 0)
        self._deadlines: list[threading.Timer] = []
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Waits for a signal. uvicorn's own loop looks ten times a second."""
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._ending.wait()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal has arrived; only the first one is told to the app."""
        if self.should_exit:
            self._end_within(LAST_MOMENT_S, sig)
            return super().handle_exit(sig, frame)
        if running := len(self.server_state.tasks):
            log.info(
                "ending when %d running request(s) are done; Ctrl-C again ends them at once",
                running,
            )
        self._end_within(2 * self._grace_s if self.started else self._grace_s, sig)
        try:
            self._app.handle_exit()
        except Exception:
            log.exception("handle_exit failed")
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ending.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends requests and tears the app down; threads get a last moment."""
        await super().shutdown(sockets)
        self._end_within(LAST_MOMENT_S, signal.SIGTERM)
        # What was cut off is being told so; uvicorn does not wait for that.
        if left := list(self.server_state.tasks):
            await asyncio.wait(left, timeout=LAST_MOMENT_S / 2)
        await asyncio.sleep(0)  # the last answers are sent at the end of this turn

    def spare_the_process(self) -> None:
        """For a process that goes on when it no longer serves: no deadline holds any more."""
        for deadline in self._deadlines:
            deadline.cancel()

    def _end_within(self, seconds: float, sig: int) -> None:
        def end() -> None:
            # Whoever did not end in time may hold the locks of logging and of the streams.
            farewell = threading.Thread(target=_say_farewell, daemon=True)
            farewell.start()
            farewell.join(FAREWELL_S)
            os._exit(128 + sig)

        deadline = threading.Timer(seconds, end)
        deadline.daemon = True
        deadline.start()
        self._deadlines.append(deadline)


def _say_farewell() -> None:
    log.warning("ending with work that did not end in time")
    logging.shutdown()
    sys.stdout.flush()
