"""BentoML: one worker; its process manager starts a dead one again by itself."""

import bentoml
from sampler import TIMEOUT_S, sample


@bentoml.service(workers=1, traffic={"timeout": TIMEOUT_S})
class Sampler:
    """The model and its app."""

    @bentoml.api(route="/")
    def run(self, steps: int, log: str) -> dict[str, int]:
        """Samples."""
        return {"steps": sum(1 for _ in sample(steps, log))}
