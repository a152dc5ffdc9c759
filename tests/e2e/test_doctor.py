"""`polyrank doctor` and `polyrank completion`, as a user types them; and --json wherever there is
something to be said."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
from polyrank_program import POLYRANK
from served import platform
from shell import QuickShell, Shell

from polyrank.cli import checks
from polyrank.cli.main import app


@pytest.fixture
def shell(tmp_path: Path) -> QuickShell:
    return QuickShell(tmp_path)


async def diagnosis(shell: Shell, status: int = 0, **environment: str) -> dict[str, Any]:
    out, _ = await shell.run("doctor", "--json", status=status, **environment)
    return {found["check"]: found for found in json.loads(out)}


async def test_a_machine_on_which_a_server_runs_is_well(shell: QuickShell, tmp_path: Path) -> None:
    database = tmp_path / "data" / "polyrank.db"
    async with platform(database, settings={"auth": "always"}) as (_, address):
        key, _ = await shell.run("keys", "create")
        shell.environment |= {"POLYRANK_SERVER": address, "POLYRANK_KEY": key}
        found = await diagnosis(shell)
        assert list(found) == list(checks.CHECKS)
        for name in ("database", "uv", "server", "key", "key file", "git"):
            assert found[name]["level"] == "ok", found[name]
        assert all(each["remedy"] for each in found.values() if each["level"] != "ok"), found
        out, _ = await Shell.run(shell, "doctor")
        assert len(out.splitlines()) >= len(checks.CHECKS) and "uv " in out


async def test_what_is_wrong_is_found_with_a_remedy(shell: QuickShell, tmp_path: Path) -> None:
    async with platform(tmp_path / "data" / "polyrank.db", settings={"auth": "always"}) as here:
        found = await diagnosis(shell, 1, POLYRANK_SERVER=here[1], POLYRANK_KEY="made:up")
        assert found["key"]["level"] == "fail" and "auth login" in found["key"]["remedy"]
    found = await diagnosis(shell, 1, POLYRANK_SERVER="http://127.0.0.1:9")
    assert found["server"]["level"] == "fail" and "polyrank serve" in found["server"]["remedy"]
    database = "postgresql://nobody@127.0.0.1:9/none"
    found = await diagnosis(shell, 1, POLYRANK_DATABASE_URL=database)
    assert found["database"]["level"] == "fail"
    key_file = tmp_path / "key"
    key_file.write_text("x")
    key_file.chmod(0o644)
    found = await diagnosis(shell, 1, POLYRANK_SECRET_KEY_FILE=str(key_file))
    assert found["key file"]["remedy"] == f"chmod 600 {key_file}"


async def test_a_port_that_another_program_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with checks.listen("127.0.0.1", 0) as taken:
        monkeypatch.setattr(checks, "PORT", taken.getsockname()[1])
        monkeypatch.setattr(checks, "ASK_S", 0.2)
        found = checks.port()
    assert found.level == "warn" and "--port" in found.remedy


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    script = subprocess.run([*POLYRANK, "completion", "bash"], check=True, capture_output=True)
    program = tmp_path / "polyrank"
    program.write_text("#!/bin/sh\nexec " + " ".join(POLYRANK) + ' "$@"\n')
    program.chmod(0o755)
    (tmp_path / "completion").write_bytes(script.stdout)
    cases = {"polyrank secr": "secrets", "polyrank keys create --sc": "--scope"}
    for words, expected in cases.items():
        asked = (
            f"source {tmp_path}/completion; COMP_WORDS=({words}); "
            f"COMP_CWORD={len(words.split()) - 1}; _polyrank_completion {program}; "
            'echo "${COMPREPLY[*]}"'
        )
        done = subprocess.run(["bash", "-c", asked], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize(("name", "mark"), [("zsh", "#compdef polyrank"), ("fish", "complete")])
async def test_other_shells_have_scripts_too(shell: QuickShell, name: str, mark: str) -> None:
    out, _ = await shell.run("completion", name)
    assert mark in out and "_POLYRANK_COMPLETE" in out


# What runs until it is ended, what prints nothing but its result, and `call`, whose result is
# JSON already and whose --json is its arguments.
WITHOUT = {"run", "serve", "demo", "exec", "completion", "call", "runners shell", "runners exec"}


def test_every_command_can_answer_in_json() -> None:
    lacking = set()

    def look(group: Any, path: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                look(command, f"{path}{name} ")
            elif not any("--json" in param.opts for param in command.params):
                lacking.add(path + name)

    look(typer.main.get_command(app), "")
    assert lacking <= WITHOUT


async def test_profiles_and_keys_answer_in_json(shell: QuickShell, tmp_path: Path) -> None:
    async def told(*arguments: str, **options: Any) -> Any:
        return json.loads((await shell.run(*arguments, "--json", **options))[0])

    async with platform(tmp_path / "data" / "polyrank.db", settings={"auth": "always"}) as here:
        made = await told("keys", "create")
        login = await told("auth", "login", "--server", here[1], typed=made["key"])
        assert (login["profile"], login["key_id"]) == ("default", made["id"])
        assert made["key"] not in str(login)
        assert await told("auth", "logout") == {"profile": "default", "had_key": True}
        assert await told("auth", "logout") == {"profile": "default", "had_key": False}
        lab = {"name": "lab", "server": "https://lab.example"}
        assert await told("profile", "set", "lab", "--server", lab["server"]) == lab
        assert await told("profile", "use", "lab") == lab
        assert await told("profile", "delete", "lab") == {"deleted": "lab"}
        assert await told("keys", "revoke", made["id"]) == {"revoked": made["id"]}
