"""Clones of git repositories in the data folder, each commit apart."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from polyrank.errors import InvalidInput
from polyrank.toolkit import addresses, locks, urls
from polyrank.toolkit.downloads import DownloadError, policy_here
from polyrank.toolkit.persistent import data_path, repository_dir

# What git asks a web server first; behind redirects it is still at the end of the URL.
FIRST_PAGE = "/info/refs?service=git-upload-pack"


def clone_repository(
    https_url: str,
    *,
    commit_hash: str | None = None,
    target_dir: str | Path | None = None,
    repo_name: str | None = None,
    force: bool = False,
    include_to_path: bool = False,
) -> Path:
    """A clone of the repository, of one commit (or branch, or tag) if ``commit_hash`` names one.

    It is ``repo_name`` in ``target_dir``, which is in the data folder unless it is given as an
    absolute path; one that is there is kept, unless ``force`` or another commit is asked for.
    ``include_to_path`` lets Python import from it. Raises DownloadError.

    Example::

        clone_repository("https://github.com/owner/name", commit_hash="1a2b3c4")
    """
    _check(https_url, commit_hash)
    parent = repository_dir() if target_dir is None else data_path(target_dir)
    name = repo_name or _name(https_url, commit_hash)
    if not re.fullmatch(r"[\w.+@-]+", name) or name.startswith("."):
        raise DownloadError(f"not a name for a folder: {name[:60]!r}")
    target = parent / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with locks.held(parent / f".{name}.lock"):
            if force or not _is_there(target, commit_hash):
                _clone(https_url, commit_hash, target)
    except (InvalidInput, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise DownloadError(f"{https_url} could not be cloned: {error}") from error
    if include_to_path and str(target) not in sys.path:
        sys.path.insert(0, str(target))
    return target


def _check(url: str, commit: str | None) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"repositories are cloned from https URLs, not from {url[:200]!r}")
    if commit is not None and not re.fullmatch(r"[\w./+-]+", commit) or (commit or "")[:1] == "-":
        raise DownloadError(f"not a commit, branch or tag: {commit!r}")


def _name(url: str, commit: str | None) -> str:
    name = urlsplit(url).path.rstrip("/").rpartition("/")[2].removesuffix(".git") or "repository"
    return name if commit is None else f"{name}-{re.sub('[^A-Za-z0-9.]', '-', commit[:40])}"


def _is_there(target: Path, commit: str | None) -> bool:
    """Whether the folder is a clone, of the commit if that is one's hash: branches may move on,
    and are what they were when they were cloned."""
    if not (target / ".git").exists():
        return False
    if commit is None or not re.fullmatch(r"[0-9a-f]{7,40}", commit):
        return True
    head = _git(["-C", str(target), "rev-parse", "HEAD"])
    return head.startswith(commit)


def _clone(url: str, commit: str | None, target: Path) -> None:
    """Clones beside the target, and puts it in place when it is whole."""
    with ThreadPoolExecutor(1, "polyrank-clone") as thread:
        found, pinned = thread.submit(asyncio.run, _find(url)).result()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        fresh = Path(folder) / "clone"
        # Connects to the address that was checked, and follows no redirect from it.
        safe = ["-c", f"http.curloptResolve={pinned}", "-c", "http.followRedirects=false"]
        _git([*safe, "clone", "--quiet", "--", found, str(fresh)])
        if commit is not None:
            _git(["-C", str(fresh), "checkout", "--quiet", "--detach", _revision(fresh, commit)])
        if target.exists():
            target.rename(Path(folder) / "before")
        fresh.rename(target)


def _revision(clone: Path, commit: str) -> str:
    """The hash of a commit, branch or tag of the clone."""
    for name in (f"{commit}^{{commit}}", f"origin/{commit}^{{commit}}"):
        try:
            return _git(["-C", str(clone), "rev-parse", "--verify", "--quiet", name])
        except DownloadError:
            continue
    raise DownloadError(f"it has no commit, branch or tag {commit!r}")


async def _find(url: str) -> tuple[str, str]:
    """Where the repository is once no redirect is left, and that host's address for git."""
    policy = policy_here()
    async with urls.opened(url.rstrip("/") + FIRST_PAGE, policy) as (response, there):
        if not response.is_success:
            raise DownloadError(f"it answered {response.status_code}: is it there, and public?")
    port = there.port or urls.DEFAULT_PORTS[there.scheme]
    networks = urls.ANY_ADDRESS if policy.allows(there.host) else policy.allowed_networks
    known = await addresses.resolve(there.host, port, networks)
    return str(there).removesuffix(FIRST_PAGE), f"{there.host}:{port}:{','.join(known)}"


def _git(arguments: Sequence[str]) -> str:
    """What git prints. It asks nobody for a password, and reads nobody's settings of aliases."""
    git = shutil.which("git")
    if git is None:
        raise DownloadError("git is not installed on this machine")
    done = subprocess.run(
        [git, "-c", "core.askPass=true", "-c", "credential.helper=", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise DownloadError(done.stderr.strip()[-500:] or f"git ended with {done.returncode}")
    return done.stdout.strip()
