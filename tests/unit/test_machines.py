"""What a machine type means."""

import pytest

from polyrank.machines import Machine, is_of_type, machines


@pytest.mark.parametrize(
    ("type", "name"),
    [
        ("GPU", "NVIDIA L4"),
        ("GPU-H100", "NVIDIA H100 80GB HBM3"),
        ("GPU-H100", "NVIDIA H100 PCIe"),
        ("GPU-A100", "NVIDIA A100-SXM4-80GB"),
        ("GPU-A6000", "NVIDIA RTX A6000"),
        ("GPU-RTX4090", "NVIDIA GeForce RTX 4090"),
        ("gpu-h200", "NVIDIA H200"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB"),
        ("H100", "NVIDIA H100 NVL"),
    ],
)
def test_a_gpu_is_of_a_class_and_of_its_own_name(type: str, name: str) -> None:
    assert is_of_type(name, type)


@pytest.mark.parametrize(
    ("type", "name"),
    [
        ("GPU-A10", "NVIDIA A100-SXM4-80GB"),
        ("GPU-A100", "NVIDIA A10"),
        ("GPU-H200", "NVIDIA GH200 480GB"),
        ("GPU-L4", "NVIDIA L40S"),
        ("GPU-H100", "NVIDIA H200"),
    ],
)
def test_a_class_is_a_whole_word_of_the_name(type: str, name: str) -> None:
    assert not is_of_type(name, type)


@pytest.mark.parametrize(
    ("machine_type", "num_gpus", "ranks", "wanted"),
    [
        ("S", None, None, [Machine("S", cores=1)]),
        ("M", None, None, [Machine("M", cores=2)]),
        ([], None, None, [Machine("S", cores=1)]),
        ("GPU-H100", None, None, [Machine("GPU-H100", 1)]),
        ("GPU-H100", 4, None, [Machine("GPU-H100", 4)]),
        ("GPU-H100", 4, 2, [Machine("GPU-H100", 2)]),
        ("GPU-H100", 0, None, [Machine("GPU-H100", cores=1)]),
        # Without a class, any GPU will do.
        ("S", 2, None, [Machine("GPU", 2)]),
        (["GPU-H100", "GPU-A100"], 2, None, [Machine("GPU-H100", 2), Machine("GPU-A100", 2)]),
        (["GPU-H100", "L"], None, None, [Machine("GPU-H100", 1), Machine("L", cores=4)]),
    ],
)
def test_the_options_of_an_app_name_machines_in_order(
    machine_type: str | list[str], num_gpus: int | None, ranks: int | None, wanted: list[Machine]
) -> None:
    assert list(machines(machine_type, num_gpus, ranks)) == wanted


def test_a_machine_is_told_in_words() -> None:
    assert str(Machine("GPU-H100", 4)) == "4 x GPU-H100"
    assert str(Machine("M", cores=2)) == "M (2 cores)"
