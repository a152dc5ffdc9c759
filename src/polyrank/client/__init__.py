"""The client: calls the apps of a server, from blocking code and from asyncio.

The functions here are those of a client with the server and the key of the environment.
"""

from __future__ import annotations

from polyrank.client.aio import AsyncClient
from polyrank.client.encoding import encode, encode_file, encode_image
from polyrank.client.errors import (
    ClientError,
    ClientHTTPError,
    ClientTimeoutError,
    RealtimeError,
    ServerUnreachable,
    StreamFailed,
    UploadFailed,
)
from polyrank.client.handles import AsyncRequestHandle, SyncRequestHandle
from polyrank.client.objects import JSONObject
from polyrank.client.realtime import AsyncRealtimeConnection, RealtimeConnection
from polyrank.client.statuses import Completed, InProgress, Queued, Status
from polyrank.client.storage import StorageACL, StorageACLRule, StorageSettings
from polyrank.client.sync import SyncClient

__all__ = [
    "AsyncClient",
    "AsyncRealtimeConnection",
    "AsyncRequestHandle",
    "ClientError",
    "ClientHTTPError",
    "ClientTimeoutError",
    "Completed",
    "InProgress",
    "JSONObject",
    "Queued",
    "RealtimeConnection",
    "RealtimeError",
    "ServerUnreachable",
    "Status",
    "StorageACL",
    "StorageACLRule",
    "StorageSettings",
    "StreamFailed",
    "SyncClient",
    "SyncRequestHandle",
    "UploadFailed",
    "async_client",
    "cancel",
    "cancel_async",
    "encode",
    "encode_file",
    "encode_image",
    "iter_events",
    "iter_events_async",
    "realtime",
    "realtime_async",
    "result",
    "result_async",
    "run",
    "run_async",
    "status",
    "status_async",
    "stream",
    "stream_async",
    "submit",
    "submit_async",
    "subscribe",
    "subscribe_async",
    "sync_client",
    "upload",
    "upload_async",
    "upload_file",
    "upload_file_async",
    "upload_image",
    "upload_image_async",
    "ws_connect",
    "ws_connect_async",
]

sync_client = SyncClient()
run = sync_client.run
submit = sync_client.submit
subscribe = sync_client.subscribe
stream = sync_client.stream
status = sync_client.status
iter_events = sync_client.iter_events
result = sync_client.result
cancel = sync_client.cancel
realtime = sync_client.realtime
ws_connect = sync_client.ws_connect
upload = sync_client.upload
upload_file = sync_client.upload_file
upload_image = sync_client.upload_image

async_client = AsyncClient()
run_async = async_client.run
submit_async = async_client.submit
subscribe_async = async_client.subscribe
stream_async = async_client.stream
status_async = async_client.status
iter_events_async = async_client.iter_events
result_async = async_client.result
cancel_async = async_client.cancel
realtime_async = async_client.realtime
ws_connect_async = async_client.ws_connect
upload_async = async_client.upload
upload_file_async = async_client.upload_file
upload_image_async = async_client.upload_image
