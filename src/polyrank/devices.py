"""Which GPUs this process may use, without importing torch or touching a GPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pynvml

log = logging.getLogger("polyrank.distributed")


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine. ``memory`` is in bytes, 0 where the driver does not tell."""

    index: int
    uuid: str
    name: str
    memory: int = 0


def gpus(environment: Mapping[str, str] = os.environ, nvml: Any = pynvml) -> list[Gpu]:
    """The visible NVIDIA GPUs, in order; empty where there is no driver."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        found = [_gpu(index, nvml) for index in range(nvml.nvmlDeviceGetCount())]
    finally:
        nvml.nvmlShutdown()
    return _visible([each for each in found if each], environment.get("CUDA_VISIBLE_DEVICES"))


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the visible NVIDIA GPUs, in order; empty where there is no driver."""
    return [each.name for each in gpus(environment)]


def _gpu(index: int, nvml: Any) -> Gpu | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError as error:
        log.warning("GPU %d cannot be used: the driver says %s", index, error)
        return None
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:  # one that has no memory of its own
        memory = 0
    return Gpu(index, uuid, name, memory)


def _visible(found: list[Gpu], chosen: str | None) -> list[Gpu]:
    if chosen is None:
        return found
    visible = []
    for wanted in filter(None, (part.strip() for part in chosen.split(","))):
        match = [
            each for each in found if wanted == str(each.index) or each.uuid.startswith(wanted)
        ]
        if not match:
            break  # as CUDA does: an unknown device hides all that follow
        visible.append(match[0])
    return visible
