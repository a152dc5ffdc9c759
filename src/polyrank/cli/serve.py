"""``polyrank serve``: the server of a machine, which keeps what is deployed running."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from polyrank.certificates import machine_certificate
from polyrank.cli.console import exit_status, say
from polyrank.cli.signals import ended_by_signals
from polyrank.gateway.belongings import Belongings
from polyrank.gateway.callers import is_loopback
from polyrank.gateway.dashboard import Dashboard
from polyrank.gateway.deployments import Deployments
from polyrank.gateway.exec import Exec
from polyrank.gateway.fleet import Fleet
from polyrank.gateway.runners import Runners
from polyrank.gateway.server import Server, build
from polyrank.gateway.staging import Staging
from polyrank.logs import configure
from polyrank.scaler.environments import Environments
from polyrank.scaler.gpus import Elsewhere, Inventory
from polyrank.scaler.launch.base import Launcher
from polyrank.scaler.launch.local import Keeping, LocalLauncher
from polyrank.scaler.logs import Logs
from polyrank.serving import Serving, base_url, listen, serving
from polyrank.settings import FileSettings, ReplicaSettings, ServerSettings
from polyrank.store.keys import Scope

# What requests get at the end of the server.
GRACE_S = 30.0


@exit_status
def serve(*, host: str, port: int, tls: bool, verbose: bool) -> None:
    """Serves until a signal."""
    configure(verbose=verbose)
    settings = ServerSettings()
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    listening = listen(host, port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Installation(settings, listening, tls=tls).run())


class Installation:
    """A server, what is deployed on it, and the data folder that both live in."""

    def __init__(self, settings: ServerSettings, listening: socket.socket, *, tls: bool) -> None:
        self._settings = settings
        self._listening = listening
        self._tls = settings.data_dir / "tls" if tls else None
        self.url = base_url(listening, is_tls=tls)
        self._ended = asyncio.Event()
        self._serving: Serving | None = None
        self._fleet: Fleet | None = None

    async def run(self) -> None:
        """Serves until a signal ends it: SIGTERM leaves the replicas to the next server, Ctrl-C
        ends them, and a second signal ends all at once."""
        with ended_by_signals(self._end):
            async with self._running():
                await self._ended.wait()

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        settings, files = self._settings, FileSettings()
        data = settings.data_dir
        server = Server(
            settings.database,
            files.url or str(data / "files"),
            settings,
            files_max_bytes=files.max_bytes,
        )
        server.apps.expect()
        await self._welcome(server)
        logs = Logs(data / "replicas")
        environments = None if self._on_cluster else Environments(data / "environments")
        url = settings.url or self.url
        belongings = Belongings(server.database, settings)
        staging = Staging(server, data, environments, url, belongings, self._ca)
        launcher = self._launcher(data / "replicas", staging)
        inventory = (
            Elsewhere()
            if self._on_cluster
            else Inventory.detect(slots=settings.slots, stands_for=settings.machine_types)
        )
        name = f"{socket.gethostname()} {data.resolve()}"
        self._fleet = fleet = Fleet(server, launcher, inventory, staging, logs, name)
        deployments = Deployments(fleet, staging, server.requests)
        routes = [
            *deployments.routes(),
            *Dashboard(fleet, deployments, server.notices).routes(),
            *Runners(fleet, logs).routes(),
            *belongings.routes(),
            *Exec(lambda replica: fleet.find(replica)[1].handle).routes(),
        ]
        async with serving(
            build(server, routes), self._listening, grace_s=GRACE_S, certificate=self._certificate()
        ) as self._serving:
            async with fleet.running():
                say(f"serving at {self.url}; data in {data}")
                yield
                self._serving.stop_listening()
                server.take_no_more()
                await server.finish(GRACE_S)

    @property
    def _on_cluster(self) -> bool:
        return self._settings.launcher == "ray"

    def _launcher(self, folder: Path, staging: Staging) -> Launcher:
        if not self._on_cluster:
            return LocalLauncher(folder, Keeping.of(ReplicaSettings()))
        # Imported only where it is asked for: it need not be installed anywhere else.
        ray = importlib.import_module("polyrank.scaler.launch.ray")
        # The replicas of this data folder, and no other server's.
        namespace = f"polyrank {socket.gethostname()} {folder.resolve()}"
        cluster = ray.Cluster(namespace=namespace, node_folder=self._settings.node_dir)
        launcher: Launcher = ray.RayLauncher(folder, cluster, staging.environment_for)
        return launcher

    async def _welcome(self, server: Server) -> None:
        """The first key, which is shown once."""
        if await server.keys.all():
            return
        _, credential = await server.keys.create(
            owner="local", scopes=[Scope.ADMIN], description="made by the first start"
        )
        say(f"an admin key, shown this once: {credential}")
        say(f"  from elsewhere: polyrank auth login --server {self.url}")
        if is_loopback(self._listening.getsockname()[0]):
            say("  callers on this machine need none")

    @property
    def _ca(self) -> Path | None:
        return None if self._tls is None else self._tls / "ca.pem"

    def _certificate(self) -> Path | None:
        if self._tls is None:
            return None
        host = self._listening.getsockname()[0]
        return machine_certificate(self._tls, self._tls / "server.pem", host)

    def _end(self, signum: int) -> None:
        if self._ended.is_set() and self._serving is not None:
            self._serving.end(at_once=True)
        if signum == signal.SIGTERM and self._fleet is not None:
            self._fleet.leave()
        self._ended.set()
