"""What the NVIDIA driver says of the GPUs of this machine, by NVML."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import pynvml

from polyrank.distributed import devices
from polyrank.distributed.devices import Gpu

log = logging.getLogger("polyrank.scaler")

# A pair of GPUs by UUID, and how many NVLinks join them.
Links = Mapping[frozenset[str], int]
# Errors (XIDs) that an app causes; the GPU is as good as before. The same that NVIDIA's device
# plugin for Kubernetes passes over.
XIDS_OF_APPS = frozenset({13, 31, 43, 45, 68, 109})
# How long the waiting thread is deaf to ``close``: NVML's wait cannot be interrupted.
WAIT_MS = 1000


class Nvml:
    """The driver, from ``__init__`` to ``close``. Its methods may be called from any thread."""

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._ecc_errors: dict[str, int] = {}
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None

    @classmethod
    def open(cls, nvml: Any = pynvml) -> Nvml | None:
        """The driver, or None where there is none."""
        try:
            return cls(nvml)
        except nvml.NVMLError as error:
            log.debug("no GPUs: %s", error)
            return None

    def close(self) -> None:
        """Ends the watch, if there is one."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        self._nvml.nvmlShutdown()

    def gpus(self, environment: Mapping[str, str] = os.environ) -> list[Gpu]:
        """The GPUs that this process may use."""
        found = devices.gpus(environment, self._nvml)
        # Errors from before this server came are the operator's: a restart is a fresh look.
        self._ecc_errors = {each.uuid: self._count_ecc_errors(each.uuid) for each in found}
        return found

    def links(self, gpus: Sequence[Gpu]) -> dict[frozenset[str], int]:
        """How many NVLinks join each two of these, directly or over switches; without the zeros."""
        found: dict[frozenset[str], int] = {}
        ends = {each.uuid: self._link_ends(each.uuid) for each in gpus}
        buses = {self._bus(each.uuid): each.uuid for each in gpus}
        for one, other in combinations(ends, 2):
            direct = sum(buses.get(end) == other for end in ends[one])
            over_switches = min(ends[one].count(""), ends[other].count(""))
            if count := direct + over_switches:
                found[frozenset({one, other})] = count
        return found

    def fault(self, uuid: str) -> str | None:
        """Why a GPU is not fit for use, None if it is."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            with contextlib.suppress(nvml.NVMLError_NotSupported):
                nvml.nvmlDeviceGetMemoryInfo(handle)
        except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_NotFound):
            return "it has fallen off the bus"
        except nvml.NVMLError_ResetRequired:
            return "it needs a reset"
        except nvml.NVMLError as error:
            return f"the driver says: {error}"
        if self._is_split(handle):
            return "it is split into parts (MIG), and whole GPUs are leased"
        if self._count_ecc_errors(uuid) > self._ecc_errors.get(uuid, 0):
            return "uncorrectable memory errors (ECC)"
        if self._has_failed_rows(handle):
            return "memory rows that could not be replaced"
        return None

    def processes(self, uuid: str) -> list[int]:
        """The processes that compute on a GPU. In a container, those of others are not seen."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except self._nvml.NVMLError:
            return []
        return [each.pid for each in running]

    def watch(self, gpus: Sequence[Gpu], report: Callable[[str, str], None]) -> None:
        """Calls ``report(uuid, reason)`` from a thread of its own when a GPU breaks.

        Where the driver has no such events, as on WSL and some virtual GPUs, nothing is reported,
        and a broken GPU is found by ``fault`` alone.
        """
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            log.warning("broken GPUs are not reported here: %s", error)
            return
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        watched = [each.uuid for each in gpus if self._register(each, wanted, events)]
        if not watched:
            nvml.nvmlEventSetFree(events)
            return
        self._watcher = threading.Thread(
            target=self._wait, args=(events, watched, report), name="nvml-events", daemon=True
        )
        self._watcher.start()

    def _register(self, gpu: Gpu, wanted: int, events: Any) -> bool:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            supported = nvml.nvmlDeviceGetSupportedEventTypes(handle) & wanted
            if supported:
                nvml.nvmlDeviceRegisterEvents(handle, supported, events)
        except nvml.NVMLError as error:
            log.warning("no reports if GPU %d (%s) breaks: %s", gpu.index, gpu.name, error)
            return False
        return bool(supported)

    def _wait(self, events: Any, watched: list[str], report: Callable[[str, str], None]) -> None:
        nvml = self._nvml
        try:
            while not self._closing.is_set():
                try:
                    event = nvml.nvmlEventSetWait_v2(events, WAIT_MS)
                except nvml.NVMLError_Timeout:
                    continue
                except nvml.NVMLError as error:
                    # One that is lost sends no event of its own.
                    faults = {each: fault for each in watched if (fault := self.fault(each))}
                    for uuid, fault in faults.items():
                        report(uuid, fault)
                    watched = [each for each in watched if each not in faults]
                    if not faults or not watched:
                        log.error("broken GPUs are not reported any more: %s", error)
                        return
                else:
                    self._note(event, report)
        finally:
            nvml.nvmlEventSetFree(events)

    def _note(self, event: Any, report: Callable[[str, str], None]) -> None:
        nvml = self._nvml
        try:
            uuid = nvml.nvmlDeviceGetUUID(event.device)
        except nvml.NVMLError as error:
            log.error("a GPU reports an error, and does not say which one it is: %s", error)
            return
        if event.eventType != nvml.nvmlEventTypeXidCriticalError:
            report(uuid, "uncorrectable memory errors (ECC)")
        elif event.eventData not in XIDS_OF_APPS:
            report(uuid, f"the driver reports XID {event.eventData}")
        else:
            log.warning("an app has caused XID %d on GPU %s", event.eventData, uuid)

    def _bus(self, uuid: str) -> str:
        handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        return _text(self._nvml.nvmlDeviceGetPciInfo(handle).busId)

    def _link_ends(self, uuid: str) -> list[str]:
        """Where each active NVLink of a GPU leads: to a bus address, or to a switch: ``""``."""
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        ends = []
        for link in range(nvml.NVML_NVLINK_MAX_LINKS):
            try:
                if not nvml.nvmlDeviceGetNvLinkState(handle, link):
                    continue
                remote = nvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link)
                if remote == nvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                    ends.append("")
                else:
                    info = nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link)
                    ends.append(_text(info.busId))
            except nvml.NVMLError:
                continue  # fewer links than any GPU may have, or none
        return ends

    def _is_split(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0])
        except self._nvml.NVMLError:
            return False

    def _count_ecc_errors(self, uuid: str) -> int:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))
        except nvml.NVMLError:
            return 0

    def _has_failed_rows(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetRemappedRows(handle)[3])
        except self._nvml.NVMLError:
            return False


def _text(address: str | bytes) -> str:
    return (address.decode() if isinstance(address, bytes) else address).upper()
