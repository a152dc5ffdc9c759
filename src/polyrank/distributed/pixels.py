"""The pixels of a Pillow picture as a buffer, without a copy where Pillow's memory allows it.

Pillow lends its memory through the Arrow C data interface
(https://arrow.apache.org/docs/format/CDataInterface.html): a capsule that holds an ``ArrowArray``
whose innermost child's second buffer is the pixels, rows without gaps, four bytes per pixel where
a mode has more than one band.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from polyrank.distributed.wire import Buffer

if TYPE_CHECKING:
    from PIL import Image

# Mode to (raw mode of Pillow's own memory, bytes per pixel). Other modes are packed by Pillow.
_LENT = {"L": ("L", 1), "RGB": ("RGBX", 4), "RGBA": ("RGBA", 4), "CMYK": ("CMYK", 4)}


class _ArrowArray(ctypes.Structure):
    pass


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def raw_mode(mode: str) -> str:
    """The raw mode in which ``pixels`` gives the pixels of a picture of this mode."""
    return _LENT[mode][0] if mode in _LENT else mode


def pixels(picture: Image.Image) -> Buffer:
    """The picture's pixels, in ``raw_mode(picture.mode)``; valid while the picture is unchanged."""
    if picture.mode in _LENT:
        try:
            return _lent(picture, _LENT[picture.mode][1])
        except (AttributeError, ValueError):
            pass  # an older Pillow, or a picture in several blocks of memory
    return picture.tobytes("raw", raw_mode(picture.mode))


def _lent(picture: Any, bytes_per_pixel: int) -> Buffer:
    _, capsule = picture.__arrow_c_array__()
    array = _ArrowArray.from_address(_pointer_of(capsule, b"arrow_array"))
    while array.n_children:
        array = array.children[0].contents
    size = picture.width * picture.height * bytes_per_pixel
    memory = (ctypes.c_char * size).from_address(array.buffers[1])
    memory.owner = capsule  # Pillow's memory lives as long as this
    return memoryview(memory).cast("B")
