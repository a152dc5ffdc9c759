"""LitServe: ``restart_workers`` starts a dead worker again (it is off by default)."""

from typing import Any

from litserve import LitAPI, LitServer
from sampler import PORT, TIMEOUT_S, sample


class Sampler(LitAPI):
    """The model."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def predict(self, x: dict[str, Any]) -> dict[str, int]:
        """Samples."""
        return {"steps": sum(1 for _ in sample(x["steps"], x["log"]))}


if __name__ == "__main__":
    server = LitServer(
        Sampler(api_path="/"), accelerator="cpu", timeout=TIMEOUT_S, restart_workers=True
    )
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False)
