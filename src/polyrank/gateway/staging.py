"""What a replica needs on this machine before it can start: the app's files and its environment."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import IO

from polyrank.deploy import bundle
from polyrank.deploy.manifest import Manifest
from polyrank.errors import FilesUnavailable, UploadTooLarge
from polyrank.gateway.belongings import Belongings
from polyrank.gateway.server import Server
from polyrank.scaler.environments import Built, Environments, EnvironmentSpec
from polyrank.scaler.gpus import Lease
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.settings import BundleSettings
from polyrank.store.apps import Apps, Revision
from polyrank.store.keys import Scope

STARTUP_TIMEOUT_S = 600.0
GRACE_S = 5.0


class Staging:
    """Keeps bundles, unpacks them, builds environments, and says how a replica is started."""

    def __init__(
        self,
        server: Server,
        data_dir: Path,
        environments: Environments | None,
        url: str,
        belongings: Belongings,
        ca_file: Path | None = None,
    ) -> None:
        """``url`` is where replicas reach the server. Without ``environments`` the machines that
        replicas run on build them."""
        self._server = server
        self._blobs = server.filing.blobs
        self._limits = BundleSettings()
        self._apps = Apps(server.database)
        self._bundles = data_dir / "bundles"
        self._environments = environments
        self._url = url
        self._belongings = belongings
        self._ca_file = ca_file
        self._prepared: dict[str, EnvironmentSpec] = {}

    async def keep(self, code_hash: str, chunks: AsyncIterator[bytes]) -> None:
        """Unpacks a bundle, and keeps it where every server of this store finds it.

        Raises BundleError or UploadTooLarge, and keeps nothing of what is not as it should be.
        """
        if (self._bundles / code_hash).is_dir():
            async for _ in chunks:  # known: the caller may say it to the end
                pass
            return
        await self._unpack(code_hash, chunks, keeps=True)

    async def build(self, revision: Revision, on_line: Callable[[str], None]) -> Built | None:
        """The environment of a revision, once it is built. Raises BuildFailed."""
        if self._environments is None:
            on_line("it is built on the machine of each replica")
            return None
        folder = await self._unpacked(revision.code_hash)
        wanted = EnvironmentSpec.of(Manifest.model_validate(revision.manifest), folder)
        async with contextlib.aclosing(self._environments.build(wanted)) as steps:
            async for step in steps:
                if isinstance(step, Built):
                    return step
                on_line(step.text)
        raise AssertionError("a build ends with what it has built")

    async def prepare(
        self,
        revision: Revision,
        lease: Lease,
        on_line: Callable[[str], None],
    ) -> ReplicaSpec:
        """What a replica is started with."""
        id = lease.owner
        app = await self._apps.get(revision.app)
        manifest = Manifest.model_validate(revision.manifest)
        options = {**manifest.replica_options, **app.scaling}
        built = await self.build(revision, on_line)
        # Relative to the bundle's folder, wherever the replica's machine unpacks it.
        self._prepared[revision.id] = EnvironmentSpec.of(manifest, Path())
        key, credential = await self._server.keys.create(
            owner=app.owner, scopes=[Scope.API], description=f"replica {id} of {app.name}"
        )
        await self._apps.update_replica(id, key_id=key.id)
        variables = await self._belongings.variables(
            app,
            revision=revision.id,
            replica=id,
            server=self._url,
            key=credential,
            allowed=options.get("secrets"),
            mounts=options.get("data_mounts"),
        )
        storage = self._server.filing.replica_environment(self._url, ca=self._ca_file)
        return ReplicaSpec(
            id=id,
            app=app.name,
            revision=revision.id,
            python=sys.executable if built is None else str(built.python),
            folder=await self._unpacked(revision.code_hash),
            ref=manifest.ref,
            module=manifest.module,
            options=options,
            environment={**variables.values, **storage},
            secrets=variables.secrets,
            gpus=lease.gpus,
            num_gpus=lease.machine.gpus,
            startup_timeout_s=options.get("startup_timeout") or STARTUP_TIMEOUT_S,
            grace_s=options.get("termination_grace_period_seconds") or GRACE_S,
        )

    def environment_for(self, spec: ReplicaSpec) -> EnvironmentSpec | None:
        """What the machine of a replica that was prepared has to build."""
        return self._prepared.get(spec.revision)

    async def sweep(self, in_use: Collection[Revision]) -> None:
        """Removes the bundles and the environments that no revision in use needs."""
        hashes = {each.code_hash for each in in_use}
        await asyncio.to_thread(bundle.sweep, self._bundles, hashes)
        if self._environments is not None:
            built = [await self.build(each, lambda text: None) for each in in_use]
            await self._environments.sweep({each.key for each in built if each is not None})

    async def _unpacked(self, code_hash: str) -> Path:
        """The folder of a bundle's files; fetched if another server has taken it in."""
        folder = self._bundles / code_hash
        if not folder.is_dir():
            key = _key(code_hash)
            size = await self._blobs.size(key)
            await self._unpack(code_hash, self._blobs.read(key, 0, size), keeps=False)
        return folder

    async def _unpack(self, code_hash: str, chunks: AsyncIterator[bytes], *, keeps: bool) -> None:
        try:
            await self._take_in(code_hash, chunks, keeps=keeps)
        except OSError as error:
            raise FilesUnavailable(
                f"the bundle cannot be kept in {self._bundles}: {error}"
            ) from error

    async def _take_in(self, code_hash: str, chunks: AsyncIterator[bytes], *, keeps: bool) -> None:
        limit = self._limits.max_bytes
        self._bundles.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=self._bundles) as archive:
            size = 0
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise UploadTooLarge(f"a bundle may have {limit} bytes", max_bytes=limit)
                archive.write(chunk)
            archive.seek(0)
            await asyncio.to_thread(bundle.unpack, archive, self._bundles, code_hash, self._limits)
            if keeps:
                archive.seek(0)
                await self._blobs.put(_key(code_hash), _chunks(archive), max_bytes=limit)


def _key(code_hash: str) -> str:
    return f"bundles/{code_hash}.tar.gz"


async def _chunks(archive: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := archive.read(2**20):
        yield chunk
