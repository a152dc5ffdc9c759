"""Errors under the names by which app files of the reference platform know them."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Literal

from polyrank.errors import AppException, FieldException, PolyrankError, RequestAborted
from polyrank.toolkit.exceptions import FileTooLarge, FileUploadException

__all__ = [
    "AppException",
    "AppFileUploadException",
    "CUDAOutOfMemoryException",
    "FalServerlessException",
    "FieldException",
    "FileTooLargeError",
    "GPUException",
    "GPUOutOfMemoryException",
    "RequestCancelledException",
    "UnauthenticatedException",
    "catch_gpu_exceptions",
]

FalServerlessException = PolyrankError
RequestCancelledException = RequestAborted
FileTooLargeError = FileTooLarge


class AppFileUploadException(FileUploadException):
    """A file of an app could not be handed over. Details: ``relative_path``."""

    def __init__(self, message: str, relative_path: str) -> None:
        super().__init__(message, relative_path=relative_path)


class UnauthenticatedException(PolyrankError):
    """The caller did not say who they are."""

    status = 401
    code = "unauthenticated"

    def __init__(self, message: str = "a key is needed") -> None:
        super().__init__(message)


class GPUException(AppException):
    """Something is wrong with a GPU."""

    def __init__(self, message: str = "GPU error", status_code: int = 503) -> None:
        super().__init__(message, status_code)


class GPUOutOfMemoryException(GPUException):
    """A GPU has no memory left."""


class CUDAOutOfMemoryException(GPUOutOfMemoryException):
    """A CUDA GPU has no memory left."""

    def __init__(self, message: str = "CUDA error: out of memory", status_code: int = 503) -> None:
        super().__init__(message, status_code)


# Types by which torch reports GPU trouble, and how its untyped reports begin.
_OUT_OF_MEMORY = {"OutOfMemoryError"}
_GPU_TYPES = {"AcceleratorError", "DistBackendError"}
_GPU_REPORTS = ("CUDA error", "cuDNN error", "NCCL error", "CUBLAS error")


class catch_gpu_exceptions(contextlib.ContextDecorator):
    """Answers GPU trouble inside it with 503; a context manager and a decorator."""

    def __enter__(self) -> catch_gpu_exceptions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        if error is None or isinstance(error, GPUException):
            return False
        types = {cls.__name__ for cls in type(error).__mro__}
        if types & _OUT_OF_MEMORY:
            raise CUDAOutOfMemoryException(str(error)) from error
        if types & _GPU_TYPES or (
            isinstance(error, RuntimeError) and str(error).startswith(_GPU_REPORTS)
        ):
            raise GPUException(str(error)) from error
        return False
