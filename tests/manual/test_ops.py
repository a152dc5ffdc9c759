"""The files below ops/ name commands, settings and metrics that there are."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from prometheus_client import ProcessCollector
from pydantic_settings import BaseSettings

from polyrank import settings
from polyrank.cli.main import app
from polyrank.gateway import families
from polyrank.scaler.gpus import Inventory

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
SETTINGS = {
    f"{each.model_config['env_prefix']}{name.upper()}"
    for each in vars(settings).values()
    if isinstance(each, type) and issubclass(each, BaseSettings) and each is not BaseSettings
    for name in each.model_fields
}
METRICS = {
    family.name + ("_total" if family.type == "counter" else "")
    for family in [
        *families.of_apps([], {}),
        families.of_gpus(Inventory([], slots=1).devices()),
        *families.of_deployments({}, {}),
        *ProcessCollector(registry=None).collect(),
    ]
}


def compose(name: str) -> Any:
    return yaml.safe_load((OPS / name).read_text())


def instructions() -> dict[str, list[str]]:
    """What the Dockerfile says, by instruction."""
    text = re.sub(r"^#.*\n", "", (OPS / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest.strip())
    return found


def assert_is_a_command(words: list[str]) -> None:
    """Parses a command of ours; it is not run."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def unit(name: str) -> dict[str, list[str]]:
    """The directives of a unit file."""
    lines = re.findall(r"^(\w+)=(.*)$", (OPS / name).read_text(), re.MULTILINE)
    found: dict[str, list[str]] = {}
    for key, value in lines:
        found.setdefault(key, []).append(value)
    return found


def test_the_unit_starts_a_server_whose_replicas_outlive_it() -> None:
    service = unit("polyrank.service")
    [command] = service["ExecStart"]
    assert_is_a_command(command.split()[1:])
    names = {each.partition("=")[0] for each in service["Environment"]}
    assert names - SETTINGS == {"TMPDIR"}
    assert service["KillMode"] == ["process"] and service["Restart"] == ["always"]
    # What would hide GPUs, or be taken from the replicas that stay.
    hiding = "PrivateDevices ProtectClock DeviceAllow MemoryDenyWriteExecute PrivateTmp"
    assert not set(hiding.split()) & set(service)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    installed = tmp_path / "polyrank.service"
    text = (OPS / "polyrank.service").read_text()
    installed.write_text(text.replace("/opt/polyrank/bin/polyrank", sys.executable))
    shutil.copy(OPS / "polyrank.socket", tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", installed, tmp_path / "polyrank.socket"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_runs_the_server_as_a_user_of_its_own() -> None:
    said = instructions()
    assert said["USER"] == ["polyrank"] and said["STOPSIGNAL"] == ["SIGINT"]
    [entry], [command] = said["ENTRYPOINT"], said["CMD"]
    assert json.loads(entry) == ["tini", "--", "polyrank"]
    assert_is_a_command(json.loads(command))
    names = re.findall(r"(POLYRANK_\w+)=", " ".join(said["ENV"]))
    assert names and set(names) <= SETTINGS
    copied = [each for each in said["COPY"] if not each.startswith("--from")]
    assert all((ROOT / name).exists() for each in copied for name in each.split()[:-1])
    kept = (OPS / "Dockerfile.dockerignore").read_text()
    assert all(f"!{name}" in kept for each in copied for name in each.split()[:-1])


def test_the_image_has_extras_that_there_are() -> None:
    import tomllib

    [extras] = re.findall(r"EXTRAS=([\w,]+)$", (OPS / "Dockerfile").read_text(), re.MULTILINE)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(known["optional-dependencies"])


def test_the_services_of_compose_are_set_with_settings_that_there_are() -> None:
    whole = compose("compose.yaml")
    server = whole["services"]["server"]
    assert set(server["environment"]) <= SETTINGS
    assert (OPS / server["build"]["context"] / server["build"]["dockerfile"]).exists()
    assert set(server["depends_on"]) <= set(whole["services"])
    volumes = [each for service in whole["services"].values() for each in service["volumes"]]
    named = {each.partition(":")[0] for each in volumes if not each.startswith(("./", "/"))}
    assert named == set(whole["volumes"])
    assert set(compose("compose.gpu.yaml")["services"]) <= set(whole["services"])


def test_prometheus_is_told_paths_that_there_are() -> None:
    jobs = compose("prometheus.yaml")["scrape_configs"]
    assert [job["metrics_path"] for job in jobs] == ["/metrics"]
    assert jobs[0]["authorization"]["type"] == "Key"


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((OPS / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {
        name.removesuffix("_bucket")
        for query in queries
        for name in re.findall(r"\b(?:fal_app|polyrank|process)_\w+", query)
    }
    assert len(asked) >= 8 and asked <= METRICS


def test_every_metric_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    known = {name for name in METRICS if not name.startswith("process_")}
    assert {name for name in told if re.match("fal_app|polyrank_", name)} == {
        *known,
        "polyrank_info",
    }
