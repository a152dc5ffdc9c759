"""A replica that says that it is sick, and is replaced."""

from pathlib import Path

import httpx
from polyrank_program import ROOT

from polyrank.app import projects
from polyrank.app.health import health_check_of
from polyrank.reports import HealthCheck

from .conftest import Installation, Project

APP = """
import os
import polyrank
from fastapi import Response

CHECK = polyrank.HealthCheck(start_period_seconds=0, failure_threshold=1, call_regularly=False)

class Patient(polyrank.App):
    app_name = "patient"
    min_concurrency = 1
    is_sick = False

    @polyrank.endpoint("/ready", health_check=CHECK)
    def ready(self) -> None:
        if self.is_sick:
            raise polyrank.AppException("sick", status_code=503)

    @polyrank.endpoint("/")
    def work(self, response: Response) -> int:
        if self.is_sick:
            response.headers["x-fal-runner-health-check"] = "1"
        return os.getpid()

    @polyrank.endpoint("/catch-cold")
    def catch_cold(self) -> None:
        self.is_sick = True
"""


def test_a_replica_whose_health_check_fails_is_replaced(
    installation: Installation, project: Project
) -> None:
    (project.folder / "app.py").write_text(APP)
    installation.deploy(project)
    before = installation.call("local/patient")
    assert installation.call("local/patient") == before
    installation.call("local/patient", "/catch-cold")
    installation.call("local/patient")
    installation.program.wait_for("its health check /ready failed 1 times: it answered 503")
    url = f"{installation.url}/queue/local/patient"
    submitted = httpx.post(url, json={}, trust_env=False).json()
    with httpx.stream(
        "GET", f"{submitted['status_url']}/stream", trust_env=False, timeout=60
    ) as events:
        for _ in events.iter_lines():
            pass
    assert httpx.get(submitted["response_url"], trust_env=False).json() != before


def test_the_example_of_the_manual_has_its_health_check(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "replicas.md").read_text()
    (tmp_path / "painter_app.py").write_text(page.split("```python\n")[1].split("```")[0])
    painter = projects.load(projects.find("painter_app.py", tmp_path))
    assert health_check_of(painter) == HealthCheck("/ready", timeout_s=10)
