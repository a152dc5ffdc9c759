"""Which GPUs a process may use, for those who know the engine alone."""

from polyrank.devices import Gpu, gpus, visible_gpus

__all__ = ["Gpu", "gpus", "visible_gpus"]
