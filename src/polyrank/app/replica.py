"""One running process of an app: ``python -m polyrank.app.replica FILE[::Class] …``.

Nobody imports this module. It loads the app, serves it, and reports on the descriptor it was given
how far it is (``polyrank.reports``); it ends with the process that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from polyrank import logs, reports, requirements
from polyrank.app import machine, projects
from polyrank.app.app import App
from polyrank.app.ending import EndReports
from polyrank.app.health import health_check_of
from polyrank.app.loading import Loading
from polyrank.app.options import AppOptions, RetryConfig
from polyrank.app.output import Reporter, mark_logs, report_output
from polyrank.app.process import KEEP_ALIVE_S, AppServer
from polyrank.app.sample import Call, call_of
from polyrank.app.server import build
from polyrank.app.strangers import TokenGuard
from polyrank.distributed import devices
from polyrank.errors import AppError, PolyrankError
from polyrank.serving import HttpProtocol, keep_what_is_loaded, websocket_options
from polyrank.settings import EngineSettings, StorageSettings
from polyrank.toolkit import transfer, urls
from polyrank.toolkit.remote import Storage

log = logging.getLogger("polyrank.app")

PR_SET_PDEATHSIG = 1
DEFAULT_GRACE_S = 5.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ReplicaServer(AppServer):
    """The server, reporting when it is ready."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: App,
        reporter: Reporter,
        loading: Loading,
        list_routes: Callable[[], list[dict[str, Any]]],
        token: str,
    ) -> None:
        super().__init__(config, app)
        self._reporter = reporter
        self._loading = loading
        self._list_routes = list_routes
        self._token = token

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs the app's setup, then reports where it is served."""
        await super().startup(sockets)
        if self.started:
            os.environ["FAL_RUNNER_STATE"] = "RUNNING"
            self._loading.is_over = True
            port = self.servers[0].sockets[0].getsockname()[1]
            listed = self._list_routes()
            self._reporter.send(
                reports.Ready(self.config.host, port, listed, self._token, ends=True)
            )


def limits_of(options: AppOptions, health: reports.HealthCheck | None = None) -> reports.Limits:
    """The options that hold in front of the app."""
    config = options.retry_config
    wanted = config.to_dict() if isinstance(config, RetryConfig) else config or {}
    retries: dict[str, int] = {condition: kind["retries"] for condition, kind in wanted.items()}
    grace = options.termination_grace_period_seconds
    return reports.Limits(
        request_timeout_s=options.request_timeout,
        start_timeout_s=options.request_start_timeout,
        startup_timeout_s=options.startup_timeout,
        multiplexing=options.max_multiplexing,
        retries=retries | {condition: 0 for condition in options.skip_retry_conditions or ()},
        auth=options.app_auth,
        grace_s=DEFAULT_GRACE_S if grace is None else grace,
        health=health,
    )


def routes(app: App, api: Any) -> list[dict[str, Any]]:
    """Path, kind and a first call of every endpoint."""
    schema = api.openapi()
    listed = []
    for method, endpoint in type(app).endpoints.items():
        call = Call(endpoint.path)
        if not endpoint.is_websocket:
            operation = schema["paths"][endpoint.path]["post"]
            call = call_of(endpoint.path, operation, schema.get("components", {}))
        listed.append({"method": method, "websocket": endpoint.is_websocket, **vars(call)})
    return listed


def main() -> None:
    """Serves the app that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ref")
    parser.add_argument("--module")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--marked", action="store_true")
    parser.add_argument("--report-fd", type=int)
    parser.add_argument("--parent", type=int)
    args = parser.parse_args()
    if args.parent is not None:
        _die_with(args.parent)
    (mark_logs if args.marked else logs.configure)(verbose=args.verbose)
    try:
        _serve(args)
    except PolyrankError as error:
        log.error("%s", error)
        if error.details.get("traceback"):
            log.error("%s", error.details["traceback"])
        sys.exit(1)


def _serve(args: argparse.Namespace) -> None:
    os.environ["FAL_RUNNER_STATE"] = "SETUP"
    file, _, class_name = args.ref.partition("::")
    ref = projects.AppRef(Path(file).resolve(), class_name or None, args.module, args.options)
    cls = projects.load(ref)
    for difference in requirements.differences(cls.options.requirements):
        log.warning("requirement not met here: %s", difference)
    gpus = devices.visible_gpus()
    if told := machine.notice(cls.options, args.ranks, EngineSettings().device, gpus):
        log.warning("%s", told)
    # A server that starts us says the full name.
    os.environ.setdefault("FAL_APP_NAME", str(cls.app_name))
    reporter = Reporter(args.report_fd)
    report_output(reporter, is_marked=args.marked)
    limits = limits_of(cls.options, health_check_of(cls))
    reporter.send(reports.Loaded(str(cls.app_name), limits))
    try:
        app = cls()
    except Exception as error:
        raise AppError(f"{cls.__name__}() failed: {type(error).__name__}: {error}") from error
    if args.ranks is not None:
        app.num_gpus = args.ranks
    settings = StorageSettings()
    loading = Loading(reporter.send)
    app.on_loading = loading.note
    api, token = build(app, Storage.of(settings)), ""
    if args.host not in LOOPBACK:
        token = secrets.token_urlsafe(32)
    served: ASGIApp = EndReports(api, reporter)
    config = uvicorn.Config(
        TokenGuard(served, token) if token else served,
        host=args.host,
        port=args.port,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(limits.grace_s)),
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        date_header=False,
        server_header=False,
        **websocket_options(ping_timeout_s=None),
    )
    server = ReplicaServer(config, app, reporter, loading, lambda: routes(app, api), token)
    policy = urls.URLPolicy(
        allowed_networks=settings.allowed_networks, allowed_hosts=settings.allowed_names
    )
    keep_what_is_loaded()  # and not what setup loads: apps may let go of that
    try:
        downloads = transfer.reporting(loading.note_download)
        with contextlib.suppress(KeyboardInterrupt), urls.use_policy(policy), downloads:
            server.run()
    except SystemExit as ended:  # uvicorn's way of saying that it could not start
        raise AppError(f"{cls.app_name} could not be started") from ended
    finally:
        os.environ["FAL_RUNNER_STATE"] = "TERMINATING"
    if not server.started:
        raise AppError(f"{cls.app_name} did not start; the reason stands above")


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
