"""Opening URLs of callers: data URIs, limits, redirects, and what is refused."""

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.errors import InvalidInput
from polyrank.settings import StorageSettings
from polyrank.toolkit import addresses, datauri, urls
from polyrank.toolkit.exceptions import FileTooLarge, UnreadableURL, UnsafeURL
from polyrank.toolkit.urls import URLPolicy, open_url, open_url_async

LOOPBACK = ("127.0.0.0/8",)


def allowed(**changes: Any) -> URLPolicy:
    return URLPolicy(allowed_networks=LOOPBACK, **changes)


def test_a_url_is_opened_with_its_content_type(site: Any) -> None:
    url = site.page("/cat.png", b"picture", content_type="image/png")
    opened = open_url(url, allowed())
    assert (opened.data, opened.content_type) == (b"picture", "image/png")


async def test_a_url_is_opened_from_inside_a_running_loop(site: Any) -> None:
    url = site.page("/a", b"data")
    assert open_url(url, allowed()).data == b"data"
    assert (await open_url_async(url, allowed())).data == b"data"


def test_a_policy_holds_inside_its_block(site: Any) -> None:
    url = site.page("/a", b"data")
    with urls.use_policy(allowed()):
        assert open_url(url).data == b"data"
    with pytest.raises(UnsafeURL):
        open_url(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "[ff02::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.0.192",
        "168.63.129.16",
        "[fec0::1]",
    ],
)
def test_addresses_that_are_not_public_are_refused_however_written(site: Any, host: str) -> None:
    with pytest.raises(UnsafeURL):
        open_url(f"http://{host}:{site.port}/", URLPolicy(timeout_s=5))
    assert site.asked == []


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert addresses.is_allowed(address)


def test_only_the_networks_that_are_named_are_allowed() -> None:
    assert addresses.is_allowed("10.1.2.3", ("10.1.0.0/16",))
    assert not addresses.is_allowed("10.2.2.3", ("10.1.0.0/16",))
    assert not addresses.is_allowed("::1", ("10.1.0.0/16",))


@pytest.mark.parametrize(
    ("host", "known", "is_allowed"),
    [
        ("files.lan", "files.lan", True),
        ("FILES.lan.", "Files.LAN", True),
        ("a.files.lan", "*.lan", True),
        ("lan", "*.lan", False),
        ("files.lan.evil.com", "files.lan", False),
        ("evil-files.lan", "files.lan", False),
    ],
)
def test_hosts_are_allowed_by_name(host: str, known: str, is_allowed: bool) -> None:
    assert URLPolicy(allowed_hosts=(known,)).allows(host) is is_allowed


def test_a_host_that_is_allowed_may_have_any_address(site: Any) -> None:
    url = site.page("/a", b"data").replace("127.0.0.1", "localhost")
    assert open_url(url, URLPolicy(allowed_hosts=("localhost",))).data == b"data"
    elsewhere = site.page("/from", status=302, location=site.url + "/a")
    with pytest.raises(UnsafeURL):  # a redirect to another host is not covered by it
        open_url(
            elsewhere.replace("127.0.0.1", "localhost"), URLPolicy(allowed_hosts=("localhost",))
        )


def test_the_setting_is_a_list_of_hosts_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYRANK_ALLOWED_HOSTS", "files.lan, 10.0.0.0/8,::1 ,*.corp")
    settings = StorageSettings()
    assert settings.allowed_networks == ("10.0.0.0/8", "::1")
    assert settings.allowed_names == ("files.lan", "*.corp")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.com/x", "gopher://x", "/etc/passwd", "http://", ""]
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        open_url(url)


def test_redirects_are_followed(site: Any) -> None:
    site.page("/there", b"arrived")
    site.page("/middle", status=307, location=f"{site.url}/there")
    url = site.page("/from", status=302, location="/middle")
    assert open_url(url, allowed()).data == b"arrived"


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://169.254.169.254/latest/", "http://[::1]/", "file:///etc/passwd"],
)
def test_every_redirect_is_checked_anew(site: Any, target: str) -> None:
    url = site.page("/from", status=302, location=target)
    with pytest.raises(UnsafeURL):
        open_url(url, allowed())


@pytest.mark.parametrize(
    "target",
    ["http://[", "http://", "//", "http://\xe9\xff/", "http://a:99999/", "data:,x", "http://a b/"],
)
def test_a_redirect_to_nowhere_is_the_callers_mistake(site: Any, target: str) -> None:
    url = site.page("/from", status=302, location=target)
    with pytest.raises(InvalidInput):
        open_url(url, allowed())


@pytest.mark.parametrize(
    "headers",
    [{"content_encoding": "gzip"}, {"content_length": "many"}, {"content_length": "99"}],
)
def test_a_broken_answer_is_the_callers_mistake(site: Any, headers: dict[str, str]) -> None:
    url = site.page("/broken", b"words", connection="close", **headers)
    with pytest.raises(UnreadableURL):
        open_url(url, allowed(timeout_s=5))


def test_a_network_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        URLPolicy(allowed_networks=("my network",))


def test_redirects_have_an_end(site: Any) -> None:
    url = site.page("/round", status=302, location="/round")
    with pytest.raises(UnreadableURL, match="more than 3 redirects"):
        open_url(url, allowed(max_redirects=3))
    assert len(site.asked) == 4


def test_the_connection_goes_to_the_checked_address_and_names_the_host(site: Any) -> None:
    site.page("/a", b"data")
    url = httpx.URL(f"http://no.such.host.invalid:{site.port}/a")

    async def read() -> bytes:
        async with urls._at("127.0.0.1", url, allowed(), {}) as response:
            return await response.aread()

    assert asyncio.run(read()) == b"data"
    assert site.asked == [(f"no.such.host.invalid:{site.port}", "/a")]


def served_over_tls(site: Any, folder: Path, name: str) -> tuple[str, Path]:
    """Puts the site behind TLS with a certificate of its own for ``name``."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test".split()
    command += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    return f"https://localhost:{site.port}", certificate


@pytest.fixture
def fresh_certificates() -> Iterator[None]:
    urls._certificates.cache_clear()
    yield
    urls._certificates.cache_clear()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("other.example", False)])
def test_certificates_are_checked_against_the_name_and_not_the_address(
    site: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_certificates: None,
    name: str,
    trusted: bool,
) -> None:
    url, certificate = served_over_tls(site, tmp_path, name)
    site.page("/a", b"data")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    policy = URLPolicy(allowed_networks=(*LOOPBACK, "::1/128"))
    if trusted:
        assert open_url(f"{url}/a", policy).data == b"data"
    else:
        with pytest.raises(UnreadableURL, match="certificate"):
            open_url(f"{url}/a", policy)
        assert site.asked == []


def test_a_name_without_an_address_is_said_so() -> None:
    with pytest.raises(UnreadableURL, match="there is no host 'no.such.host.invalid'"):
        open_url("http://no.such.host.invalid/")


def test_an_answer_that_is_too_long_is_refused_by_its_announcement(site: Any) -> None:
    url = site.page("/big", b"x" * 2000)
    with pytest.raises(FileTooLarge, match="more than 1000 bytes"):
        open_url(url, allowed(max_bytes=1000))


def test_a_compressed_answer_counts_unpacked(site: Any) -> None:
    url = site.page("/bomb", gzip.compress(b"\0" * 10_000_000), content_encoding="gzip")
    with pytest.raises(FileTooLarge):
        open_url(url, allowed(max_bytes=1_000_000))
    assert len(open_url(url, allowed()).data) == 10_000_000


def test_an_answer_that_does_not_come_in_time_is_given_up(site: Any) -> None:
    with pytest.raises(UnreadableURL, match=r"did not arrive in 0\.2 s"):
        open_url(f"{site.url}/never", allowed(timeout_s=0.2))


def test_an_error_page_is_no_file(site: Any) -> None:
    with pytest.raises(UnreadableURL, match="answered 404"):
        open_url(f"{site.url}/missing", allowed())


def test_a_closed_port_is_no_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnreadableURL, match="cannot be opened"):
        open_url(f"http://127.0.0.1:{port}/", allowed())


def test_data_uris_are_read_without_a_network() -> None:
    opened = open_url("data:text/plain;base64,aGk=")
    assert (opened.data, opened.content_type) == (b"hi", "text/plain")
    with pytest.raises(FileTooLarge):
        open_url(datauri.make(b"x" * 1000, "text/plain"), URLPolicy(max_bytes=100))


@pytest.mark.parametrize(
    ("uri", "data", "content_type"),
    [
        ("data:,hello%20you", b"hello you", datauri.DEFAULT_TYPE),
        ("data:;charset=utf-8,%C3%A4", "ä".encode(), "text/plain;charset=utf-8"),
        ("DATA:image/png;BASE64,aGk", b"hi", "image/png"),
        ("data:text/plain;base64,aG\n k=", b"hi", "text/plain"),
        ("data:text/plain;base64,aGk%3D", b"hi", "text/plain"),
    ],
)
def test_data_uris_are_read_as_browsers_do(uri: str, data: bytes, content_type: str) -> None:
    assert datauri.read(uri) == (data, content_type)


@pytest.mark.parametrize("uri", ["data:text/plain", "data:a;base64,!!!", "data:a;base64,a", "no"])
def test_a_broken_data_uri_says_so(uri: str) -> None:
    with pytest.raises(InvalidInput, match="not a data URI"):
        datauri.read(uri)


@given(st.binary(max_size=200), st.sampled_from(["image/png", 'video/mp4;codecs="a,b"', "a/b%2C"]))
def test_a_data_uri_gives_back_what_was_put_in(data: bytes, content_type: str) -> None:
    assert datauri.read(datauri.make(data, content_type)) == (data, content_type)


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://[", "data:", "http://[::1"]))
def test_no_text_opens_anything_else_or_raises_anything_else(text: str, start: str) -> None:
    policy = URLPolicy(timeout_s=5)
    try:
        url = httpx.URL((start + text).strip())
        if url.scheme in ("http", "https") and url.host:
            return  # names are asked of a resolver; not in bulk
    except (httpx.InvalidURL, ValueError):
        pass
    try:
        open_url(start + text, policy)
    except InvalidInput:
        pass
