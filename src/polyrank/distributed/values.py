"""Values as a header and raw buffers, and back: lossless, and never pickled.

A value is a tree of plain data (None, bool, int, float, str, bytes, list, tuple, set, dict, dates,
decimals, paths, enums) with pictures, arrays, tensors, pydantic models and dataclasses in it. The
tree becomes one msgpack header; pixels and elements become buffers that the transport places in
shared memory. What is plain data in the sender stays plain data in the receiver, whatever its keys
and strings look like: only the sender's types decide.

Subclasses of dict, list and str arrive as the plain type, tensors on the CPU.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import importlib
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

from polyrank.distributed import pixels
from polyrank.distributed.wire import Buffer
from polyrank.errors import ValueNotSendable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

MAX_DEPTH = 200
# Smaller bytes travel inside the header.
OUT_OF_BAND_BYTES = 1 << 12


class Kind(enum.IntEnum):
    """What an extension in the header stands for."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    DICT = 4
    BIG_INT = 5
    TEXT = 6
    COMPLEX = 7
    BYTEARRAY = 8
    BYTES = 9
    DATETIME = 10
    DATE = 11
    TIME = 12
    TIMEDELTA = 13
    DECIMAL = 14
    UUID = 15
    PATH = 16
    ENUM = 17
    MODEL = 18
    DATACLASS = 19
    ARRAY = 20
    SCALAR = 21
    TENSOR = 22
    PICTURE = 23
    FLAG = 24


_encode_msgpack = msgspec.msgpack.Encoder().encode


def encode(value: Any) -> tuple[bytes, list[Buffer]]:
    """Header and buffers of a value. The buffers are views: use them before the value changes.

    Raises ValueNotSendable, naming the path of what cannot cross.
    """
    encoder = _Encoder()
    try:
        return _encode_msgpack(encoder.pack(value, 0)), encoder.buffers
    except _Unsendable as error:
        raise ValueNotSendable(f"value{error.where()} {error}") from None


def decode(header: Buffer, buffers: Sequence[Buffer]) -> Any:
    """The value again. It may keep and change the buffers, which therefore must be its own."""
    decoder = _Decoder(buffers)
    try:
        return decoder.unpack(header)
    finally:
        decoder.forget()


class _Unsendable(Exception):
    """Why a value cannot cross; containers add where it is on the way out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []

    def where(self) -> str:
        path = "".join(reversed(self.path))
        return path if len(path) <= 120 else f"{path[:60]} … {path[-40:]}"


class _Encoder:
    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def pack(self, value: Any, depth: int) -> Any:
        """``value`` as something msgpack can write; containers inside, extensions for the rest."""
        cls = type(value)
        if value is None or cls is bool or cls is float:
            return value
        if cls is int:
            return (
                value if -(1 << 63) <= value < 1 << 64 else self._ext(Kind.BIG_INT, _big_int(value))
            )
        if cls is str:
            return self._text(value)
        if depth > MAX_DEPTH:
            raise _Unsendable(f"is nested more than {MAX_DEPTH} levels deep")
        packer = _PACKERS.get(cls)
        if packer is None:
            packer = _packer_by_family(value)
        if packer is None:
            raise _Unsendable(
                f"is a {cls.__module__}.{cls.__qualname__}, which cannot be sent "
                "between processes; send its data instead (numbers, text, bytes, lists, dicts, "
                "pictures, arrays, tensors, pydantic models)"
            )
        return packer(self, value, depth + 1)

    def _ext(self, kind: Kind, data: Any) -> msgspec.msgpack.Ext:
        return msgspec.msgpack.Ext(int(kind), _encode_msgpack(data))

    def _text(self, value: str) -> Any:
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:  # lone surrogates, which json can produce
            return self._ext(Kind.TEXT, value.encode("utf-8", "surrogatepass"))
        return value

    def _items(self, values: Any, depth: int) -> list[Any]:
        packed: list[Any] = []
        try:
            for item in values:
                packed.append(self.pack(item, depth))
        except _Unsendable as error:
            error.path.append(f"[{len(packed)}]")
            raise
        return packed

    def pack_list(self, value: Any, depth: int) -> Any:
        return self._items(value, depth)

    def pack_tuple(self, value: Any, depth: int) -> Any:
        return self._ext(Kind.TUPLE, self._items(value, depth))

    def pack_set(self, value: Any, depth: int) -> Any:
        kind = Kind.FROZENSET if isinstance(value, frozenset) else Kind.SET
        return self._ext(kind, self._items(value, depth))

    def pack_dict(self, value: Mapping[Any, Any], depth: int) -> Any:
        pairs: list[tuple[Any, Any]] = []
        key: Any = None
        try:
            for key, item in value.items():
                pairs.append((self.pack(key, depth), self.pack(item, depth)))
        except _Unsendable as error:
            error.path.append(f"[{key!r}]"[:60])
            raise
        if all(type(packed) is str for packed, _ in pairs):
            return dict(pairs)
        return self._ext(Kind.DICT, pairs)

    def pack_bytes(self, value: Any, depth: int) -> Any:
        kind = Kind.BYTEARRAY if isinstance(value, bytearray) else Kind.BYTES
        if kind is Kind.BYTES and len(value) < OUT_OF_BAND_BYTES:
            return bytes(value)
        return self._ext(kind, self._buffer(memoryview(value).cast("B")))

    def pack_number(self, value: Any, depth: int) -> Any:
        return self._ext(Kind.COMPLEX, (value.real, value.imag))

    def pack_as_text(self, value: Any, depth: int) -> Any:
        return self._ext(_TEXT_KINDS[type(value)], str(value))

    def pack_moment(self, value: Any, depth: int) -> Any:
        if isinstance(value, dt.datetime | dt.time) and value.tzinfo is not None:
            zone = value.tzinfo
            name = getattr(zone, "key", None)
            if name is None and not isinstance(zone, dt.timezone):
                raise _Unsendable(f"has a time zone of unknown kind: {zone!r}")
            return self._ext(_TEXT_KINDS[type(value)], [value.isoformat(), name, value.fold])
        return self._ext(_TEXT_KINDS[type(value)], [value.isoformat(), None, 0])

    def pack_timedelta(self, value: dt.timedelta, depth: int) -> Any:
        return self._ext(Kind.TIMEDELTA, (value.days, value.seconds, value.microseconds))

    def pack_path(self, value: pathlib.PurePath, depth: int) -> Any:
        return self._ext(Kind.PATH, self._text(str(value)))

    def pack_enum(self, value: enum.Enum, depth: int) -> Any:
        if isinstance(value, enum.Flag):  # combinations have no name of their own
            return self._ext(Kind.FLAG, (_reference(type(value)), value.value))
        return self._ext(Kind.ENUM, (_reference(type(value)), value.name))

    def pack_model(self, value: BaseModel, depth: int) -> Any:
        extra = value.__pydantic_extra__
        private = value.__pydantic_private__
        state = [value.__dict__, extra, private]
        packed = [None if part is None else self.pack_dict(part, depth) for part in state]
        return self._ext(
            Kind.MODEL, [_reference(type(value)), *packed, sorted(value.model_fields_set)]
        )

    def pack_dataclass(self, value: Any, depth: int) -> Any:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        packed = self.pack_dict(fields, depth)
        return self._ext(Kind.DATACLASS, (_reference(type(value)), packed))

    def pack_array(self, value: np.ndarray[Any, Any], depth: int) -> Any:
        import numpy as np

        if value.dtype.hasobject:
            raise _Unsendable("is an array of Python objects; send a list")
        if isinstance(value, np.ma.MaskedArray):
            raise _Unsendable("is a masked array; send its data and its mask")
        whole = np.ascontiguousarray(value)
        index = self._buffer(whole.reshape(-1).view(np.uint8).data if whole.size else b"")
        return self._ext(Kind.ARRAY, [_describe(value.dtype), list(value.shape), index])

    def pack_scalar(self, value: np.generic, depth: int) -> Any:
        import numpy as np

        return self._ext(Kind.SCALAR, self.pack_array(np.asarray(value), depth))

    def pack_tensor(self, value: torch.Tensor, depth: int) -> Any:
        import torch

        if value.layout is not torch.strided or value.is_nested or value.is_meta:
            raise _Unsendable(f"is not a dense tensor with data: {value.layout}")
        if value.is_quantized:
            raise _Unsendable("is quantized; send int_repr() and its scale")
        whole = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        size = whole.numel() * whole.element_size()
        raw = torch.empty(0, dtype=torch.uint8).set_(
            whole.untyped_storage(), whole.storage_offset() * whole.element_size(), (size,), (1,)
        )
        index = self._buffer(raw.numpy().data if size else b"")
        dtype = str(whole.dtype).removeprefix("torch.")
        return self._ext(Kind.TENSOR, [dtype, list(whole.shape), index])

    def pack_picture(self, value: Image.Image, depth: int) -> Any:
        value.load()
        palette = value.getpalette(None) if value.mode in ("P", "PA") else None
        palette_mode = value.palette.mode if palette is not None and value.palette else None
        info = {key: item for key, item in value.info.items() if _is_plain(item)}
        # Pillow's own layout: the receiver can use the buffer as it is.
        raw_mode = pixels.raw_mode(value.mode)
        index = self._buffer(pixels.pixels(value) if 0 not in value.size else b"")
        size = list(value.size)
        packed_info = self.pack_dict(info, depth)
        return self._ext(
            Kind.PICTURE, [value.mode, size, raw_mode, palette_mode, palette, packed_info, index]
        )

    def _buffer(self, data: Buffer) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1


_Packer = Callable[[_Encoder, Any, int], Any]

_PACKERS: dict[type, _Packer] = {
    list: _Encoder.pack_list,
    tuple: _Encoder.pack_tuple,
    set: _Encoder.pack_set,
    frozenset: _Encoder.pack_set,
    dict: _Encoder.pack_dict,
    bytes: _Encoder.pack_bytes,
    bytearray: _Encoder.pack_bytes,
    memoryview: _Encoder.pack_bytes,
    complex: _Encoder.pack_number,
    dt.datetime: _Encoder.pack_moment,
    dt.date: _Encoder.pack_moment,
    dt.time: _Encoder.pack_moment,
    dt.timedelta: _Encoder.pack_timedelta,
    decimal.Decimal: _Encoder.pack_as_text,
    uuid.UUID: _Encoder.pack_as_text,
}

_TEXT_KINDS: dict[type, Kind] = {
    dt.datetime: Kind.DATETIME,
    dt.date: Kind.DATE,
    dt.time: Kind.TIME,
    decimal.Decimal: Kind.DECIMAL,
    uuid.UUID: Kind.UUID,
}


def _packer_by_family(value: Any) -> _Packer | None:
    """The packer of a type that is known by its base class; optional libraries only if loaded."""
    # A library nobody has imported cannot have made the value.
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        return _Encoder.pack_tensor
    if (pil := sys.modules.get("PIL.Image")) is not None and isinstance(value, pil.Image):
        return _Encoder.pack_picture
    if (numpy := sys.modules.get("numpy")) is not None:
        if isinstance(value, numpy.ndarray):
            return _Encoder.pack_array
        if isinstance(value, numpy.generic):
            return _Encoder.pack_scalar
    if isinstance(value, BaseModel):
        return _Encoder.pack_model
    if isinstance(value, enum.Enum):
        return _Encoder.pack_enum
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _Encoder.pack_dataclass
    if isinstance(value, pathlib.PurePath):
        return _Encoder.pack_path
    for base in (dict, list, tuple, set, frozenset):
        if isinstance(value, base):
            return _PACKERS[base]
    for plain in (str, int, float):
        if isinstance(value, plain):
            return lambda encoder, value, depth: encoder.pack(plain(value), depth)
    return None


class _Decoder:
    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._decode = msgspec.msgpack.Decoder(ext_hook=self._extension).decode

    def unpack(self, data: Buffer) -> Any:
        return self._decode(data)

    def forget(self) -> None:
        # The decoder and its hook refer to each other: without this the buffers would live on
        # until the next garbage collection, and shared memory with them.
        self._buffers = ()

    def _extension(self, code: int, data: memoryview) -> Any:
        return _UNPACKERS[Kind(code)](self, self._decode(data))

    def make_dict(self, pairs: Any) -> Any:
        return dict(pairs)

    def make_bytes(self, index: int) -> bytes:
        return bytes(self._buffers[index])

    def bytearray(self, index: int) -> bytearray:
        return bytearray(self._buffers[index])

    def make_enum(self, data: Any) -> Any:
        return _resolve(data[0])[data[1]]

    def make_model(self, data: Any) -> Any:
        reference, fields, extra, private, fields_set = data
        model = _resolve(reference)
        made = model.__new__(model)
        object.__setattr__(made, "__dict__", fields)
        object.__setattr__(made, "__pydantic_extra__", extra)
        object.__setattr__(made, "__pydantic_private__", private)
        object.__setattr__(made, "__pydantic_fields_set__", set(fields_set))
        return made

    def make_dataclass(self, data: Any) -> Any:
        cls = _resolve(data[0])
        made = cls.__new__(cls)
        for name, item in data[1].items():
            object.__setattr__(made, name, item)
        return made

    def make_array(self, data: Any) -> Any:
        import numpy as np

        description, shape, index = data
        flat = np.frombuffer(self._buffers[index], np.uint8)
        return flat.view(_dtype(description)).reshape(shape)

    def make_scalar(self, array: Any) -> Any:
        return array[()]

    def make_tensor(self, data: Any) -> Any:
        import torch

        name, shape, index = data
        dtype = getattr(torch, name)
        buffer = self._buffers[index]
        if not len(buffer):
            return torch.empty(shape, dtype=dtype)
        storage = torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()
        return torch.empty(0, dtype=dtype).set_(storage, 0, shape)

    def make_picture(self, data: Any) -> Any:
        from PIL import Image

        mode, (width, height), raw_mode, palette_mode, palette, info, index = data
        if 0 in (width, height):
            picture = Image.new(mode, (width, height))
        else:
            # Where the layouts are the same Pillow uses the buffer as it is.
            make = Image.frombuffer if raw_mode == mode else Image.frombytes
            picture = make(mode, (width, height), self._buffers[index], "raw", raw_mode, 0, 1)
        if palette is not None:
            picture.putpalette(palette, palette_mode)
        picture.info.update(info)
        return picture


def _moment(cls: Any) -> Callable[[_Decoder, Any], Any]:
    def unpack(_: _Decoder, data: Any) -> Any:
        text, zone, fold = data
        value = cls.fromisoformat(text)
        if zone is not None:
            value = value.replace(tzinfo=importlib.import_module("zoneinfo").ZoneInfo(zone))
        return value.replace(fold=fold) if fold else value

    return unpack


_UNPACKERS: dict[Kind, Callable[[_Decoder, Any], Any]] = {
    Kind.TUPLE: lambda _, items: tuple(items),
    Kind.SET: lambda _, items: set(items),
    Kind.FROZENSET: lambda _, items: frozenset(items),
    Kind.DICT: _Decoder.make_dict,
    Kind.BIG_INT: lambda _, data: int.from_bytes(data, "little", signed=True),
    Kind.TEXT: lambda _, data: data.decode("utf-8", "surrogatepass"),
    Kind.COMPLEX: lambda _, parts: complex(*parts),
    Kind.BYTEARRAY: _Decoder.bytearray,
    Kind.BYTES: _Decoder.make_bytes,
    Kind.DATETIME: _moment(dt.datetime),
    Kind.DATE: _moment(dt.date),
    Kind.TIME: _moment(dt.time),
    Kind.TIMEDELTA: lambda _, parts: dt.timedelta(*parts),
    Kind.DECIMAL: lambda _, text: decimal.Decimal(text),
    Kind.UUID: lambda _, text: uuid.UUID(text),
    Kind.PATH: lambda _, text: pathlib.Path(text),
    Kind.ENUM: _Decoder.make_enum,
    Kind.FLAG: lambda _, data: _resolve(data[0])(data[1]),
    Kind.MODEL: _Decoder.make_model,
    Kind.DATACLASS: _Decoder.make_dataclass,
    Kind.ARRAY: _Decoder.make_array,
    Kind.SCALAR: _Decoder.make_scalar,
    Kind.TENSOR: _Decoder.make_tensor,
    Kind.PICTURE: _Decoder.make_picture,
}


def _reference(cls: type) -> str:
    if "<locals>" in cls.__qualname__:
        raise _Unsendable(
            f"is of class {cls.__qualname__}, defined inside a function, which "
            "another process cannot find; define it at the top of a module"
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def _resolve(reference: str) -> Any:
    """The class that the sender named; only senders of our own processes name classes."""
    module_name, qualname = reference.split(":")
    module = sys.modules.get(module_name) or importlib.import_module(module_name)
    found: Any = module
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise ValueNotSendable(
            f"class {qualname} of module {module_name} is not known in this process; put it into "
            "a module that both sides import, or send its data"
        )
    return found


def _is_plain(item: Any) -> bool:
    return isinstance(item, bool | int | float | str | bytes) or (
        isinstance(item, tuple) and all(isinstance(part, bool | int | float) for part in item)
    )


def _describe(dtype: np.dtype[Any]) -> Any:
    """A dtype as plain data: its string, or the layout of its fields."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_describe(base), list(shape)]
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    return {
        "names": list(dtype.names),
        "formats": [_describe(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _big_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _dtype(description: Any) -> np.dtype[Any]:
    import numpy as np

    if isinstance(description, str):
        return np.dtype(description)
    if isinstance(description, list):
        base, shape = description
        return np.dtype((_dtype(base), tuple(shape)))
    formats = [_dtype(part) for part in description["formats"]]
    layout: Any = {**description, "formats": formats}
    made: np.dtype[Any] = np.dtype(layout, align=layout.pop("aligned"))
    return made
