"""``polyrank environments``: apps and secrets apart from the main ones."""

from __future__ import annotations

from urllib.parse import quote

from polyrank.cli.console import day, exit_status, say, show_json, show_table
from polyrank.cli.remote import Remote


@exit_status
def list_environments(*, as_json: bool) -> None:
    """Prints the environments."""
    with Remote() as remote:
        found = remote.call("GET", "/environments")
    if as_json:
        return show_json(found)
    rows = [(each["name"], day(each["created_at"]), each["description"]) for each in found]
    show_table(("name", "created", "description"), rows)


@exit_status
def create(*, name: str, description: str, as_json: bool) -> None:
    """Makes an environment."""
    with Remote() as remote:
        body = {"name": name, "description": description}
        made = remote.call("POST", "/environments", json=body)
    if as_json:
        return show_json(made)
    say(f"made {name}; an app deployed with --env {name} is called OWNER/NAME--{name}")


@exit_status
def delete(*, name: str, as_json: bool) -> None:
    """Forgets an environment and its secrets."""
    with Remote() as remote:
        remote.call("DELETE", "/environments/" + quote(name, safe=""))
    if as_json:
        return show_json({"deleted": name})
    say(f"the environment {name} and its secrets are forgotten")
