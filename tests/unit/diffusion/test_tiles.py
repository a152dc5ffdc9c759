"""When a grid of the ranks' pictures is shown."""

import pytest
from PIL import Image

from polyrank.diffusion.tiles import Board, Tile
from polyrank.distributed.grid import paste


def picture(level: int) -> Image.Image:
    return Image.new("RGB", (2, 2), (level, level, level))


class Table:
    """A board that says what it shows: the step, and each rank's level."""

    def __init__(self, world_size: int) -> None:
        self.board = Board(world_size)
        self.world_size = world_size
        self.board.begin(1)

    def add(self, rank: int, step: int, call: int = 1) -> tuple[int, list[int]] | None:
        shown = self.board.add(Tile(call, rank, step, 2, 2), picture(10 * rank + step))
        if shown is None:
            return None
        columns = shown[1].width // 2
        spots = [(rank % columns * 2, rank // columns * 2) for rank in range(self.world_size)]
        return shown[0], [shown[1].getpixel(spot)[0] for spot in spots]


def test_a_grid_is_shown_when_every_rank_has_sent() -> None:
    table = Table(3)
    assert table.add(1, 5) is None
    assert table.add(0, 5) is None
    assert table.add(2, 5) == (5, [5, 15, 25])


def test_a_slow_rank_holds_nobody_up() -> None:
    table = Table(2)
    assert table.add(0, 2) is None
    # Rank 0 has gone on: what is there is shown, the other one still black.
    assert table.add(0, 4) == (2, [2, 0])
    assert table.add(1, 2) is None
    assert table.add(1, 4) == (4, [4, 14])


def test_a_slow_ranks_last_picture_stays_in_the_grid() -> None:
    table = Table(2)
    table.add(0, 2), table.add(1, 2)
    table.add(0, 4)
    assert table.add(0, 6) == (4, [4, 12])


def test_what_belongs_to_an_earlier_call_is_dropped() -> None:
    table = Table(2)
    table.add(0, 2)
    table.board.begin(2)
    assert table.add(1, 2, call=1) is None
    assert table.add(0, 2, call=2) is None
    assert table.add(1, 2, call=2) == (2, [2, 12])


def test_a_rank_that_begins_before_rank_0_loses_nothing() -> None:
    table = Table(2)
    assert table.add(1, 2, call=2) is None
    assert table.add(0, 9) is None  # of the call before, which rank 0 has not left
    assert table.board.begin(2) == []
    assert table.add(0, 2, call=2) == (2, [2, 12])
    table.add(0, 3, call=3), table.add(1, 3, call=3)
    [(step, shown)] = table.board.begin(3)
    assert (step, shown.getpixel((2, 0))[0]) == (3, 13)


@pytest.mark.parametrize(
    ("tiles", "size"), [(1, (2, 2)), (2, (4, 2)), (3, (4, 4)), (4, (4, 4)), (8, (6, 6))]
)
def test_grids_are_nearly_square(tiles: int, size: tuple[int, int]) -> None:
    assert paste([picture(1)] * tiles).size == size
