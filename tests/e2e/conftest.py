"""What the end-to-end tests share."""

import signal
from collections.abc import Callable, Iterator

import pytest
from polyrank_program import Program


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def run(*arguments: str, **options: str) -> Program:
        programs.append(Program("run", *arguments, "--port", "0", **options))  # type: ignore[arg-type]
        return programs[-1]

    yield run
    for program in programs:
        if program.process.poll() is None:
            program.end(signal.SIGKILL)
        program.wait()
