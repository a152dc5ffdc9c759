"""What an app asks for and what the machine has."""

import pytest

from polyrank.app.machine import notice
from polyrank.app.options import AppOptions
from polyrank.errors import NotEnoughDevices

H200 = "NVIDIA H200"


@pytest.mark.parametrize(
    ("options", "ranks", "device", "gpus"),
    [
        (AppOptions(), None, "auto", []),
        (AppOptions(num_gpus=2), None, "auto", [H200, H200]),
        (AppOptions(num_gpus=8), 2, "cuda", [H200, H200]),
        (AppOptions(num_gpus=8), None, "cpu", [H200]),
        (AppOptions(machine_type=["GPU-H100", "S"]), None, "auto", [H200]),
        (AppOptions(machine_type="GPU-H100", num_gpus=0), None, "auto", []),
    ],
)
def test_an_app_that_has_what_it_asks_for_is_told_nothing(
    options: AppOptions, ranks: int | None, device: str, gpus: list[str]
) -> None:
    assert notice(options, ranks, device, gpus) is None


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (AppOptions(num_gpus=2), "num_gpus=2"),
        (AppOptions(machine_type="GPU-H100"), "machine_type='GPU-H100'"),
    ],
)
def test_a_machine_without_gpus_runs_on_the_cpu_and_says_so(
    options: AppOptions, asked: str
) -> None:
    told = notice(options, None, "auto", [])
    assert told == f"the app asks for {asked}; this machine has no GPU: ranks run on the CPU"


@pytest.mark.parametrize(
    ("ranks", "device", "gpus", "says"),
    [
        (
            None,
            "auto",
            [H200, H200],
            "num_gpus=4; this machine has 2 GPUs .NVIDIA H200, NV",
        ),
        (None, "cuda", [], "num_gpus=4; this machine has 0 GPUs;"),
        (3, "cuda", [H200], "--ranks 3; this machine has 1 GPU .NVIDIA H200.;"),
    ],
)
def test_too_few_gpus_are_an_error_that_names_what_is_there(
    ranks: int | None, device: str, gpus: list[str], says: str
) -> None:
    with pytest.raises(NotEnoughDevices, match=says) as raised:
        notice(AppOptions(num_gpus=4), ranks, device, gpus)
    assert (raised.value.needed, raised.value.found) == (ranks or 4, len(gpus))
