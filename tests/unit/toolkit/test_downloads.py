"""Downloads: whole or not there, gone on with, once for all who ask, and never from inside."""

import hashlib
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polyrank import toolkit
from polyrank.toolkit import (
    DownloadError,
    clone_repository,
    data_path,
    download_file,
    download_model_weights,
    persistent_dir,
)
from polyrank.toolkit.transfer import Progress, reporting

DATA = bytes(range(256)) * 4096  # 1 MiB
ETAG = '"v1"'


class Weights:
    """A web server with one file, which breaks off when told to, and knows ranges."""

    def __init__(self) -> None:
        self.data, self.etag = DATA, ETAG
        self.breaks: list[int] = []  # after how many bytes the next answers break off
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: list[str | None] = []
        self.is_chunked = False
        weights = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                weights.asked.append((self.path, self.headers["range"]))
                weights.tokens.append(self.headers["authorization"])
                if self.path.startswith("/to/"):
                    self.send_response(302)
                    self.send_header("location", self.path.removeprefix("/to/"))
                    self.send_header("content-length", "0")
                    return self.end_headers()
                data, status = weights.data, 200
                wanted = self.headers["range"]
                if wanted is not None and self.headers["if-range"] == weights.etag:
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    size = len(data)
                    data, status = data[start:], 206
                self.send_response(status)
                if status == 206:
                    self.send_header("content-range", f"bytes {start}-{size - 1}/{size}")
                if weights.etag:
                    self.send_header("etag", weights.etag)
                for name, value in weights.headers.items():
                    self.send_header(name, value)
                if not weights.is_chunked:
                    self.send_header("content-length", str(len(data)))
                self.close_connection = True
                self.end_headers()
                stop = weights.breaks.pop(0) if weights.breaks else len(data)
                self.wfile.write(data[:stop])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


def _serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def weights() -> Iterator[Weights]:
    weights = Weights()
    yield from (weights for _ in _serving(weights.server))


@pytest.fixture
def elsewhere() -> Iterator[Weights]:
    """Another site."""
    elsewhere = Weights()
    yield from (elsewhere for _ in _serving(elsewhere.server))


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLYRANK_APP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("POLYRANK_ALLOWED_HOSTS", "127.0.0.0/8")
    return tmp_path / "data"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_downloaded_once(weights: Weights, data: Path) -> None:
    path = download_file(f"{weights.url}/models/cat.bin?key=1", "loras")
    assert path == data / "loras" / "cat.bin" and path.read_bytes() == DATA
    path.chmod(0o400)  # the same file, and not a new one in its place
    assert download_file(f"{weights.url}/models/cat.bin?key=1", "loras") == path
    assert path.stat().st_mode & 0o777 == 0o400
    assert names(path.parent) == ["cat.bin"]
    weights.data = DATA[:100]
    assert download_file(f"{weights.url}/models/cat.bin", "loras").read_bytes() == DATA[:100]
    weights.data = bytes(100)
    assert download_file(f"{weights.url}/models/cat.bin", "loras", force=True).read_bytes() == (
        bytes(100)
    )


def test_a_download_that_breaks_off_is_gone_on_with(weights: Weights) -> None:
    weights.breaks = [1000, 300_000]
    assert download_file(f"{weights.url}/a", "x").read_bytes() == DATA
    assert weights.asked == [("/a", None), ("/a", "bytes=1000-"), ("/a", "bytes=301000-")]


def test_the_next_process_goes_on_where_this_one_gave_up(weights: Weights, data: Path) -> None:
    weights.breaks = [5000, 0, 0]
    with pytest.raises(DownloadError, match="cannot be read"):
        download_file(f"{weights.url}/a", "x")
    assert [name for name in names(data / "x") if not name.startswith(".")] == []
    weights.breaks = []
    assert download_file(f"{weights.url}/a", "x").read_bytes() == DATA
    assert weights.asked[-1] == ("/a", "bytes=5000-")
    assert names(data / "x") == ["a"]


def test_another_file_than_the_one_begun_is_fetched_anew(weights: Weights) -> None:
    weights.breaks = [5000, 0]
    with pytest.raises(DownloadError):
        download_file(f"{weights.url}/a", "x")
    weights.data, weights.etag, weights.breaks = DATA[::-1], '"v2"', []
    assert download_file(f"{weights.url}/a", "x").read_bytes() == DATA[::-1]


def test_without_a_validator_nothing_is_added_to_what_is_there(weights: Weights) -> None:
    weights.etag, weights.breaks = "", [5000, 6000, 7000]
    assert download_file(f"{weights.url}/a", "x").read_bytes() == DATA
    assert [asked[1] for asked in weights.asked] == [None] * 4


def test_many_who_ask_at_once_download_once(weights: Weights, data: Path) -> None:
    code = (
        "from polyrank.toolkit import download_model_weights as d; "
        f"print(d('{weights.url}/w.safetensors'))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = {process.communicate()[0].strip() for process in processes}
    [path] = told
    assert Path(path).read_bytes() == DATA
    id = hashlib.sha256(f"{weights.url}/w.safetensors".encode()).hexdigest()
    assert Path(path) == data / ".fal" / "model_weights" / id / "w.safetensors"
    assert names(Path(path).parent) == ["w.safetensors"]
    before = len(weights.asked)
    assert str(download_model_weights(f"{weights.url}/w.safetensors")) == path
    assert len(weights.asked) == before  # not even asked for


def test_a_name_is_never_a_path(weights: Weights, data: Path) -> None:
    weights.headers = {"content-disposition": 'attachment; filename="../../../up.bin"'}
    assert download_file(f"{weights.url}/a", "x") == data / "x" / "up.bin"
    weights.headers = {"content-disposition": 'attachment; filename=".."'}
    assert download_file(f"{weights.url}/a", "x").parent == data / "x"
    weights.headers = {}
    assert download_file(f"{weights.url}/%2e%2e%2f.bashrc", "x") == data / "x" / "bashrc"


def test_a_limit_is_kept_whatever_the_site_says(weights: Weights, data: Path) -> None:
    weights.data = DATA + b"x"
    with pytest.raises(DownloadError, match="more than 1048576 bytes"):
        download_file(f"{weights.url}/a", "x", filesize_limit=1)
    weights.is_chunked, weights.etag = True, ""
    with pytest.raises(DownloadError, match="more than 1048576 bytes"):
        download_file(f"{weights.url}/a", "x", filesize_limit=1)
    assert names(data / "x") == []


def test_addresses_inside_are_refused(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYRANK_ALLOWED_HOSTS")
    with pytest.raises(DownloadError, match="private") as raised:
        download_file(f"{weights.url}/a", "x")
    assert raised.value.status == 422 and weights.asked == []


def test_a_token_is_told_to_its_own_site_only(weights: Weights, elsewhere: Weights) -> None:
    headers = {"Authorization": "Bearer hf_secret"}
    download_file(f"{weights.url}/to//a", "x", request_headers=headers)
    assert weights.tokens == ["Bearer hf_secret"] * 2
    elsewhere.breaks = [1000]
    download_file(f"{weights.url}/to/{elsewhere.url}/b", "x", request_headers=headers)
    assert weights.tokens == ["Bearer hf_secret"] * 4
    assert elsewhere.tokens == [None] * 2
    assert elsewhere.asked == [("/b", None), ("/b", "bytes=1000-")]


def test_progress_is_told(weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Progress] = []
    with reporting(told.append):
        download_file(f"{weights.url}/a", "x")
    assert [each.total for each in told] == [len(DATA)] * len(told)
    assert told[-1].fraction == 1.0 and 1 < len(told) <= 21
    assert str(told[-1]) == "downloading a: 1.0 MB of 1.0 MB"
    with caplog.at_level(logging.INFO, "polyrank.downloads"):
        download_file(f"{weights.url}/b?token=secret", "x")
    assert "downloading b: 1.0 MB of 1.0 MB" in caplog.text and "secret" not in caplog.text


def test_a_data_uri_is_kept_as_a_file() -> None:
    assert download_file("data:text/plain;base64,aGVsbG8=", "x").read_bytes() == b"hello"


def test_paths_of_the_reference_platform_are_in_the_data_folder(data: Path) -> None:
    assert persistent_dir() == data == toolkit.FAL_PERSISTENT_DIR
    assert data / ".fal" / "repos" == toolkit.FAL_REPOSITORY_DIR
    assert data / ".fal" / "model_weights" == toolkit.FAL_MODEL_WEIGHTS_DIR
    assert data_path("/data/loras/cat") == data / "loras" / "cat"
    assert data_path("loras") == data / "loras"
    assert data_path("/elsewhere") == Path("/elsewhere")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a git repository on a web server, and its two commits."""
    work = tmp_path / "work"
    commits = []

    def git(*arguments: str) -> str:
        name = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        done = subprocess.run(["git", *name, *arguments], cwd=work, check=True, capture_output=True)
        return done.stdout.decode().strip()

    work.mkdir()
    git("init", "-q", "-b", "main")
    for number in (1, 2):
        (work / "cloned_module.py").write_text(f"NUMBER = {number}\n")
        git("add", ".")
        git("commit", "-qm", "a commit")
        commits.append(git("rev-parse", "HEAD"))
        git("branch", f"branch-{number}")
    site = tmp_path / "site"
    subprocess.run(["git", "clone", "-q", "--bare", work, site / "repo.git"], check=True)
    subprocess.run(["git", "update-server-info"], cwd=site / "repo.git", check=True)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(site))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}/repo.git"
    yield from ((url, commits) for _ in _serving(server))


def test_a_repository_is_cloned(
    repository: tuple[str, list[str]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, [first, second] = repository
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = clone_repository(url, include_to_path=True)
    assert path == data / ".fal" / "repos" / "repo" and sys.path[0] == str(path)
    assert (path / "cloned_module.py").read_text() == "NUMBER = 2\n"
    old = clone_repository(url, commit_hash=first[:10])
    assert old != path and (old / "cloned_module.py").read_text() == "NUMBER = 1\n"
    (old / "kept").touch()
    assert (clone_repository(url, commit_hash=first[:10]) / "kept").exists()
    assert not (clone_repository(url, commit_hash=first[:10], force=True) / "kept").exists()
    branch = clone_repository(url, commit_hash="branch-1", target_dir="repos", repo_name="mine")
    assert branch == data / "repos" / "mine"
    assert (branch / "cloned_module.py").read_text() == "NUMBER = 1\n"
    assert second != first and names(data / ".fal" / "repos") == [
        "repo",
        f"repo-{first[:10]}",
    ]


def test_what_cannot_be_cloned_is_said(repository: tuple[str, list[str]], data: Path) -> None:
    url, _ = repository
    with pytest.raises(DownloadError, match="no commit, branch or tag 'none'"):
        clone_repository(url, commit_hash="none")
    with pytest.raises(DownloadError, match="answered 404"):
        clone_repository(url + "x")
    for bad in ("ext::sh -c true", "--upload-pack=true", "file:///etc", "/etc"):
        with pytest.raises(DownloadError, match="https"):
            clone_repository(bad)
    for bad in ("--help", "a b", "-x"):
        with pytest.raises(DownloadError, match="not a commit"):
            clone_repository(url, commit_hash=bad)
    with pytest.raises(DownloadError, match="not a name"):
        clone_repository(url, repo_name="../up")
    assert names(data / ".fal" / "repos") == []


def test_a_repository_inside_is_refused(
    repository: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLYRANK_ALLOWED_HOSTS")
    with pytest.raises(DownloadError, match="private"):
        clone_repository(repository[0])
