"""``polyrank auth``: a server's address and a key for it, kept in a profile."""

from __future__ import annotations

import getpass
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx

from polyrank.cli.console import exit_status, say, show, show_json
from polyrank.errors import InvalidInput, PolyrankError
from polyrank.profiles import Profile, Profiles
from polyrank.settings import ClientSettings

TIMEOUT_S = 30.0


class NotLoggedIn(PolyrankError):
    """The server does not take the key, or cannot be asked."""

    status = 401
    code = "unauthorized"


@exit_status
def login(*, server: str | None, profile: str | None, as_json: bool) -> None:
    """Asks the server about a key, and keeps both if it is good."""
    settings = _settings(server, profile)
    address = check_address(settings.server)
    if urlsplit(address).scheme == "http" and not _is_loopback(address):
        say(f"warning: {address} is not encrypted; whoever listens on the way can read the key")
    key = _read_key(address)
    who = _ask(address, key)
    if who["key_id"] is None:
        raise NotLoggedIn(
            f"{address} does not know this key (callers on its own machine need none)"
        )
    profiles = Profiles(settings.config_path)
    name = settings.profile or _name_for(address, profiles)
    profiles.save(Profile(name, address, key))
    profiles.use(name)
    if as_json:
        return show_json({"profile": name, "server": address, **who})
    say(f"logged in to {address}: {_describe(who)}; kept as profile {name!r} in {profiles.path}")


@exit_status
def logout(*, profile: str | None, as_json: bool) -> None:
    """Forgets the key of a profile."""
    settings = _settings(None, profile)
    profiles = Profiles(settings.config_path)
    found = profiles.get(settings.profile or profiles.current)
    if found.key is not None:
        profiles.save(Profile(found.name, found.server, None))
    if as_json:
        show_json({"profile": found.name, "had_key": found.key is not None})
    elif found.key is None:
        say(f"profile {found.name!r} has no key")
    else:
        say(f"the key of profile {found.name!r} is forgotten here; the server still takes it")


@exit_status
def whoami(*, as_json: bool) -> None:
    """Prints who the server takes this client for."""
    settings = ClientSettings()
    key = None if settings.key is None else settings.key.get_secret_value()
    who = _ask(settings.server, key)
    if as_json:
        return show_json({"server": settings.server, **who})
    show(f"{settings.server}: {_describe(who)}")


def check_address(server: str) -> str:
    """A server's URL, without a slash at its end. Raises InvalidInput if it is none."""
    try:
        parts = urlsplit(server)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_url = False
    if not is_url:
        raise InvalidInput(f"a server is a URL such as https://host:8080, not {server!r}")
    return server.rstrip("/")


def _settings(server: str | None, profile: str | None) -> ClientSettings:
    given: dict[str, Any] = {"server": server, "profile": profile}
    return ClientSettings(**{name: value for name, value in given.items() if value is not None})


def _name_for(address: str, profiles: Profiles) -> str:
    """Where a login without a profile's name is kept: in the one in use, unless that is another
    server's."""
    used = profiles.get(profiles.current)
    return used.name if used.server in (None, address) else urlsplit(address).netloc


def _read_key(address: str) -> str:
    if sys.stdin.isatty():
        key = getpass.getpass(f"key for {address} (id:secret, not shown): ")
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise InvalidInput("no key was given")
    return key.strip()


def _ask(server: str, key: str | None) -> dict[str, Any]:
    headers = {} if key is None else {"authorization": f"Key {key}"}
    try:
        answer = httpx.get(f"{server}/auth/whoami", headers=headers, timeout=TIMEOUT_S)
        content = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise NotLoggedIn(f"{server} does not answer: {error}") from error
    except ValueError:
        raise NotLoggedIn(f"what answers at {server} is no polyrank server") from None
    if answer.status_code != 200:
        reason = content.get("detail", answer.status_code) if isinstance(content, dict) else content
        raise NotLoggedIn(f"{server}: {reason}")
    return dict(content)


def _describe(who: dict[str, Any]) -> str:
    by = f"key {who['key_id']}" if who["key_id"] else "without a key, as this machine's own"
    return f"{who['owner']} ({by}; {', '.join(who['scopes'])})"


def _is_loopback(address: str) -> bool:
    name = urlsplit(address).hostname or ""
    return name == "localhost" or name.startswith("127.") or name == "::1"
