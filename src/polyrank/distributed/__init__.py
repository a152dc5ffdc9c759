"""The engine: one model over many ranks. Usable on its own as a library."""

from polyrank.distributed.runner import DistributedRunner
from polyrank.distributed.worker import DistributedWorker

__all__ = ["DistributedRunner", "DistributedWorker"]
