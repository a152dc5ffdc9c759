"""``polyrank apps`` and ``polyrank queue``: what is deployed on the server of the profile."""

from __future__ import annotations

import sys
from typing import Any

from polyrank.cli.console import day, exit_status, say, show, show_json, show_table
from polyrank.cli.deploy import follow
from polyrank.cli.remote import Remote
from polyrank.errors import InvalidInput


@exit_status
def list_apps(*, environment: str | None, part: str, as_json: bool) -> None:
    """Prints the apps."""
    with Remote() as remote:
        apps = remote.call("GET", "/deployed")["apps"]
    apps = [
        app for app in apps if part in app["name"] and environment in (None, app["environment"])
    ]
    if as_json:
        return show_json(apps)
    rows = [
        (
            app["name"],
            app["state"],
            str(app["revision"]["number"]) if app["revision"] else "-",
            str(len(app["replicas"])),
            str(sum(each["running"] for each in app["replicas"])),
            day(app["updated_at"]),
        )
        for app in apps
    ]
    show_table(("app", "state", "revision", "replicas", "running", "updated"), rows)


@exit_status
def list_revisions(*, app: str, environment: str, as_json: bool) -> None:
    """Prints what was deployed."""
    with Remote() as remote:
        path = path_of(remote, app)
        found = remote.call("GET", f"{path}/revisions", params={"env": environment})["revisions"]
    if as_json:
        return show_json(found)
    rows = [
        (
            str(each["number"]) + ("*" if each["is_current"] else ""),
            each["id"],
            each["state"],
            day(each["created_at"]),
            each["created_by"],
            each["error"] or each["message"],
        )
        for each in found
    ]
    show_table(("revision", "id", "state", "created", "by", "message"), rows)


@exit_status
def set_revision(
    *, app: str, revision: str, strategy: str, environment: str, as_json: bool
) -> None:
    """Rolls back, or forth."""
    with Remote() as remote:
        begun = remote.call(
            "PUT",
            f"{path_of(remote, app)}/revisions/current",
            params={"env": environment},
            json={"revision": revision, "strategy": strategy},
        )
        follow(remote, begun, as_json=as_json)


@exit_status
def rollout(*, app: str, force: bool, environment: str, as_json: bool) -> None:
    """Replaces all replicas."""
    with Remote() as remote:
        begun = remote.call(
            "POST",
            f"{path_of(remote, app)}/rollout",
            params={"env": environment},
            json={"strategy": "recreate" if force else "rolling"},
        )
        follow(remote, begun, as_json=as_json)


@exit_status
def scale(*, app: str, changes: dict[str, Any], environment: str, as_json: bool) -> None:
    """Changes options, and prints them as they hold."""
    with Remote() as remote:
        path = path_of(remote, app)
        params = {"env": environment}
        if changes:
            described = remote.call("PATCH", f"{path}/scaling", params=params, json=changes)
        else:
            described = remote.call("GET", path, params=params)
    if as_json:
        return show_json(described["options"])
    rows = [
        (name, "-" if value is None else str(value), "set" if name in described["scaling"] else "")
        for name, value in described["options"].items()
    ]
    show_table(("option", "value", ""), rows)


@exit_status
def runners(*, app: str, environment: str, as_json: bool) -> None:
    """Prints an app's replicas."""
    with Remote() as remote:
        described = remote.call("GET", path_of(remote, app), params={"env": environment})
    if as_json:
        return show_json(described["replicas"])
    show_replicas(described["replicas"])
    if described["why"]:
        say(described["why"])


@exit_status
def delete(*, app: str, environment: str, is_sure: bool, as_json: bool) -> None:
    """Takes an app away."""
    with Remote() as remote:
        path = path_of(remote, app)
        confirm(
            f"delete {path.removeprefix('/apps/')} ({environment}) and end its replicas?", is_sure
        )
        remote.call("DELETE", path, params={"env": environment}, timeout=None)
    if as_json:
        return show_json({"deleted": path.removeprefix("/apps/"), "environment": environment})
    say(f"deleted {path.removeprefix('/apps/')}")


@exit_status
def queue_size(*, app: str, environment: str, as_json: bool) -> None:
    """Prints how many requests wait."""
    with Remote() as remote:
        found = remote.call("GET", f"{path_of(remote, app)}/queue", params={"env": environment})
    if as_json:
        return show_json(found)
    show(str(found["size"]))


@exit_status
def flush_queue(*, app: str, environment: str, is_sure: bool, as_json: bool) -> None:
    """Cancels what waits."""
    with Remote() as remote:
        path = path_of(remote, app)
        confirm(f"cancel every request that waits for {path.removeprefix('/apps/')}?", is_sure)
        done = remote.call("DELETE", f"{path}/queue", params={"env": environment})
    if as_json:
        return show_json(done)
    say(f"cancelled {done['cancelled']} requests")


def path_of(remote: Remote, app: str) -> str:
    """The path of an app, whose owner is the key's unless it is named."""
    owner, _, alias = app.strip("/").rpartition("/")
    return f"/apps/{owner or remote.owner()}/{alias}"


def show_replicas(replicas: list[dict[str, Any]]) -> None:
    """Prints replicas as a table."""
    rows = [
        (
            each["id"],
            each["app"],
            str(each["number"]),
            each["state"],
            day(each["since"]),
            str(each["running"]),
            "-" if each["pid"] is None else str(each["pid"]),
            ",".join(each["gpus"]) or "-",
            each.get("reason") or "",
        )
        for each in replicas
    ]
    titles = ("id", "app", "revision", "state", "since", "running", "pid", "gpus", "")
    show_table(titles, rows)


def confirm(question: str, is_sure: bool) -> None:
    """Asks whoever is at the terminal. Raises InvalidInput unless the answer is yes."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(f"{question} Nobody is there to ask: say --yes")
    say(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInput("nothing was done")
