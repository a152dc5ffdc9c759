"""The routes ``/secrets`` and ``/environments``: what apps are given beside their code."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput
from polyrank.gateway.answers import read_body
from polyrank.gateway.callers import require
from polyrank.store.environments import MAIN, Environments
from polyrank.store.keys import Scope
from polyrank.store.secrets import Secrets

T = TypeVar("T", bound=BaseModel)


class NewValue(BaseModel):
    """What a secret is set to."""

    # Not even a wrong value is shown in the error that it makes.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    value: str
    exposed: bool = True


class NewEnvironment(BaseModel):
    """An environment that is to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    description: str = Field(default="")


class SecretRoutes:
    """The handlers of these routes. Values come in here and never go out."""

    def __init__(self, secrets: Secrets, environments: Environments) -> None:
        self._secrets = secrets
        self._environments = environments

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        return [
            Route("/secrets", self.list_secrets, methods=["GET"]),
            Route("/secrets/{name}", self.set_secret, methods=["PUT"]),
            Route("/secrets/{name}", self.delete_secret, methods=["DELETE"]),
            Route("/environments", self.list_environments, methods=["GET"]),
            Route("/environments", self.create_environment, methods=["POST"]),
            Route("/environments/{name}", self.delete_environment, methods=["DELETE"]),
        ]

    async def list_secrets(self, request: Request) -> Response:
        """The owner's secrets in an environment, without their values."""
        secrets = await self._secrets.all(_owner(request), _environment(request))
        return JSONResponse([vars(secret) for secret in secrets])

    async def set_secret(self, request: Request) -> Response:
        """Keeps a value."""
        owner, name = _owner(request), request.path_params["name"]
        new = await _read(request, NewValue)
        secret = await self._secrets.set(
            owner, name, new.value, environment=_environment(request), exposed=new.exposed
        )
        return JSONResponse(vars(secret))

    async def delete_secret(self, request: Request) -> Response:
        """Forgets a secret; replicas that run keep it until they end."""
        name = request.path_params["name"]
        await self._secrets.delete(_owner(request), name, environment=_environment(request))
        return Response(status_code=204)

    async def list_environments(self, request: Request) -> Response:
        """The owner's environments."""
        found = await self._environments.all(_owner(request))
        return JSONResponse([vars(environment) for environment in found])

    async def create_environment(self, request: Request) -> Response:
        """Makes an environment."""
        owner = _owner(request)
        new = await _read(request, NewEnvironment)
        made = await self._environments.create(owner, new.name, new.description)
        return JSONResponse(vars(made), 201)

    async def delete_environment(self, request: Request) -> Response:
        """Forgets an environment and its secrets."""
        await self._environments.delete(_owner(request), request.path_params["name"])
        return Response(status_code=204)


def _owner(request: Request) -> str:
    """Whose things the caller may see and change. Raises Forbidden without the scope ADMIN."""
    owner = require(request, Scope.ADMIN).owner
    assert owner is not None  # nobody without one has a scope
    return owner


def _environment(request: Request) -> str:
    return request.query_params.get("env") or MAIN


async def _read(request: Request, model: type[T]) -> T:
    """The body, which is JSON. Raises InvalidInput with the place of what is wrong."""
    try:
        return model.model_validate_json(await read_body(request))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidInput(f"{where}: {first['msg']}") from None
