"""``polyrank deploy``: an app's files go to the server, which brings them into service."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

from rich.markup import escape

from polyrank.app import projects, shipment
from polyrank.app.shipment import Shipment
from polyrank.cli.console import err, exit_status, say, show, show_json, show_table
from polyrank.cli.remote import Remote, ServerRefused
from polyrank.deploy.files import in_words
from polyrank.deploy.manifest import HEADER, Manifest
from polyrank.errors import InvalidInput, PolyrankError

# What a deployment is at, for people.
PHASES = {
    "waiting": "waiting",
    "building": "building the environment",
    "starting": "starting a replica",
    "switching": "switching",
    "draining": "ending",
}


class DeploymentFailed(PolyrankError):
    """The server could not bring the revision into service."""


@exit_status
def deploy(
    *,
    ref: str,
    app_name: str | None,
    auth: str | None,
    strategy: str | None,
    environment: str,
    message: str,
    annotations: list[str],
    resets_scaling: bool,
    detach: bool,
    check: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Packs the app, uploads it and follows what becomes of it."""
    ready = shipment.prepare(projects.find(ref, Path.cwd()))
    if dry_run:
        return _list_files(ready, as_json=as_json)
    said: dict[str, Any] = {"message": message, "annotations": _annotations(annotations)}
    said["options"] = {**ready.fields["options"], **({"app_auth": auth} if auth else {})}
    if strategy is not None:
        said["strategy"] = strategy
    if app_name is not None:
        said["app_name"] = app_name
    if environment != "main":
        said["environment"] = environment
    with tempfile.TemporaryFile() as archive, Remote() as remote:
        manifest, packed = ready.pack(archive, **said)
        path = f"/apps/{remote.owner()}/{manifest.app_name}"
        if check:
            return _compare(remote, path, manifest, as_json=as_json)
        archive.seek(0)
        say(f"uploading {packed.files} files, {in_words(packed.packed_size)}")
        begun = remote.call(
            "POST",
            f"{path}/revisions",
            params={"reset_scaling": "1" if resets_scaling else "0"},
            headers={HEADER: manifest.to_header()},
            content=_chunks(archive),
            timeout=None,
        )
        if detach:
            return show_json(begun) if as_json else show(begun["deployment"])
        follow(remote, begun, as_json=as_json)


def follow(remote: Remote, begun: dict[str, Any], *, as_json: bool) -> None:
    """Tells what a deployment is at, to its end. Raises DeploymentFailed."""
    say(f"deploying {begun['app']}, revision {begun['number']}")
    for event in remote.events(f"/deployments/{begun['deployment']}/events"):
        match event["type"]:
            case "phase":
                detail = f": {event['detail']}" if event["detail"] else ""
                say(PHASES.get(event["phase"], event["phase"]) + detail)
            case "line":
                err.print("  " + escape(event["text"]), style="dim", soft_wrap=True)
            case "failed":
                raise DeploymentFailed(_failure(begun, event))
            case "done":
                return _done(remote, begun, event, as_json=as_json)
    raise ServerRefused(
        f"{remote.url} ended before the deployment; `polyrank apps list-rev` tells how it went"
    )


def _done(remote: Remote, begun: dict[str, Any], event: dict[str, Any], *, as_json: bool) -> None:
    address = f"{remote.url}/run/{event['app']}"
    if as_json:
        return show_json({**begun, "url": address, "routes": event["routes"]})
    say(f"{event['app']}, revision {event['number']}, serves at {address}")
    for route in event["routes"]:
        path = "" if route["path"] == "/" else route["path"]
        kind = "websocket " if route["websocket"] else ""
        show(f"  {kind}{address}{path}")
    show(f"  playground {remote.url}/playground/{event['app']}")
    show(f"  dashboard {remote.url}/dashboard/{event['app']}")


def _failure(begun: dict[str, Any], event: dict[str, Any]) -> str:
    phase = PHASES.get(event["phase"], event["phase"])
    lines = "".join(f"\n  {line}" for line in event["lines"][-20:])
    return (
        f"{begun['app']}, revision {begun['number']}, failed while {phase}: "
        f"{event['detail']}{lines}"
        "\nwhat served before serves on"
    )


def _list_files(ready: Shipment, *, as_json: bool) -> None:
    files = [{"name": file.name, "size": file.size} for file in ready.selection.files]
    if as_json:
        return show_json(files)
    show_table(
        ("file", "size"), [(file.name, in_words(file.size)) for file in ready.selection.files]
    )
    say(f"{len(files)} files, {in_words(ready.selection.size)}")


def _compare(remote: Remote, path: str, manifest: Manifest, *, as_json: bool) -> None:
    """What a deployment would change."""
    before: dict[str, Any] = {}
    params = {"env": manifest.environment or "main"}
    try:
        found = remote.call("GET", f"{path}/revisions", params=params)["revisions"]
        before = next((each["manifest"] for each in found if each["is_current"]), {})
    except ServerRefused as error:
        say(f"new: {error}")
    after = manifest.model_dump(mode="json")
    changes = [
        (name, old, new)
        for name, old, new in _differences(before, after)
        if name not in ("message", "annotations")
    ]
    if as_json:
        return show_json([{"name": n, "before": old, "after": new} for n, old, new in changes])
    if not changes:
        return say("nothing would change")
    show_table(("what", "now", "then"), [(n, _short(old), _short(new)) for n, old, new in changes])


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    flat = [
        {**{k: v for k, v in each.items() if k != "options"}, **each.get("options", {})}
        for each in (before, after)
    ]
    names = dict.fromkeys([*flat[0], *flat[1]])
    pairs = [(name, flat[0].get(name), flat[1].get(name)) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _annotations(given: list[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for key, separator, _ in pairs:
        if not key or not separator:
            raise InvalidInput(f"an annotation is KEY=VALUE, not {key!r}")
    return {key: value for key, _, value in pairs}


def _chunks(archive: IO[bytes]) -> Any:
    while chunk := archive.read(2**20):
        yield chunk
