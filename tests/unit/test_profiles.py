"""Servers and keys by name, and what a client takes from them."""

import stat
from pathlib import Path

import pytest

from polyrank.profiles import BadProfile, Profile, Profiles
from polyrank.settings import ClientSettings, ServerSettings

LAB = Profile("lab", "https://lab.example", "id:secret")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SERVER", "KEY", "PROFILE", "DATABASE_URL", "DATA_DIR"):
        monkeypatch.delenv(f"POLYRANK_{name}", raising=False)
    monkeypatch.delenv("FAL_KEY", raising=False)
    monkeypatch.setenv("POLYRANK_CONFIG_PATH", str(tmp_path / "polyrank" / "config.toml"))


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    return Profiles(tmp_path / "polyrank" / "config.toml")


def test_a_profile_is_kept_where_only_its_user_can_read_it(profiles: Profiles) -> None:
    assert (profiles.names(), profiles.current) == ([], "default")
    profiles.save(LAB)
    assert (profiles.get("lab"), profiles.names()) == (LAB, ["lab"])
    assert stat.S_IMODE(profiles.path.stat().st_mode) == 0o600
    profiles.save(Profile("lab", "https://lab.example"))
    assert profiles.get("lab").key is None
    assert [path.name for path in profiles.path.parent.iterdir()] == ["config.toml"]


def test_one_profile_is_in_use_until_it_is_deleted(profiles: Profiles) -> None:
    profiles.save(LAB)
    profiles.use("lab")
    assert profiles.current == "lab"
    profiles.delete("lab")
    assert (profiles.names(), profiles.current) == ([], "default")
    for act in (profiles.use, profiles.delete):
        with pytest.raises(BadProfile, match="no profile 'lab' in .*; there are: none"):
            act("lab")


def test_what_a_person_wrote_there_stays(profiles: Profiles) -> None:
    profiles.path.parent.mkdir()
    profiles.path.write_text('# mine\nprofile = "lab"\n\n[profiles.lab]\nserver = "x"  # soon\n')
    profiles.save(LAB)
    text = profiles.path.read_text()
    assert "# mine" in text and "# soon" in text and profiles.get("lab") == LAB


@pytest.mark.parametrize(
    "text", ["profile =", "profiles = 3", "profiles.lab = 3", "[profiles.lab]\nserver = 3"]
)
def test_a_file_that_makes_no_sense_is_an_error_that_names_it(
    profiles: Profiles, text: str
) -> None:
    profiles.path.parent.mkdir()
    profiles.path.write_text(text)
    with pytest.raises(BadProfile, match=str(profiles.path)):
        profiles.get("lab")


def test_a_client_asks_the_environment_then_the_profile(
    profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(**given: str) -> tuple[str, str | None]:
        settings = ClientSettings(**given)  # type: ignore[arg-type]
        return settings.server, settings.key and settings.key.get_secret_value()

    assert client() == ("http://127.0.0.1:8080", None)
    profiles.save(LAB)
    profiles.save(Profile("home", "https://home.example"))
    profiles.use("lab")
    assert client() == ("https://lab.example", "id:secret")
    assert client(profile="home") == ("https://home.example", None)
    monkeypatch.setenv("POLYRANK_PROFILE", "home")
    assert client() == ("https://home.example", None)
    monkeypatch.setenv("FAL_KEY", "theirs")
    assert client() == ("https://home.example", "theirs")
    monkeypatch.setenv("POLYRANK_KEY", "mine")
    assert client() == ("https://home.example", "mine")
    assert client(key="given") == ("https://home.example", "given")


def test_a_profiles_key_is_told_to_no_other_server(
    profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles.save(LAB)
    profiles.use("lab")
    assert ClientSettings(server="https://lab.example").key is not None
    assert ClientSettings(server="https://other.example").key is None
    monkeypatch.setenv("POLYRANK_SERVER", "https://other.example")
    assert ClientSettings().key is None


def test_a_key_does_not_show_in_a_log() -> None:
    assert "secret" not in repr(ClientSettings(key="id:secret"))  # type: ignore[arg-type]


def test_a_server_keeps_its_database_in_the_data_folder_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert ServerSettings().database == f"sqlite:///{tmp_path}/polyrank/polyrank.db"
    monkeypatch.setenv("POLYRANK_DATA_DIR", "/srv/polyrank")
    assert ServerSettings().database == "sqlite:////srv/polyrank/polyrank.db"
    monkeypatch.setenv("POLYRANK_DATABASE_URL", "postgresql://db/polyrank")
    assert ServerSettings().database == "postgresql://db/polyrank"


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYRANK_ALLOWED_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("POLYRANK_WEBHOOK_NETWORKS", "10.0.0.0/8")
    settings = ServerSettings()
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.webhook_networks == ("10.0.0.0/8",)
    monkeypatch.setenv("POLYRANK_WEBHOOK_NETWORKS", "everything")
    with pytest.raises(ValueError, match="everything"):
        ServerSettings()
