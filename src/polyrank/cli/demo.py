"""``polyrank demo``: the parallel example, one prompt, previews on the way, a grid at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from polyrank.app.projects import AppRef
from polyrank.cli.platform import Platform, arguments_for
from polyrank.cli.run import show
from polyrank.cli.signals import ended_by_signals
from polyrank.reports import Ready
from polyrank.scaler.local import Gone
from polyrank.toolkit import File

console = Console(stderr=True, highlight=False)

EXAMPLE = Path("examples") / "parallel_sdxl.py"
LAST_LINES = 20


def demo(
    prompt: str,
    *,
    ranks: int,
    steps: int,
    seed: int | None,
    out: Path,
    serve: bool,
    verbose: bool,
) -> int:
    """Paints ``prompt`` on ``ranks`` ranks and writes what arrives to ``out``."""
    example = find_example(Path.cwd())
    if example is None:
        console.print(
            f"[red]error:[/red] {EXAMPLE} is not here: run the demo in a checkout of polyrank"
        )
        return 2
    out.mkdir(parents=True, exist_ok=True)
    path = out / "log.txt"
    arguments = arguments_for(AppRef(example, "ParallelSDXL"), ranks=ranks, verbose=verbose)
    with path.open("w") as file, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        platform = Platform(arguments, "127.0.0.1", 0, output=None if verbose else file)
        painting = Painting(prompt, steps=steps, seed=seed, out=out)
        try:
            return runner.run(paint(platform, painting, log=path, stay=serve))
        except KeyboardInterrupt:
            return 130


async def paint(platform: Platform, painting: Painting, *, log: Path, stay: bool) -> int:
    """Starts the platform and paints on it; ``stay`` keeps it up until a signal."""
    begun = time.perf_counter()
    settled: asyncio.Future[Ready | Gone] = asyncio.get_running_loop().create_future()

    def on_report(report: Any) -> None:
        if isinstance(report, Ready | Gone) and not settled.done():
            settled.set_result(report)

    platform.listeners.append(on_report)
    with contextlib.ExitStack() as signals:
        async with platform.running():
            with console.status("starting the ranks and loading the model"):
                report = await settled
            if isinstance(report, Gone):
                return explain(report.exit_status, log)
            ready_s = time.perf_counter() - begun
            # In a thread: it draws, and writes files, while this loop serves.
            await asyncio.to_thread(painting.paint, platform.app_url, ready_s)
            if stay:
                show(platform, report)
                signals.enter_context(ended_by_signals(lambda _: platform.end()))
                await platform.ended.wait()
    return 0


def explain(status: int, log: Path) -> int:
    """Prints the end of the log of an app that did not come up; returns its exit status."""
    for line in log.read_text().splitlines()[-LAST_LINES:]:
        console.print(line, markup=False)
    console.print(f"[red]error:[/red] the app did not start (exit status {status}); see {log}")
    return status


@dataclass(frozen=True)
class Painting:
    """What to paint, and where the pictures go."""

    prompt: str
    steps: int
    seed: int | None
    out: Path

    def paint(self, address: str, ready_s: float) -> None:
        """Streams one request, draws its progress, writes its pictures and prints the times."""
        for old in self.out.glob("preview-*.jpg"):
            old.unlink()
        body = {"prompt": self.prompt, "num_inference_steps": self.steps, "seed": self.seed}
        begun = time.perf_counter()
        first_preview_s: float | None = None
        result: dict[str, Any] = {}
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            bar = progress.add_task("painting", total=self.steps, note="")
            for event in events(f"{address}/stream", body):
                if "preview_image" in event:
                    first_preview_s = first_preview_s or time.perf_counter() - begun
                    path = self.out / f"preview-{event['step']:02d}.jpg"
                    save(event["preview_image"], path)
                    progress.update(bar, completed=event["step"], note=f"preview {path.name}")
                elif "error" in event:
                    raise SystemExit(f"the request failed: {event['error']}")
                else:
                    result = event
            progress.update(bar, completed=self.steps, note="done")
        painted_s = time.perf_counter() - begun
        grid = write_grid(result["image"], self.out / "grid.jpg")
        console.print(f"{self.prompt!r}, seeds {result['seeds']} -> {grid}")
        first = f"first preview after {first_preview_s:.2f} s, " if first_preview_s else ""
        console.print(f"ready in {ready_s:.1f} s, {first}all pictures in {painted_s:.2f} s")
        console.print(f"the slowest rank's start: {phases(f'{address}/health')}")


def events(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events that a streaming endpoint answers."""
    with httpx.stream("POST", url, json=body, timeout=None) as answer:
        if answer.status_code != 200:
            answer.read()
            raise SystemExit(f"the request failed ({answer.status_code}): {answer.text}")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def phases(url: str) -> str:
    """What the start of the slowest rank was spent on, as the example's health says."""
    ranks: list[dict[str, Any]] = httpx.get(url, timeout=60).json()["ranks"]
    names = [name for name, value in ranks[0].items() if isinstance(value, float)]
    return ", ".join(
        f"{name.removesuffix('_s')} {max(rank[name] for rank in ranks):.2f} s" for name in names
    )


def save(file: dict[str, Any], path: Path) -> None:
    """Writes a file object of an answer."""
    File.model_validate(file).save(path, overwrite=True)


def write_grid(file: dict[str, Any], path: Path) -> Path:
    """Writes the result where its own format belongs, e.g. ``grid.png`` for a PNG."""
    kind = file["content_type"].removeprefix("image/")
    path = path.with_suffix(f".{kind.replace('jpeg', 'jpg')}")
    save(file, path)
    return path


def find_example(folder: Path) -> Path | None:
    """The example in the checkout that ``folder`` is in, or that this package is installed from."""
    for root in [folder, *folder.parents, Path(__file__).resolve().parents[3]]:
        if (root / EXAMPLE).is_file() and (root / "models").is_dir():
            return (root / EXAMPLE).resolve()
    return None
