"""Ray Serve: one replica behind its proxy; Ray starts a dead replica again by itself."""

import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from sampler import PORT, TIMEOUT_S, sample

api = FastAPI()


class Request(BaseModel):
    """What to sample."""

    steps: int
    log: str


# The default of 5 throttles 32 callers: the proxy waits longer and longer between its attempts.
@serve.deployment(max_ongoing_requests=64)
@serve.ingress(api)
class Sampler:
    """The model and its app."""

    @api.post("/")
    def run(self, request: Request) -> dict[str, int]:
        """Samples."""
        return {"steps": sum(1 for _ in sample(request.steps, request.log))}


if __name__ == "__main__":
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1")
    serve.start(
        http_options={"host": "127.0.0.1", "port": PORT, "request_timeout_s": TIMEOUT_S},
    )
    serve.run(Sampler.bind(), blocking=True)
