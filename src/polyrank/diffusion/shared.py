"""A core whose calls are computed whole by each rank, or shared by the ranks of a team."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from polyrank.diffusion.accelerated import AcceleratedCore
from polyrank.diffusion.divided import Division, RowCore
from polyrank.diffusion.team import Share, Team


class SharedCore:
    """A core as it is, and beside it one for each number of bands that were asked for.

    ``options`` are those of AcceleratedCore.
    """

    def __init__(self, kind: str, core: nn.Module, config: dict[str, Any], **options: Any) -> None:
        self._core = core
        self._config = config
        self._options = options
        self._kind = kind
        self._team: Team | None = None
        self._division: Division | None = None
        self._divided: dict[int, AcceleratedCore] = {}
        self._whole = AcceleratedCore(kind, core, config, **options)

    @property
    def all(self) -> Iterator[AcceleratedCore]:
        """The core as it is, and the divided ones."""
        yield self._whole
        yield from self._divided.values()

    def share(self, team: Team | None) -> None:
        """From the next call on the team's ranks compute a part each; None: no more."""
        if team is not None and self._division is None:
            self._division = Division(self._core)
        self._team = team
        self._divided.clear()

    def part_of(self, pictures: Tensor, multiple: int = 1, or_whole: bool = False) -> Share | None:
        """This rank's part of a call, None if there is no team.

        Pictures that do not divide are refused, or given to every rank whole.
        """
        if self._team is None:
            return None
        batch, height = pictures.shape[0], pictures.shape[2]
        if or_whole and not self._team.divides(batch, height, multiple):
            return None
        return self._team.share(batch, height, multiple)

    def refresh(self, share: Share | None) -> None:
        """Takes compiled code into use where it has become ready; on all ranks that divide a
        picture at the same time.
        """
        core = self._for(share)
        if share is None or share.rows is None:
            core.refresh()
        else:
            core.refresh(share.rows.agree)

    def __call__(self, share: Share | None, pictures: Tensor, *others: Tensor) -> Tensor:
        """The core's output for all ``pictures``; ``others`` are those of this rank's part."""
        core = self._for(share)
        if share is None:
            return core(pictures, *others)
        return share.whole(core(share.of_pictures(pictures), *others))

    def _for(self, share: Share | None) -> AcceleratedCore:
        if share is None or share.rows is None or self._division is None:
            return self._whole
        if share.bands not in self._divided:
            core = RowCore(self._core, self._division, share.rows)
            self._divided[share.bands] = AcceleratedCore(
                self._kind, core, self._config, ranks=share.bands, **self._options
            )
        return self._divided[share.bands]
