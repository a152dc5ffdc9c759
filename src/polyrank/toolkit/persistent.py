"""The folder that outlives a replica and that all replicas of an owner share.

On the reference platform it is ``/data``. Here it is a folder of the server's, whose path a server
tells the replicas that it starts.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from polyrank.settings import StorageSettings

# What code that was written for the reference platform calls it.
DATA = PurePath("/data")


def persistent_dir() -> Path:
    """The folder; it need not be there yet."""
    return StorageSettings().persistent_folder


def model_weights_dir() -> Path:
    """Where ``download_model_weights`` keeps what it downloads."""
    return persistent_dir() / ".fal" / "model_weights"


def repository_dir() -> Path:
    """Where ``clone_repository`` keeps what it clones."""
    return persistent_dir() / ".fal" / "repos"


def data_path(path: str | PurePath) -> Path:
    """A path as code for the reference platform writes it: a relative one is in the folder, and
    so is one below ``/data``, unless no server says which folder it is and there is a ``/data``.

    Example: ``data_path("/data/loras/cat.safetensors")``.
    """
    path, settings = PurePath(path), StorageSettings()
    if not path.is_absolute():
        return settings.persistent_folder / path
    is_told = settings.app_data is not None
    if path.is_relative_to(DATA) and (is_told or not Path(DATA).exists()):
        return settings.persistent_folder / path.relative_to(DATA)
    return Path(path)
