"""Which files of a project travel to a server."""

from __future__ import annotations

import filecmp
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from polyrank.errors import BundleError, UploadTooLarge
from polyrank.settings import BundleSettings

IGNORE_FILE = ".polyrankignore"
IGNORED = (
    *(".git", ".hg/", ".svn/", ".venv/", "venv/", "node_modules/", "__pycache__/", "*.py[co]"),
    *("*.egg-info/", ".tox/", ".nox/", ".mypy_cache/", ".pytest_cache/", ".ruff_cache/"),
    *(".ipynb_checkpoints/", ".idea/", ".vscode/", ".DS_Store", "*.swp", IGNORE_FILE),
)
# Left out and told, unless they are named or re-included.
SECRETS = (
    *(".env", ".env.*", "!.env.example", "!.env.sample", "!.env.template", ".netrc", ".pypirc"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".ssh/", ".aws/", ".gnupg/"),
)
KEY_FILES = (".pem", ".key")
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class BundleFile:
    """A file: its name in the bundle, where it is here, and for a symbolic link where it leads."""

    name: str
    path: Path
    size: int
    link: str | None = None


@dataclass(frozen=True)
class Extra:
    """A file or folder that travels whatever the ignore rules say, to ``name`` in the bundle.

    ``ignore`` are regular expressions over the names of a folder's files; those that match stay.
    A ``fallback`` travels only if nothing of the project does under that name.
    """

    name: str
    path: Path
    ignore: tuple[str, ...] = ()
    fallback: bool = False


@dataclass(frozen=True)
class Selection:
    """The files that travel, by name, and the names of those left out as probable secrets."""

    root: Path
    files: tuple[BundleFile, ...]
    secrets: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Their bytes, not compressed."""
        return sum(file.size for file in self.files)


def project_root(file: Path) -> Path:
    """The folder of the nearest pyproject.toml above ``file``, else its own folder."""
    for folder in file.resolve().parents:
        if (folder / "pyproject.toml").is_file():
            return folder
    return file.resolve().parent


def list_files(
    root: Path, extras: Iterable[Extra] = (), limits: BundleSettings | None = None
) -> Selection:
    """The files of the project in ``root`` that travel, and the extras.

    In a git repository those are the files that git knows or would add, else all of them; without
    what the rules built in and those in ``.polyrankignore`` leave out. Raises BundleError, and
    UploadTooLarge naming the largest files.
    """
    root = root.resolve()
    _refuse_shared_folder(root)
    rules = _Rules(root)
    found: dict[str, BundleFile] = {}
    for name in _listed(root, rules):
        if rules.allow(name, root / name):
            found[name] = _file(name, root / name, root)
    for extra in extras:
        if extra.fallback and any(PurePosixPath(name).is_relative_to(extra.name) for name in found):
            continue
        for file in _files_of(extra, root, rules):
            _add(found, file)
    files = tuple(found[name] for name in sorted(found))
    _check_limits(files, limits or BundleSettings())
    return Selection(root, files, tuple(sorted(rules.secrets - found.keys())))


class _Rules:
    """The ignore rules of a project, and what they have found to be secret."""

    def __init__(self, root: Path) -> None:
        own = root / IGNORE_FILE
        lines = own.read_text().splitlines() if own.is_file() else []
        self._spec = GitIgnoreSpec.from_lines([*IGNORED, *SECRETS, *lines])
        self._built_in = GitIgnoreSpec.from_lines(IGNORED)
        self._secret = GitIgnoreSpec.from_lines(SECRETS)
        self.secrets: set[str] = set()

    def allow(self, name: str, path: Path) -> bool:
        """Whether a file of the project may travel."""
        verdict = self._spec.check_file(name).include
        if verdict is not False and self._is_secret(name, path):
            if not self._built_in.match_file(name):
                self.secrets.add(name)
            return False
        return not verdict

    def allow_extra(self, name: str, path: Path) -> bool:
        """The same for a file in a folder that was asked for: the project's own rules are off."""
        if self._built_in.match_file(name):
            return False
        if self._is_secret(name, path):
            self.secrets.add(name)
            return False
        return True

    def enter(self, name: str, path: Path) -> bool:
        """Whether a folder is looked into."""
        if (path / "pyvenv.cfg").exists():
            return False
        return not self._spec.match_file(f"{name}/")

    def _is_secret(self, name: str, path: Path) -> bool:
        if self._secret.match_file(name):
            return True
        if path.suffix not in KEY_FILES or not path.is_file():
            return False
        with path.open("rb") as file:
            return b"PRIVATE KEY-----" in file.read(4096)


def _listed(root: Path, rules: _Rules) -> Iterator[str]:
    """Names relative to ``root``; of a folder that is a repository, what git says."""
    if any((folder / ".git").exists() for folder in (root, *root.parents)):
        names = _git_names(root)
        if names:  # git lists nothing of a folder that it ignores as a whole
            yield from names
            return
    yield from _walked(root, "", rules)


def _walked(folder: Path, prefix: str, rules: _Rules) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if rules.enter(name, Path(entry.path)):
                yield from _walked(Path(entry.path), f"{name}/", rules)
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield name


def _git_names(root: Path, prefix: str = "") -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    # A hook of git sets these for its own repository.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, env=environ, check=False)
    except FileNotFoundError:
        raise BundleError(
            f"{root} is in a git repository and there is no git to say which of its files are "
            "ignored; install git"
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise BundleError(f"git does not list the files of {root}: {said}")
    names: list[str] = []
    for raw in dict.fromkeys(filter(None, done.stdout.split(b"\0"))):
        name = os.fsdecode(raw).rstrip("/")
        path = root / name
        if path.is_dir() and not path.is_symlink():  # a repository in this one
            names += _git_names(path, f"{prefix}{name}/")
        elif os.path.lexists(path):
            names.append(f"{prefix}{name}")
    return names


def _files_of(extra: Extra, root: Path, rules: _Rules) -> Iterator[BundleFile]:
    if not extra.path.exists():
        raise BundleError(f"there is no {extra.path}, which should travel as {extra.name}")
    if extra.path.is_file():
        yield _file(extra.name, extra.path, root)
        return
    prefix = "" if extra.name in ("", ".") else f"{extra.name}/"
    for inner in _walked(extra.path, "", rules):
        name, path = f"{prefix}{inner}", extra.path / inner
        if any(re.search(pattern, name) for pattern in extra.ignore):
            continue
        if rules.allow_extra(name, path):
            yield _file(name, path, root)


def _file(name: str, path: Path, root: Path) -> BundleFile:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BundleError(f"the name of {name!r} is not UTF-8; rename it") from None
    try:
        if path.is_symlink():
            return _link(name, path, root)
        return BundleFile(name, path, path.stat().st_size)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _link(name: str, path: Path, root: Path) -> BundleFile:
    """A link within the project stays one; no other leads anywhere on the server."""
    target = path.resolve()
    if not target.is_relative_to(root):
        raise BundleError(
            f"{path} is a link to {target}, outside of {root}; copy it there, or leave it out by a "
            f"line in {IGNORE_FILE}"
        )
    if path != root / name and target.is_file():  # from elsewhere: its content is what counts
        return BundleFile(name, target, target.stat().st_size)
    leads = os.path.relpath(target, (root / name).parent.resolve())
    return BundleFile(name, path, 0, PurePosixPath(leads).as_posix())


def _add(found: dict[str, BundleFile], file: BundleFile) -> None:
    """One more file; another under the same name must be the same."""
    other = found.get(file.name)
    if other is None or other.path.resolve() == file.path.resolve():
        found[file.name] = file
    elif not filecmp.cmp(other.path, file.path, shallow=False):
        raise BundleError(f"{other.path} and {file.path} would both travel as {file.name}")


def _refuse_shared_folder(root: Path) -> None:
    shared = (Path("/"), Path.home().resolve(), Path(tempfile.gettempdir()).resolve())
    if root in shared:
        raise BundleError(
            f"all of {root} would travel; give the app a folder of its own, or a pyproject.toml"
        )


def _check_limits(files: tuple[BundleFile, ...], limits: BundleSettings) -> None:
    size = sum(file.size for file in files)
    if size > limits.max_bytes:
        largest = sorted(files, key=lambda file: -file.size)[:NAMED_AT_MOST]
        named = ", ".join(f"{file.name} ({in_words(file.size)})" for file in largest)
        raise UploadTooLarge(
            f"{len(files)} files of {in_words(size)} are more than {in_words(limits.max_bytes)}; "
            f"the largest: {named}. Leave out what the app does not need by lines in {IGNORE_FILE},"
            " or raise POLYRANK_BUNDLES_MAX_BYTES here and on the server",
            max_bytes=limits.max_bytes,
        )
    if len(files) > limits.max_files:
        raise BundleError(
            f"{len(files)} files are more than {limits.max_files}: {_crowded(files)}. Leave out "
            f"what the app does not need by lines in {IGNORE_FILE}, or raise "
            "POLYRANK_BUNDLES_MAX_FILES here and on the server"
        )


def _crowded(files: Iterable[BundleFile]) -> str:
    counts: dict[str, int] = {}
    for file in files:
        top = file.name.partition("/")[0]
        counts[top] = counts.get(top, 0) + 1
    most = sorted(counts, key=lambda top: -counts[top])[:NAMED_AT_MOST]
    return ", ".join(f"{counts[top]} in {top}" for top in most)


def in_words(size_bytes: float) -> str:
    """``1.5 MiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} bytes" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
