"""Settings, read once at the edge; the only reader of the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EngineSettings(BaseSettings):
    """How runners behave unless their arguments say otherwise (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    device: Literal["auto", "cpu", "cuda"] = "auto"


class WebSocketSettings(BaseSettings):
    """How websockets are served, by the server and by apps (``POLYRANK_WEBSOCKET_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_WEBSOCKET_", frozen=True, extra="ignore")

    max_bytes: int = Field(default=128 * 2**20, ge=1)
