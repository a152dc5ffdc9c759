"""``polyrank exec``: runs a program written for the reference platform against a local server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

import polyrank.client
from polyrank.certificates import Authority, trusted_with
from polyrank.cli.tunnel import PLACES, Server, Tunnel
from polyrank.client.options import environment, make_flows
from polyrank.errors import PolyrankError

console = Console(stderr=True, highlight=False)

FORWARDED = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
# What a shell says of a program that is not there, or may not be run.
NOT_FOUND, NOT_RUNNABLE = 127, 126


def execute(command: list[str], url: str | None) -> int:
    """Runs a program with everything that leads it to the server; returns its exit status."""
    try:
        flows = make_flows(url, None, timeout_s=120.0, attempts=1)
    except PolyrankError as error:
        console.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
        return 2
    try:
        return asyncio.run(_run(command, flows.endpoints.server, flows.key))
    except FileNotFoundError:
        console.print(f"[red]error:[/red] there is no program {escape(command[0])}")
        return NOT_FOUND
    except PermissionError:
        console.print(f"[red]error:[/red] {escape(command[0])} may not be run")
        return NOT_RUNNABLE


async def _run(command: list[str], url: str, key: str | None) -> int:
    with tempfile.TemporaryDirectory(prefix="polyrank-exec-") as name:
        trust = _Trust.make(Path(name))
        server = Server(url)
        async with Tunnel(server, str(trust.certificate)).running() as proxy:
            extra = {
                **environment(url, key),
                **trust.variables,
                **_proxied(proxy, server.host, os.environ),
                "PYTHONPATH": _python_path(os.environ),
            }
            signals = _Signals()
            with signals.caught():
                environ = {**os.environ, **extra}
                process = await asyncio.create_subprocess_exec(*command, env=environ)
                signals.pass_on_to(process)
                code = await process.wait()
    return 128 - code if code < 0 else code


class _Trust:
    """The files that make clients take the tunnel for the hosts that it stands in for."""

    def __init__(self, certificate: Path, variables: dict[str, str]) -> None:
        self.certificate = certificate
        self.variables = variables

    @classmethod
    def make(cls, folder: Path) -> _Trust:
        """Makes them. What was trusted before still is."""
        authority = Authority.create("polyrank exec")
        certificate = folder / "tunnel.pem"
        certificate.touch(0o600)
        certificate.write_bytes(authority.issue(*PLACES))
        alone = folder / "authority.pem"
        alone.write_bytes(authority.pem)
        bundle = folder / "trusted.pem"
        bundle.write_bytes(trusted_with(authority.pem))
        names = "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"
        return cls(
            certificate,
            {**dict.fromkeys(names, str(bundle)), "NODE_EXTRA_CA_CERTS": str(alone)},
        )


def _proxied(proxy: str, host: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that send https through the tunnel, and the server's own URLs past it."""
    before = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    kept = [each.strip() for each in before.split(",") if not _hides(each.strip())]
    direct = ",".join(dict.fromkeys([*filter(None, kept), host, "127.0.0.1", "localhost"]))
    return {
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": direct,
        "no_proxy": direct,
        "NODE_USE_ENV_PROXY": "1",
    }


def _hides(entry: str) -> bool:
    """Whether an entry of ``no_proxy`` would lead clients past the tunnel."""
    name = entry.lstrip("*.")
    return entry == "*" or any(f".{place}".endswith(f".{name}") for place in PLACES if name)


def _python_path(environment: Mapping[str, str]) -> str:
    """With a stand-in for ``fal_client``, which gives way to an installed one."""
    stand_in = Path(polyrank.client.__file__).parent / "fallback"
    before = environment.get("PYTHONPATH")
    return os.pathsep.join([str(stand_in), before] if before else [str(stand_in)])


class _Signals:
    """What is meant to end us is for the program to decide about, from before it starts."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._early: list[signal.Signals] = []

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Keeps signals from ending this process inside the block."""
        loop = asyncio.get_running_loop()
        for signum in FORWARDED:
            loop.add_signal_handler(signum, self._take, signum)
        try:
            yield
        finally:
            for signum in FORWARDED:
                loop.remove_signal_handler(signum)

    def pass_on_to(self, process: asyncio.subprocess.Process) -> None:
        """Sends them to a program that is running now."""
        self._process = process
        for signum in self._early:
            self._take(signum)

    def _take(self, signum: signal.Signals) -> None:
        if self._process is None:
            self._early.append(signum)
        elif signum is not signal.SIGINT or not _in_foreground():  # else the terminal has told it
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signum)


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C goes to all of our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
