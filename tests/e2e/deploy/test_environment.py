"""What an app requires is built for it, and its own files go along."""

from .conftest import Installation, Project

APP = """
import sys
from importlib.metadata import version

import polyrank


class Greeter(polyrank.App):
    app_name = "greeter"
    requirements = [["colorama==0.4.6"], ["./lib"]]

    def setup(self):
        import colorama
        import words

        self.words = [colorama.__version__, words.SAID]

    @polyrank.endpoint("/")
    def greet(self) -> dict:
        return {"words": self.words, "python": sys.prefix, "own": version("polyrank-test-words")}
"""

PROJECT = """
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "polyrank-test-words"
version = "1.2.3"

[tool.setuptools]
py-modules = ["words"]
"""


def test_an_app_runs_in_the_environment_that_it_asks_for(
    installation: Installation, project: Project
) -> None:
    (project.folder / "app.py").write_text(APP)
    library = project.folder / "lib"
    library.mkdir()
    (library / "pyproject.toml").write_text(PROJECT)
    (library / "words.py").write_text("SAID = 'from the library'")
    said = installation.deploy(project)
    assert "built in" in said
    answer = installation.call()
    assert answer["words"] == ["0.4.6", "from the library"] and answer["own"] == "1.2.3"
    assert answer["python"].startswith(str(installation.data / "environments"))
    assert "built in" not in installation.deploy(project)  # it is there
