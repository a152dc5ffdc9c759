"""Settings, read once at the edge; the only reader of the environment."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from polyrank import pip_config
from polyrank.profiles import Profiles


class EngineSettings(BaseSettings):
    """How runners behave unless their arguments say otherwise (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    rank_launcher: Literal["local", "ray"] = "local"


class DiffusionSettings(BaseSettings):
    """Where ``polyrank.diffusion`` keeps what it makes (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    compiled: Path = Path("~/.cache/polyrank/compiled")


def _data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "polyrank"


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _config_path() -> Path:
    return _config_home() / "polyrank" / "config.toml"


# In the environment a list is written with commas.
CommaSeparated = Annotated[tuple[str, ...], NoDecode]
# pip writes one with spaces or in lines.
SpaceSeparated = Annotated[tuple[str, ...], NoDecode]


class ServerSettings(BaseSettings):
    """Where a server keeps what must last, and whom it lets in (``POLYRANK_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_", frozen=True, extra="ignore")

    data_dir: Path = Field(default_factory=_data_dir)
    database_url: str | None = None
    # What secrets are encrypted with; the servers of one database have the same.
    secret_key_file: Path | None = None
    # The largest file that is taken into the apps' data folder.
    data_max_bytes: int = Field(default=2**40, gt=0)
    # Where replicas run: on this machine, or on those of a Ray cluster.
    launcher: Literal["local", "ray"] = "local"
    # On each machine of a cluster: where apps' files and environments are kept.
    node_dir: Path = Path("/tmp/polyrank-node")
    # Under which address the replicas reach the server, if they are on other machines.
    url: str | None = None
    # How many replicas without GPUs may run at once, an app of machine type S being one; None is
    # the number of cores.
    slots: int | None = Field(default=None, gt=0)
    # What the GPUs of apps stand for here: "GPU-H100=GPU-RTX4090, GPU-A100=GPU".
    machine_types: Annotated[dict[str, str], NoDecode] = {}
    # How many requests may wait for one app.
    max_queued: int = Field(default=100_000, gt=0)
    auth: Literal["loopback", "always"] = "loopback"
    allowed_origins: CommaSeparated = ()
    webhook_networks: CommaSeparated = ()

    @property
    def database(self) -> str:
        """The address of the server's database: a file in the data folder unless set."""
        return self.database_url or f"sqlite:///{self._file}"

    @property
    def key_file(self) -> Path:
        """The file of the keys of secrets: one in the data folder unless set."""
        return self.secret_key_file or self.data_dir / "secret.key"

    @property
    def apps_folder(self) -> Path:
        """The folder of what apps keep, a folder for each owner."""
        return self.data_dir / "data"

    @property
    def has_database(self) -> bool:
        """Whether a server, or a command that makes keys for one, has been here before."""
        return self.database_url is not None or self._file.exists()

    @property
    def _file(self) -> Path:
        return self.data_dir / "polyrank.db"

    @field_validator("allowed_origins", "webhook_networks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("machine_types", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(name.strip() and other.strip() for name, _, other in pairs):
            raise ValueError("is not like GPU-H100=GPU-RTX4090, GPU-A100=GPU")
        return {name.strip(): other.strip() for name, _, other in pairs}

    @field_validator("webhook_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value


class ReplicaSettings(BaseSettings):
    """How a server keeps the replicas on its machine (``POLYRANK_REPLICA_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_REPLICA_", frozen=True, extra="ignore")

    # How long one runs on while no server is there.
    linger_s: float = Field(default=600.0, ge=0)
    # How large a file of its log gets, and how many there are of it.
    log_bytes: int = Field(default=8 * 2**20, ge=4096)
    log_files: int = Field(default=4, ge=1)
    # How long, and how many of, those that have ended are kept with their logs.
    keep_s: float = Field(default=7 * 24 * 3600.0, ge=0)
    keep_count: int = Field(default=200, ge=0)


class ActivationSettings(BaseSettings):
    """The sockets that systemd has opened for us (``LISTEN_…``, set by it)."""

    model_config = SettingsConfigDict(env_prefix="LISTEN_", frozen=True, extra="ignore")

    fds: int = 0
    # Whom they are for; a process that we start inherits the variables, and not the sockets.
    pid: int | None = None


class WebSocketSettings(BaseSettings):
    """How websockets are served, by the server and by apps (``POLYRANK_WEBSOCKET_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_WEBSOCKET_", frozen=True, extra="ignore")

    max_bytes: int = Field(default=128 * 2**20, ge=1)


class _WholeSource(PydanticBaseSettingsSource):
    """Something beside the environment that is read as a whole."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Of no use here."""
        return None, field_name, False


class _ProfileSource(_WholeSource):
    """What the profile in use says. Which one that is stands in the sources before this one."""

    def __call__(self) -> dict[str, Any]:
        """The values that the profile sets."""
        known = self.current_state
        profiles = Profiles(Path(known.get("config_path") or _config_path()))
        profile = profiles.get(known.get("profile") or profiles.current)
        # A key is told to the server that it is for, and to no other.
        is_its_server = known.get("server", profile.server) == profile.server
        values = {"server": profile.server, "key": profile.key if is_its_server else None}
        return {name: value for name, value in values.items() if value is not None}


class _PipSource(_WholeSource):
    """What pip's configuration files say."""

    def __call__(self) -> dict[str, Any]:
        """The values that the files set."""
        extra = self.current_state.get("config_file")
        found = pip_config.read(_config_home(), Path(extra) if extra else None)
        known = self.settings_cls.model_fields
        return {name: text for name, text in found.items() if name in known}


class _Backed(BaseSettings):
    """Settings of arguments first, then the environment, then what ``source`` reads."""

    source: ClassVar[type[_WholeSource]]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, cls.source(settings_cls)


class ClientSettings(_Backed):
    """Which server to call, and with which key: by the environment, else by the profile in use.

    ``POLYRANK_PROFILE`` names a profile, else it is the one that ``polyrank profile use`` chose.
    """

    model_config = SettingsConfigDict(
        env_prefix="POLYRANK_", frozen=True, extra="ignore", populate_by_name=True
    )

    server: str = "http://127.0.0.1:8080"
    key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("POLYRANK_KEY", "FAL_KEY")
    )
    profile: str | None = None
    config_path: Path = Field(default_factory=_config_path)

    source = _ProfileSource


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
    # What outlives the replica, as files: the reference platform's /data.
    app_data: Path | None = None
    # Beside public addresses: names of hosts ("files.lan", "*.lan") and networks ("10.0.0.0/8").
    allowed_hosts: CommaSeparated = ()

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def persistent_folder(self) -> Path:
        """Where an app keeps what should last; a folder of its own where no server says which."""
        return (self.app_data or self.data_dir / "data" / "local").absolute()

    @property
    def allowed_networks(self) -> tuple[str, ...]:
        """Those of ``allowed_hosts`` that are addresses or networks."""
        return tuple(each for each in self.allowed_hosts if _is_network(each))

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Those of ``allowed_hosts`` that are names."""
        return tuple(each for each in self.allowed_hosts if not _is_network(each))


class BundleSettings(BaseSettings):
    """How much of a project may travel to a server (``POLYRANK_BUNDLES_…``)."""

    model_config = SettingsConfigDict(env_prefix="POLYRANK_BUNDLES_", frozen=True, extra="ignore")

    max_bytes: int = Field(default=512 * 2**20, gt=0)
    max_files: int = Field(default=20_000, gt=0)


class EnvironmentSettings(BaseSettings):
    """How the apps' environments are built and kept (``POLYRANK_ENVIRONMENTS_…``)."""

    model_config = SettingsConfigDict(
        env_prefix="POLYRANK_ENVIRONMENTS_", frozen=True, extra="ignore"
    )

    # Whether an app may run in the server's own environment where that has all it asks for.
    use_own: bool = True
    # How many environments that no app uses are kept for the next app that asks for the same.
    keep: int = Field(default=10, ge=0)


class PipSettings(_Backed):
    """Where pip gets packages from here (``PIP_…`` and pip's files), for the installer to do so."""

    model_config = SettingsConfigDict(env_prefix="PIP_", frozen=True, extra="ignore")

    index_url: str | None = None
    extra_index_url: SpaceSeparated = ()
    find_links: SpaceSeparated = ()
    trusted_host: SpaceSeparated = ()
    cert: str | None = None
    config_file: Path | None = None

    @field_validator("extra_index_url", "find_links", "trusted_host", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    source = _PipSource


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
