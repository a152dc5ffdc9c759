"""A browser in front of a real server that apps are deployed to."""

import signal
from collections.abc import Callable, Iterator

import pytest
from browsing import launched, visiting
from playwright.sync_api import Browser, Page

from tests.e2e.deploy.conftest import Installation, Project

SAY = """
    @polyrank.endpoint("/say")
    def say(self, work: Work) -> str:
        print(f"asked for <b>{work.seconds}</b>", flush=True)
        return "said"
"""


class TalkingProject(Project):
    """The app, with an endpoint that prints what it is asked for."""

    def write(self, version: str = "one", *options: str, setup: str = "pass") -> None:
        super().write(version, *options, setup=setup)
        with (self.folder / "app.py").open("a") as file:
            file.write(SAY)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An app that keeps one replica, and whose replicas start only if they are wanted."""
    project = TalkingProject(tmp_path_factory.mktemp("app") / "project")
    project.write("one", "min_concurrency = 1", "max_concurrency = 1")
    return project


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, project: Project
) -> Iterator[Installation]:
    """A server with the app."""
    installation = Installation(tmp_path_factory.mktemp("installation") / "data")
    installation.deploy(project, "--message", "the first")
    yield installation
    installation.program.end(signal.SIGINT)


@pytest.fixture
def open_page(browser: Browser, installation: Installation) -> Iterator[Callable[..., Page]]:
    """Opens pages that must not fail, nor ask other machines."""
    with visiting(browser, installation.url) as open:
        yield open
