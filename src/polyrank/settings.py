"""Settings, read once at the edge; the only reader of the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class EngineSettings(BaseSettings):
    """How runners behave unless their arguments say otherwise (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    device: Literal["auto", "cpu", "cuda"] = "auto"


class ClientSettings(BaseSettings):
    """Which server to call, and with which key."""

    model_config = SettingsConfigDict(
        env_prefix="POLYRANK_", frozen=True, extra="ignore", populate_by_name=True
    )

    server: str = "http://127.0.0.1:8080"
    key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("POLYRANK_KEY", "FAL_KEY")
    )
