"""Shared memory: blocks, views, and who still needs what."""

import os
from collections.abc import Iterator

import pytest

from polyrank.distributed.arena import SMALLEST_BLOCK, Arena, ArenaFull, ArenaReader, create_fd


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(create_fd("test"), limit_bytes=16 * SMALLEST_BLOCK)
    yield made
    made.close()


@pytest.fixture
def reader(arena: Arena) -> Iterator[ArenaReader]:
    made = ArenaReader(os.dup(arena.fd))
    yield made
    made.close()


def test_a_reader_sees_what_was_written(arena: Arena, reader: ArenaReader) -> None:
    data = os.urandom(100_000)
    assert reader.view(arena.write(data)) == data


def test_a_readers_changes_are_its_own(arena: Arena, reader: ArenaReader) -> None:
    place = arena.write(b"a" * 100)
    mine, other = reader.view(place), reader.view(place)
    mine[:3] = b"XYZ"
    assert other[:3] == b"aaa"


def test_a_block_is_released_when_the_last_reference_to_its_view_goes(
    arena: Arena, reader: ArenaReader
) -> None:
    place = arena.write(b"a" * 100)
    view = reader.view(place)
    part = view[10:20]
    del view
    assert reader.take_released() == []
    del part
    assert reader.take_released() == [place.offset]


def test_a_released_block_is_used_again_and_a_held_one_is_not(
    arena: Arena, reader: ArenaReader
) -> None:
    first, second = arena.write(b"1" * 100), arena.write(b"2" * 100)
    arena.release([first.offset])
    assert arena.write(b"3" * 100).offset == first.offset
    assert reader.view(second) == b"2" * 100


def test_a_block_with_several_readers_is_free_when_all_have_released_it() -> None:
    arena = Arena(create_fd("test"), readers=2)
    place = arena.write(b"x" * 100)
    arena.release([place.offset])
    assert arena.write(b"y" * 100).offset != place.offset
    arena.release([place.offset])
    assert arena.write(b"z" * 100).offset == place.offset
    arena.close()


def test_a_full_arena_is_an_error_and_not_a_crash(arena: Arena) -> None:
    with pytest.raises(ArenaFull):
        arena.write(bytes(32 * SMALLEST_BLOCK))
    assert arena.write(b"still works").size == 11


def test_a_view_outlives_the_arena() -> None:
    arena = Arena(create_fd("test"))
    reader = ArenaReader(os.dup(arena.fd))
    view = reader.view(arena.write(b"kept" * 50))
    arena.close()
    reader.close()
    assert view == b"kept" * 50
