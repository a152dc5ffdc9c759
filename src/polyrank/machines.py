"""What a ``machine_type`` means: a size of CPU machine, or a class of GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# The sizes of machines without a GPU, in cores.
CORES = {"XS": 1, "S": 1, "M": 2, "L": 4, "XL": 8}
ANY_GPU = "GPU"


@dataclass(frozen=True)
class Machine:
    """One kind of machine that a replica may run on: so many GPUs of a type, or so many cores."""

    type: str
    gpus: int = 0
    cores: int = 0

    def __str__(self) -> str:
        if self.gpus:
            return f"{self.gpus} x {self.type}"
        return f"{self.type} ({self.cores} core{'' if self.cores == 1 else 's'})"


def machines(
    machine_type: str | Sequence[str] = "S", num_gpus: int | None = None, ranks: int | None = None
) -> tuple[Machine, ...]:
    """What an app's options ask for, the best liked first.

    A GPU type stands for one GPU unless ``num_gpus`` says otherwise, or ``ranks``, which wins.
    """
    types = [machine_type] if isinstance(machine_type, str) else list(machine_type)
    number = num_gpus if ranks is None else ranks
    found = [_machine(each, number) for each in types or ["S"]]
    return tuple(dict.fromkeys(found))


def _machine(type: str, number: int | None) -> Machine:
    cores = CORES.get(type.upper())
    if cores is None:
        return Machine(type, cores=1) if number == 0 else Machine(type, 1 if not number else number)
    return Machine(ANY_GPU, number) if number else Machine(type.upper(), cores=cores)


def is_of_type(name: str, type: str) -> bool:
    """Whether a GPU of this name is of a type: a class as ``GPU-H100``, or the name itself.

    The class is a word of the name, or several in a row: ``GPU-RTX4090`` is "GeForce RTX 4090".
    """
    wanted = re.sub(r"[\W_]", "", re.sub(r"^GPU[-_ ]?", "", type.upper()))
    words = re.findall(r"[A-Z0-9]+", name.upper())
    runs = {
        "".join(words[begin:end])
        for begin in range(len(words))
        for end in range(begin + 1, len(words) + 1)
    }
    return not wanted or wanted in runs
