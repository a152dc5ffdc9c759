"""What a worker class wants imported is imported once, before its ranks are forked."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from engine_workers import Preloaded

from polyrank.errors import WorkerDied

NAME = "preloaded_module:IMPORTED_BY"
A_THREAD = """
import threading
threading.Thread(target=threading.Event().wait, name='waits', daemon=True).start()
"""


async def test_ranks_find_it_imported_and_so_do_those_after_them(
    running: Callable[..., Any], preloading: Callable[..., None]
) -> None:
    preloading(NAME)
    async with running(Preloaded, world_size=2) as runner:
        [[pid, parent], other] = await runner.invoke({})
        assert pid == parent
        assert other == [pid, parent]
        with pytest.raises(WorkerDied):
            await runner.invoke({"killed": True})
        assert await runner.invoke({}) == [other, other]
        assert runner.timings[0]["preload_s"] > 0


async def test_what_must_not_be_forked_is_not(
    running: Callable[..., Any],
    preloading: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Python's threads do not survive a fork, but what they held locked stays locked."""
    preloading(NAME, more=A_THREAD)
    with caplog.at_level(logging.WARNING, "polyrank.distributed"):
        async with running(Preloaded, world_size=2) as runner:
            assert [pid for pid, _ in await runner.invoke({})] == [None, None]
    assert "importing preloaded_module:IMPORTED_BY starts threads (waits)" in caplog.text


async def test_a_method_of_that_name_is_the_users(
    running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were written before there was one run as they are."""
    monkeypatch.setattr(Preloaded, "preload", lambda self: "mine")
    async with running(Preloaded) as runner:
        assert len(await runner.invoke({})) == 1


async def test_a_single_name_is_refused(
    running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preloaded, "preload", "diffusers")
    with pytest.raises(
        ValueError, match=r"Preloaded.preload is a tuple of names: \('diffusers',\)"
    ):
        async with running(Preloaded):
            pass


async def test_what_is_missing_is_said(
    running: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Preloaded, "preload", ("a_module_that_is_not_there",))
    with caplog.at_level(logging.WARNING, "polyrank.distributed"):
        async with running(Preloaded) as runner:
            [[imported_by, _]] = await runner.invoke({})
            assert imported_by is None
    assert "a_module_that_is_not_there cannot be imported: ModuleNotFoundError" in caplog.text
