"""Settings, read once at the edge; the only reader of the environment."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class EngineSettings(BaseSettings):
    """How runners behave unless their arguments say otherwise (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    device: Literal["auto", "cpu", "cuda"] = "auto"


def _data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "polyrank"


# In the environment a list is written with commas.
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class FileSettings(BaseSettings):
    """Where a server keeps files, and how large they may be (``POLYRANK_FILES_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_FILES_", frozen=True, extra="ignore")

    # A folder, or s3://…, gs://…, az://…; None is a folder in the data folder.
    url: str | None = None
    max_bytes: int = Field(default=5 * 2**30, gt=0)


class StorageSettings(BaseSettings):
    """What an app's files and values go to, and which URLs it may open (``POLYRANK_…``).

    A server sets address and token for the replicas that it starts.
    """

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    storage_address: str | None = None
    storage_token: SecretStr = SecretStr("")
    storage_ca: Path | None = None
    data_dir: Path = Field(default_factory=_data_dir)
    # Beside public addresses: names of hosts ("files.lan", "*.lan") and networks ("10.0.0.0/8").
    allowed_hosts: CommaSeparated = ()

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def allowed_networks(self) -> tuple[str, ...]:
        """Those of ``allowed_hosts`` that are addresses or networks."""
        return tuple(each for each in self.allowed_hosts if _is_network(each))

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Those of ``allowed_hosts`` that are names."""
        return tuple(each for each in self.allowed_hosts if not _is_network(each))


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
