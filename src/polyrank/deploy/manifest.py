"""What is said of an app when it is deployed, beside its files."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from polyrank.errors import BundleError

HEADER = "x-polyrank-deploy"
MAX_HEADER_BYTES = 2**16

Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Value = Annotated[str, StringConstraints(max_length=512)]
Annotations = Annotated[dict[Key, Value], Field(max_length=32)]
Strategy = Literal["rolling", "recreate"]


class Manifest(BaseModel):
    """An app as it is deployed.

    ``ref`` is ``FILE[::Class]`` with the file relative to the bundle, ``module`` its dotted name if
    it is in a package. ``options`` are those of the class that are set, with those of its table in
    pyproject.toml, without the requirements, which stand beside them in layers. Local paths in
    ``requirements`` are relative to ``requirements_context``, a folder of the bundle.
    ``environment`` is None for the app's main one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    app_name: Alias
    ref: str
    module: str | None = None
    options: dict[str, Any] = {}
    requirements: tuple[tuple[str, ...], ...] = ()
    requirements_context: str = "."
    python_version: str | None = None
    strategy: Strategy = "rolling"
    message: Annotated[str, Field(max_length=2048)] = ""
    annotations: Annotations = {}
    environment: Alias | None = None
    code_hash: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]

    @field_validator("ref", "requirements_context")
    @classmethod
    def _stays_in_the_bundle(cls, value: str) -> str:
        parts = value.partition("::")[0].split("/")
        if value.startswith("/") or ".." in parts or "\0" in value:
            raise ValueError(f"{value!r} is not in the bundle")
        return value

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if (kind := self.options.get("kind")) not in (None, "virtualenv"):
            raise ValueError(f"kind={kind!r}: {_VIRTUAL_ONLY}")
        if self.options.get("image") is not None:
            raise ValueError(f"an image: {_VIRTUAL_ONLY}")
        return self

    @property
    def replica_options(self) -> dict[str, Any]:
        """The options for a replica: what is required is in its environment, and not looked for."""
        return {**self.options, "requirements": []}

    def to_header(self) -> str:
        """The manifest as the value of the header ``x-polyrank-deploy``."""
        return base64.b64encode(self.model_dump_json(exclude_defaults=True).encode()).decode()


_VIRTUAL_ONLY = (
    "an app is deployed into a virtual environment, built from its requirements; containers and "
    "conda are not there. List what pip can install in requirements, and have the rest (system "
    "libraries, compilers) installed on the server"
)


def create(**fields: Any) -> Manifest:
    """A manifest. Raises BundleError naming every problem."""
    try:
        return Manifest(**fields)
    except ValidationError as error:
        raise _refused(error) from None


def from_header(text: str) -> Manifest:
    """The manifest in a header's value. Raises BundleError naming every problem."""
    if len(text) > MAX_HEADER_BYTES:
        raise BundleError(f"the header {HEADER} is longer than {MAX_HEADER_BYTES} bytes")
    try:
        return Manifest.model_validate_json(base64.b64decode(text, validate=True))
    except ValidationError as error:
        raise _refused(error) from None
    except ValueError as error:
        raise BundleError(f"the header {HEADER} is not base64: {error}") from None


def _refused(error: ValidationError) -> BundleError:
    problems = (
        ": ".join([".".join(map(str, each["loc"])), each["msg"]]).removeprefix(": ")
        for each in error.errors()
    )
    return BundleError(f"the app cannot be deployed: {'; '.join(problems)}")
