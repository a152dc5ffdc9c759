"""Environments, built with uv for real: each once, whole or not at all."""

import asyncio
import contextlib
import functools
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyrank.errors import BuildFailed
from polyrank.scaler import wheel
from polyrank.scaler.environments import (
    OWN,
    BuildLine,
    Built,
    Environments,
    EnvironmentSpec,
)
from polyrank.scaler.uv import Uv
from polyrank.settings import EnvironmentSettings, PipSettings

BUILT_ONLY = EnvironmentSettings(use_own=False)

# A project whose build says who it is into a pipe, and does not end by itself.
ENDLESS = """
import os, signal
def build_wheel(*_, **__):
    with open(os.environ["TOLD"], "w") as told:
        told.write(f"{os.getpid()}\\n")
        told.flush()
        signal.pause()
"""


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel of one module with a command."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\ndef main(): print(version)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": wheel.WHEEL,
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            # The same content at any time.
            archive.writestr(zipfile.ZipInfo(file), text)
    return path


def make_project(folder: Path, text: str = "") -> Path:
    """A project that is built without any package of others."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'parcel'\nversion = '1'\n"
    )
    (folder / "backend.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in (("greeting", "1.0"), ("greeting", "2.0"), ("farewell", "1.0")):
        make_wheel(folder, name, version)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's cache, with what polyrank itself needs in it."""
    folder = tmp_path_factory.mktemp("uv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", str(folder / "cache"))
        environments = Environments(folder / "environments", BUILT_ONLY)
        asyncio.run(build(environments, EnvironmentSpec(["polyrank[postgres]"])))
    return folder / "cache"


@pytest.fixture
def environments(
    tmp_path: Path, cache: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> Environments:
    """Without a network: what is not in the cache is in a folder of wheels."""
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    return Environments(tmp_path / "environments", BUILT_ONLY)


async def build(environments: Environments, spec: EnvironmentSpec) -> tuple[Built, list[str]]:
    """What was built, and the log."""
    *lines, built = [each async for each in environments.build(spec)]
    assert isinstance(built, Built)
    return built, [line.text for line in lines if isinstance(line, BuildLine)]


def told_by(built: Built, code: str) -> str:
    command = [built.python, "-I", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def entries(environments: Environments, tmp_path: Path) -> list[str]:
    """The environments, whole or not."""
    folder = tmp_path / "environments"
    places = [*folder.glob("[!.]*"), *folder.glob(".building/*")]
    return [place.name for place in places]


async def test_an_environment_has_what_was_asked_for_and_the_polyrank_that_runs_here(
    environments: Environments,
) -> None:
    built, lines = await build(environments, EnvironmentSpec(["greeting<2", "fal>=1"]))
    assert " + greeting==1.0" in lines
    assert lines[-1].startswith("built in ")
    folder = built.python.parents[1]
    code = "import greeting, polyrank.app.replica as replica; print(replica.__file__)"
    running = Path(told_by(built, code))
    assert running.is_relative_to(folder)
    here = Path(wheel.PACKAGE / "app/replica.py")
    assert running.read_bytes() == here.read_bytes()
    for command, told in (("greeting", "1.0"), ("polyrank", "0.1.0")):
        done = subprocess.run([folder / "bin" / command, "--version"], capture_output=True)
        assert done.stdout.decode().split()[-1] == told


async def test_extras_of_polyrank_are_installed(cache: Path, environments: Environments) -> None:
    built, _ = await build(environments, EnvironmentSpec(["polyrank[postgres]"]))
    assert told_by(built, "import psycopg; print('there')") == "there"


async def test_what_is_there_is_used(environments: Environments) -> None:
    spec = EnvironmentSpec(["greeting", "# a comment"])
    first, _ = await build(environments, spec)
    second, lines = await build(environments, EnvironmentSpec([["greeting"]]))
    assert (second, lines) == (first, [])
    assert environments.find(first.key) == first
    fresh, lines = await build(environments, EnvironmentSpec(["greeting"], fresh="deployment 7"))
    assert fresh.key != first.key and " + greeting==2.0" in lines


async def test_layers_are_built_on_what_begins_alike(
    environments: Environments, tmp_path: Path
) -> None:
    low, _ = await build(environments, EnvironmentSpec(["greeting==1.0"]))
    both, lines = await build(environments, EnvironmentSpec([["greeting==1.0"], ["farewell"]]))
    assert [line for line in lines if line.startswith(" +")] == [" + farewell==1.0"]
    modules = [
        next((each.python.parents[1]).glob("lib/*/site-packages/greeting.py"))
        for each in (low, both)
    ]
    assert modules[0].samefile(modules[1])
    over, _ = await build(environments, EnvironmentSpec([["greeting==1.0"], ["greeting==2.0"]]))
    versions = [told_by(each, "import greeting; print(greeting.version)") for each in (low, over)]
    assert versions == ["1.0", "2.0"]
    assert sorted(entries(environments, tmp_path)) == sorted({low.key, both.key, over.key})


async def test_a_local_requirement_counts_by_its_content(
    environments: Environments, tmp_path: Path
) -> None:
    keys = []
    for number, version in enumerate(("1.0", "1.0", "2.0")):
        context = tmp_path / f"bundle-{number}"
        make_wheel(context / "dist", "parcel", "1").write_bytes(
            make_wheel(tmp_path / version, "greeting", version).read_bytes()
        )
        (context / "dist/parcel-1-py3-none-any.whl").rename(
            context / "dist/greeting-3-py3-none-any.whl"
        )
        spec = EnvironmentSpec(["--find-links ./dist", "greeting<3"], context=context)
        keys.append((await build(environments, spec))[0].key)
    assert keys[0] == keys[1] != keys[2]


async def test_a_failed_build_tells_why_and_leaves_nothing(
    environments: Environments, tmp_path: Path
) -> None:
    for lines in (["greeting==7"], [["greeting"], ["pydantic<1"]]):
        with pytest.raises(BuildFailed) as failed:
            await build(environments, EnvironmentSpec(lines))
        assert "uv pip install ended with exit status 1" in str(failed.value)
    assert "pydantic<1" in str(failed.value) and "polyrank" in str(failed.value)
    assert any("pydantic<1" in line for line in failed.value.lines)
    assert len(entries(environments, tmp_path)) == 1  # the layer that is good


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (EnvironmentSpec(python_version="3.9"), r"'3\.9': polyrank 0\.1\.0 needs Python .*3\.11"),
        (EnvironmentSpec(python_version="latest"), "'latest' is not a version of Python"),
        (EnvironmentSpec(["./lib"], context=Path("/proc/1")), "./lib: there is no such file"),
        (EnvironmentSpec(["./lib"]), "./lib: there is no folder that it is relative to"),
    ],
)
async def test_what_cannot_be_built_is_told(
    environments: Environments, spec: EnvironmentSpec, told: str
) -> None:
    with pytest.raises(BuildFailed, match=told):
        await build(environments, spec)


async def test_builds_of_the_same_at_a_time_are_one(
    environments: Environments, tmp_path: Path
) -> None:
    other = Environments(tmp_path / "environments", BUILT_ONLY)
    spec = EnvironmentSpec(["greeting"])
    results = await asyncio.gather(build(environments, spec), build(other, spec))
    assert results[0][0] == results[1][0]
    logs = sorted((lines for _, lines in results), key=len)
    assert logs[0] == ["the same environment is being built; waiting for it"]
    assert " + greeting==2.0" in logs[1]


async def test_who_stops_a_build_ends_uv_and_all_it_has_started(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "told"
    os.mkfifo(pipe)
    monkeypatch.setenv("TOLD", str(pipe))
    endless = Environments(tmp_path / "environments", BUILT_ONLY)
    spec = EnvironmentSpec(["./parcel"], context=make_project(tmp_path / "parcel", ENDLESS).parent)
    building = asyncio.create_task(build(endless, spec))
    told = await asyncio.to_thread(pipe.open)
    assert await asyncio.to_thread(told.readline)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    # The pipe ends with the last process that has it open.
    assert await asyncio.to_thread(told.read) == ""
    told.close()
    assert entries(environments, tmp_path) == []


async def test_an_index_that_is_gone_is_not_missed(
    cache: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with served(wheels) as address:
        pip = PipSettings(extra_index_url=f"{address}/simple", find_links="")
        environments = Environments(tmp_path / "environments", BUILT_ONLY, pip)
        first, _ = await build(environments, EnvironmentSpec(["greeting"]))
    again, lines = await build(environments, EnvironmentSpec(["greeting>=1"]))
    assert again.key != first.key
    assert "a package index cannot be reached; trying with what is in the cache" in lines
    assert " + greeting==2.0" in lines


@contextlib.contextmanager
def served(wheels: Path) -> Iterator[str]:
    """A package index over HTTP with these wheels."""
    for name in ("greeting", "farewell"):
        (wheels / "simple" / name).mkdir(parents=True, exist_ok=True)
        links = "".join(f'<a href="/{file.name}">{file.name}</a>' for file in wheels.glob("*.whl"))
        (wheels / "simple" / name / "index.html").write_text(f"<html><body>{links}</body></html>")
    handler = functools.partial(Quiet, directory=str(wheels))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


async def test_an_environment_whose_python_is_gone_is_built_anew(
    environments: Environments,
) -> None:
    built, _ = await build(environments, EnvironmentSpec(["greeting"]))
    built.python.unlink()
    built.python.symlink_to("/nowhere/python")
    assert environments.find(built.key) is None
    again, lines = await build(environments, EnvironmentSpec(["greeting"]))
    assert again == built and " + greeting==2.0" in lines
    assert told_by(again, "import greeting; print(greeting.version)") == "2.0"


async def test_what_nobody_uses_is_removed_but_for_the_last(
    environments: Environments, tmp_path: Path, cache: Path
) -> None:
    keys = []
    for line in ("greeting==1.0", "greeting==2.0", "farewell"):
        built, _ = await build(environments, EnvironmentSpec([line]))
        keys.append(built.key)
        os.utime(built.python.parents[1] / "environment.json", (len(keys), len(keys)))
    leftover = tmp_path / f"environments/.building/{'0' * 24}.dead"
    leftover.mkdir()
    keeping = Environments(tmp_path / "environments", EnvironmentSettings(keep=1))
    assert await keeping.sweep(in_use=[keys[0]]) == [keys[1]]
    assert not leftover.exists()
    assert sorted(entries(environments, tmp_path)) == sorted([keys[0], keys[2]])
    assert list(cache.rglob("greeting.py"))  # of another version, which is in use
    sparing = Environments(tmp_path / "environments", EnvironmentSettings(keep=0))
    assert await sparing.sweep(in_use=[keys[2]]) == [keys[0]]
    assert not list(cache.rglob("greeting.py"))
    assert list(cache.rglob("farewell.py"))
    assert told_by(built, "import farewell; print(farewell.version)") == "1.0"


async def test_the_servers_own_environment_serves_apps_that_ask_for_nothing_else(
    tmp_path: Path,
) -> None:
    own = Environments(tmp_path / "environments")
    for lines in ([], ["fal", "httpx>=0.20"], [["pydantic>2"], ["httpx"]]):
        built, _ = await build(own, EnvironmentSpec(lines))
        assert built.key == OWN
        assert own.find(OWN) == built
    assert told_by(built, "import sys; print(sys.prefix)") == sys.prefix


def test_uv_is_told_where_pip_finds_packages_and_nothing_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POLYRANK_DATABASE_URL", "postgresql://user:password@host/")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    pip = PipSettings(
        index_url="https://a/simple",
        extra_index_url="https://b/simple https://c/simple",
        find_links="/d /e",
        trusted_host="f",
        cert="/g.pem",
    )
    told = Uv(tmp_path / "cache", tmp_path / "pythons", pip).environment
    assert not [name for name in told if name.startswith(("POLYRANK_", "PYTHON"))]
    assert told["UV_DEFAULT_INDEX"] == "https://a/simple"
    assert told["UV_EXTRA_INDEX_URL"] == "https://b/simple https://c/simple"
    assert (told["UV_FIND_LINKS"], told["UV_INSECURE_HOST"]) == ("/d,/e", "f")
    assert (told["SSL_CERT_FILE"], told["UV_NO_CONFIG"]) == ("/g.pem", "1")
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").touch()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own/simple")
    told = Uv(tmp_path / "cache", tmp_path / "pythons", pip).environment
    assert told["UV_DEFAULT_INDEX"] == "https://own/simple"
    assert "UV_EXTRA_INDEX_URL" not in told and "UV_NO_CONFIG" not in told
    assert told["UV_CONFIG_FILE"] == str(tmp_path / "uv/uv.toml")
