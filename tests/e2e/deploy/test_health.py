"""A replica that says that it is not well is replaced."""

import httpx
import pytest

from .conftest import Installation, Project

APP = """
import os
import fal
from fastapi import Response
from pydantic import BaseModel


class Fragile(fal.App):
    app_name = "fragile"
    min_concurrency = 1
    is_well = True

    @fal.endpoint("/")
    def work(self) -> dict:
        return {"pid": os.getpid()}

    @fal.endpoint("/break")
    def hurt(self, response: Response) -> dict:
        self.is_well = False
        response.headers["x-fal-runner-health-check"] = "1"
        return {"pid": os.getpid()}

    @fal.endpoint("/give-up")
    def give_up(self, response: Response) -> dict:
        response.status_code = 503
        return {"detail": "the GPU is gone"}

    @fal.endpoint(
        "/well",
        health_check=fal.HealthCheck(
            start_period_seconds=0, failure_threshold=1, call_regularly=False
        ),
    )
    def well(self, response: Response) -> dict:
        response.status_code = 200 if self.is_well else 500
        return {}
"""


@pytest.fixture
def fragile(installation: Installation, project: Project) -> str:
    (project.folder / "app.py").write_text(APP)
    installation.deploy(project)
    return "local/fragile"


def replaced(installation: Installation, pid: int) -> bool:
    """Whether another process answers in the end."""
    while installation.call("local/fragile")["pid"] == pid:
        pass
    return True


def test_a_replica_whose_health_check_fails_is_replaced(
    installation: Installation, fragile: str
) -> None:
    pid = installation.call(fragile, "/break")["pid"]
    assert replaced(installation, pid)


def test_a_replica_that_answers_503_is_replaced(installation: Installation, fragile: str) -> None:
    pid = installation.call(fragile)["pid"]
    answer = httpx.post(f"{installation.url}/run/{fragile}/give-up", json={}, trust_env=False)
    assert answer.status_code == 503
    assert replaced(installation, pid)
