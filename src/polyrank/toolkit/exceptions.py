"""What can go wrong with files.

PolyrankError
├── InvalidInput                422    what the caller sent cannot be used
│   ├── UnsafeURL                      a URL that does not lead to a public address
│   ├── UnreadableURL                  a URL behind which there is no file to be had
│   ├── FileTooLarge                   more bytes than are read
│   ├── UnreadablePicture              bytes that are no picture
│   └── UnsafeArchive                  an archive that would write where or what it should not
└── ToolkitError                500
    ├── FileUploadException            a store could not keep a file
    ├── KVStoreException               a value could not be kept or had
    └── StorageError                   the server's storage did not do what was asked
"""

from __future__ import annotations

from polyrank.errors import InvalidInput, PolyrankError


class UnsafeURL(InvalidInput):
    """A URL that is not opened: its scheme is not known or its address is not a public one."""


class UnreadableURL(InvalidInput):
    """A URL that gave no file: nothing answers there, or not in time, or with an error."""


class FileTooLarge(InvalidInput):
    """A file of more bytes than are read. Details: ``max_bytes``."""


class UnreadablePicture(InvalidInput):
    """Bytes that are not a picture in a format that is known, or too large a picture."""


class UnsafeArchive(InvalidInput):
    """A zip file that is broken, too large, or names files outside of its folder."""


class ToolkitError(PolyrankError):
    """Root of what goes wrong here and is not the caller's fault."""


class FileUploadException(ToolkitError):
    """A store could not keep a file."""


class KVStoreException(ToolkitError):
    """A value could not be kept or had. Details: the ``status`` of the server's answer."""


class StorageError(ToolkitError):
    """The server's storage refused or did not answer. Details: the ``status`` of its answer."""


# The reference platform's name for it, spelt as there.
FalTookitException = ToolkitError
