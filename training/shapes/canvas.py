"""A batch of pictures that layers are painted on, and the signed distances of simple figures.

All lengths are in units of half a picture: x runs from -1 (left) to 1 (right), y from -1 (bottom)
to 1 (top). A signed distance is negative inside a figure. Figures follow the formulas of
https://iquilezles.org/articles/distfunctions2d/, batched.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Canvas:
    """``count`` square pictures of ``size`` pixels, painted from back to front."""

    def __init__(
        self, count: int, size: int, generator: torch.Generator, device: torch.device
    ) -> None:
        self.size = size
        self.device = device
        self.generator = generator
        self.image = torch.zeros(count, 3, size, size, device=device)
        edge = 1 - 1 / size
        self.x = torch.linspace(-edge, edge, size, device=device).view(1, 1, size)
        self.y = torch.linspace(edge, -edge, size, device=device).view(1, size, 1)

    def random(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """``count`` uniform numbers as a (count, 1, 1) tensor, ready to meet ``x`` and ``y``."""
        values = torch.rand(count, 1, 1, device=self.device, generator=self.generator)
        return values * (high - low) + low

    def integers(self, count: int, high: int) -> Tensor:
        """``count`` integers below ``high``, as a (count,) tensor."""
        return torch.randint(high, (count,), device=self.device, generator=self.generator)

    def cells(self, count: int, columns: int, rows: int) -> Tensor:
        """A uniform number per cell of a grid, (count, rows, columns)."""
        shape = (count, rows, columns)
        return torch.rand(*shape, device=self.device, generator=self.generator)

    def paint(
        self, rows: Tensor, distance: Tensor, colour: Tensor, opacity: Tensor | float = 1.0
    ) -> None:
        """Paints the inside of a figure, its edge anti-aliased over about a pixel and a half.

        ``rows``: (m,) picture numbers. ``distance``: broadcasts to (m, size, size).
        ``colour``: (m, 3) or (m, 3, size, size), 0 to 1.
        """
        coverage = (0.5 - distance * self.size / 3).clamp(0, 1) * opacity
        self.blend(rows, coverage, colour)

    def blend(self, rows: Tensor, coverage: Tensor, colour: Tensor) -> None:
        """Mixes ``colour`` into the pictures ``rows`` by ``coverage``, (m, size, size)."""
        if colour.dim() == 2:
            colour = colour[:, :, None, None]
        coverage = coverage.expand(len(rows), self.size, self.size)[:, None]
        self.image[rows] = torch.lerp(
            self.image[rows], colour.expand_as(self.image[rows]), coverage
        )

    def scatter(
        self, rows: Tensor, columns: int, density: float, low: float, high: float
    ) -> Tensor:
        """Distance to dots strewn over the picture, one at most in each cell of a square grid."""
        count = len(rows)
        there = self.cells(count, columns, columns) < density
        radius = self.cells(count, columns, columns) * (high - low) + low
        margin = high * columns / 2
        dx, dy = (self.cells(count, columns, columns) * (1 - 2 * margin) + margin for _ in "xy")
        column = ((self.x + 1) / 2 * columns).long().clamp(max=columns - 1).expand(1, self.size, -1)
        row = ((1 - self.y) / 2 * columns).long().clamp(max=columns - 1).expand(1, -1, self.size)
        at = (row * columns + column).reshape(1, -1).expand(count, -1)

        def spread(values: Tensor) -> Tensor:
            return values.reshape(count, -1).gather(1, at).view(count, self.size, self.size)

        x = (self.x + 1) / 2 * columns - column - spread(dx)
        y = (1 - self.y) / 2 * columns - row - spread(dy)
        distance = torch.hypot(x, y) * 2 / columns - spread(radius)
        return torch.where(spread(there.float()) > 0, distance, torch.ones_like(distance))

    def blocks(self, values: Tensor) -> Tensor:
        """A row of values, (m, columns), as a staircase over x: (m, 1, size)."""
        columns = values.shape[1]
        column = ((self.x[0, 0] + 1) / 2 * columns).long().clamp(0, columns - 1)
        return values[:, column][:, None]


def circle(x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """Signed distance of a disc around the origin."""
    return torch.hypot(x, y) - radius


def box(x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """Signed distance (exact inside, a bound outside) of a rectangle with these half sides."""
    return torch.maximum(x.abs() - width, y.abs() - height)


def triangle(x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """An isosceles triangle: base of half side ``width`` on y = 0, its top at ``height``."""
    width, height = (torch.as_tensor(v, device=x.device) for v in (width, height))
    slope = torch.hypot(width, height)
    side = (x.abs() * height + (y - height) * width) / slope
    return torch.maximum(side, -y)


def star(x: Tensor, y: Tensor) -> Tensor:
    """A five-pointed star with its points on the unit circle."""
    fifth = math.pi / 5
    angle = torch.remainder(torch.atan2(x, y) + fifth, 2 * fifth) - fifth
    radius = torch.hypot(x, y)
    px, py = radius * torch.sin(angle.abs()), radius * torch.cos(angle)
    inner = 0.45
    ex, ey = inner * math.sin(fifth), inner * math.cos(fifth)
    length = math.hypot(1 - ey, ex)
    return (px * (1 - ey) + (py - 1) * ex) / length


def heart(x: Tensor, y: Tensor) -> Tensor:
    """A heart about two units high."""
    scale = 1.75
    x, y = x.abs() / scale, y / scale + 0.52
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    half = 0.5 * (x + y).clamp(min=0)
    notch = x**2 + (y - 1) ** 2
    side = (x - half) ** 2 + (y - half) ** 2
    point = torch.sqrt(torch.minimum(notch, side)) * torch.sign(x - y)
    return torch.where(x + y > 1, lobe, point) * scale


def crescent(x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """A disc with another one cut out of its upper right."""
    bite = circle(x - 0.45 * radius, y - 0.25 * radius, 0.85 * radius)
    return torch.maximum(circle(x, y, radius), -bite)


def turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates seen by a figure that is turned by ``angle``, in radians."""
    c, s = torch.cos(angle), torch.sin(angle)
    return x * c + y * s, y * c - x * s
