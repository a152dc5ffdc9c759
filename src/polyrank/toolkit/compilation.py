"""What ``torch.compile`` has made, kept for the next replica: compiled once, unpacked afterwards.

Compiled code fits one kind of GPU and CPU and one version of torch, Triton and Python; there is an
archive in the data folder for each, and a folder on this machine that compilers work in. They look
for what they have made by its full path, so that folder is the same every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from polyrank.devices import visible_gpus
from polyrank.errors import InvalidInput, PolyrankError
from polyrank.toolkit import archive, locks
from polyrank.toolkit.persistent import persistent_dir

log = logging.getLogger("polyrank.compilation")

NO_GPU = "UNKNOWN"
# An archive that grows beyond it loses what only others have made.
MAX_BYTES = 4 * 2**30
CHUNK = 2**20
# What compilers leave while they work.
_UNFINISHED = re.compile(r"\.lock$|\.tmp$|\.pid_|^\.|/\.")

# Size and CRC of each file: the content, as an archive knows it without being unpacked.
Contents = dict[str, tuple[int, int]]


def get_gpu_type() -> str:
    """The first GPU's type in a word, such as ``H100``; ``UNKNOWN`` where there is none."""
    for name in visible_gpus():
        words = name.removeprefix("NVIDIA ").replace("-", " ").split()
        return words[0] if words else NO_GPU
    return NO_GPU


@contextlib.contextmanager
def synchronized_inductor_cache(cache_key: str) -> Iterator[None]:
    """Compiles inside the block with what was kept under ``cache_key``, and keeps what is new.

    Any number of processes may do so at once. Compilers go on with the folder after the block; what
    they then make is kept the next time that one of this machine gets here.

    Example::

        with synchronized_inductor_cache("painter/1"):
            self.model = torch.compile(model)
            self.model(example)
    """
    contents = load_inductor_cache(cache_key)
    try:
        yield
    finally:
        sync_inductor_cache(cache_key, contents)


def load_inductor_cache(cache_key: str) -> str:
    """Unpacks what was kept, for compilers in this process to find; a hash of its content for
    ``sync_inductor_cache``, empty if nothing was kept."""
    cache = _Cache(cache_key)
    with cache.guarded("unpacked"):
        cache.prepare()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache.folder)
        os.environ["TRITON_CACHE_DIR"] = str(cache.folder / "triton")
        cache.unpack()
    return _digest(cache.kept())


def sync_inductor_cache(cache_key: str, unpacked_dir_hash: str) -> None:
    """Keeps what has been compiled if any content is new since ``load_inductor_cache``."""
    cache = _Cache(cache_key)
    with cache.guarded("kept"):
        cache.prepare()
        cache.pack(unpacked_dir_hash)


class _Cache:
    """The archive of one key, and the folder on this machine that it is unpacked to."""

    def __init__(self, key: str) -> None:
        parts = key.split("/")
        if not all(re.fullmatch(r"[\w.+-]+", part) and part.strip(".") for part in parts):
            raise InvalidInput(f"not a key for a cache: {key!r}; it is made of words and slashes")
        place = f"{_gpu()}/{_versions()}"
        self._archive = persistent_dir() / "inductor-caches" / place / f"{key}.zip"
        self._lock = self._archive.with_name(f".{self._archive.name}.lock")
        name = hashlib.sha256(f"{place}/{key}".encode()).hexdigest()[:16]
        self._private = Path(tempfile.gettempdir()) / f"polyrank-compiled-{os.getuid()}"
        self.folder = self._private / name

    def prepare(self) -> None:
        """Has the folders be there. Nobody else may write where this user's compilers do, as what
        is there is run."""
        self._private.mkdir(mode=0o700, exist_ok=True)
        found = self._private.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PolyrankError(f"{self._private} is not a folder of this user's alone: remove it")
        self.folder.mkdir(exist_ok=True)
        self._archive.parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def guarded(self, done: str) -> Iterator[None]:
        """An app works without its cache, only slower: what fails is said, and that is all."""
        try:
            yield
        except (PolyrankError, *archive.BROKEN) as error:
            log.warning("compiled code could not be %s (%s): %s", done, self._archive, error)

    def kept(self) -> Contents:
        """What the archive has."""
        try:
            with zipfile.ZipFile(self._archive) as kept:
                return {entry.filename: (entry.file_size, entry.CRC) for entry in kept.infolist()}
        except archive.BROKEN:
            return {}

    def unpack(self) -> None:
        """Brings what is missing here from the archive; nothing here is overwritten."""
        if not self._archive.exists():
            return
        # Whoever packs puts another file in place: this one stays as it is while it is read.
        with zipfile.ZipFile(self._archive) as kept:
            for entry in kept.infolist():
                target = self.folder / archive.inside(entry)
                if target.exists():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".unpacking-")
                try:
                    with os.fdopen(descriptor, "wb") as file, kept.open(entry) as source:
                        shutil.copyfileobj(source, file, CHUNK)
                    # Some of it are libraries, which are mapped to be run.
                    os.chmod(temporary, 0o700 if entry.external_attr >> 16 & 0o100 else 0o600)
                    os.replace(temporary, target)
                finally:
                    Path(temporary).unlink(missing_ok=True)

    def pack(self, known: str) -> None:
        """Puts what is here into the archive, beside what others have put there meanwhile."""
        here = _contents(self.folder)
        with locks.held(self._lock):
            there = self.kept()
            if here.items() <= there.items():
                return log.info("nothing new was compiled for %s", self._archive.name)
            if _digest(there) != known:
                log.info("others have added to %s", self._archive.name)
            descriptor, temporary = tempfile.mkstemp(dir=self._archive.parent, prefix=".packing-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    self._write(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED), here, there)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._archive)
            finally:
                Path(temporary).unlink(missing_ok=True)
        log.info("%d compiled files are kept in %s", len(here), self._archive)

    def _write(self, target: zipfile.ZipFile, here: Contents, there: Contents) -> None:
        with target:
            for name in sorted(here):
                # A compiler that replaces a file meanwhile gives it the same content.
                target.write(self.folder / name, name)
            others = sorted(there.keys() - here.keys())
            size = sum(entry[0] for entry in here.values())
            if not others or size + sum(there[name][0] for name in others) > MAX_BYTES:
                return
            with zipfile.ZipFile(self._archive) as kept:
                for name in others:
                    entry = kept.getinfo(name)
                    target.writestr(entry, kept.read(entry))


def _contents(folder: Path) -> Contents:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _UNFINISHED.search(name) or path.is_symlink() or not path.is_file():
            continue
        crc = size = 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
        found[name] = (size, crc)
    return found


def _digest(contents: Contents) -> str:
    return hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest() if contents else ""


def _gpu() -> str:
    return re.sub(r"[^\w.]+", "-", next(iter(visible_gpus()), "cpu")).strip("-")


def _versions() -> str:
    """What compiled code depends on beside the GPU. Compilers build for the CPU they run on."""
    names = [f"python{sys.version_info.major}.{sys.version_info.minor}"]
    for package in ("torch", "triton"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            names.append(package + importlib.metadata.version(package))
    cpu = hashlib.sha256(f"{platform.machine()} {_cpu_features()}".encode()).hexdigest()[:8]
    return "-".join([*names, f"cpu{cpu}"])


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
