"""A server in this process and one replica behind it: what ``run`` and ``demo`` start."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from polyrank import reports
from polyrank.app.projects import AppRef
from polyrank.certificates import machine_certificate, trusted_with
from polyrank.client.options import environment
from polyrank.gateway.callers import is_loopback
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.server import Server, build
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import Keeping, LocalLauncher
from polyrank.scaler.local import Gone, OneReplica
from polyrank.serving import Serving, base_url, listen, serving
from polyrank.settings import FileSettings, ServerSettings

# The owner of what runs without a deployment.
OWNER = "local"
# The name of its replica.
ONLY = "only"
# What callers get to take their answers once the app has ended.
LAST_MOMENT_S = 2.0
LOOPBACK = ("127.0.0.0/8", "::1/128")


def arguments_for(
    ref: AppRef, device: str | None = None, ranks: int | None = None, verbose: bool = False
) -> ReplicaSpec:
    """What a replica of the app at ``ref`` is started with."""
    return ReplicaSpec(
        id="",
        app="",
        revision="",
        python=sys.executable,
        folder=Path.cwd(),
        ref=str(ref),
        module=ref.module,
        options=ref.options,
        gpus=None,
        ranks=ranks,
        device=device,
        verbose=verbose,
    )


class Platform:
    """One app, served as ``local/NAME``. ``listeners`` are told what its replica reports."""

    def __init__(
        self,
        arguments: ReplicaSpec,
        host: str,
        port: int,
        *,
        database_url: str | None = None,
        files_url: str | None = None,
        output: IO[str] | None = None,
        tls: bool = False,
    ) -> None:
        """Without a ``database_url``, here or in the settings, requests are kept until the end
        only, and files without a ``files_url``. ``output`` takes what the app prints. ``tls``
        has it speak https, with a certificate of the authority in the data folder. Raises
        AddressTaken."""
        self._listening = listen(host, port)
        self._database_url = database_url
        self._files_url = files_url
        self._arguments = arguments
        self._output = output
        self._replica: OneReplica | None = None
        self._server: Server | None = None
        self._serving: Serving | None = None
        self._app: HostedApp | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._listen_host = host
        self._settings, self._keys_url = self._access()
        self.authority = self._settings.data_dir / "tls" if tls else None
        self.url = base_url(self._listening, is_tls=tls)
        self.listeners: list[Callable[[reports.Report | Gone], None]] = []
        self.is_ending = False
        self.ended = asyncio.Event()

    @property
    def app_name(self) -> str:
        """The app's own name, without its owner."""
        return self._app.name.removeprefix(f"{OWNER}/") if self._app is not None else ""

    @property
    def app_url(self) -> str:
        """Where the app is called directly."""
        return f"{self.url}/run/{OWNER}/{self.app_name}"

    @property
    def replica_pid(self) -> int | None:
        """The process id of the replica, None between two."""
        return None if self._replica is None else self._replica.pid

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves inside the block; at its end, everything is ended in order."""
        settings = self._settings
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="polyrank-")))
            files = FileSettings()
            self._server = server = Server(
                self._database_url
                or settings.database_url
                or f"sqlite:///{folder / 'requests.db'}",
                self._files_url or files.url or str(folder / "files"),
                settings,
                keys_url=self._keys_url,
                files_max_bytes=files.max_bytes,
            )
            server.apps.expect()
            certificate = None
            if self.authority is not None:
                pem = folder / "server.pem"
                certificate = machine_certificate(self.authority, pem, self._listen_host)
            async with serving(
                build(server), self._listening, grace_s=3600, certificate=certificate
            ) as self._serving:
                launcher = LocalLauncher(folder / "replicas", self._keeping())
                self._replica = replica = OneReplica(launcher, self._arguments, self._hear)
                replica.add_environment(
                    server.filing.replica_environment(self.url, ca=self.ca_file)
                )
                replica.add_environment(self._client_environment(folder))
                async with asyncio.TaskGroup() as self._tasks:
                    keeping = self._tasks.create_task(replica.keep())
                    try:
                        yield
                    finally:
                        await self._end_in_order(replica, keeping)
                        await launcher.close(keep=False)

    def _keeping(self) -> Keeping:
        """The app ends with us, and prints where we do unless told otherwise."""
        if self._output is None:
            return Keeping(linger_s=0, output=(1, 2))
        return Keeping(linger_s=0, output=(self._output.fileno(), self._output.fileno()))

    @property
    def ca_file(self) -> Path | None:
        """The certificate of the authority that callers must trust, if this speaks https."""
        return None if self.authority is None else self.authority / "ca.pem"

    def _client_environment(self, folder: Path) -> dict[str, str]:
        """What lets the app call apps of this server, itself among them."""
        if self.ca_file is None:
            return environment(self.url)
        trusted = folder / "trusted.pem"
        trusted.write_bytes(trusted_with(self.ca_file.read_bytes()))
        return {**environment(self.url), "SSL_CERT_FILE": str(trusted)}

    def _access(self) -> tuple[ServerSettings, str | None]:
        """Who is let in, and where the keys are that ``polyrank keys`` makes.

        On this machine alone no key is needed, and a receiver of webhooks is most likely here too.
        """
        settings = ServerSettings()
        if not is_loopback(self._listening.getsockname()[0]):
            return settings, settings.database
        networks = (*settings.webhook_networks, *LOOPBACK)
        settings = settings.model_copy(update={"webhook_networks": networks})
        return settings, settings.database if settings.has_database else None

    def end(self) -> None:
        """Asks everything to end: in order, and at once the second time."""
        if not self.is_ending:
            self.is_ending = True
            self.ended.set()
            return
        if self._replica is not None:
            self._replica.kill()
        if self._serving is not None:
            self._serving.end(at_once=True)

    async def restart(self) -> None:
        """Starts the replica again; requests wait for it."""
        if self._replica is not None:
            await self._replica.restart()

    async def _end_in_order(self, replica: OneReplica, keeping: asyncio.Task[None]) -> None:
        """The replica gets its grace period; what it is answering is passed on to the callers."""
        self.is_ending = True
        if self._serving is not None:
            self._serving.end()
        if self._server is not None:
            self._server.take_no_more()
        await replica.end()
        keeping.cancel()
        if self._app is not None:
            self._app.is_gone(ONLY, "the server is ending")
        if self._serving is not None:
            # Answers are on their way still; whoever does not take them does not hold us up.
            serving = self._serving
            asyncio.get_running_loop().call_later(LAST_MOMENT_S, lambda: serving.end(at_once=True))

    def _hear(self, report: reports.Report | Gone) -> None:
        assert self._server is not None
        match report:
            case reports.Loaded():
                self._host(report)
            case reports.Loading() if self._app is not None:
                self._app.is_loading(ONLY, report)
            case reports.Ready() if self._app is not None:
                self._app.is_ready(ONLY, report)
            case reports.Line() | reports.End():
                self._server.add_line(report)
            case Gone() if self._app is not None:
                self._app.is_gone(ONLY, "" if report.was_ready else report.reason, report.pause_s)
            case Gone():
                self._server.apps.settle()  # it failed before its name was known
        for listener in self.listeners:
            listener(report)

    def _host(self, report: reports.Loaded) -> None:
        assert self._server is not None
        name = f"{OWNER}/{report.app}"
        if self._app is not None and self._app.name != name:
            self._server.unhost(self._app.name)
            self._app = None
        if self._app is None:
            self._app = self._server.host(name, report.limits)
            self._server.apps.settle()
        self._app.limits = report.limits
        self._app.is_starting(ONLY)
