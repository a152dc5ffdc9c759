"""What is told about requirements: exactly what differs, and nothing that does not."""

from importlib import metadata

import pytest

from polyrank.requirements import differences

HTTPX = metadata.version("httpx")


@pytest.mark.parametrize(
    "line",
    [
        "httpx",
        f"httpx=={HTTPX}",
        "HTTPX >= 0.1  # the client",
        "fal",
        "fal[tools]>=99",
        "no-such-package; python_version < '3.0'",
        "no-such-package ; sys_platform == 'win32'",
        f"httpx=={HTTPX} --hash=sha256:0123",
        "git+https://example.com/a/b.git ; python_version < '3.0'",
        "--extra-index-url https://download.pytorch.org/whl/cu124",
        "--extra-index-url=https://download.pytorch.org/whl/cu124",
        "--pre",
        "# nothing",
        "",
        "-r requirements.txt",
    ],
)
def test_nothing_is_told_of_what_is_met(line: str) -> None:
    assert differences([line]) == []
    assert differences([["pydantic"], [line]]) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("httpx<0.2", f"httpx<0.2: {HTTPX} is installed"),
        ("no-such-package", "no-such-package: not installed"),
        ("no-such-package; python_version > '3.0'", "no-such-package; python_version > '3.0': not"),
        ("httpx[socks]", "httpx[socks]: its extra 'socks' needs socksio"),
        (
            "git+https://example.com/a/b.git@v1#egg=no-such-package",
            "git+https://example.com/a/b.git@v1#egg=no-such-package: no-such-package is not",
        ),
        ("git+https://example.com/a/b.git", "git+https://example.com/a/b.git: nothing here was"),
        (
            "httpx @ git+https://example.com/a/httpx.git@main",
            "httpx @ git+https://example.com/a/httpx.git@main: "
            f"{HTTPX} is installed, from a package index",
        ),
        (
            "https://example.com/no_such_package-1.0-py3-none-any.whl",
            "https://example.com/no_such_package-1.0-py3-none-any.whl: no-such-package is not",
        ),
        ("./local_package[extra]", "./local_package[extra]: a path"),
        ("-e .", ".: a path"),
        ("what is this", "what is this: not a requirement"),
    ],
)
def test_what_differs_is_told_exactly(line: str, told: str) -> None:
    assert [each[: len(told)] for each in differences([line])] == [told]


def test_the_value_of_an_option_is_no_requirement() -> None:
    layers = [["--extra-index-url", "https://example.com/whl", "httpx"], ["--find-links", "./a"]]
    assert differences(layers) == []


def test_layers_are_read_in_order_and_a_line_is_told_once() -> None:
    layers = [["no-such-a"], ["no-such-b", "no-such-a"]]
    assert differences(layers) == ["no-such-a: not installed", "no-such-b: not installed"]
