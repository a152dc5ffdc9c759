"""Takes an app's requests off the queue and has a replica run them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time

from polyrank.errors import ReplicaUnreachable, StoreUnavailable
from polyrank.gateway import retries
from polyrank.gateway.notices import Notices
from polyrank.gateway.upstream import Replica
from polyrank.store.requests import CANCELLED, Answer, Lease, Requests

log = logging.getLogger("polyrank.gateway")

LEASE_S = 15.0
RENEW_EVERY_S = 5.0
# How long to leave a database alone that has just failed.
STORE_PAUSE_S = 1.0


class Dispatcher:
    """The queue of one app in front of one replica.

    One task takes leases while slots are free; one puts what is past its time where it belongs; one
    renews the leases and learns of cancels. None of them looks when there is nothing to see.
    """

    def __init__(
        self,
        requests: Requests,
        replica: Replica,
        notices: Notices,
        *,
        owner: str,
        request_timeout_s: float | None = None,
        skip_retries: frozenset[str] = frozenset(),
    ) -> None:
        self._requests = requests
        self._replica = replica
        self._notices = notices
        self._owner = owner
        self._timeout_s = request_timeout_s
        self._skip_retries = skip_retries
        self._running: dict[str, tuple[Lease, asyncio.Task[None]]] = {}
        self._cancelled: set[str] = set()
        self._some_run = asyncio.Event()
        self._work = asyncio.Event()  # some request may be there to take
        self._times = asyncio.Event()  # some request may be due earlier than known

    def note_change(self) -> None:
        """A request was submitted or put back."""
        self._work.set()
        self._times.set()

    async def run(self) -> None:
        """Dispatches until cancelled; what runs then is cancelled too, and its lease given up."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take_leases(tasks))
                tasks.create_task(self._expire())
                tasks.create_task(self._renew())
        finally:
            self._running.clear()

    async def _take_leases(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            self._work.clear()
            await self._replica.slots.acquire()
            leases: list[Lease] = []
            try:
                leases = await self._requests.lease(
                    self._replica.app, self._owner, limit=1, lease_s=LEASE_S
                )
            except StoreUnavailable as error:
                log.error("%s; trying again", error)
                asyncio.get_running_loop().call_later(STORE_PAUSE_S, self._work.set)
            finally:
                if not leases:
                    self._replica.slots.release()
            for leased in leases:
                task = tasks.create_task(self._serve(leased))
                self._running[leased.id] = (leased, task)
                self._some_run.set()
                self._times.set()
                self._notices.publish(leased.id)
            if not leases:
                await self._work.wait()

    async def _expire(self) -> None:
        """Waits for the next deadline, end of a lease or end of a pause, and acts on it."""
        while True:
            self._times.clear()
            try:
                for id in await self._requests.expire():
                    self._notices.publish(id)
                due = await self._requests.next_due()
                # After looking: what paused and is due by now is not in that time any more.
                self._work.set()
            except StoreUnavailable as error:
                log.error("%s; trying again", error)
                due = time.time() + STORE_PAUSE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.time())):
                    await self._times.wait()

    async def _serve(self, leased: Lease) -> None:
        try:
            answer = await self._run(leased)
            if retries.is_retried(answer, leased.headers, self._skip_retries):
                wait_s = retries.delay_s(leased.attempt)
                await self._requests.put_back(leased.id, leased.attempt, delay_s=wait_s, why=answer)
                self.note_change()
            else:
                await self._requests.finish(leased.id, leased.attempt, answer)
        except StoreUnavailable as error:
            # The lease runs out, and the request is run again.
            log.error("the answer of %s could not be kept: %s", leased.id, error)
        finally:
            del self._running[leased.id]
            if not self._running:
                self._some_run.clear()
            self._cancelled.discard(leased.id)
            self._replica.slots.release()
            self._notices.publish(leased.id)

    async def _run(self, leased: Lease) -> Answer:
        """The replica's answer, or what stands for it."""
        headers = {**leased.headers, "x-fal-request-id": leased.id}
        limit = min((s for s in (leased.timeout_s, self._timeout_s) if s), default=None)
        try:
            async with (
                asyncio.timeout(limit),
                self._replica.call(leased.method, leased.path, headers, leased.body) as upstream,
            ):
                body = await upstream.body()
        except TimeoutError:
            return _timed_out(limit)
        except ReplicaUnreachable as error:
            log.warning("%s: %s", leased.id, error)
            return retries.UNREACHABLE
        except asyncio.CancelledError:
            if leased.id not in self._cancelled:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            return CANCELLED
        reason = (None, None) if upstream.status < 400 else _reason(upstream.status, body)
        return Answer(upstream.status, upstream.headers, body, *reason)

    async def _renew(self) -> None:
        while True:
            await self._some_run.wait()
            await asyncio.sleep(RENEW_EVERY_S)
            await self.look_for_cancels()

    async def look_for_cancels(self) -> None:
        """Renews all leases; stops what its caller has cancelled and what is ours no more."""
        attempts = {id: leased.attempt for id, (leased, _) in self._running.items()}
        if not attempts:
            return
        try:
            renewal = await self._requests.renew(attempts, lease_s=LEASE_S)
        except StoreUnavailable as error:
            log.error("leases could not be renewed: %s", error)
            return
        for id in [*renewal.to_cancel, *renewal.lost]:
            if id in self._running:
                self._cancelled.add(id)
                self._running[id][1].cancel()


def _timed_out(limit_s: float | None) -> Answer:
    detail = f"the request did not end within {limit_s:g} s; its work has been stopped"
    body = {"detail": detail, "error_type": "request_timeout"}
    # The caller or the app set this limit: trying again would meet it again.
    headers = {"content-type": "application/json", "x-fal-needs-retry": "0"}
    return Answer(504, headers, json.dumps(body).encode(), detail, "request_timeout")


def _reason(status: int, body: bytes) -> tuple[str, str]:
    """Why an answer is an error, for ``error`` and ``error_type`` of a status."""
    try:
        answer = json.loads(body)
        detail = answer["detail"]
        return detail if isinstance(detail, str) else json.dumps(detail), str(
            answer.get("error_type") or ("bad_request" if status < 500 else "runner_server_error")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the app answered {status}", "runner_server_error"
