"""An image that an app asks to run in: kept as it is described, not built here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from polyrank.errors import AppError


@dataclass
class ContainerImage:
    """A description of a container image, from a Dockerfile.

    ``polyrank run`` serves the app in the environment it is started in, and says so.

    Example: ``image = ContainerImage.from_dockerfile("Dockerfile")``.
    """

    dockerfile_str: str
    build_args: dict[str, str] = field(default_factory=dict)
    registries: dict[str, dict[str, str]] = field(default_factory=dict)
    builder: str | None = None
    compression: str = "gzip"
    force_compression: bool = False
    secrets: dict[str, str] = field(default_factory=dict)
    entrypoint: str | list[str] | None = None
    cmd: str | list[str] | None = None
    use_isolate: bool | None = None
    context_dir: str | Path | None = None
    dockerignore: list[str] | None = None
    dockerignore_path: str | Path | None = None

    def __post_init__(self) -> None:
        if not self.dockerfile_str.strip():
            raise AppError("a ContainerImage needs a Dockerfile, and this one is empty")
        for name, login in self.registries.items():
            if not {"username", "password"} <= login.keys():
                raise AppError(f"registry {name!r} needs a username and a password")

    @classmethod
    def from_dockerfile_str(cls, text: str, **options: Any) -> Self:
        """An image described by the text of a Dockerfile."""
        return cls(dockerfile_str=text, **options)

    @classmethod
    def from_dockerfile(cls, path: str | Path, **options: Any) -> Self:
        """An image described by the Dockerfile at ``path``."""
        return cls.from_dockerfile_str(Path(path).read_text(), **options)

    def add_dockerignore(
        self, patterns: list[str] | None = None, path: str | Path | None = None
    ) -> None:
        """Names what a build would leave out: patterns, or a file of them."""
        if (patterns is None) == (path is None):
            raise AppError("add_dockerignore takes either patterns or a path")
        self.dockerignore, self.dockerignore_path = patterns, path
