"""Submitted requests in the caller's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyrank.client.flows import Ticket
from polyrank.client.statuses import Status

if TYPE_CHECKING:
    from polyrank.client.aio import AsyncClient
    from polyrank.client.sync import SyncClient


@dataclass(frozen=True)
class SyncRequestHandle(Ticket):
    """A submitted request, for blocking code."""

    client: SyncClient = field(repr=False, compare=False)

    @classmethod
    def from_request_id(
        cls, client: SyncClient, application: str, request_id: str
    ) -> SyncRequestHandle:
        """The request of that id, whoever submitted it."""
        return client.get_handle(application, request_id)

    def status(self, *, with_logs: bool = False) -> Status:
        """Where it stands: a Queued, an InProgress or a Completed."""
        return self.client._run(self.client._flows.status_of(self, with_logs))

    def iter_events(
        self, *, with_logs: bool = False, interval: float | None = None
    ) -> Iterator[Status]:
        """Its statuses as they change, to the last, a Completed."""
        return self.client._values(self.client._flows.events_of(self, with_logs))

    def stream(self) -> Iterator[Any]:
        """The events that a streaming endpoint answers, from the first on, however late."""
        return self.client._values(self.client._flows.stream_of(self))

    def get(self, *, interval: float | None = None) -> Any:
        """Waits for its end and returns its result. Raises ClientHTTPError if it failed."""
        return self.client._run(self.client._flows.result_of(self))

    def cancel(self) -> None:
        """Has it stopped on every rank, or not started."""
        self.client._run(self.client._flows.cancel_of(self))


@dataclass(frozen=True)
class AsyncRequestHandle(Ticket):
    """A submitted request."""

    client: AsyncClient = field(repr=False, compare=False)

    @classmethod
    def from_request_id(
        cls, client: AsyncClient, application: str, request_id: str
    ) -> AsyncRequestHandle:
        """The request of that id, whoever submitted it."""
        return client.get_handle(application, request_id)

    async def status(self, *, with_logs: bool = False) -> Status:
        """Where it stands: a Queued, an InProgress or a Completed."""
        return await self.client._run(self.client._flows.status_of(self, with_logs))

    def iter_events(
        self, *, with_logs: bool = False, interval: float | None = None
    ) -> AsyncIterator[Status]:
        """Its statuses as they change, to the last, a Completed."""
        return self.client._values(self.client._flows.events_of(self, with_logs))

    def stream(self) -> AsyncIterator[Any]:
        """The events that a streaming endpoint answers, from the first on, however late."""
        return self.client._values(self.client._flows.stream_of(self))

    async def get(self, *, interval: float | None = None) -> Any:
        """Waits for its end and returns its result. Raises ClientHTTPError if it failed."""
        return await self.client._run(self.client._flows.result_of(self))

    async def cancel(self) -> None:
        """Has it stopped on every rank, or not started."""
        await self.client._run(self.client._flows.cancel_of(self))
