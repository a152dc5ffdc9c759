"""``polyrank runners``: the replicas on the server of the profile."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from polyrank.cli.apps import show_replicas
from polyrank.cli.console import exit_status, say, show, show_json
from polyrank.cli.remote import Remote
from polyrank.errors import InvalidInput

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@exit_status
def list_runners(*, since: str, state: str, as_json: bool) -> None:
    """Prints the replicas."""
    params = {"since": str(moment(since))} if since else {}
    with Remote() as remote:
        found = remote.call("GET", "/runners", params=params)["runners"]
    found = [each for each in found if state.lower() in ("", each["state"])]
    if as_json:
        return show_json(found)
    show_replicas(found)


@exit_status
def logs(
    *,
    id: str,
    follow: bool,
    lines: int,
    since: str,
    until: str,
    search: str,
    as_json: bool,
) -> None:
    """Prints lines of a replica's log."""
    params = {"limit": str(lines), "search": search, "follow": "1" if follow else ""}
    params |= {"since": str(moment(since))} if since else {}
    params |= {"until": str(moment(until))} if until else {}
    with Remote() as remote:
        for line in remote.lines(f"/runners/{id}/logs", params=params):
            if as_json:
                show_json(line)
            else:
                at = datetime.fromtimestamp(line["time"], UTC).strftime("%H:%M:%S")
                rank = "" if line.get("rank") is None else f" rank {line['rank']}"
                request = f" {line['request_id']}" if line.get("request_id") else ""
                show(f"{at}{rank}{request} {line['message']}")


@exit_status
def stop(*, id: str, as_json: bool) -> None:
    """Ends a replica in order."""
    with Remote() as remote:
        ended = remote.call("POST", f"/runners/{id}/stop", timeout=None)
    if as_json:
        return show_json(ended)
    say(f"stopped {ended['id']}")


@exit_status
def kill(*, id: str, as_json: bool) -> None:
    """Ends a replica at once."""
    with Remote() as remote:
        ended = remote.call("POST", f"/runners/{id}/kill", timeout=None)
    if as_json:
        return show_json(ended)
    say(f"killed {ended['id']}")


def moment(text: str) -> float:
    """Seconds since 1970, of ``2h`` (ago) or of an ISO time. Raises InvalidInput."""
    ago = re.fullmatch(r"([0-9]+)([smhd])", text)
    if ago is not None:
        return time.time() - int(ago[1]) * UNITS[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"a time is 30m, 2h, 1d or 2026-01-31T12:00, not {text!r}") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
