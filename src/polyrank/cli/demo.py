"""``polyrank demo``: the parallel example, one prompt, previews on the way, a grid at the end."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from polyrank.app.projects import AppRef
from polyrank.cli.replica import ReplicaProcess, arguments_for
from polyrank.cli.run import show
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
    begun = time.perf_counter()
    with path.open("w") as log:
        replica = ReplicaProcess(
            arguments_for(AppRef(example, "ParallelSDXL"), ranks=ranks, verbose=verbose),
            log=None if verbose else log,
        )
    signal.signal(signal.SIGTERM, lambda *_: replica.signal(signal.SIGTERM))
    try:
        with console.status(f"starting {ranks} ranks and loading the model"):
            announcement = replica.wait_ready()
        if announcement is None:
            return explain(replica.wait(), path)
        ready_s = time.perf_counter() - begun
        paint(announcement["port"], prompt, steps=steps, seed=seed, out=out, ready_s=ready_s)
        if serve:
            show(announcement)
            return replica.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        replica.end()
    return 0


def explain(status: int, log: Path) -> int:
    """Prints the end of the log of an app that did not come up; returns its exit status."""
    for line in log.read_text().splitlines()[-LAST_LINES:]:
        console.print(line, markup=False)
    console.print(f"[red]error:[/red] the app did not start (exit status {status}); see {log}")
    return status


def paint(
    port: int, prompt: str, *, steps: int, seed: int | None, out: Path, ready_s: float
) -> None:
    """Streams one request, draws its progress, writes its pictures and prints the times."""
    for old in out.glob("preview-*.jpg"):
        old.unlink()
    body = {"prompt": prompt, "num_inference_steps": steps, "seed": seed}
    begun = time.perf_counter()
    first_preview_s: float | None = None
    result: dict[str, Any] = {}
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("painting", total=steps, note="")
        for event in events(f"http://127.0.0.1:{port}/stream", body):
            if "preview_image" in event:
                first_preview_s = first_preview_s or time.perf_counter() - begun
                path = out / f"preview-{event['step']:02d}.jpg"
                save(event["preview_image"], path)
                progress.update(bar, completed=event["step"], note=f"preview {path.name}")
            elif "error" in event:
                raise SystemExit(f"the request failed: {event['error']}")
            else:
                result = event
        progress.update(bar, completed=steps, note="done")
    painted_s = time.perf_counter() - begun
    grid = write_grid(result["image"], out / "grid.png")
    console.print(f"{prompt!r}, seeds {result['seeds']} -> {grid}")
    first = f"first preview after {first_preview_s:.2f} s, " if first_preview_s else ""
    console.print(f"ready in {ready_s:.1f} s, {first}all pictures in {painted_s:.2f} s")
    console.print(f"the slowest rank's start: {phases(f'http://127.0.0.1:{port}/health')}")


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
    ranks: list[dict[str, Any]] = httpx.get(url).json()["ranks"]
    names = [name for name, value in ranks[0].items() if isinstance(value, float)]
    return ", ".join(
        f"{name.removesuffix('_s')} {max(rank[name] for rank in ranks):.2f} s" for name in names
    )


def save(file: dict[str, Any], path: Path) -> None:
    """Writes a file object of an answer."""
    File.model_validate(file).save(path, overwrite=True)


def write_grid(file: dict[str, Any], path: Path) -> Path:
    """Writes the result where its own format belongs, e.g. ``grid.png`` for a PNG."""
    path = path.with_suffix("." + file["content_type"].removeprefix("image/"))
    save(file, path)
    return path


def find_example(folder: Path) -> Path | None:
    """The example in the checkout that ``folder`` is in, or that this package is installed from."""
    for root in [folder, *folder.parents, Path(__file__).resolve().parents[3]]:
        if (root / EXAMPLE).is_file() and (root / "models").is_dir():
            return (root / EXAMPLE).resolve()
    return None
