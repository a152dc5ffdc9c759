"""Which GPUs a process may use, for those who know the engine alone."""

from polyrank.devices import visible_gpus

__all__ = ["visible_gpus"]
