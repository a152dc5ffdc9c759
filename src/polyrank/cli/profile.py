"""``polyrank profile``: several servers by name."""

from __future__ import annotations

from dataclasses import replace

from polyrank.cli.auth import check_address
from polyrank.cli.console import exit_status, say, show_json, show_table
from polyrank.profiles import Profiles
from polyrank.settings import ClientSettings


@exit_status
def list_profiles(*, as_json: bool) -> None:
    """Prints all profiles, without the secrets of their keys."""
    settings = ClientSettings()
    profiles = Profiles(settings.config_path)
    used = settings.profile or profiles.current
    rows = []
    for name in profiles.names():
        profile = profiles.get(name)
        key_id = None if profile.key is None else profile.key.partition(":")[0]
        row = {"name": name, "server": profile.server, "key_id": key_id, "used": name == used}
        rows.append(row)
    if as_json:
        return show_json(rows)
    cells = [
        (
            "*" if row["used"] else "",
            str(row["name"]),
            str(row["server"] or "-"),
            str(row["key_id"] or "-"),
        )
        for row in rows
    ]
    show_table(("", "name", "server", "key"), cells)


@exit_status
def set_profile(*, name: str, server: str, as_json: bool) -> None:
    """Keeps a server under a name. A key of another server does not stay with it."""
    profiles = _profiles()
    address = check_address(server)
    known = profiles.get(name)
    key = known.key if known.server == address else None
    profiles.save(replace(known, server=address, key=key))
    if profiles.current not in profiles.names():
        profiles.use(name)
    if as_json:
        return show_json({"name": name, "server": address})
    say(f"profile {name!r} is {address}")


@exit_status
def use(*, name: str, as_json: bool) -> None:
    """Makes a profile the one in use."""
    profiles = _profiles()
    profiles.use(name)
    if as_json:
        return show_json({"name": name, "server": profiles.get(name).server})
    say(f"in use: {name} ({profiles.get(name).server or 'no server'})")


@exit_status
def delete(*, name: str, as_json: bool) -> None:
    """Forgets a profile."""
    _profiles().delete(name)
    if as_json:
        return show_json({"deleted": name})
    say(f"profile {name!r} is forgotten")


def _profiles() -> Profiles:
    return Profiles(ClientSettings().config_path)
