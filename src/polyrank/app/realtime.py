"""Realtime endpoints: methods of an app that are called over a websocket for as long as it is open.

What they take and give is read off their annotations. A stream on either side makes four modes.
"""

from __future__ import annotations

import inspect
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from polyrank.app.endpoint import Endpoint, marking
from polyrank.errors import AppError

F = TypeVar("F", bound=Callable[..., Any])

MSGPACK = "application/msgpack"
_ASYNC_STREAMS = (abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)
_PLAIN_STREAMS = (abc.Iterator, abc.Iterable, abc.Generator)
_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)
# Stands for a model that is not given: the method's annotation says it.
INFERRED: Any = object()
_NO_STREAM: Any = object()


class Mode(StrEnum):
    """Which sides of a session are streams."""

    UNARY = "unary"
    SERVER_STREAMING = "server_streaming"
    CLIENT_STREAMING = "client_streaming"
    BIDIRECTIONAL = "bidi"


@dataclass(frozen=True, kw_only=True)
class RealtimeEndpoint(Endpoint):
    """A path that realtime sessions are opened at, and how they are held."""

    buffering: int | None = None
    session_timeout: float | None = None
    input_modal: Any = INFERRED
    output_modal: Any = INFERRED
    max_batch_size: int = 1
    content_type: str = MSGPACK
    encode_message: Callable[[Any], bytes | str] | None = None
    decode_message: Callable[[bytes], Any] | None = None
    emit_timings: bool = True


@dataclass(frozen=True)
class Shape:
    """What a method takes and gives; None is a model that nothing is known of."""

    mode: Mode
    input: Any
    output: Any


def realtime(
    path: str,
    *,
    buffering: int | None = None,
    session_timeout: float | None = None,
    input_modal: Any = INFERRED,
    output_modal: Any = INFERRED,
    max_batch_size: int = 1,
    content_type: str = MSGPACK,
    encode_message: Callable[[Any], bytes | str] | None = None,
    decode_message: Callable[[bytes], Any] | None = None,
    emit_timings: bool | None = None,
) -> Callable[[F], F]:
    """Makes a method of an ``App`` answer the inputs of websocket sessions at ``path``.

    A method from a model to a model is called for every input. One that returns an iterator
    answers one input with a stream; one that takes an ``AsyncIterator`` gets all inputs of a
    session, and answers with one output or with a stream.

    Args:
        buffering: how many inputs may wait: the newest stay, the oldest are dropped. Without it
            none is dropped, and a caller who is too fast is held up.
        session_timeout: ends a session that has waited this many seconds for an input.
        input_modal: a type to check inputs against instead of the annotation's; None for none.
        output_modal: a type to describe outputs with instead of the annotation's; None for none.
        max_batch_size: up to how many waiting inputs one call gets, as arguments; an input's
            ``can_batch(next, count)``, where it has one, says whether the next may join.
        content_type: what the schema says of the messages; ``application/json`` sends JSON text.
        encode_message: makes a message of an output, instead of msgpack.
        decode_message: makes an input of a message, instead of msgpack.
        emit_timings: tell the seconds of each call after its output; by default unless
            ``encode_message`` is given, whose readers may not expect it.
    """
    for name, value in (("buffering", buffering), ("max_batch_size", max_batch_size)):
        if value is not None and value < 1:
            raise AppError(f"{name} of {path} is at least 1, not {value}")
    if session_timeout is not None and session_timeout <= 0:
        raise AppError(f"session_timeout of {path} is more than 0 s, not {session_timeout:g}")
    return marking(
        RealtimeEndpoint(
            path,
            is_websocket=True,
            buffering=buffering,
            session_timeout=session_timeout,
            input_modal=input_modal,
            output_modal=output_modal,
            max_batch_size=max_batch_size,
            content_type=content_type,
            encode_message=encode_message,
            decode_message=decode_message,
            emit_timings=encode_message is None if emit_timings is None else emit_timings,
        )
    )


def shape_of(method: Callable[..., Any], endpoint: RealtimeEndpoint) -> Shape:
    """Reads a bound method's annotations. Raises AppError for one that could never be called."""
    name = method.__qualname__
    try:
        hints = get_type_hints(method)
    except NameError as error:
        raise AppError(f"realtime endpoint {name}: {error} (in an annotation)") from None
    parameters = inspect.signature(method).parameters.values()
    taken = next((each for each in parameters if each.kind in _POSITIONAL), None)
    if taken is None:
        raise AppError(f"realtime endpoint {name} needs a parameter for its input")
    gives = hints.get("return")
    item_in = _item(hints.get(taken.name), _ASYNC_STREAMS)
    item_out = _item(gives, _ASYNC_STREAMS + _PLAIN_STREAMS)
    is_generator = inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method)
    if item_out is _NO_STREAM and is_generator:
        item_out = None
    _check(name, method, hints.get(taken.name), item_in)
    shape = Shape(
        _mode(item_in is not _NO_STREAM, item_out is not _NO_STREAM),
        _chosen(endpoint.input_modal, item_in, hints.get(taken.name)),
        _chosen(endpoint.output_modal, item_out, gives),
    )
    if shape.mode is Mode.UNARY:
        _check_batches(name, method, endpoint.max_batch_size)
    return shape


def _item(annotation: Any, streams: tuple[type, ...]) -> Any:
    """The type in a stream's brackets, None without them; _NO_STREAM for what is no stream."""
    if annotation not in streams and get_origin(annotation) not in streams:
        return _NO_STREAM
    return next(iter(get_args(annotation)), None)


def _mode(streams_in: bool, streams_out: bool) -> Mode:
    if streams_in:
        return Mode.BIDIRECTIONAL if streams_out else Mode.CLIENT_STREAMING
    return Mode.SERVER_STREAMING if streams_out else Mode.UNARY


def _chosen(given: Any, item: Any, annotation: Any) -> Any:
    model = given
    if given is INFERRED:
        model = annotation if item is _NO_STREAM else item
    return None if model in (Any, type(None)) else model


def _check(name: str, method: Callable[..., Any], annotation: Any, item_in: Any) -> None:
    is_async = inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
    if item_in is not _NO_STREAM and not is_async:
        raise AppError(f"realtime endpoint {name} takes a stream of inputs: make it async def")
    if _item(annotation, _PLAIN_STREAMS) is not _NO_STREAM:
        raise AppError(f"realtime endpoint {name} takes its inputs as an AsyncIterator")


def _check_batches(name: str, method: Callable[..., Any], size: int) -> None:
    try:
        inspect.signature(method).bind(*range(size))
    except TypeError:
        raise AppError(
            f"realtime endpoint {name} is called with up to {size} input(s): take *inputs"
        ) from None
