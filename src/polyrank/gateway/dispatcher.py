"""Takes queued requests of one app, has its replica run them, and keeps what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from urllib.parse import quote

from polyrank.errors import ReplicaUnreachable, StoreUnavailable
from polyrank.gateway import retries
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.notices import FLEET, Notices
from polyrank.gateway.progress import Progress
from polyrank.gateway.replicas import Slot
from polyrank.gateway.storing import PAUSE_S, stored
from polyrank.gateway.upstream import Exchange
from polyrank.reports import QUEUED_HEADER, Line
from polyrank.store.requests import CANCELLED, Answer, Lease, Requests

log = logging.getLogger("polyrank.gateway")

LEASE_S = 15.0
RENEW_EVERY_S = 5.0
# In one transaction: a commit costs the same for one lease and for many.
MOST_LEASES = 64
# What the last lines of a log get to arrive behind the answer.
LOG_S = 1.0
MAX_ANSWER_BYTES = 256 * 2**20


@dataclasses.dataclass
class _Running:
    """A request that the replica works on."""

    lease: Lease
    task: asyncio.Task[None]
    progress: Progress


class Dispatcher:
    """The queue of one app in front of its replica.

    One task takes leases while slots are free; one puts what is past its time where it belongs; one
    renews the leases and learns of cancels. None of them looks when there is nothing to see.
    ``is_shared`` says that other servers use the same database: their deaths are not announced, so
    their leases are looked at once in a lease's time.
    """

    def __init__(
        self,
        requests: Requests,
        app: HostedApp,
        notices: Notices,
        *,
        owner: str,
        is_shared: bool = False,
    ) -> None:
        self._requests = requests
        self._app = app
        self._notices = notices
        self._owner = owner
        self._patience_s = LEASE_S if is_shared else None
        self._running: dict[str, _Running] = {}
        self._cancelled: set[str] = set()
        self._some_run = asyncio.Event()
        self._none_run = asyncio.Event()
        self._none_run.set()
        self._cancels = asyncio.Event()  # another server may have cancelled what runs here
        self._work = asyncio.Event()  # some request may be there to take
        self._due = _Due()
        self._taking: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """How many requests the replica works on."""
        return len(self._running)

    def note_change(self, due_in_s: float | None = None) -> None:
        """A request was submitted or put back; ``due_in_s``: how long it may wait, or pauses."""
        if due_in_s is not None:
            self._due.note(time.time() + due_in_s)
        self._work.set()
        self._app.on_demand()
        self._notices.publish(FLEET)

    async def idle(self) -> None:
        """Waits until the replicas work on no request of the queue."""
        await self._none_run.wait()

    def take_no_more(self) -> None:
        """Takes no more leases; what runs goes on."""
        if self._taking is not None:
            self._taking.cancel()

    def note_foreign_change(self, id: str) -> None:
        """Another server changed a request: there may be work to take, or one of ours to stop."""
        self._work.set()
        self._app.on_demand()
        self._notices.publish(FLEET)
        if (running := self._running.get(id)) is not None and not running.task.done():
            self._cancels.set()

    def progress(self, id: str) -> Progress | None:
        """What a request has let out so far, if it runs here."""
        running = self._running.get(id)
        return None if running is None else running.progress

    def add_line(self, line: Line) -> bool:
        """A line of a request's log; False if that request does not run here."""
        if (progress := self.progress(line.request_id)) is None:
            return False
        progress.add_line(line)
        self._notices.publish(line.request_id)
        return True

    def end_log(self, id: str) -> bool:
        """There will be no more lines of a request; False if it does not run here."""
        if (progress := self.progress(id)) is None:
            return False
        progress.whole.set()
        return True

    async def run(self) -> None:
        """Dispatches until cancelled; what runs then is cancelled too, and its lease given up."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._taking = tasks.create_task(self._take_leases(tasks))
                tasks.create_task(self._expire())
                tasks.create_task(self._renew())
        finally:
            self._running.clear()

    async def _take_leases(self, tasks: asyncio.TaskGroup) -> None:
        replicas = self._app.replicas
        while True:
            slots = [await replicas.take(patient=True)]
            slots += replicas.take_free(MOST_LEASES - 1)
            self._work.clear()
            leases: list[Lease] = []
            try:
                leases = await self._lease(len(slots))
                for leased in leases:
                    self._begin(tasks, leased, _pop_best(slots, leased.hint))
            finally:
                for slot in slots:
                    slot.release(was_used=False)
            if not leases:
                await self._work.wait()

    async def _lease(self, limit: int) -> list[Lease]:
        try:
            return await self._requests.lease(
                self._app.name, self._owner, limit=limit, lease_s=LEASE_S
            )
        except StoreUnavailable as error:
            log.error("%s; trying again", error)
            asyncio.get_running_loop().call_later(PAUSE_S, self._work.set)
            return []

    def _begin(self, tasks: asyncio.TaskGroup, leased: Lease, slot: Slot) -> None:
        progress = Progress()
        task = tasks.create_task(self._serve(leased, progress, slot))
        self._running[leased.id] = _Running(leased, task, progress)
        self._some_run.set()
        self._none_run.clear()
        self._due.note(leased.until)
        self._notices.publish(leased.id)
        self._notices.publish(self._app.name, FLEET)  # the others of the queue have moved up

    async def _expire(self) -> None:
        """Waits for the next deadline, end of a lease or end of a pause, and acts on it."""
        was_away = False
        while True:
            self._due.forget()
            try:
                if was_away:
                    # The leases of what runs here are over, for want of a database to renew them.
                    await self.look_for_cancels()
                    was_away = False
                for id in await self._requests.expire():
                    self._notices.publish(id)
                due = await self._requests.next_due()
                if due is not None:
                    self._due.note(due)
                # After looking: what paused and is due by now is not in that time any more.
                self._work.set()
                self._app.on_demand()
            except StoreUnavailable as error:
                log.error("%s; trying again", error)
                was_away = True
                self._due.note(time.time() + PAUSE_S)
            await self._due.wait(self._patience_s)

    async def _serve(self, leased: Lease, progress: Progress, slot: Slot) -> None:
        begun = time.monotonic()
        try:
            answer = await self._run(leased, progress, slot)
            slot.release()
            if progress.is_answered and slot.replica.tells_ends:
                await self._wait_for_log(leased.id, progress)
            answer = dataclasses.replace(answer, logs=progress.lines)
            limit = retries.allowed(answer, leased.headers, self._app.limits.retries)
            if limit > leased.retries:
                wait_s = retries.delay_s(leased.retries)
                await self._requests.put_back(
                    leased.id, leased.attempt, delay_s=wait_s, why=answer, max_retries=limit
                )
                self.note_change(wait_s)
            else:
                await stored(
                    lambda: self._requests.finish(leased.id, leased.attempt, answer),
                    f"the answer of {leased.id}",
                )
            if answer.status_code < 400:
                self._app.note_duration(time.monotonic() - begun)
        except StoreUnavailable as error:
            # The lease runs out, and the request is run again.
            log.error("%s could not be put back: %s", leased.id, error)
        finally:
            del self._running[leased.id]
            if not self._running:
                self._some_run.clear()
                self._none_run.set()
            self._cancelled.discard(leased.id)
            slot.release()
            self._notices.publish(leased.id)

    async def _run(self, leased: Lease, progress: Progress, slot: Slot) -> Answer:
        """The replica's answer, or what stands for it."""
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in leased.headers.items()]
        headers += [(b"x-fal-request-id", leased.id.encode()), (QUEUED_HEADER, b"1")]
        path = quote(leased.path, safe="/:@!$&'()*+,;=~-._?%").encode()
        times = (leased.timeout_s, self._app.limits.request_timeout_s)
        limit = min((s for s in times if s), default=None)
        try:
            async with (
                asyncio.timeout(limit),
                slot.call(leased.method, path, headers, leased.body) as exchange,
            ):
                body = await self._body(leased.id, exchange, progress)
        except TimeoutError:
            return self._timed_out(limit)
        except ReplicaUnreachable as error:
            log.warning("%s: %s", leased.id, error)
            await slot.check()
            return dataclasses.replace(retries.UNREACHABLE, error=error.message)
        except asyncio.CancelledError:
            if leased.id not in self._cancelled:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            return CANCELLED
        progress.is_answered = True
        answered = {k.decode("latin-1"): v.decode("latin-1") for k, v in exchange.headers}
        reason = (None, None) if exchange.status < 400 else _reason(exchange.status, body)
        return Answer(exchange.status, answered, body, *reason)

    async def _wait_for_log(self, id: str, progress: Progress) -> None:
        """The answer was there first; waits for the rest of the log, unless that got lost."""
        try:
            async with asyncio.timeout(LOG_S):
                await progress.whole.wait()
        except TimeoutError:
            log.warning("the log of %s may lack its last lines", id)
        except asyncio.CancelledError:
            if id not in self._cancelled:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # too late: it is done

    def _timed_out(self, limit_s: float | None) -> Answer:
        detail = f"the request did not end within {limit_s:g} s; its work has been stopped"
        body = {"detail": detail, "error_type": "request_timeout"}
        headers = {"content-type": "application/json"}
        if "timeout" not in self._app.limits.retries:
            # Trying again would meet the same limit again: only an app that says so wants that.
            headers["x-fal-needs-retry"] = "0"
        return Answer(504, headers, json.dumps(body).encode(), detail, "request_timeout")

    async def _body(self, id: str, exchange: Exchange, progress: Progress) -> bytes:
        kind = dict(exchange.headers).get(b"content-type", b"")
        if not kind.startswith(b"text/event-stream"):
            return await exchange.body(MAX_ANSWER_BYTES)
        parts, size = [], 0
        async for chunk in exchange.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise ReplicaUnreachable(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            progress.add_chunk(chunk)
            self._notices.publish(id)
        return b"".join(parts)

    async def _renew(self) -> None:
        while True:
            await self._some_run.wait()
            self._cancels.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_EVERY_S):
                    await self._cancels.wait()
            await self.look_for_cancels()

    async def look_for_cancels(self) -> None:
        """Renews all leases; stops what its caller has cancelled and what is ours no more."""
        attempts = {id: running.lease.attempt for id, running in self._running.items()}
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
                self._running[id].task.cancel()


def _pop_best(slots: list[Slot], hint: str | None) -> Slot:
    """Takes the place for a request out of the list: at the replica with its hint, if any."""
    if hint is not None:
        for index, slot in enumerate(slots):
            if hint in slot.replica.hints:
                return slots.pop(index)
    return slots.pop(0)


class _Due:
    """The next time at which something is to be done; whoever waits for it learns of earlier ones.

    A time that is noted while the waiter looks what there is to do is not lost, and does not make
    it look again before that time.
    """

    def __init__(self) -> None:
        self._at: float | None = None
        self._earlier = asyncio.Event()

    def forget(self) -> None:
        """Everything that is due by now is being looked at."""
        self._at = None

    def note(self, at: float) -> None:
        """Something is due at ``at``, in seconds since 1970."""
        if self._at is None or at < self._at:
            self._at = at
            self._earlier.set()

    async def wait(self, patience_s: float | None) -> None:
        """Waits until something is due, or for ``patience_s``."""
        give_up = None if patience_s is None else time.time() + patience_s
        while True:
            self._earlier.clear()
            until = min((t for t in (self._at, give_up) if t is not None), default=None)
            if until is not None and until <= time.time():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else until - time.time()):
                    await self._earlier.wait()


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
