"""``polyrank serve`` and ``polyrank deploy``, as a user types them."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Installation, Project


def test_an_app_is_deployed_called_and_deployed_again(
    installation: Installation, project: Project
) -> None:
    said = installation.deploy(project, "--message", "the first")
    assert "local/greeter" in said and "revision 1" in said
    first = installation.call()
    assert (first["version"], first["text"]) == ("one", "words of one")

    project.write("two")
    installation.deploy(project)
    assert installation.call()["version"] == "two"

    [two, one] = installation.json("apps", "list-rev", "greeter")
    assert (one["message"], one["is_current"]) == ("the first", False)
    assert (two["number"], two["state"], two["is_current"]) == (2, "ready", True)
    [app] = installation.json("apps", "list")
    assert (app["name"], app["revision"]["number"]) == ("local/greeter", 2)


def test_a_rolling_deployment_fails_no_request(
    installation: Installation, project: Project
) -> None:
    project.write("before", "max_multiplexing = 4", "min_concurrency = 1")
    installation.deploy(project)
    answers: list[Any] = []
    over = threading.Event()

    def keep_calling() -> None:
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not over.is_set():
                answers.append(
                    client.post(f"{installation.url}/run/local/greeter", json={"seconds": 0.05})
                )

    callers = [threading.Thread(target=keep_calling) for _ in range(3)]
    for caller in callers:
        caller.start()
    project.write("after", "max_multiplexing = 4", "min_concurrency = 1")
    installation.deploy(project)
    over.set()
    for caller in callers:
        caller.join()
    assert {answer.status_code for answer in answers} == {200}
    versions = [answer.json()["version"] for answer in answers]
    assert versions[0] == "before" and installation.call()["version"] == "after"


@pytest.mark.parametrize(
    ("options", "setup", "said"),
    [
        ((), "raise ValueError('no weights here')", "no weights here"),
        ((), "os._exit(3)", "exit status 3"),
        (("requirements = ['polyrank-has-no-such-package==1.0']",), "pass", "polyrank-has-no-such"),
    ],
    ids=["setup fails", "process ends", "environment cannot be built"],
)
def test_a_deployment_that_fails_leaves_the_old_revision_serving(
    installation: Installation,
    project: Project,
    options: tuple[str, ...],
    setup: str,
    said: str,
) -> None:
    project.write("good")
    installation.deploy(project)
    project.write("bad", *options, setup=setup)
    done = installation.run("deploy", "app.py", cwd=project.folder)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert installation.call()["version"] == "good"
    newest = installation.json("apps", "list-rev", "greeter")[0]
    assert (newest["state"], newest["is_current"]) == ("failed", False)


def test_rolling_back_and_recreating(installation: Installation, project: Project) -> None:
    for version in ("earlier", "later"):
        project.write(version)
        installation.deploy(project, "--strategy", "recreate")
    earlier = installation.json("apps", "list-rev", "greeter")[1]
    done = installation.run("apps", "set-rev", "greeter", str(earlier["number"]))
    assert done.returncode == 0, done.stderr
    assert installation.call()["version"] == "earlier"
    before = installation.call()["pid"]
    assert installation.run("apps", "rollout", "greeter").returncode == 0
    assert installation.call()["pid"] != before


def test_a_cold_app_starts_for_its_first_request_and_says_so(
    installation: Installation, project: Project
) -> None:
    project.write("cold", "keep_alive = 0")
    installation.deploy(project)
    installation.call()
    for replica in installation.replicas():
        installation.run("runners", "stop", replica["id"])
    assert installation.replicas() == []
    status = httpx.post(f"{installation.url}/queue/local/greeter", json={}, trust_env=False).json()
    reasons = []
    with httpx.stream(
        "GET", f"{status['status_url']}/stream", trust_env=False, timeout=60
    ) as events:
        for line in events.iter_lines():
            if "reason" in line:
                reasons.append(line)
    assert any("starting replica" in each for each in reasons), reasons
    result = httpx.get(status["response_url"], trust_env=False).json()
    assert result["version"] == "cold"


def test_a_bundle_that_the_server_has_no_room_for_is_a_clear_error(
    tmp_path: Path, project: Project
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bundles").write_text("in the way, as a full disk is")
    installation = Installation(tmp_path / "data")
    refused = installation.run("deploy", "app.py", cwd=project.folder)
    assert refused.returncode == 1
    assert f"the bundle cannot be kept in {tmp_path / 'data' / 'bundles'}" in refused.stderr
    installation.program.end(signal.SIGINT)


def test_a_replica_that_has_worked_ends_after_its_keep_alive(
    installation: Installation, project: Project
) -> None:
    project.write("brief", "keep_alive = 0.2")
    installation.deploy(project)
    # Long enough for the policy to look while it works.
    url = f"{installation.url}/queue/local/greeter"
    submitted = httpx.post(url, json={"seconds": 0.5}, trust_env=False).json()
    status_url = f"{submitted['status_url']}/stream"
    with httpx.stream("GET", status_url, trust_env=False, timeout=60) as events:
        assert "COMPLETED" in list(events.iter_lines())[-2]
    while installation.replicas():
        pass
    [app] = installation.json("apps", "list", "--filter", "greeter")
    assert app["state"].startswith("asleep")


def test_a_replica_that_dies_is_replaced_and_its_logs_are_kept(
    installation: Installation, project: Project
) -> None:
    project.write("mortal", "min_concurrency = 1")
    installation.deploy(project)
    [before] = installation.replicas()
    with pytest.raises(httpx.HTTPStatusError):
        installation.call(path="/end")
    assert installation.call()["version"] == "mortal"
    [after] = installation.replicas()
    assert after["id"] != before["id"]
    logs = installation.run("runners", "logs", before["id"])
    assert "setting up mortal" in logs.stdout, logs.stderr
    ended = installation.json("runners", "list", "--since", "1h")
    [row] = [each for each in ended if each["id"] == before["id"]]
    assert row["state"] == "terminated" and "7" in row["reason"]


def test_scaling_is_changed_without_a_deployment(
    installation: Installation, project: Project
) -> None:
    project.write("scaled", "max_concurrency = 2")
    installation.deploy(project)
    options = installation.json("apps", "scale", "greeter", "--min-concurrency", "2")
    assert (options["min_concurrency"], options["max_concurrency"]) == (2, 2)
    pids: set[int] = set()
    while len(pids) < 2:  # until the second replica is there, the first one gets both calls
        with ThreadPoolExecutor(2) as callers:
            calls = [callers.submit(installation.call, seconds=0.3) for _ in range(2)]
        pids |= {call.result()["pid"] for call in calls}
    project.write("scaled again")
    installation.deploy(project)
    assert installation.json("apps", "scale", "greeter")["min_concurrency"] == 2
    refused = installation.run("apps", "scale", "greeter", "--max-concurrency", "-1")
    assert refused.returncode == 1 and "max_concurrency" in refused.stderr
    installation.deploy(project, "--reset-scale")
    assert installation.json("apps", "scale", "greeter")["min_concurrency"] == 0


def test_an_environment_is_an_app_of_its_own(installation: Installation, project: Project) -> None:
    project.write("stable")
    installation.deploy(project)
    project.write("staged")
    installation.run("environments", "create", "staging")
    installation.deploy(project, "--env", "staging")
    assert installation.call()["version"] == "stable"
    assert installation.call("local/greeter--staging")["version"] == "staged"
    done = installation.run("apps", "delete", "greeter", "--env", "staging", "--yes")
    assert done.returncode == 0, done.stderr
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        installation.call("local/greeter--staging")


def test_what_would_be_deployed_can_be_seen_before(
    installation: Installation, project: Project, tmp_path: Path
) -> None:
    (project.folder / ".polyrankignore").write_text("*.secret\n")
    (project.folder / "key.secret").write_text("do not send")
    listed = installation.run("deploy", "app.py", "--dry-run", cwd=project.folder)
    assert listed.returncode == 0, listed.stderr
    assert "words.txt" in listed.stdout and "key.secret" not in listed.stdout
    installation.deploy(project)
    project.write("checked", "keep_alive = 77")
    checked = installation.run("deploy", "app.py", "--check", cwd=project.folder)
    assert checked.returncode == 0 and "keep_alive" in checked.stdout, checked.stderr
    assert installation.call()["version"] != "checked"


def test_an_app_that_is_not_there_is_an_error_for_people(installation: Installation) -> None:
    for command in (("apps", "list-rev", "nothing"), ("apps", "rollout", "nothing")):
        done = installation.run(*command)
        assert done.returncode == 1
        assert "local/nothing" in done.stderr and "polyrank apps list" in done.stderr
