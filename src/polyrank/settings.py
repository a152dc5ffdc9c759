"""Settings, read once at the edge; the only reader of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings, SettingsConfigDict


class EngineSettings(BaseSettings):
    """How runners behave unless their arguments say otherwise (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    device: Literal["auto", "cpu", "cuda"] = "auto"


class DiffusionSettings(BaseSettings):
    """Where ``polyrank.diffusion`` keeps what it makes (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    compiled: Path = Path("~/.cache/polyrank/compiled")
