"""Which GPUs this process may use, without importing torch or touching a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pynvml


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the visible NVIDIA GPUs, in order; empty where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        names = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            names.append((str(index), uuid, name))
    finally:
        pynvml.nvmlShutdown()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [name for _, _, name in names]
    visible = []
    for wanted in filter(None, (part.strip() for part in chosen.split(","))):
        match = [name for index, uuid, name in names if wanted == index or uuid.startswith(wanted)]
        if not match:
            break  # as CUDA does: an unknown device hides all that follow
        visible.append(match[0])
    return visible
