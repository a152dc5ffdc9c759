"""Logging: who is being served, and how a line looks in a terminal."""

from __future__ import annotations

import logging
from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("polyrank_request_id", default=None)


class RequestIdFilter(logging.Filter):
    """Gives every record the id of the request it belongs to, ``-`` outside of one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Adds ``record.request_id`` where a record does not carry one already."""
        if getattr(record, "request_id", None) is None:
            record.request_id = request_id.get() or "-"
        return True


class AnsweredFilter(logging.Filter):
    """Drops uvicorn's complaint about websockets that were answered instead of opened."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record says something."""
        return record.msg != "ASGI callable returned without completing handshake."


def configure(*, verbose: bool, handler: logging.Handler | None = None) -> None:
    """Sends polyrank's records to stderr, or to ``handler``; ``verbose`` shows phases and
    per-request lines too."""
    if handler is None:
        handler = logging.StreamHandler()
        pattern = "%(asctime)s %(levelname)-7s [%(request_id).8s] %(message)s"
        handler.setFormatter(logging.Formatter(pattern, "%H:%M:%S"))
    handler.addFilter(RequestIdFilter())
    handler.addFilter(AnsweredFilter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    # What the user's own code prints in a rank is always shown.
    logging.getLogger("polyrank.rank").setLevel(logging.INFO)
    logging.getLogger("polyrank").setLevel(logging.INFO)
