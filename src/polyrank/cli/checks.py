"""What must be right for a server to work here: each check is a function of its own."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pynvml
import sqlalchemy as sa
import uv

from polyrank.errors import PolyrankError
from polyrank.serving import listen
from polyrank.settings import ClientSettings, ServerSettings
from polyrank.store.database import Database

Level = Literal["ok", "warn", "fail"]

GIB = 2**30
PORT = 8080
ASK_S = 5.0
# A kernel that is told the time says so; see adjtimex(2).
STA_UNSYNC = 0x40


@dataclass(frozen=True)
class Finding:
    """What a check saw, and what to do about it."""

    level: Level
    seen: str
    remedy: str = ""


def gpus() -> Finding:
    """Whether there are GPUs, and all of them answer."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/proc/driver/nvidia").exists():
            return Finding(
                "fail",
                f"there is an NVIDIA GPU, and its driver does not answer: {error}",
                "run nvidia-smi; after an update of the driver, restart the machine; in a "
                "container, start it with --gpus all",
            )
        return Finding("warn", "none", "ranks run on the CPU; for a GPU, install NVIDIA's driver")
    try:
        found, broken = [], []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                name = pynvml.nvmlDeviceGetName(handle)
                found.append(f"{name} ({(memory.total - memory.used) / GIB:.0f} GiB free)")
            except pynvml.NVMLError as error:
                broken.append(f"GPU {index} does not answer: {error}")
    finally:
        pynvml.nvmlShutdown()
    if broken:
        return Finding("fail", "; ".join(found + broken), "reset it: nvidia-smi --gpu-reset")
    return Finding("ok", ", ".join(found)) if found else Finding("warn", "none are visible here")


def driver() -> Finding:
    """Whether the driver is new enough for the torch that is installed."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Finding("ok", "none, and none is needed without a GPU")
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    seen = f"{version}, for CUDA up to {cuda // 1000}.{cuda % 1000 // 10}"
    needed = _cuda_of_torch()
    if needed is not None and needed > cuda // 1000:
        return Finding(
            "fail",
            f"{seen}; torch here is made for CUDA {needed}",
            f"install a newer driver, or a torch for CUDA {cuda // 1000}",
        )
    return Finding("ok", seen)


def nccl() -> Finding:
    """Whether several GPUs can talk to each other."""
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        if (version := _version(name)) is not None:
            return Finding("ok", f"{version}, with torch")
    if library := ctypes.util.find_library("nccl"):
        return Finding("ok", library)
    try:
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return Finding("ok", "none, and none is needed without a GPU")
    return Finding("warn", "none", "install torch with CUDA where ranks run: it brings NCCL")


def torch() -> Finding:
    """Whether ranks can run in this environment; apps may bring their own."""
    version = _version("torch")
    if version is None:
        return Finding(
            "warn", "not installed", "pip install 'polyrank[torch]', or have apps require it"
        )
    return Finding("ok", version)


def port() -> Finding:
    """Whether a server can listen where it does by default."""
    try:
        listen("127.0.0.1", PORT).close()
    except PolyrankError as error:
        try:
            answer = httpx.get(f"http://127.0.0.1:{PORT}/health", timeout=ASK_S, trust_env=False)
            is_ours = answer.json() == {"status": "ok"}
        except (httpx.HTTPError, ValueError):
            is_ours = False
        if is_ours:
            return Finding("ok", f"{PORT} is a polyrank server's")
        return Finding("warn", str(error), "choose another port: polyrank serve --port 8081")
    return Finding("ok", f"{PORT} is free")


def disk() -> Finding:
    """Whether the data folder can be written, and has room."""
    folder = ServerSettings().data_dir.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Finding(
            "fail",
            f"{there} cannot be written",
            "choose another folder with POLYRANK_DATA_DIR, or give this one to the server's user",
        )
    usage = shutil.disk_usage(there)
    seen = f"{usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB free for {folder}"
    remedy = "make room, or choose another folder with POLYRANK_DATA_DIR"
    if usage.free < GIB:
        return Finding("fail", seen, remedy)
    return Finding("warn", seen, remedy) if usage.free < 20 * GIB else Finding("ok", seen)


def shared_memory() -> Finding:
    """Whether ranks have room to pass pictures and tensors on."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        return Finding("fail", f"/dev/shm cannot be used: {error.strerror}", _SHM)
    seen = f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free"
    if usage.free < 64 * 2**20:
        return Finding("fail", seen, _SHM)
    return Finding("warn", seen, _SHM) if usage.total < GIB else Finding("ok", seen)


_SHM = "start the container with --shm-size=8g, or --ipc=host"


def open_files() -> Finding:
    """Whether enough callers can be connected at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        remedy = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}, or LimitNOFILE= in the unit"
        return Finding("warn", f"at most {soft} at once", remedy)
    return Finding("ok", f"at most {soft} at once")


def database() -> Finding:
    """Whether the server's database can be used."""
    settings = ServerSettings()
    if not settings.has_database:
        return Finding("ok", f"none yet; it will be in {settings.data_dir}")
    try:
        opened = Database(settings.database, is_server=False)
        try:
            work = sa.text("select count(*) from alembic_version")
            opened.submit(lambda connection: connection.execute(work).scalar()).result()
        finally:
            opened.close()
    except (PolyrankError, sa.exc.SQLAlchemyError) as error:
        return Finding("fail", str(error), "start the database, or set POLYRANK_DATABASE_URL")
    return Finding("ok", f"{opened.dialect} answers")


def key_file() -> Finding:
    """Whether nobody else can read what secrets are encrypted with."""
    path = ServerSettings().key_file
    try:
        mode = path.stat().st_mode & 0o777
        readable = os.access(path, os.R_OK)
    except FileNotFoundError:
        return Finding("ok", f"none yet; the first secret makes {path}")
    except OSError as error:
        return Finding("fail", f"{path}: {error.strerror}", "give it to the server's user")
    if mode & 0o077:
        return Finding("fail", f"others can read {path} (mode {mode:o})", f"chmod 600 {path}")
    if not readable:
        return Finding("fail", f"{path} cannot be read", "give it to the server's user")
    return Finding("ok", f"{path}; keep a copy of it with those of the database")


def clock() -> Finding:
    """Whether the machine is told the time: tokens and deadlines go by it."""
    state = (ctypes.c_byte * 512)()  # struct timex with nothing to be changed
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state)) < 0:
        return Finding("warn", "the kernel does not say whether it is right")
    # modes, offset, freq, maxerror, esterror (with a gap after the first), then status.
    status = int.from_bytes(bytes(state)[40:44], "little")
    seen = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if status & STA_UNSYNC:
        remedy = "have the machine's time kept: timedatectl set-ntp true, or install chrony"
        return Finding("warn", f"{seen}, and nobody keeps it right", remedy)
    return Finding("ok", f"{seen}, kept right")


def environments() -> Finding:
    """Whether the environments of apps can be built."""
    try:
        program = uv.find_uv_bin()
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, timeout=ASK_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("fail", f"uv cannot be run: {error}", "pip install --force-reinstall uv")
    return Finding("ok", done.stdout.strip())


def git() -> Finding:
    """Whether repositories can be cloned, and bundles know what git ignores."""
    program = shutil.which("git")
    if program is None:
        remedy = "install git: clone_repository needs it, and deploy asks it what to leave out"
        return Finding("warn", "not installed", remedy)
    return Finding("ok", program)


def server() -> Finding:
    """Whether the server of the profile answers."""
    settings = ClientSettings()
    try:
        with _client(settings) as client:
            answer = client.get("/health")
            answer.raise_for_status()
            theirs = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        is_chosen = "server" in settings.model_fields_set
        return Finding(
            "fail" if is_chosen else "warn",
            f"{settings.server} does not answer: {str(error) or type(error).__name__}",
            "polyrank serve starts one; polyrank profile chooses another",
        )
    if theirs != {"status": "ok"}:
        return Finding("fail", f"what answers at {settings.server} is no polyrank server", _OTHER)
    return Finding("ok", f"{settings.server} answers")


_OTHER = "polyrank profile set NAME --server URL"


def key() -> Finding:
    """Whether the server takes our key."""
    settings = ClientSettings()
    try:
        with _client(settings) as client:
            answer = client.get("/auth/whoami")
            who = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return Finding("warn", "not asked, as the server does not answer")
    if answer.status_code != 200:
        detail = who.get("detail", answer.status_code) if isinstance(who, dict) else who
        return Finding("fail", str(detail), "polyrank auth login keeps another key")
    if who.get("key_id") is None:
        return Finding("ok", "none is needed on this machine")
    return Finding("ok", f"{who['key_id']}, of {who['owner']} ({', '.join(who['scopes'])})")


CHECKS: dict[str, Callable[[], Finding]] = {
    "gpus": gpus,
    "driver": driver,
    "nccl": nccl,
    "torch": torch,
    "shared memory": shared_memory,
    "disk": disk,
    "open files": open_files,
    "clock": clock,
    "port": port,
    "database": database,
    "key file": key_file,
    "uv": environments,
    "git": git,
    "server": server,
    "key": key,
}


def _client(settings: ClientSettings) -> httpx.Client:
    headers = {}
    if settings.key is not None:
        headers["authorization"] = f"Key {settings.key.get_secret_value()}"
    return httpx.Client(base_url=settings.server, headers=headers, timeout=ASK_S)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_of_torch() -> int | None:
    """The major version of CUDA that the installed torch is made for."""
    for major in (13, 12, 11):
        names = (f"nvidia-cuda-runtime-cu{major}", f"nvidia-nccl-cu{major}")
        if any(_version(name) is not None for name in names):
            return major
    return None
