"""The worked example of docs/migrate.md, as it stands there."""

import re
import sys
from pathlib import Path

import httpx
from polyrank_program import ROOT

from .conftest import Installation

PAGE = (ROOT / "docs" / "migrate.md").read_text()


def test_an_app_and_a_program_of_the_reference_platform_run_as_they_are(
    installation: Installation, tmp_path: Path
) -> None:
    app, program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "poster.py").write_text(app)
    (tmp_path / "order.py").write_text(program)
    made = installation.run("keys", "create", "--scope", "ADMIN", "--owner", "ann")
    installation.environment["POLYRANK_KEY"] = key = made.stdout.strip()

    done = installation.run("deploy", "poster.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + installation.program.output
    assert "ann/poster, revision 1" in done.stderr

    ordered = installation.run("exec", "--", sys.executable, "order.py", cwd=tmp_path)
    assert ordered.returncode == 0, ordered.stderr
    url, width = ordered.stdout.splitlines()[-1].split()
    assert width == "64"
    picture = httpx.get(url, trust_env=False).raise_for_status()
    assert picture.headers["content-type"] == "image/png"

    [replica] = installation.json("apps", "runners", "poster")
    assert replica["app"] == "ann/poster"
    metrics = httpx.get(
        f"{installation.url}/metrics", headers={"authorization": f"Key {key}"}, trust_env=False
    ).text
    for line in (
        'fal_app_runners{application="ann/poster",machine_type="S",state="idle"} 1.0',
        'fal_app_requests_completed{application="ann/poster",method="POST",status="200"} 1.0',
        'polyrank_app_revision{application="ann/poster"} 1.0',
        'polyrank_app_revisions{application="ann/poster",state="ready"} 1.0',
        'polyrank_gpus{state="broken"} 0.0',
    ):
        assert line in metrics
