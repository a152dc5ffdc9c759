"""mosec: one worker; its limit on a request is the command line's ``--timeout``."""

from typing import Any

from mosec import Server, Worker
from sampler import sample


class Sampler(Worker):
    """The model."""

    def forward(self, data: dict[str, Any]) -> dict[str, int]:
        """Samples."""
        return {"steps": sum(1 for _ in sample(data["steps"], data["log"]))}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Sampler)
    server.run()
