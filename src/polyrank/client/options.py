"""What a client is made with: arguments first, then the environment and the profile in use."""

from __future__ import annotations

from polyrank.client.flows import Flows
from polyrank.settings import ClientSettings

TIMEOUT_S = 120.0
ATTEMPTS = 8
AGENT = "polyrank-client"
# For servers that need none.
ANY_KEY = "local:local"


def make_flows(server: str | None, key: str | None, timeout_s: float, attempts: int) -> Flows:
    """The flows of the server and the key that are given or set."""
    settings = ClientSettings() if server is None else ClientSettings(server=server)
    if key is None and settings.key is not None:
        key = settings.key.get_secret_value()
    return Flows(settings.server, key, agent=AGENT, timeout_s=timeout_s, attempts=attempts)


def environment(server: str, key: str | None = None) -> dict[str, str]:
    """What makes programs call ``server``: those that use this client, and files that polyrank
    loads and that import ``fal_client``, which insists on a key. It is the one that is set here
    unless given."""
    if key is None and (known := ClientSettings(server=server).key) is not None:
        key = known.get_secret_value()
    key = key or ANY_KEY
    return {"POLYRANK_SERVER": server, "POLYRANK_KEY": key, "FAL_KEY": key}
