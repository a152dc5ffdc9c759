"""The server's document names every route, and no other."""

from types import SimpleNamespace
from typing import Any

from starlette.routing import BaseRoute, Route

from polyrank.gateway.accounts import Accounts
from polyrank.gateway.dashboard import Dashboard
from polyrank.gateway.data import DataRoutes
from polyrank.gateway.deployments import Deployments
from polyrank.gateway.downloads import Downloads
from polyrank.gateway.metrics import Metrics
from polyrank.gateway.openapi import DEPLOYMENTS, ServerDocument, document
from polyrank.gateway.outbox import Outbox
from polyrank.gateway.pages import Pages
from polyrank.gateway.queue import Queue
from polyrank.gateway.runners import Runners
from polyrank.gateway.secrets import SecretRoutes
from polyrank.gateway.storage import Storage
from polyrank.gateway.values import Values

NOBODY: Any = None
ANYBODY: Any = SimpleNamespace(files=None, blobs=None)
METHODS = ("get", "put", "post", "patch", "delete")
QUEUE = [
    *(("POST", "/queue/{owner}/{name}"), ("POST", "/queue/{owner}/{name}/{path}")),
    *(("POST", "/run/{owner}/{name}"), ("POST", "/run/{owner}/{name}/{path}")),
    *(("GET", "/run/{owner}/{name}/openapi.json"), ("GET", "/health"), ("GET", "/apps")),
]


# Parts of Starlette's paths, as the document writes them.
WRITTEN = {
    "{app:path}": "{owner}/{name}",
    "requests/{id}": "requests/{request_id}",
    "{number:int}": "{number}",
    "{key:path}": "{key}",
    "/data/{path:path}": "/data/{path}",
}


def listed(routes: list[BaseRoute], prefix: str = "") -> set[tuple[str, str]]:
    """Methods and paths of routes, as the document writes them."""
    found = set()
    for route in routes:
        if not isinstance(route, Route):
            continue  # a folder
        path = route.path
        for ours, written in WRITTEN.items():
            path = path.replace(ours, written)
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
    outbox = Outbox(NOBODY, NOBODY, NOBODY, NOBODY)
    served = listed(Queue(NOBODY, NOBODY, NOBODY, NOBODY, NOBODY).routes(), "/queue")
    served |= listed(outbox.queue_routes(), "/queue")
    for part in (
        ServerDocument(),
        outbox,
        Accounts(NOBODY),
        Storage(NOBODY, NOBODY),
        Downloads(ANYBODY, NOBODY),
        Values(NOBODY, NOBODY, on_change=NOBODY),
        Pages(NOBODY, NOBODY),
        Metrics(NOBODY, NOBODY),
    ):
        served |= listed(part.routes())
    assert said == served | set(QUEUE)


def test_the_routes_of_deployments_are_in_the_document_of_servers_that_have_them() -> None:
    told, always = (
        {
            (method.upper(), path)
            for path, item in each["paths"].items()
            for method in item
            if method in METHODS
        }
        for each in (document(*DEPLOYMENTS), document())
    )
    deployments = Deployments(SimpleNamespace(apps=NOBODY), NOBODY, NOBODY)  # type: ignore[arg-type]
    parts = (
        deployments,
        Runners(NOBODY, NOBODY),
        Dashboard(NOBODY, deployments, NOBODY),
        SecretRoutes(NOBODY, NOBODY),
        DataRoutes(NOBODY, max_bytes=0, policy=NOBODY),
    )
    assert told - always == set().union(*(listed(part.routes()) for part in parts))


def test_every_operation_has_a_name_of_its_own_and_says_what_it_is() -> None:
    operations = [
        operation
        for item in document(*DEPLOYMENTS)["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    ]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] and operation["tags"] for operation in operations)


def test_every_reference_leads_somewhere() -> None:
    whole = document(*DEPLOYMENTS)

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
