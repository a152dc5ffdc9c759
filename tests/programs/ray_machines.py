"""A Ray cluster of three small machines, all of them here."""

from collections.abc import Iterator

import pytest

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'polyrank[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
# The end of a machine is noticed soon.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}


def three_machines() -> Iterator[Cluster]:
    """The cluster, one CPU on each machine; RAY_ADDRESS names it. The body of a fixture."""
    head = {**MACHINE, "include_dashboard": False, "_system_config": HEALTH}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", made.address)
        for _ in range(2):
            made.add_node(wait=False, **MACHINE)
        made.wait_for_nodes()
        yield made
        ray.shutdown()
        made.shutdown()
