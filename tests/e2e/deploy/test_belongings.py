"""What a deployed app finds beside its code: secrets, its environment's, and the data folder."""

from pathlib import Path

from .conftest import Installation, Project

APP = """
import os
from pathlib import Path

import polyrank
from polyrank.toolkit import persistent_dir


class Greeter(polyrank.App):
    app_name = "greeter"
    {options}

    def setup(self):
        print("the token is", os.environ.get("HF_TOKEN"), flush=True)
        (persistent_dir() / "made-in-setup.txt").write_text("kept")

    @polyrank.endpoint("/")
    def greet(self) -> dict:
        print("again:", os.environ.get("HF_TOKEN"), flush=True)
        names = ("HF_TOKEN", "MODE", "FAL_APP_NAME", "FAL_JOB_ID", "FAL_RUNNER_STATE", "HF_HOME")
        return {{name: os.environ.get(name) for name in names}}
"""
TOKEN = "hf_nobody-may-see-it"


def write(project: Project, options: str = "pass") -> None:
    (project.folder / "app.py").write_text(APP.format(options=options))


def test_an_app_gets_its_secrets_and_a_folder_that_lasts(
    installation: Installation, project: Project
) -> None:
    done = installation.run("secrets", "set", "HF_TOKEN=-", "MODE=fast", stdin=TOKEN)
    assert done.returncode == 0, done.stderr
    write(project)
    installation.deploy(project)
    [replica] = installation.replicas()
    found = installation.call()
    folder = installation.data.absolute() / "data" / "local"
    assert found == {
        "HF_TOKEN": TOKEN,
        "MODE": "fast",
        "FAL_APP_NAME": "local/greeter",
        "FAL_JOB_ID": replica["id"],
        "FAL_RUNNER_STATE": "RUNNING",
        "HF_HOME": str(folder / ".cache" / "huggingface"),
    }
    [listed] = installation.json("files", "list")
    assert (listed["name"], listed["size"]) == ("made-in-setup.txt", 4)
    logs = installation.run("runners", "logs", replica["id"])
    assert "the token is [secret]" in logs.stdout and "again: [secret]" in logs.stdout
    for path in installation.data.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert TOKEN.encode() not in path.read_bytes(), path
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert TOKEN.encode() not in process.read_bytes()
        except OSError:
            continue  # it has ended


def test_an_app_that_names_a_secret_which_is_not_there_is_told_so(
    installation: Installation, project: Project
) -> None:
    installation.run("environments", "create", "staging")
    write(project, 'secrets = ["HF_TOKEN"]')
    done = installation.run("deploy", "app.py", "--env", "staging", cwd=project.folder)
    assert done.returncode == 1 and "there is no secret HF_TOKEN" in done.stderr
    installation.run("secrets", "set", "--env", "staging", "HF_TOKEN=of-staging", "MODE=slow")
    installation.deploy(project, "--env", "staging")
    found = installation.call("local/greeter--staging")
    assert (found["HF_TOKEN"], found["MODE"]) == ("of-staging", None)
    done = installation.run("environments", "delete", "staging")
    assert done.returncode == 1 and "greeter--staging" in done.stderr
