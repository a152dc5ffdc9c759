"""The commands about what is deployed: ``deploy``, ``apps``, ``runners`` and ``queue``; their work
is imported only when one of them runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Optional

import typer

from polyrank.cli.groups import JSON, call, group

APP = Annotated[str, typer.Argument(metavar="[OWNER/]APP", help="The app.")]
ENV = Annotated[str, typer.Option("--env", help="The environment that the app is in.")]
RUNNER = Annotated[str, typer.Argument(metavar="ID", help="The replica, by the start of its id.")]


class Auth(StrEnum):
    """Who may call an app."""

    private = "private"
    shared = "shared"
    public = "public"


class Strategy(StrEnum):
    """How a revision takes the place of another."""

    rolling = "rolling"
    recreate = "recreate"


STRATEGY = Annotated[
    Strategy, typer.Option(help="rolling: no request fails; recreate: the old end first.")
]


def deploy(
    ref: Annotated[str, typer.Argument(metavar="FILE[::CLASS] | NAME", help="The app.")],
    app_name: Annotated[Optional[str], typer.Option(help="Instead of the app's own name.")] = None,  # noqa: UP045
    auth: Annotated[Optional[Auth], typer.Option(help="Who may call it.")] = None,  # noqa: UP045
    strategy: Annotated[Optional[Strategy], typer.Option(help="Instead of the app's own.")] = None,  # noqa: UP045
    env: ENV = "main",
    message: Annotated[str, typer.Option("--message", "-m", help="What has changed.")] = "",
    annotation: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="KEY=VALUE to keep with the revision; repeatable."),
    ] = None,
    reset_scale: Annotated[
        bool,
        typer.Option("--reset-scale/--no-scale", help="Forget what `apps scale` has set, or keep."),
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Say what would change, and end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files that go, and end.")] = (
        False
    ),
    json: JSON = False,
) -> None:
    """Put an app on the server: its files, its environment, its first replica."""
    call(
        "deploy",
        "deploy",
        ref=ref,
        app_name=app_name,
        auth=auth.value if auth else None,
        strategy=strategy.value if strategy else None,
        environment=env,
        message=message,
        annotations=annotation or [],
        resets_scaling=reset_scale,
        detach=detach,
        check=check,
        dry_run=dry_run,
        as_json=json,
    )


apps = group("apps", "See, scale, roll back and delete what is deployed.")


@apps.command("list")
def list_apps(
    env: Annotated[Optional[str], typer.Option(help="Of this environment only.")] = None,  # noqa: UP045
    filter: Annotated[str, typer.Option(help="Those with this in their name.")] = "",
    json: JSON = False,
) -> None:
    """List the apps."""
    call("apps", "list_apps", environment=env, part=filter, as_json=json)


@apps.command("list-rev")
def list_revisions(app: APP, env: ENV = "main", json: JSON = False) -> None:
    """List what was deployed of an app, the newest first."""
    call("apps", "list_revisions", app=app, environment=env, as_json=json)


@apps.command("set-rev")
def set_revision(
    app: APP,
    revision: Annotated[str, typer.Argument(metavar="REV", help="Its number or its id.")],
    strategy: STRATEGY = Strategy.rolling,
    env: ENV = "main",
    json: JSON = False,
) -> None:
    """Bring an earlier revision back into service."""
    call(
        "apps",
        "set_revision",
        app=app,
        revision=revision,
        strategy=strategy.value,
        environment=env,
        as_json=json,
    )


@apps.command()
def rollout(
    app: APP,
    force: Annotated[bool, typer.Option("--force", help="End the old replicas first.")] = False,
    env: ENV = "main",
    json: JSON = False,
) -> None:
    """Replace every replica of an app by a new one."""
    call("apps", "rollout", app=app, force=force, environment=env, as_json=json)


@apps.command()
def scale(
    app: APP,
    min_concurrency: Annotated[Optional[int], typer.Option(help="Replicas at least.")] = None,  # noqa: UP045
    max_concurrency: Annotated[Optional[int], typer.Option(help="Replicas at most.")] = None,  # noqa: UP045
    concurrency_buffer: Annotated[Optional[int], typer.Option(help="Spare replicas.")] = None,  # noqa: UP045
    concurrency_buffer_perc: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Spare replicas, in percent of those needed."),
    ] = None,
    scaling_delay: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Seconds that a request waits before a replica is started for it."),
    ] = None,
    keep_alive: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Seconds that a replica without work is kept."),
    ] = None,
    max_multiplexing: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Requests at once per replica."),
    ] = None,
    request_timeout: Annotated[Optional[float], typer.Option(help="Seconds per request.")] = None,  # noqa: UP045
    startup_timeout: Annotated[Optional[float], typer.Option(help="Seconds of setup.")] = None,  # noqa: UP045
    request_start_timeout: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Seconds that a request waits at most."),
    ] = None,
    machine_type: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="In the order in which they are tried; repeatable."),
    ] = None,
    env: ENV = "main",
    json: JSON = False,
) -> None:
    """Change how an app is scaled; without an option, show it."""
    changes = {
        "min_concurrency": min_concurrency,
        "max_concurrency": max_concurrency,
        "concurrency_buffer": concurrency_buffer,
        "concurrency_buffer_perc": concurrency_buffer_perc,
        "scaling_delay": scaling_delay,
        "keep_alive": keep_alive,
        "max_multiplexing": max_multiplexing,
        "request_timeout": request_timeout,
        "startup_timeout": startup_timeout,
        "request_start_timeout": request_start_timeout,
        "machine_type": machine_type,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    call("apps", "scale", app=app, changes=given, environment=env, as_json=json)


@apps.command("runners")
def app_runners(app: APP, env: ENV = "main", json: JSON = False) -> None:
    """List the replicas of an app, and why there are so many."""
    call("apps", "runners", app=app, environment=env, as_json=json)


@apps.command("delete")
def delete_app(
    app: APP,
    env: ENV = "main",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JSON = False,
) -> None:
    """Take an app away; its replicas end in order."""
    call("apps", "delete", app=app, environment=env, is_sure=yes, as_json=json)


runners = group("runners", "See, read, stop and enter the replicas.")


@runners.command("list")
def list_runners(
    since: Annotated[str, typer.Option(help="And those that ended in this time: 30m, 2h, 1d.")] = (
        ""
    ),
    state: Annotated[str, typer.Option(help="Only those in this state.")] = "",
    json: JSON = False,
) -> None:
    """List the replicas of all apps."""
    call("runners", "list_runners", since=since, state=state, as_json=json)


@runners.command()
def logs(
    id: RUNNER,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("-n", help="The last so many lines.")] = 1000,
    since: Annotated[str, typer.Option(help="Not older than: 30m, 2h, 1d, or a time.")] = "",
    until: Annotated[str, typer.Option(help="Not newer than.")] = "",
    search: Annotated[str, typer.Option(help="Lines with this text.")] = "",
    json: JSON = False,
) -> None:
    """Print what a replica and its ranks have printed."""
    call(
        "runners",
        "logs",
        id=id,
        follow=follow,
        lines=lines,
        since=since,
        until=until,
        search=search,
        as_json=json,
    )


@runners.command()
def stop(id: RUNNER, json: JSON = False) -> None:
    """End a replica when it has done what it works on; another comes if one is needed."""
    call("runners", "stop", id=id, as_json=json)


@runners.command()
def kill(id: RUNNER, json: JSON = False) -> None:
    """End a replica now; requests of the queue that it works on are run again."""
    call("runners", "kill", id=id, as_json=json)


@runners.command(
    name="exec",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def execute(
    id: RUNNER,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run.")],
    tty: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--tty/--no-tty", help="Give it a terminal; as here unless told."),
    ] = None,
) -> None:
    """Run a program with the variables, the folder and the interpreter of a replica."""
    call("shell", "enter", id=id, command=command, wants_terminal=tty)


@runners.command()
def shell(id: RUNNER) -> None:
    """Open a shell beside a replica, on its machine."""
    call("shell", "enter", id=id, command=[], wants_terminal=True)


queue = group("queue", "Look at the queue of an app, and empty it.")


@queue.command()
def size(app: APP, env: ENV = "main", json: JSON = False) -> None:
    """Tell how many requests wait."""
    call("apps", "queue_size", app=app, environment=env, as_json=json)


@queue.command()
def flush(
    app: APP,
    env: ENV = "main",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JSON = False,
) -> None:
    """Cancel every request that waits."""
    call("apps", "flush_queue", app=app, environment=env, is_sure=yes, as_json=json)
