"""What an owner's apps have beside their code: environments, secrets, and a folder of data."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from starlette.routing import BaseRoute

from polyrank.files.datafolder import DataFolder
from polyrank.gateway.data import DataRoutes
from polyrank.gateway.secrets import SecretRoutes
from polyrank.scaler.variables import Variables, app_environment, owner_folder
from polyrank.settings import ServerSettings, StorageSettings
from polyrank.store.apps import DeployedApp
from polyrank.store.database import Database
from polyrank.store.environments import Environments
from polyrank.store.keyring import Keyring
from polyrank.store.secrets import Secrets
from polyrank.toolkit.urls import URLPolicy


class Belongings:
    """All of it, kept in the database and in the server's data folder."""

    def __init__(self, database: Database, settings: ServerSettings) -> None:
        self.secrets = Secrets(database, Keyring(settings.key_file))
        self.environments = Environments(database)
        self._apps_folder = settings.apps_folder
        allowed = StorageSettings()
        policy = URLPolicy(
            allowed_networks=allowed.allowed_networks, allowed_hosts=allowed.allowed_names
        )
        self._parts = (
            SecretRoutes(self.secrets, self.environments),
            DataRoutes(self.folder_of, max_bytes=settings.data_max_bytes, policy=policy),
        )

    def routes(self) -> list[BaseRoute]:
        """The routes below ``/secrets``, ``/environments`` and ``/data``."""
        return [route for part in self._parts for route in part.routes()]

    def folder_of(self, owner: str) -> Path:
        """The folder that all replicas of an owner's apps share."""
        return owner_folder(self._apps_folder, owner).absolute()

    async def variables(
        self,
        app: DeployedApp,
        *,
        revision: str,
        replica: str,
        server: str,
        key: str,
        allowed: Sequence[str] | None,
        mounts: Sequence[str] | None = None,
    ) -> Variables:
        """What a replica's environment has beside that of its machine; ``allowed`` is the app's
        option ``secrets``, and ``mounts`` its ``data_mounts``: folders that are to be there.
        Raises UnknownSecret for one that is asked for and not there."""
        folder = self.folder_of(app.owner)
        await asyncio.to_thread(_make_folders, folder, mounts or ())
        return app_environment(
            app=app.name,
            revision=revision,
            replica=replica,
            server=server,
            key=key,
            folder=folder,
            secrets=await self.secrets.secrets_for(app.owner, app.environment, allowed),
        )


def _make_folders(folder: Path, mounts: Sequence[str]) -> None:
    """The data folder, and those that an app wants in it, as the reference platform has them."""
    data = DataFolder(folder, max_bytes=0)
    for mount in ("", *mounts):
        parts = PurePosixPath(mount).parts
        data.make_folder("/".join(parts[2:] if parts[:2] == ("/", "data") else parts))
