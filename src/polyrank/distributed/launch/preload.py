"""What a worker class wants imported once, before its ranks are forked."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pkgutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polyrank import modules

CUDA_ERROR_NOT_INITIALIZED = 3


@dataclass(frozen=True)
class Preload:
    """Modules, or objects of modules, and where else they may be found."""

    names: Sequence[str] = ()
    path: Sequence[str] = ()


def import_all(preload: Preload) -> str:
    """Imports what is asked for; why that is of no use, or "".

    A process that has opened a GPU, or has threads of Python's, must not be forked. Threads that
    libraries keep for themselves are their own affair: those of numpy and torch bear a fork.
    """
    modules.extend_path(preload.path)
    with _driver_left_alone():
        for name in preload.names:
            try:
                pkgutil.resolve_name(name)
            except Exception as error:
                # The rank that imports it in earnest says more about it.
                return f"{name} cannot be imported: {type(error).__name__}: {error}"
    if _has_opened_gpu():
        return f"importing {', '.join(preload.names)} opens a GPU"
    others = set(threading.enumerate()) - {threading.main_thread()}
    if started := [each.name for each in others]:
        return f"importing {', '.join(preload.names)} starts threads ({', '.join(started)})"
    return ""


@contextlib.contextmanager
def _driver_left_alone() -> Iterator[None]:
    """Lets modules ask torch whether there is a GPU: it asks NVML then, which survives a fork."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _has_opened_gpu() -> bool:
    """Whether CUDA was initialized in this process; asking does not."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False  # nobody has loaded it
    count = ctypes.c_int()
    code: int = driver.cuDeviceGetCount(ctypes.byref(count))
    return code != CUDA_ERROR_NOT_INITIALIZED
