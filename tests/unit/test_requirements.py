"""What is told about requirements: exactly what differs, and nothing that does not."""

from importlib import metadata
from pathlib import Path

import pytest

from polyrank.requirements import differences, layers, local_paths, without_ours

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


def test_a_list_is_one_layer_and_lists_are_layers() -> None:
    assert layers(["torch", "# why", "numpy  # and why", ""]) == (("torch", "numpy"),)
    assert layers([["torch"], [], ["numpy", "pillow"]]) == (("torch",), ("numpy", "pillow"))
    assert layers([]) == ()


def test_polyrank_and_what_it_stands_for_are_met_but_for_extras() -> None:
    lines = ["fal>=1.70", "six", "polyrank[torch,diffusion]", "-e ./fal", "Fal ; os_name == 'nt'"]
    assert without_ours(lines) == (["six", "-e ./fal"], {"torch", "diffusion"})


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("./lib", "./lib"),
        ("../lib[extra]", "../lib"),
        ("-e .", "."),
        ("lib/sub", "lib/sub"),
        ("a-1.0-py3-none-any.whl ; os_name == 'posix'", "a-1.0-py3-none-any.whl"),
        ("a @ file:///srv/a.whl", "/srv/a.whl"),
        ("a[x] @ ./a", "./a"),
        ("file:lib", "lib"),
        ("--find-links ./wheels", "./wheels"),
        ("--find-links=wheels", "wheels"),
        ("-c limits.txt", "limits.txt"),
        ("~/lib", "~/lib"),
    ],
)
def test_local_paths_are_found(line: str, path: str, tmp_path: Path) -> None:
    assert local_paths([line], tmp_path) == [path]


@pytest.mark.parametrize(
    "line",
    [
        "six==1.17",
        "torch>=2 ; sys_platform == 'linux'",
        "git+https://example.com/a/b.git@main",
        "a @ git+ssh://git@example.com/a.git",
        "https://example.com/a-1.0-py3-none-any.whl",
        "-f https://example.com/wheels",
        "--extra-index-url https://example.com/simple/",
        "--index-url=file:///srv/simple",
        "--pre",
    ],
)
def test_what_is_elsewhere_is_no_local_path(line: str, tmp_path: Path) -> None:
    assert local_paths([line], tmp_path) == []


def test_included_files_are_read_for_more(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "all.txt").write_text("six\n./lib  # ours\n-r more/dev.txt\n")
    (tmp_path / "more/dev.txt").write_text("-c limits.txt\n-r ../all.txt\n")
    (tmp_path / "more/limits.txt").write_text("six<2\n")
    assert local_paths(["-r all.txt"], tmp_path) == [
        "all.txt",
        "./lib",
        "more/dev.txt",
        "more/limits.txt",
    ]
