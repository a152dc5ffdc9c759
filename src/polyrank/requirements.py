"""What an app asks for, and whether this environment has it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

# Options of a requirements line whose value is the next word.
VALUED = {
    *("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host"),
    *("-c", "--constraint", "-r", "--requirement", "--no-binary", "--only-binary"),
    *("--platform", "--python-version", "--config-settings", "--index-strategy"),
}
EDITABLE = ("-e", "--editable")
OURS = ("fal", "polyrank")
FILES = ("-r", "--requirement", "-c", "--constraint")
FOLDERS = ("-f", "--find-links")
_URL = re.compile(r"(?:git|hg|svn|bzr)\+\S+|https?://\S+|file:\S+")
_ARCHIVE = (".whl", ".tar.gz", ".zip")


def layers(requirements: list[str] | list[list[str]]) -> tuple[tuple[str, ...], ...]:
    """The layers in their order, without empty lines and comments; a plain list is one layer."""
    nested = [[each] if isinstance(each, str) else each for each in requirements]
    if requirements and all(isinstance(each, str) for each in requirements):
        nested = [[line for layer in nested for line in layer]]
    plain = (tuple(filter(None, map(_uncommented, layer))) for layer in nested)
    return tuple(layer for layer in plain if layer)


def without_ours(layer: Iterable[str]) -> tuple[list[str], set[str]]:
    """The lines but those that name polyrank or what it stands for, and the extras they ask for."""
    kept, extras = [], set()
    for line in layer:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            kept.append(line)
            continue
        name = canonicalize_name(wanted.name)
        if name not in OURS:
            kept.append(line)
        elif name == "polyrank":
            extras |= wanted.extras
    return kept, extras


def local_paths(lines: Iterable[str], folder: Path) -> list[str]:
    """The files and folders that the lines name, and those named in files that they include.

    As they are written; they are relative to ``folder``, as an installer has them.
    """
    found: dict[str, None] = {}
    waiting = list(lines)
    while waiting:
        option, value = _split(waiting.pop(0))
        if (path := _path_of(option, value)) is None or path in found:
            continue
        found[path] = None
        if option in FILES and (folder / path).is_file():
            waiting += _lines_of(folder / path, folder)
    return list(found)


def _lines_of(file: Path, folder: Path) -> Iterator[str]:
    """The lines of an included file; what those include in turn is relative to the file."""
    for line in file.read_text(errors="replace").splitlines():
        option, value = _split(_uncommented(line))
        if option in FILES and _path_of(option, value) is not None:
            value = os.path.relpath(file.parent / value, folder)
        yield f"{option} {value}".strip()


def _split(line: str) -> tuple[str, str]:
    """An option and its value; of a requirement, nothing and the requirement."""
    if not line.startswith("-"):
        return "", line
    option, _, value = line.replace("=", " ", 1).partition(" ")
    return option, value.strip()


def _path_of(option: str, value: str) -> str | None:
    if option in (*FILES, *FOLDERS):
        return None if not value or "://" in value else value
    if option and option not in EDITABLE:
        return None
    place = re.split(r"\s+;|\s--", value)[0].strip()
    place = re.sub(r"^[\w.-]+(\[[^]]*\])?\s*@\s*", "", place)  # NAME @ PLACE
    if place.startswith("file:"):
        return place.removeprefix("file:").removeprefix("//").split("#")[0]
    place = re.sub(r"\[[^]]*\]$", "", place)
    if "://" in place:
        return None
    is_path = place.startswith((".", "/", "~")) or "/" in place or place.endswith(_ARCHIVE)
    return place if is_path and " " not in place else None


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line).strip()


def differences(requirements: list[str] | list[list[str]]) -> list[str]:
    """A line for every requirement that this environment does not meet; empty when all are.

    Requirements may stand in layers. Option lines such as ``--extra-index-url`` are not
    requirements; ``fal`` and ``polyrank`` are met by polyrank.
    """
    found = (_difference(line) for line in _requirement_lines(requirements))
    return list(dict.fromkeys(line for line in found if line is not None))


def _requirement_lines(requirements: list[str] | list[list[str]]) -> Iterator[str]:
    """The lines that name something to install, without options and comments."""
    is_value = False
    for layer in requirements:
        for line in [layer] if isinstance(layer, str) else layer:
            line = _uncommented(line)
            option, _, value = line.partition(" ")
            if not line.startswith("-"):
                if line and not is_value:
                    yield re.split(r"\s--", line)[0].strip()  # hashes and the like follow
                is_value = False
            elif option in EDITABLE:
                if value:
                    yield value.strip()
            else:
                is_value = option in VALUED and not value


def _difference(line: str) -> str | None:
    url, _, marker = (part.strip() for part in line.partition(" ;"))
    if _URL.fullmatch(url):
        return None if marker and not Marker(marker).evaluate() else _url_difference(url)
    if line.startswith((".", "/", "~")) or line.endswith((".whl", ".tar.gz")):
        return f"{line}: a path; whether it is installed cannot be checked"
    try:
        wanted = Requirement(line)
    except InvalidRequirement as error:
        return f"{line}: not a requirement: {str(error).splitlines()[0]}"
    if canonicalize_name(wanted.name) in OURS:
        return None
    if wanted.marker and not wanted.marker.evaluate():
        return None
    return _distribution_difference(line, wanted)


def _distribution_difference(line: str, wanted: Requirement) -> str | None:
    try:
        found = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{line}: not installed"
    if not wanted.specifier.contains(found.version, prereleases=True):
        return f"{line}: {found.version} is installed"
    if wanted.url is not None:
        return _origin_difference(line, found, wanted.url)
    for extra in sorted(wanted.extras):
        for needed in map(Requirement, found.requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                continue
            if needed.marker.evaluate({"extra": extra}):
                difference = _distribution_difference(str(needed).split(";")[0].strip(), needed)
                if difference is not None:
                    return f"{line}: its extra {extra!r} needs {difference}"
    return None


def _url_difference(url: str) -> str | None:
    """For a URL that stands alone; its name is in ``#egg=`` or in a wheel's file name."""
    egg = re.search(r"#.*?egg=([\w.-]+)", url)
    name = egg[1] if egg else None
    if name is None and url.split("#")[0].endswith(".whl"):
        try:
            name = parse_wheel_filename(url.split("#")[0].rsplit("/", 1)[1])[0]
        except InvalidWheelFilename:
            name = None
    if name is None:
        # Installers keep the URL beside what they installed from it.
        if any(_origin_difference(url, each, url) is None for each in metadata.distributions()):
            return None
        return f"{url}: nothing here was installed from it"
    try:
        return _origin_difference(url, metadata.distribution(name), url)
    except metadata.PackageNotFoundError:
        return f"{url}: {name} is not installed"


def _origin_difference(line: str, found: metadata.Distribution, url: str) -> str | None:
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    was, is_at = origin.get("url", ""), _plain(url)
    if was and _plain(was) == is_at:
        wanted = re.search(r"\.git@([\w./-]+)|(?<=\w)@([\w.-]+)(?:#|$)", url)
        revision = (wanted[1] or wanted[2]) if wanted else None
        info = origin.get("vcs_info", {})
        if revision in (None, info.get("requested_revision"), info.get("commit_id")):
            return None
        return f"{line}: installed from its revision {info.get('requested_revision') or 'HEAD'}"
    return f"{line}: {found.version} is installed, from {was or 'a package index'}"


def _plain(url: str) -> str:
    """The URL without revision, fragment, version control's prefix and ``.git``."""
    url = re.sub(r"^\w+\+", "", url.split("#")[0])
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host}{slash}{path.split('@')[0].removesuffix('.git')}"
