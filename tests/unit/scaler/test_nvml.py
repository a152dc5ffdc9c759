"""The door to the NVIDIA driver, with a stand-in for the ``pynvml`` module behind it.

Nothing here has seen a GPU: the stand-in answers as NVML's documentation says. The rest of the
inventory is tested without it.
"""

import asyncio
import queue
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from polyrank import devices
from polyrank.scaler import nvml
from polyrank.scaler.gpus import Device, Inventory, Wanted
from polyrank.scaler.nvml import Nvml

ONE = Wanted.of("GPU")


@dataclass
class FakeGpu:
    """One GPU of the machine; ``links`` are the other ends: a number of a GPU, or "switch"."""

    name: str = "NVIDIA H100 80GB HBM3"
    links: list[int | str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    ecc_errors: int = 0
    failed_rows: int = 0
    is_split: bool = False
    error: int | None = None
    has_events: bool = True


class FakeNvml:
    """What of ``pynvml`` is used. A handle is the GPU's index."""

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = gpus
        self.events: queue.Queue[Any] = queue.Queue()
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("NVML", "nvmlEventType")):  # constants and exceptions
            return getattr(pynvml, name)
        raise AttributeError(name)

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.gpus[handle].name

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if (error := self.gpus[handle].error) is not None:
            raise pynvml.NVMLError(error)
        return SimpleNamespace(total=80 * 2**30)

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return SimpleNamespace(busId=f"0000000{handle}:00:00.0")

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        return [int(self.gpus[handle].is_split)] * 2

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, since: int) -> int:
        return self.gpus[handle].ecc_errors

    def nvmlDeviceGetRemappedRows(self, handle: int) -> tuple[int, int, int, int]:
        return 0, 0, 0, self.gpus[handle].failed_rows

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.gpus[handle].pids]

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        if link >= len(self.gpus[handle].links):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return 1

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: int, link: int) -> int:
        is_switch = self.gpus[handle].links[link] == "switch"
        return pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH if is_switch else 0

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle: int, link: int) -> Any:
        other = self.gpus[handle].links[link]
        assert isinstance(other, int)
        return self.nvmlDeviceGetPciInfo(other)

    def nvmlEventSetCreate(self) -> str:
        return "events"

    def nvmlEventSetFree(self, events: str) -> None:
        assert events == "events"

    def nvmlDeviceGetSupportedEventTypes(self, handle: int) -> int:
        if not self.gpus[handle].has_events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(pynvml.nvmlEventTypeXidCriticalError)

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: str) -> None:
        # Not those that the GPU does not have.
        assert kinds == pynvml.nvmlEventTypeXidCriticalError

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> Any:
        try:
            event = self.events.get(timeout=0.02)
        except queue.Empty:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT) from None
        if isinstance(event, int):
            raise pynvml.NVMLError(event)
        return event

    def xid(self, handle: int, number: int) -> None:
        """A GPU reports an error."""
        kind = pynvml.nvmlEventTypeXidCriticalError
        self.events.put(SimpleNamespace(device=handle, eventType=kind, eventData=number))


def detect(fake: FakeNvml, environment: dict[str, str] | None = None, **rest: Any) -> Inventory:
    return Inventory.detect(driver=Nvml(fake), environment=environment or {}, slots=4, **rest)


def test_everything_that_is_asked_of_nvml_is_in_the_real_module() -> None:
    for module in (nvml, devices):
        assert module.__file__ is not None
        used = set(re.findall(r"nvml\.((?:nvml|NVML)\w+)", Path(module.__file__).read_text()))
        assert len(used) > 5
        assert [name for name in used if not hasattr(pynvml, name)] == []


def test_a_machine_without_the_driver_has_no_gpus() -> None:
    class NoNvml(FakeNvml):
        def nvmlInit(self) -> None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    assert Nvml.open(NoNvml()) is None
    assert devices.gpus({}, NoNvml()) == []
    assert Inventory.detect(slots=2).describe().startswith(f"{len(devices.gpus())} GPU")


async def test_the_gpus_of_a_machine_and_their_links() -> None:
    fake = FakeNvml(
        FakeGpu(links=[1, 1, "switch"]), FakeGpu(links=[0, 0]), FakeGpu(links=["switch"] * 2)
    )
    inventory = detect(fake)
    assert inventory.describe().splitlines() == [
        "3 GPUs, 4 slots",
        "  0  NVIDIA H100 80GB HBM3 80 GiB  GPU-0  free",
        "  1  NVIDIA H100 80GB HBM3 80 GiB  GPU-1  free",
        "  2  NVIDIA H100 80GB HBM3 80 GiB  GPU-2  free",
        "  0 and 1 are joined by 2 NVLinks",
        "  0 and 2 are joined by 1 NVLink",
    ]
    await inventory.close()
    assert fake.opened == 0


def test_only_visible_gpus_count() -> None:
    fake = FakeNvml(*(FakeGpu() for _ in range(4)))
    visible = detect(fake, {"CUDA_VISIBLE_DEVICES": "GPU-3,1"}).devices()
    assert [each.gpu.index for each in visible] == [3, 1]


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        (FakeGpu(is_split=True), "MIG"),
        (FakeGpu(failed_rows=1), "memory rows"),
        (FakeGpu(error=pynvml.NVML_ERROR_GPU_IS_LOST), "off the bus"),
        (FakeGpu(error=pynvml.NVML_ERROR_RESET_REQUIRED), "needs a reset"),
        (FakeGpu(error=pynvml.NVML_ERROR_UNKNOWN), "the driver says: Unknown Error"),
    ],
)
def test_a_gpu_that_is_not_fit_for_use_is_never_leased(gpu: FakeGpu, reason: str) -> None:
    inventory = detect(FakeNvml(gpu, FakeGpu()))
    assert reason in (inventory.devices()[0].broken or "")
    assert inventory.capacity(ONE) == 1


async def test_a_gpu_is_examined_each_time_it_is_leased() -> None:
    fake = FakeNvml(FakeGpu(ecc_errors=3), FakeGpu())
    inventory = detect(fake)
    # Those errors are from before; these are not.
    assert inventory.devices()[0].broken is None
    fake.gpus[0].ecc_errors = 4
    assert (await inventory.lease(ONE, "r1")).gpus == ("GPU-1",)
    assert inventory.devices()[0].broken == "uncorrectable memory errors (ECC)"


async def test_an_error_of_the_driver_takes_a_gpu_out_and_one_of_an_app_does_not() -> None:
    fake = FakeNvml(FakeGpu(), FakeGpu())
    inventory = detect(fake)
    told: asyncio.Future[Device] = asyncio.get_running_loop().create_future()
    inventory.watch(told.set_result)
    await inventory.lease(Wanted.of("GPU", 2), "r1")
    fake.xid(0, 31)
    fake.xid(1, 79)
    device = await told
    assert (device.gpu.uuid, device.owner) == ("GPU-1", "r1")
    assert device.broken == "the driver reports XID 79"
    assert inventory.devices()[0].broken is None
    await inventory.close()


async def test_a_gpu_that_falls_off_the_bus_is_found_though_it_sends_no_event() -> None:
    fake = FakeNvml(FakeGpu(), FakeGpu())
    inventory = detect(fake)
    told: asyncio.Future[Device] = asyncio.get_running_loop().create_future()
    inventory.watch(told.set_result)
    fake.gpus[1].error = pynvml.NVML_ERROR_GPU_IS_LOST
    fake.events.put(pynvml.NVML_ERROR_GPU_IS_LOST)
    device = await told
    assert (device.gpu.uuid, device.broken) == ("GPU-1", "it has fallen off the bus")
    await inventory.close()


async def test_without_events_a_broken_gpu_is_still_found_when_it_is_leased() -> None:
    fake = FakeNvml(FakeGpu(has_events=False), FakeGpu(has_events=False))
    inventory = detect(fake)
    inventory.watch()
    fake.gpus[0].error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert (await inventory.lease(ONE, "r1")).gpus == ("GPU-1",)
    await inventory.close()


async def test_a_gpu_on_which_others_compute_is_taken_last() -> None:
    inventory = detect(FakeNvml(FakeGpu(pids=[4711]), FakeGpu()))
    assert "GPU-0  in use by 1 other process\n" in inventory.describe()
    assert (await inventory.lease(ONE, "r1")).gpus == ("GPU-1",)
    assert (await inventory.lease(ONE, "r2")).gpus == ("GPU-0",)


async def test_or_not_before_they_have_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        fake = FakeNvml(FakeGpu(pids=[other.pid]))
        inventory = detect(fake, avoid_others=True)
        waiting = asyncio.create_task(inventory.lease(ONE, "r1"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        fake.gpus[0].pids.clear()
        other.communicate(b"\n")
        assert (await waiting).gpus == ("GPU-0",)
    await inventory.close()
