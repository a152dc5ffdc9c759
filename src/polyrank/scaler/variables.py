"""The environment variables that a replica is started with, beside those of its machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from polyrank.client.options import environment

# Of what the server tells a replica, what opens something.
OURS = ("FAL_KEY", "POLYRANK_KEY", "POLYRANK_STORAGE_TOKEN")


@dataclass(frozen=True)
class Variables:
    """The variables, and the names of those whose values nobody else may see."""

    values: dict[str, str]
    secrets: tuple[str, ...]


def owner_folder(root: Path, owner: str) -> Path:
    """An owner's part of the folder that apps' data is in; any owner's name is a folder's."""
    return root / re.sub(r"^\.", "%2E", quote(owner, safe=" @+="))


def cache_variables(folder: Path) -> dict[str, str]:
    """What has libraries keep downloads and compiled code in an owner's folder."""
    cache = folder / ".cache"
    places = {
        "XDG_CACHE_HOME": cache,
        "HF_HOME": cache / "huggingface",
        "TORCH_HOME": cache / "torch",
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
        "TRITON_CACHE_DIR": cache / "triton",
        "POLYRANK_COMPILED": cache / "polyrank" / "compiled",
    }
    return {name: str(place) for name, place in places.items()}


def app_environment(
    *,
    app: str,
    revision: str,
    replica: str,
    server: str,
    key: str | None,
    folder: Path,
    secrets: Mapping[str, str],
) -> Variables:
    """The variables for a replica of ``app``, whose full name is ``owner/alias[--environment]``.

    ``server`` and ``key`` are what it calls other apps with, ``folder`` is its owner's. A secret
    wins over where caches are, and not over what the server tells.
    """
    values = {
        **cache_variables(folder),
        **secrets,
        **environment(server, key),
        "FAL_APP_NAME": app,
        "FAL_APP_ID": revision,
        "FAL_JOB_ID": replica,
        "POLYRANK_APP_DATA": str(folder),
    }
    return Variables(values, (*secrets, *OURS))
