"""The server's document names every route, and no other."""

import re
from types import SimpleNamespace
from typing import Any, cast

from starlette.routing import BaseRoute, Route

from polyrank.gateway.downloads import Downloads
from polyrank.gateway.openapi import ServerDocument, document
from polyrank.gateway.queue import Queue
from polyrank.gateway.storage import Storage
from polyrank.gateway.values import Values

NOBODY: Any = None
UPLOADS: Any = SimpleNamespace(files=None, blobs=None)
METHODS = ("get", "put", "post", "delete")
QUEUE = [
    *(("POST", "/queue/{owner}/{name}"), ("POST", "/queue/{owner}/{name}/{path}")),
    *(("POST", "/run/{owner}/{name}"), ("POST", "/run/{owner}/{name}/{path}")),
    *(("GET", "/run/{owner}/{name}/openapi.json"), ("GET", "/health")),
]


def listed(routes: list[BaseRoute], prefix: str = "") -> set[tuple[str, str]]:
    """Methods and paths of routes, as the document writes them."""
    found = set()
    for route in cast(list[Route], routes):
        path = route.path.replace("{id}", "{request_id}").replace("{app:path}", "{owner}/{name}")
        if path != "/{path:path}":  # any app, listed in QUEUE
            found |= {(method, prefix + path) for method in route.methods or () if method != "HEAD"}
    return found


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    said = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method in METHODS
    }
    served = listed(Queue(NOBODY, NOBODY, NOBODY, NOBODY).routes(), "/queue")
    served |= listed(ServerDocument().routes())
    files = [
        *Storage(NOBODY, NOBODY).routes(),
        *Downloads(UPLOADS, NOBODY).routes(),
        *Values(NOBODY, NOBODY, on_change=NOBODY).routes(),
    ]
    for method, path in listed(files):
        served.add((method, re.sub(r":\w+}", "}", path.replace("{request_id}", "{id}"))))
    assert said == served | set(QUEUE)


def test_every_operation_has_a_name_of_its_own_and_says_what_it_is() -> None:
    operations = [
        operation
        for item in document()["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    ]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] and operation["tags"] for operation in operations)


def test_every_reference_leads_somewhere() -> None:
    whole = document()

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            inner = [each for item in value.values() for each in references(item)]
            return inner + [value["$ref"]] if "$ref" in value else inner
        if isinstance(value, list):
            return [each for item in value for each in references(item)]
        return []

    used = set(references(whole))
    for reference in used:
        part: Any = whole
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
    for kind, parts in whole["components"].items():
        if kind != "securitySchemes":
            assert [name for name in parts if f"#/components/{kind}/{name}" not in used] == []
