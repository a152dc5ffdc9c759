"""Tells those who asked for it how their requests ended.

Receivers are URLs that callers gave: the address that was checked is the one connected to, as in
``toolkit.urls``, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
from sqlalchemy import RowMapping

from polyrank.errors import StoreUnavailable
from polyrank.gateway.signatures import Signer
from polyrank.gateway.storing import PAUSE_S, stored
from polyrank.store.requests import Requests
from polyrank.store.webhooks import Delivery, Outcome, Webhooks
from polyrank.toolkit import addresses
from polyrank.toolkit.exceptions import UnsafeURL

log = logging.getLogger("polyrank.gateway")

# What a lease has beyond the time of a try.
LEASE_MARGIN_S = 15.0
AT_ONCE = 64
# What no notice has announced, such as the rows of another server that died, is found by looking.
LOOK_EVERY_S = 60.0
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Schedule:
    """How long a try may take, and when one that failed is made again: 10 tries within two hours,
    each wait twice the one before, and shortened by chance so that a receiver that comes back is
    not hit by all at once."""

    tries: int = 10
    timeout_s: float = 15.0
    first_delay_s: float = 13.5
    jitter: float = 0.2

    def delay_s(self, tries: int) -> float | None:
        """How long to wait after so many failed tries; None if they were all."""
        if tries >= self.tries:
            return None
        return self.first_delay_s * 2.0 ** (tries - 1) * (1 - self.jitter * random.random())


class Deliveries:
    """Makes the tries that are due. One task owns them all; it waits for a notice (``wake``) or
    for the next try's time."""

    def __init__(
        self,
        webhooks: Webhooks,
        requests: Requests,
        signer: Signer,
        *,
        networks: tuple[str, ...] = (),
        schedule: Schedule | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``networks`` are private ones that receivers may be in, such as ``10.0.0.0/8``."""
        self._webhooks = webhooks
        self._requests = requests
        self._signer = signer
        self._networks = networks
        self._schedule = schedule or Schedule()
        self._clock = clock
        self._news = asyncio.Event()
        self._free = asyncio.Semaphore(AT_ONCE)
        self._certificates = httpx.create_ssl_context()

    def wake(self) -> None:
        """A try may be due."""
        self._news.set()

    async def run(self) -> None:
        """Delivers until cancelled; a try that is cut short is made again."""
        async with asyncio.TaskGroup() as tries:
            while True:
                self._news.clear()
                try:
                    took = await self._take(tries)
                    due = await self._webhooks.next_due()
                except StoreUnavailable as error:
                    log.error("%s; trying again", error)
                    took, due = False, self._clock() + PAUSE_S
                if not took:
                    await self._wait_until(due)

    async def _take(self, tries: asyncio.TaskGroup) -> bool:
        """Begins one try that is due; False if none is."""
        await self._free.acquire()
        leased: list[Delivery] = []
        try:
            lease_s = self._schedule.timeout_s + LEASE_MARGIN_S
            leased = await self._webhooks.lease(limit=1, lease_s=lease_s)
        finally:
            if not leased:
                self._free.release()
        for delivery in leased:
            tries.create_task(self._deliver(delivery))
        return bool(leased)

    async def _wait_until(self, due: float | None) -> None:
        wait_s = LOOK_EVERY_S if due is None else min(LOOK_EVERY_S, max(0.0, due - self._clock()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            row = await self._requests.get(delivery.request_id)
            if row is None:  # its time to live is over
                return
            outcome = await self._try(delivery, row)
            await stored(
                lambda: self._webhooks.finish(delivery, outcome),
                f"the webhook of {delivery.request_id}",
            )
            if outcome.retry_at is not None:
                self.wake()
        except StoreUnavailable as error:
            # The lease runs out, and the try is made again.
            log.error("the webhook of %s was not sent: %s", delivery.request_id, error)
        finally:
            self._free.release()

    async def _try(self, delivery: Delivery, row: RowMapping) -> Outcome:
        body = payload(row)
        headers = self._signer.headers(row["id"], row["caller"], int(self._clock()), body)
        try:
            async with asyncio.timeout(self._schedule.timeout_s):
                status = await self._post(httpx.URL(delivery.url), headers, body)
        except UnsafeURL:  # it would be no safer later
            return Outcome(None, "the receiver is in a private network that is not allowed")
        except TimeoutError:
            return self._failed(delivery, None, f"no answer within {self._schedule.timeout_s:g} s")
        except Exception as error:  # a stranger's host may bring about anything
            return self._failed(delivery, None, str(error) or type(error).__name__)
        if 200 <= status < 300:
            return Outcome(status, None)
        return self._failed(delivery, status, f"the receiver answered {status}")

    def _failed(self, delivery: Delivery, status: int | None, error: str) -> Outcome:
        tries = delivery.attempts + 1
        delay_s = self._schedule.delay_s(tries)
        log.warning("webhook of %s, try %d: %s", delivery.request_id, tries, error)
        return Outcome(status, error, None if delay_s is None else self._clock() + delay_s)

    async def _post(self, url: httpx.URL, headers: dict[str, str], body: bytes) -> int:
        """The receiver's status; its body is of no interest and not read."""
        host = url.raw_host.decode("ascii")
        port = url.port or PORTS[url.scheme]
        unreachable: httpx.TransportError | None = None
        for address in await addresses.resolve(host, port, self._networks):
            try:
                return await self._post_to(address, url, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                unreachable = error
        raise unreachable or httpx.ConnectError(f"there is no host {host!r}")

    async def _post_to(
        self, address: str, url: httpx.URL, headers: dict[str, str], body: bytes
    ) -> int:
        async with (
            httpx.AsyncClient(verify=self._certificates, trust_env=False, timeout=None) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers={
                    **headers,
                    "host": url.netloc.decode("ascii"),
                    "content-type": "application/json",
                    "user-agent": "polyrank",
                },
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            ) as response,
        ):
            return response.status_code


def payload(row: RowMapping) -> bytes:
    """The body that tells how the request of this row ended; the app's JSON goes in as it is."""
    body: dict[str, Any] = {
        "request_id": row["id"],
        "gateway_request_id": row["id"],
        "status": "ERROR" if row["error"] or row["status_code"] >= 400 else "OK",
        "payload": None,
    }
    if row["error"]:
        body["error"] = row["error"]
    if row["answer"]:
        try:
            msgspec.json.decode(row["answer"])
            body["payload"] = msgspec.Raw(row["answer"])
        except msgspec.DecodeError as error:
            body["payload_error"] = (
                f"the app's answer is not JSON ({error}); it is at the request's response_url"
            )
    return msgspec.json.encode(body)
