"""The OpenAPI documents of the server and of an app say what is answered, whatever is sent."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess

APP = ROOT / "tests" / "programs" / "schema_app.py"
SCHEMATHESIS = [
    *(sys.executable, "-m", "schemathesis.cli"),
    *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
    *("run", "--seed", "1", "--checks", "all"),
]


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::SchemaApp")


@pytest.fixture
def document(server: ServerProcess) -> Any:
    return httpx.get(f"{server.address}/run/local/schema-app/openapi.json").json()


def try_out(url: str, folder: Path, *options: str) -> None:
    """Sends what the document at ``url`` allows and what it does not, and checks the answers."""
    command = [*SCHEMATHESIS, *options, url]
    program = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert program.returncode == 0, program.stdout + program.stderr


def test_an_app_answers_as_its_document_says(server: ServerProcess, tmp_path: Path) -> None:
    url = f"{server.address}/run/local/schema-app/openapi.json"
    try_out(url, tmp_path, "--max-examples", "30")


def test_the_server_answers_as_its_document_says(server: ServerProcess, tmp_path: Path) -> None:
    # Two checks are left out. What an app takes is in its own document: here any input is allowed,
    # and may be refused. And a request that was submitted without a webhook has none.
    left_out = "positive_data_acceptance,ensure_resource_availability"
    options = ("--exclude-checks", left_out, "--max-examples", "10")
    try_out(f"{server.address}/openapi.json", tmp_path, *options)


def test_the_document_of_an_app_says_where_it_is_and_what_each_endpoint_answers(
    server: ServerProcess, document: Any
) -> None:
    answers = {
        path: list(item["post"]["responses"]["200"]["content"])
        for path, item in document["paths"].items()
        if "post" in item
    }
    assert answers == {
        "/": ["application/json"],
        "/stream": ["text/event-stream"],
        "/count": ["application/json"],
        "/refuse": ["application/json"],
        "/text": ["text/plain"],
        "/picture": ["*/*"],
    }
    assert document["paths"]["/live"] == {
        "x-fal-protocol": {"type": "websocket", "operationId": "live"}
    }
    session = document["paths"]["/realtime"]["x-fal-protocol"]
    assert (session["type"], session["realtimeMode"]) == ("realtime", "unary")
    assert session["input"] == {"$ref": "#/components/schemas/Drawing"}
    assert session["output"] == {"$ref": "#/components/schemas/Drawn"}
    assert document["x-fal-order-paths"] == [*answers, "/realtime", "/live"]
    assert document["servers"] == [{"url": f"{server.address}/run/local/schema-app"}]
    assert document["info"]["title"] == "schema-app"
    assert document["info"]["description"] == "Draws shapes."


def test_every_endpoint_says_how_it_fails(document: Any) -> None:
    operations = [item["post"] for item in document["paths"].values() if "post" in item]
    for operation in operations:
        failure = operation["responses"]["default"]["content"]["application/json"]["schema"]
        assert failure == {"$ref": "#/components/schemas/polyrank.Error"}
    assert "422" in document["paths"]["/"]["post"]["responses"]
    assert "422" not in document["paths"]["/text"]["post"]["responses"]


def test_a_path_that_is_not_there_is_answered_in_json(server: ServerProcess) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("POST", "/health", 405),
        ("POST", "/queue/local/schema-app/requests/1/status", 405),
        ("DELETE", "/queue/local/schema-app/requests/1", 405),
    ):
        answer = httpx.request(method, server.address + path)
        assert answer.status_code == status
        assert path.removeprefix("/queue") in answer.json()["detail"]
        assert answer.headers["x-fal-error-type"] == answer.json()["error_type"]
