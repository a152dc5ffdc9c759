"""A user's app and its HTTP server."""

from polyrank.app.app import App
from polyrank.app.context import RequestContext
from polyrank.app.endpoint import HealthCheck, endpoint
from polyrank.app.options import RetryConfig
from polyrank.app.realtime import realtime

__all__ = ["App", "HealthCheck", "RequestContext", "RetryConfig", "endpoint", "realtime"]
