"""Streamed events: text for the browser, and the thread of a rank that encodes and sends them."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import io
import json
import math
import pathlib
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from polyrank.errors import ValueNotSendable

DEFAULT_QUALITY = 85
# A rank runs ahead of its encoder by at most this many results; then the model waits.
MAX_PENDING = 64


def text_event(value: Any, image_format: str = "jpeg", quality: int | None = None) -> bytes:
    r"""``value`` as one server-sent event, ``data: {json}\n\n``, pictures as data URIs."""
    plain = to_json_value(value, image_format, quality)
    return b"data: " + json.dumps(plain).encode() + b"\n\n"


def to_json_value(value: Any, image_format: str = "jpeg", quality: int | None = None) -> Any:
    """``value`` with everything that JSON lacks replaced.

    A picture becomes ``{"url": "data:…", "content_type", "width", "height"}``, a tensor or array
    nested lists with ``shape`` and ``dtype``, bytes a data URI, a pydantic model its JSON form.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no NaN
    if isinstance(value, dict):
        return {str(key): to_json_value(item, image_format, quality) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json_value(item, image_format, quality) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return data_uri(bytes(value), "application/octet-stream")
    if (pil := sys.modules.get("PIL.Image")) is not None and isinstance(value, pil.Image):
        return picture_to_json(value, image_format, quality)
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return {
            "shape": list(value.shape),
            "dtype": str(value.dtype).removeprefix("torch."),
            "data": value.tolist(),
        }
    if (numpy := sys.modules.get("numpy")) is not None:
        if isinstance(value, numpy.ndarray):
            return {"shape": list(value.shape), "dtype": str(value.dtype), "data": value.tolist()}
        if isinstance(value, numpy.generic):
            return value.item()
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return to_json_value(fields, image_format, quality)
    if isinstance(value, enum.Enum):
        return to_json_value(value.value, image_format, quality)
    if isinstance(value, dt.date | dt.time | decimal.Decimal | uuid.UUID | pathlib.PurePath):
        return str(value)
    raise ValueNotSendable(f"a {type(value).__qualname__} has no form in a text event")


def picture_to_json(picture: Any, image_format: str, quality: int | None = None) -> dict[str, Any]:
    """A PIL picture as the file object that clients read: a data URI, its type and its size."""
    encoded, content_type = encode_picture(picture, image_format, quality)
    width, height = picture.size
    return {
        "url": data_uri(encoded, content_type),
        "content_type": content_type,
        "width": width,
        "height": height,
    }


def encode_picture(
    picture: Any, image_format: str = "jpeg", quality: int | None = None
) -> tuple[bytes, str]:
    """File bytes and content type. JPEG has no transparency: it is laid on white."""
    name = "jpeg" if image_format.lower() in ("jpg", "jpeg") else image_format.lower()
    if name == "jpeg" and picture.mode not in ("RGB", "L", "CMYK"):
        picture = _flatten(picture)
    options = {} if name == "png" else {"quality": quality or DEFAULT_QUALITY}
    if name == "png":
        options = {"compress_level": 1}
    buffer = io.BytesIO()
    picture.save(buffer, format=name, **options)
    return buffer.getvalue(), f"image/{name}"


def data_uri(data: bytes, content_type: str) -> str:
    """``data`` as a base64 data URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def _flatten(picture: Any) -> Any:
    if picture.mode.startswith("I;16"):
        return picture.point(lambda level: level / 256).convert("L")
    if "A" not in picture.mode and "a" not in picture.mode and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = picture.copy()
    ground.paste((255, 255, 255, 255), (0, 0, *picture.size))
    ground.alpha_composite(picture)
    return ground.convert("RGB")


def snapshot(value: Any) -> Any:
    """``value`` with every buffer that its owner may change copied; GPU copies stay on the GPU."""
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list):
        return [snapshot(item) for item in value]
    if isinstance(value, tuple):
        return tuple(snapshot(item) for item in value)
    if isinstance(value, bytearray):
        return bytearray(value)
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        return _settled_clone(value, torch)
    if (pil := sys.modules.get("PIL.Image")) is not None and isinstance(value, pil.Image):
        return value.copy()
    if (numpy := sys.modules.get("numpy")) is not None and isinstance(value, numpy.ndarray):
        return value.copy()
    if callable(copy := getattr(value, "model_copy", None)):
        return copy(deep=True)
    return value


def _settled_clone(tensor: Any, torch: Any) -> Any:
    tensor = tensor.detach()
    if tensor.device.type != "cuda":
        return tensor.clone()
    # Into pinned memory without waiting; the encoder's thread waits for the event.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return _Arriving(host, done)


class _Arriving:
    """A tensor on its way to the host."""

    def __init__(self, host: Any, done: Any) -> None:
        self.host = host
        self.done = done

    def wait(self) -> Any:
        self.done.synchronize()
        return self.host


def arrived(value: Any) -> Any:
    """``value`` with every tensor that ``snapshot`` sent off arrived."""
    if isinstance(value, _Arriving):
        return value.wait()
    if isinstance(value, dict):
        return {key: arrived(item) for key, item in value.items()}
    if isinstance(value, list):
        return [arrived(item) for item in value]
    if isinstance(value, tuple):
        return tuple(arrived(item) for item in value)
    return value


class EventThread:
    """Runs jobs in order in one thread of the rank, a bounded number of them behind the model."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, job: Callable[[], None]) -> None:
        """Queues a job; waits while MAX_PENDING are queued, and drops it after a failure."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="polyrank-events", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: len(self._jobs) < MAX_PENDING)
            if self._error is None:
                self._jobs.append(job)
                self._changed.notify_all()

    def flush(self) -> None:
        """Waits until every job has run; raises the first error of one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs and not self._busy)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs.popleft()
                self._busy = True
                self._changed.notify_all()
            try:
                job()
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
                    self._jobs.clear()
            finally:
                del job
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
