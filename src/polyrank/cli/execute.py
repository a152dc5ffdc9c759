"""``polyrank exec``: runs a program written for the reference platform against a local server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import certifi
from rich.console import Console
from rich.markup import escape

import polyrank.client
from polyrank.certificates import Authority
from polyrank.cli.tunnel import PLACES, Server, Tunnel
from polyrank.client.options import environment, make_flows
from polyrank.errors import PolyrankError

console = Console(stderr=True, highlight=False)

# Clients of the reference platform insist on a key.
ANY_KEY = "local:local"
FORWARDED = signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
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
        return asyncio.run(_run(command, flows.endpoints.server, flows.key or ANY_KEY))
    except FileNotFoundError:
        console.print(f"[red]error:[/red] there is no program {escape(command[0])}")
        return NOT_FOUND
    except PermissionError:
        console.print(f"[red]error:[/red] {escape(command[0])} may not be run")
        return NOT_RUNNABLE


async def _run(command: list[str], url: str, key: str) -> int:
    with tempfile.TemporaryDirectory(prefix="polyrank-exec-") as name:
        trust = _Trust.make(Path(name), os.environ)
        server = Server(url)
        async with Tunnel(server, str(trust.certificate)).running() as proxy:
            extra = {
                **environment(url, key),
                **trust.variables,
                **_proxied(proxy, server.host, os.environ),
                "PYTHONPATH": _python_path(os.environ),
            }
            process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **extra})
            with _signals_passed_on(process):
                code = await process.wait()
    return 128 - code if code < 0 else code


class _Trust:
    """The files that make clients take the tunnel for the hosts that it stands in for."""

    def __init__(self, certificate: Path, variables: dict[str, str]) -> None:
        self.certificate = certificate
        self.variables = variables

    @classmethod
    def make(cls, folder: Path, environment: Mapping[str, str]) -> _Trust:
        """Makes them. What was trusted before still is."""
        authority = Authority.create("polyrank exec")
        certificate = folder / "tunnel.pem"
        certificate.touch(0o600)
        certificate.write_bytes(authority.issue(*PLACES))
        alone = folder / "authority.pem"
        alone.write_bytes(authority.pem)
        before = Path(environment.get("SSL_CERT_FILE") or certifi.where()).read_bytes()
        bundle = folder / "trusted.pem"
        bundle.write_bytes(before + b"\n" + authority.pem)
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


@contextlib.contextmanager
def _signals_passed_on(process: asyncio.subprocess.Process) -> Iterator[None]:
    """Inside the block, what ends us is for the program to decide about."""
    loop = asyncio.get_running_loop()

    def pass_on(signum: signal.Signals) -> None:
        if signum is signal.SIGINT and _in_foreground():
            return  # the terminal has told the program, too
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)

    told = (*FORWARDED, signal.SIGINT)
    for signum in told:
        loop.add_signal_handler(signum, pass_on, signum)
    try:
        yield
    finally:
        for signum in told:
            loop.remove_signal_handler(signum)


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
