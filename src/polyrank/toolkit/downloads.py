"""Downloads into the data folder: each file once, however many replicas and ranks ask for it."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from polyrank.errors import InvalidInput
from polyrank.settings import StorageSettings
from polyrank.toolkit import locks, urls
from polyrank.toolkit.persistent import data_path, model_weights_dir
from polyrank.toolkit.transfer import Transfer

MEBIBYTE = 2**20


class DownloadError(InvalidInput):
    """A file could not be downloaded, or a repository not be cloned; the message says why."""


def download_file(
    url: str,
    target_dir: str | Path,
    *,
    force: bool = False,
    request_headers: Mapping[str, str] | None = None,
    filesize_limit: int | None = None,
) -> Path:
    """The file behind ``url``, in ``target_dir``, under the name that the site gives it.

    A relative ``target_dir`` is one of the data folder. A file of the same name and size that is
    there already is kept, unless ``force``. ``filesize_limit`` is in MiB. A download that broke off
    is gone on with. Raises DownloadError.

    Example::

        download_file("https://example.com/cat.safetensors", "loras")
    """
    policy = policy_here()
    max_bytes = None if filesize_limit is None else filesize_limit * MEBIBYTE
    folder = data_path(target_dir)
    transfer = Transfer(url, folder, policy, request_headers or {}, max_bytes, force=force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locks.held(transfer.lock):
            # A thread with a loop of its own: the caller's thread may be running one already.
            with ThreadPoolExecutor(1, "polyrank-download") as thread:
                context = contextvars.copy_context()
                return thread.submit(context.run, asyncio.run, transfer.run()).result()
    except (InvalidInput, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(f"download failed: {reason}") from error


def download_model_weights(
    url: str, force: bool = False, request_headers: Mapping[str, str] | None = None
) -> Path:
    """The weights behind ``url``, in the data folder; once there, they are not asked for again
    unless ``force``. Raises DownloadError.

    Example::

        path = download_model_weights("https://example.com/model.safetensors")
    """
    folder = model_weights_dir() / hashlib.sha256(url.encode()).hexdigest()
    if not force and folder.is_dir():
        there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if there:
            return there[0]
    return download_file(url, folder, force=force, request_headers=request_headers)


def policy_here() -> urls.URLPolicy:
    """That of the replica; in a rank, which has none, that of its settings."""
    policy = urls.current_policy()
    if policy is not urls.DEFAULT_POLICY:
        return policy
    settings = StorageSettings()
    return urls.URLPolicy(
        allowed_networks=settings.allowed_networks, allowed_hosts=settings.allowed_names
    )
