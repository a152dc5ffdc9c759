"""pip's settings, read where pip reads them."""

from pathlib import Path

import pytest

from polyrank.settings import PipSettings


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in PipSettings.model_fields:
        monkeypatch.delenv(f"PIP_{name.upper()}", raising=False)


def test_the_environment_goes_before_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config/pip").mkdir(parents=True)
    (tmp_path / "config/pip/pip.conf").write_text(
        "[global]\nindex-url = https://a/simple\nextra-index-url =\n  https://b/simple\n"
        "  https://c/simple\n[install]\nfind-links = /wheels /more\n[freeze]\ncert = no\n"
    )
    settings = PipSettings()
    assert settings.index_url == "https://a/simple"
    assert settings.extra_index_url == ("https://b/simple", "https://c/simple")
    assert settings.find_links == ("/wheels", "/more")
    monkeypatch.setenv("PIP_INDEX_URL", "https://d/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/other")
    assert PipSettings().index_url == "https://d/simple"
    assert PipSettings().find_links == ("/other",)
    assert PipSettings().extra_index_url == settings.extra_index_url


def test_the_file_of_pip_config_file_goes_before_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip/pip.conf").write_text("[global]\nindex-url = https://a/simple\n")
    (tmp_path / "mine.conf").write_text("[global]\nindex-url = https://b/simple\n")
    assert PipSettings().index_url == "https://a/simple"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "mine.conf"))
    assert PipSettings().index_url == "https://b/simple"


def test_a_broken_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip/pip.conf").write_text("index-url = nowhere\n[global")
    assert PipSettings().index_url is None
