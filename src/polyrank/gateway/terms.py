"""What the options of a deployed app come to for its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from polyrank import reports
from polyrank.scaler.gpus import Wanted
from polyrank.scaler.policy import Scaling
from polyrank.store.apps import Revision


@dataclass(frozen=True)
class Terms:
    """How many replicas, on which machines, and how long their requests may take."""

    scaling: Scaling
    wanted: Wanted
    request_timeout_s: float | None
    start_timeout_s: float | None
    startup_timeout_s: float | None

    @classmethod
    def of(cls, revision: Revision, scaled: Mapping[str, Any]) -> Self:
        """Those of a revision, with what ``apps scale`` has set over them."""
        options = effective_options(revision, scaled)
        return cls(
            Scaling.of(options),
            Wanted.of(options.get("machine_type") or "S", options.get("num_gpus")),
            options.get("request_timeout"),
            options.get("request_start_timeout"),
            options.get("startup_timeout"),
        )

    def limit(self, limits: reports.Limits) -> reports.Limits:
        """An app's limits with the times as they are now."""
        return msgspec.structs.replace(
            limits,
            request_timeout_s=self.request_timeout_s,
            start_timeout_s=self.start_timeout_s,
            startup_timeout_s=self.startup_timeout_s,
        )


def effective_options(revision: Revision, scaled: Mapping[str, Any]) -> dict[str, Any]:
    """An app's options as they hold: those of the revision, and over them what was set apart."""
    return {**revision.manifest["options"], **scaled}
