"""Bringing a revision into service, so that no request fails for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal

from polyrank import reports
from polyrank.errors import PolyrankError, ReplicaUnreachable
from polyrank.gateway.appfleet import AppFleet, Kept, ReplicaFailed
from polyrank.gateway.deployment import Deployment, DeploymentFailed
from polyrank.gateway.terms import Terms
from polyrank.gateway.upstream import Upstream
from polyrank.store.apps import Revision

Strategy = Literal["rolling", "recreate"]
# How long a new replica may take to answer, and how much it may say.
ANSWER_S = 30.0
MOST_BYTES = 16 * 2**20


class Rollout:
    """Starts a replica of ``revision``, and has it and its like take the place of those that
    serve now. If it does not get ready, everything stays as it is."""

    def __init__(
        self,
        fleet: AppFleet,
        revision: Revision,
        deployment: Deployment,
        terms: Terms,
        on_ready: Callable[[reports.Ready, reports.Limits, bytes], Awaitable[None]],
    ) -> None:
        """``on_ready`` is told what the first replica says of itself, before it gets requests."""
        self._fleet = fleet
        self._revision = revision
        self._deployment = deployment
        self._terms = terms
        self._on_ready = on_ready

    async def run(self, strategy: Strategy) -> None:
        """Raises DeploymentFailed."""
        await (self._recreate() if strategy == "recreate" else self._roll())

    async def _roll(self) -> None:
        fleet = self._fleet
        old = [kept for kept in fleet.kept.values() if not kept.is_ending]
        await self._make_room(old)
        await self._switch_to(await self._candidate())
        for kept in old:
            # The others one by one: as many serve at any time as did before.
            if kept is not old[-1] and fleet.has_room():
                with contextlib.suppress(DeploymentFailed):
                    another = await self._candidate()
                    fleet.admit(another, another.ready.result())
            self._deployment.enter("draining", f"replica {kept.id}")
            await fleet.end(kept)

    async def _recreate(self) -> None:
        fleet = self._fleet
        fleet.is_paused = True
        try:
            self._deployment.enter("draining", "all replicas: the strategy is recreate")
            await fleet.end_all()
            await self._switch_to(await self._candidate())
        finally:
            fleet.is_paused = False
            fleet.look()

    async def _make_room(self, old: list[Kept]) -> None:
        """Where all places are taken, one of several replicas goes first; the last one stays, and
        the new one waits for an idle replica of another app to give way."""
        if self._fleet.has_room(self._terms.wanted) or not old:
            return
        if len(old) == 1:
            if self._fleet.may_get_room(self._terms.wanted):
                return
            room = self._fleet.explain_room(self._terms.wanted)
            raise DeploymentFailed(
                "a rolling deployment starts the new replica beside the old one, and there is no "
                f"room for it: {room}; deploy with --strategy recreate"
            )
        kept = old.pop()
        self._deployment.enter("draining", f"replica {kept.id}, to make room for a new one")
        await self._fleet.end(kept)

    async def _candidate(self) -> Kept:
        """A replica of the revision that is ready and says that it is well."""
        self._deployment.enter("starting")
        kept = self._fleet.start(self._revision, self._terms.wanted, is_candidate=True)
        telling = asyncio.create_task(self._tell_lines(kept))
        try:
            report = await asyncio.shield(kept.ready)
            await self._check_health(report)
        except ReplicaFailed as error:
            raise DeploymentFailed(error.message, lines=error.details["lines"]) from error
        except BaseException as error:
            self._fleet.end(kept, at_once=True)
            if isinstance(error, ReplicaUnreachable):
                raise DeploymentFailed(error.message, lines=list(kept.lines)) from error
            raise
        finally:
            telling.cancel()
            await asyncio.wait([telling])
        return kept

    async def _tell_lines(self, kept: Kept) -> None:
        """What the replica prints while it starts."""
        await kept.begun.wait()
        async for line in self._fleet.follow_log(kept):
            self._deployment.add_line(line.message)

    async def _check_health(self, report: reports.Ready) -> None:
        status, _ = await _ask(report, "/health")
        if status >= 400:
            raise ReplicaUnreachable(f"/health answered {status}")

    async def _switch_to(self, kept: Kept) -> None:
        """The revision serves from now on."""
        self._deployment.enter("switching")
        report, limits = kept.ready.result(), kept.limits or reports.Limits()
        fleet = self._fleet
        try:
            await self._on_ready(report, limits, await self._openapi(report))
        except BaseException:
            fleet.end(kept, at_once=True)
            raise
        fleet.hosted.limits = limits
        fleet.serve(self._revision, self._terms)
        fleet.admit(kept, report)

    async def _openapi(self, report: reports.Ready) -> bytes:
        """The app's document, so that pages can show the app while no replica runs."""
        try:
            status, document = await _ask(report, "/openapi.json")
        except PolyrankError:
            return b""
        return document if status == 200 else b""


async def _ask(report: reports.Ready, path: str) -> tuple[int, bytes]:
    """The status and the body that a replica answers before anybody else asks it anything. Raises
    ReplicaUnreachable."""
    upstream = Upstream(report.host, report.port, report.token)
    try:
        async with asyncio.timeout(ANSWER_S):
            answer = await upstream.send("GET", path.encode(), [], b"")
            try:
                return answer.status, await answer.body(MOST_BYTES)
            finally:
                answer.release()
    except TimeoutError:
        raise ReplicaUnreachable(f"{path} did not answer within {ANSWER_S:g} s") from None
    finally:
        upstream.close()
