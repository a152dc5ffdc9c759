"""What lets a page of another origin call the server: CORS.

Every origin may ask, because a page has nothing of the visitor's to send along: callers are known
by a key in a header, never by a cookie.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

# Without being named here, a page's code cannot read them.
EXPOSED = (
    "ETag",
    "Retry-After",
    "X-Fal-Billable-Units",
    "X-Fal-Error-Type",
    "X-Fal-Request-Id",
    "X-Fal-Request-Timeout-Type",
    "X-Fal-Runner-Hints",
)
# How long a browser remembers that it may ask.
MAX_AGE_S = 24 * 3600


def open_to_browsers(inner: ASGIApp) -> ASGIApp:
    """Answers browsers' preflights, and adds to every answer what lets a page read it."""
    return CORSMiddleware(
        inner,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=MAX_AGE_S,
    )
