"""What is said of an app: the same on both sides, and nothing that a server cannot use."""

import base64
from typing import Any

import pytest

from polyrank.deploy import manifest
from polyrank.errors import BundleError

FIELDS: dict[str, Any] = {
    "app_name": "painter",
    "ref": "apps/painter.py::Painter",
    "code_hash": "ab" * 32,
}


def test_a_manifest_travels_in_a_header() -> None:
    said = manifest.create(
        **FIELDS,
        options={"keep_alive": 300, "machine_type": ["GPU-H100", "GPU-A100"]},
        requirements=(("torch",), ("diffusers", "./lib")),
        requirements_context="apps",
        message="für Größe 1024",
        annotations={"commit": "6fc8e6d"},
        environment="staging",
        strategy="recreate",
    )
    assert manifest.from_header(said.to_header()) == said
    assert said.to_header().isascii()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"app_name": "../up"}, "app_name: "),
        ({"ref": "../app.py::A"}, "'../app.py::A' is not in the bundle"),
        ({"requirements_context": "/etc"}, "'/etc' is not in the bundle"),
        ({"message": "x" * 2049}, "message: "),
        ({"annotations": {str(n): "" for n in range(33)}}, "annotations: "),
        ({"strategy": "blue-green"}, "strategy: "),
        ({"code_hash": "abc"}, "code_hash: "),
        ({"options": {"kind": "conda"}}, "kind='conda': an app is deployed into a virtual"),
        ({"options": {"kind": "container", "image": "ContainerImage"}}, "containers and conda"),
        ({"options": {"image": "ContainerImage"}}, "an image: an app is deployed into"),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_what_cannot_be_deployed_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(BundleError, match="the app cannot be deployed") as refused:
        manifest.create(**{**FIELDS, **wrong})
    assert told in str(refused.value)


def test_kinds_and_resolvers_that_mean_what_is_built_are_accepted() -> None:
    assert manifest.create(**FIELDS, options={"kind": "virtualenv", "resolver": "uv"})


@pytest.mark.parametrize(
    "text", ["not base64!", "ü", base64.b64encode(b"not json").decode(), "x" * 70_000]
)
def test_a_header_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BundleError):
        manifest.from_header(text)
