"""A file that was written for the reference platform is deployed as it is."""

import re
from pathlib import Path

import httpx
from polyrank_program import ROOT

from .conftest import Installation

FILE = ROOT / "tests" / "programs" / "reference_app.py"


def test_it_is_listed_with_its_endpoints_and_described_while_no_replica_runs(
    installation: Installation, tmp_path: Path
) -> None:
    # Its packages are made up; what else it says is deployed as it stands.
    text = re.sub(
        r"requirements = \[.*?\n    \]", "requirements = ['pillow']", FILE.read_text(), flags=re.S
    )
    (tmp_path / FILE.name).write_text(text)
    (tmp_path / "helpers.py").write_text("# a local module that travels with the app")
    assert installation.run("secrets", "set", "HF_TOKEN=hidden").returncode == 0
    done = installation.run("deploy", FILE.name, "--app-name", "theirs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    none = ("--min-concurrency", "0", "--concurrency-buffer", "0", "--concurrency-buffer-perc", "0")
    assert installation.run("apps", "scale", "theirs", *none).returncode == 0
    for replica in installation.replicas():
        installation.run("runners", "stop", replica["id"])
    with httpx.Client(base_url=installation.url, trust_env=False) as client:
        [app] = [
            each for each in client.get("/apps").json()["apps"] if each["name"] == "local/theirs"
        ]
        document = client.get("/run/local/theirs/openapi.json").json()
    assert installation.replicas() == []
    assert app["endpoints"]
    called = {each["path"] for each in app["endpoints"] if not each["is_websocket"]}
    assert called <= document["paths"].keys()
    assert document["servers"] == [{"url": f"{installation.url}/run/local/theirs"}]
