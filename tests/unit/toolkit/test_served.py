"""Files of an app: pictures in and out over HTTP, large ones served by the app itself."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import WebSocket
from PIL import Image as PILImage
from pydantic import BaseModel
from websockets.sync.client import connect

from polyrank import App, compat, endpoint
from polyrank.app.server import build
from polyrank.app.testing import serve
from polyrank.toolkit import CompressedFile, File, Image, store
from polyrank.toolkit.folder import INLINE_BYTES

LARGE = bytes(range(256)) * (INLINE_BYTES // 256 + 1)


class Picture(BaseModel):
    image: File


class Made(BaseModel):
    name: str = "large.bin"
    content_type: str | None = None


class Files(App):
    @endpoint("/mirror")
    def mirror(self, request: Picture) -> dict[str, Image]:
        picture = Image(url=request.image.url).to_pil()
        return {"image": Image.from_pil(picture.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT))}

    @endpoint("/large")
    async def large(self, request: Made) -> File:
        return await File.from_bytes_async(LARGE, request.content_type, request.name)

    @endpoint("/size")
    def size(self, request: Picture) -> int:
        return len(request.image.as_bytes())

    @endpoint("/socket", is_websocket=True)
    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(File.from_bytes(LARGE).url)
        await websocket.close()

    @endpoint("/unzip")
    def unzip(self, request: dict[str, CompressedFile]) -> list[str]:
        return [path.name for path in request["zip"]]


@pytest.fixture
def address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(build(Files()), log_config=None))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_a_picture_goes_in_as_a_url_and_comes_out_as_a_file(address: str) -> None:
    sent = PILImage.new("RGB", (2, 1), "red")
    sent.putpixel((1, 0), (0, 0, 255))
    url = Image.from_pil(sent).url
    for body in ({"image": url}, {"image": {"url": url, "unknown": 1}}):
        answer = httpx.post(f"{address}/mirror", json=body).json()["image"]
        assert (answer["width"], answer["height"]) == (2, 1)
        assert answer["url"].startswith("data:image/png;base64,")
        assert Image.model_validate(answer).to_pil().getpixel((0, 0)) == (0, 0, 255)


def test_a_large_file_is_served_by_the_app(address: str) -> None:
    made = httpx.post(f"{address}/large", json={}).json()
    assert made["url"].startswith(f"{address}/files/") and made["file_size"] == len(LARGE)
    fetched = httpx.get(made["url"])
    assert fetched.content == LARGE
    assert fetched.headers["content-type"] == "application/octet-stream"
    assert fetched.headers["content-disposition"] == 'attachment; filename="large.bin"'
    part = httpx.get(made["url"], headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, LARGE[10:20])
    assert httpx.head(made["url"]).headers["content-length"] == str(len(LARGE))


def test_a_large_file_can_be_sent_back_as_an_input(address: str) -> None:
    url = httpx.post(f"{address}/large", json={}).json()["url"]
    assert httpx.post(f"{address}/size", json={"image": url}).json() == len(LARGE)


def test_a_large_file_made_over_a_websocket_is_served_too(address: str) -> None:
    with connect(address.replace("http", "ws") + "/socket") as websocket:
        url = str(websocket.recv())
    assert url.startswith(f"{address}/files/")
    assert httpx.get(url).content == LARGE


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b?c#d.png", "ä 猫\n\"'.png", "..", ""])
def test_any_name_can_be_fetched(address: str, name: str) -> None:
    made = httpx.post(f"{address}/large", json={"name": name}).json()
    assert made["file_name"] == name
    assert httpx.get(made["url"]).content == LARGE


def test_only_pictures_sounds_and_videos_are_shown_in_place(address: str) -> None:
    for content_type, shown in {
        "video/mp4": True,
        "image/svg+xml": False,
        "a\r\nx: y": False,
    }.items():
        made = httpx.post(f"{address}/large", json={"content_type": content_type}).json()
        headers = httpx.get(made["url"]).headers
        assert headers["content-disposition"].startswith("inline" if shown else "attachment")
        assert headers["x-content-type-options"] == "nosniff"
        assert "x" not in headers


@pytest.mark.parametrize("path", ["/files/0123/a", "/files/%2e%2e/a", "/files/x/../../etc"])
def test_a_file_that_is_not_there_is_a_404(address: str, path: str) -> None:
    assert httpx.get(address + path).status_code == 404


def test_bad_files_are_the_callers_fault(address: str) -> None:
    for path, url, says in [
        ("/mirror", "data:,x", "not a picture"),
        ("/mirror", f"{address}/health", "private or reserved network"),
        ("/size", "file:///etc/passwd", "must be an http"),
    ]:
        answer = httpx.post(address + path, json={"image": url})
        assert (answer.status_code, says in answer.text) == (422, True)
    answer = httpx.post(f"{address}/unzip", json={"zip": "data:,x"})
    assert (answer.status_code, "cannot be unpacked" in answer.text) == (422, True)


async def test_the_files_of_an_app_end_with_it() -> None:
    app = Files()
    async with serve(app) as client:
        url = (await client.post("/large", json={})).json()["url"]
        assert url.startswith("http://app/files/")
        assert (await client.get(url)).status_code == 200
    assert isinstance(store.current(), store.DataUriStore)
    async with serve(app) as client:
        assert (await client.get(url)).status_code == 404


def test_the_routes_of_files_are_in_no_schema(address: str) -> None:
    assert "/files" not in httpx.get(f"{address}/openapi.json").text


# What app files import of the toolkit: names by module, as the reference platform has them.
NAMES = {
    "": "Audio AudioField CompressedFile FalBaseModel FalTookitException Field File FileField "
    "FileUploadException Hidden Image ImageField ImageSizeConstraints ImageSizeField "
    "ImageSizeInput ImageValidationConfig ImageValidationOptions Video VideoField "
    "VideoNormalizationConfig VideoValidationConfig VideoValidationOptions get_image_size to_xfal "
    "DownloadError FAL_MODEL_WEIGHTS_DIR FAL_PERSISTENT_DIR FAL_REPOSITORY_DIR clone_repository "
    "download_file download_model_weights get_gpu_type load_inductor_cache sync_inductor_cache "
    "synchronized_inductor_cache",
    ".audio": "Audio AudioField",
    ".audio.audio": "Audio AudioField",
    ".compilation": "get_gpu_type load_inductor_cache sync_inductor_cache "
    "synchronized_inductor_cache",
    ".constraints": "ImageSizeConstraints VideoValidationConfig to_xfal",
    ".exceptions": "FalTookitException FileUploadException",
    ".file": "CompressedFile File FileField",
    ".file.file": "CompressedFile File FileField",
    ".file.types": "RepositoryId",
    ".image": "Image ImageField ImageSize ImageSizeInput get_image_size read_image_from_url",
    ".image.image": "Image ImageField ImageFormat ImageSize ImageSizeInput ImageSizePreset",
    ".kv": "KVStore KVStoreException",
    ".pydantic": "AudioField FalBaseModel Field FileField Hidden ImageField VideoField",
    ".types": "DataUri FileInput HttpsUrl ImageDataUri ImageHttpsUrl ImageInput",
    ".utils": "File Image clone_repository download_file download_model_weights",
    ".utils.download_utils": "DownloadError FAL_PERSISTENT_DIR clone_repository download_file",
    ".utils.endpoint": "cancel_on_disconnect",
    ".video": "Video VideoField",
    ".video.video": "Video VideoField",
}


def test_app_files_import_the_toolkit_by_the_names_of_the_reference_platform() -> None:
    code = "from polyrank import compat; compat.install()\n" + "".join(
        f"from fal.toolkit{module} import {', '.join(names.split())}\n"
        for module, names in NAMES.items()
    )
    code += "import fal.toolkit.image.image, polyrank.toolkit\n"
    code += "assert fal.toolkit.image.image.Image is polyrank.toolkit.Image is Image\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_alias_of_the_toolkit_is_tried_here() -> None:
    toolkit = {name for name in compat.ALIASES if name.startswith("fal.toolkit")}
    assert toolkit == {f"fal.toolkit{module}" for module in NAMES}


def test_the_manual_has_every_alias_and_runs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "toolkit.md").read_text()
    rows = dict(re.findall(r"^\| `(fal\.[\w.]+)` \| `(polyrank[\w.]+)` \|$", text, re.MULTILINE))
    assert rows == {name: to for name, to in compat.ALIASES.items() if "toolkit" in name}
    first = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert first is not None
    names: dict[str, Any] = {"__name__": "manual"}
    exec(compile(first[1], "toolkit.md", "exec", dont_inherit=True), names)
    sent = names["Input"](image=Image.from_pil(PILImage.new("RGB", (8, 8), "white")).url)
    answer = names["Invert"]().invert(sent)
    assert answer.image.to_pil().getpixel((0, 0)) == (0, 0, 0)
