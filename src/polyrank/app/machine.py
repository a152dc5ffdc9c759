"""Whether this machine has the GPUs that an app asks for."""

from __future__ import annotations

from polyrank.app.options import AppOptions
from polyrank.errors import NotEnoughDevices
from polyrank.machines import machines


def gpus_wanted(options: AppOptions, ranks: int | None = None) -> int:
    """How many GPUs an app asks for: ``ranks``, its ``num_gpus``, or one by its machine type."""
    return machines(options.machine_type, options.num_gpus, ranks)[0].gpus


def notice(options: AppOptions, ranks: int | None, device: str, gpus: list[str]) -> str | None:
    """What a user should know where an app that asks for GPUs runs without; None if all is there.

    ``gpus`` are the names of those this machine has. Where it has none, ``device`` "auto" runs
    on the CPU. Raises NotEnoughDevices where it has too few.
    """
    wanted = gpus_wanted(options, ranks)
    if wanted == 0 or device == "cpu" or len(gpus) >= wanted:
        return None
    asked = (
        f"--ranks {ranks}"
        if ranks is not None
        else f"num_gpus={wanted}"
        if options.num_gpus is not None
        else f"machine_type={options.machine_type!r}"
    )
    if not gpus and device == "auto":
        return f"the app asks for {asked}; this machine has no GPU: ranks run on the CPU"
    there = f"{len(gpus)} GPU{'s' if len(gpus) != 1 else ''}"
    raise NotEnoughDevices(
        f"the app asks for {asked}; this machine has {there}"
        + (f" ({', '.join(gpus)})" if gpus else "")
        + "; ask for fewer with --ranks, or run on the CPU with --device cpu",
        needed=wanted,
        found=len(gpus),
    )
