"""Captioned scenes, rendered in batches on any torch device: the model's training data.

``sample`` draws what a caption may name (integers, one column an attribute); ``render`` paints it,
and draws everything that no caption names (outlines, tints, turns, clouds, waves, birds, light)
from the canvas's generator. One caption therefore has many pictures: at least 25 bits of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training.shapes import landscapes
from training.shapes.canvas import Canvas, box, circle, heart, star, triangle, turn

COLOURS = {
    "red": (0.86, 0.15, 0.16),
    "orange": (0.96, 0.55, 0.12),
    "yellow": (0.98, 0.86, 0.22),
    "green": (0.16, 0.62, 0.27),
    "blue": (0.14, 0.32, 0.82),
    "purple": (0.50, 0.20, 0.70),
    "pink": (0.96, 0.55, 0.74),
    "white": (0.96, 0.96, 0.95),
    "black": (0.07, 0.07, 0.09),
    "grey": (0.53, 0.54, 0.56),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
PLACES = ("centre", "left", "right", "top", "bottom")
SIZES = ("medium", "small", "big")
RELATIONS = ("left", "above")
HATS = ("none", "hat")
KINDS = ("one", "two", "landscape", "cat")
SUBJECTS = ("none", "house", "tree", "balloon", "boat", "lighthouse", "cactus", "shape")

_CENTRES = {
    "centre": (0, 0),
    "left": (-0.5, 0),
    "right": (0.5, 0),
    "top": (0, 0.5),
    "bottom": (0, -0.5),
}
_RADII = (0.36, 0.22, 0.5)
_KIND_SHARES = (0.26, 0.24, 0.42, 0.08)


@dataclass
class Scenes:
    """A batch of scenes: an integer tensor of shape (n,) for each attribute."""

    kind: Tensor
    shape: Tensor
    colour: Tensor
    other_shape: Tensor
    other_colour: Tensor
    ground: Tensor  # colour of a plain background
    place: Tensor
    size: Tensor
    relation: Tensor
    terrain: Tensor
    time: Tensor
    weather: Tensor
    style: Tensor
    subject: Tensor
    side: Tensor
    hat: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: Tensor | slice) -> Scenes:
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, device: torch.device) -> Scenes:
        """The same scenes on another device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def sample(count: int, generator: torch.Generator) -> Scenes:
    """``count`` random scenes; ``generator`` is a CPU generator."""

    def pick(options: int) -> Tensor:
        return torch.randint(options, (count,), generator=generator)

    def other_than(taken: Tensor, options: int) -> Tensor:
        return (taken + 1 + torch.randint(options - 1, (count,), generator=generator)) % options

    shares = torch.tensor(_KIND_SHARES).expand(count, -1)
    kind = torch.multinomial(shares, 1, generator=generator)[:, 0]
    colour, shape = pick(len(COLOURS)), pick(len(SHAPES))
    ground = other_than(colour, len(COLOURS))
    other = other_than(colour, len(COLOURS))
    other = torch.where(other == ground, other_than(other, len(COLOURS)), other)
    clash = (other == ground) | (other == colour)
    other = torch.where(clash, (torch.maximum(ground, colour) + 1) % len(COLOURS), other)
    clash = (other == ground) | (other == colour)
    other = torch.where(clash, (other + 1) % len(COLOURS), other)
    terrain, subject = pick(len(landscapes.TERRAINS)), pick(len(SUBJECTS))
    is_sea = terrain == landscapes.TERRAINS.index("sea")
    is_desert = terrain == landscapes.TERRAINS.index("desert")
    at_sea = torch.tensor([SUBJECTS.index(s) for s in ("boat", "lighthouse")])[pick(2)]
    on_land = torch.tensor([SUBJECTS.index(s) for s in ("house", "tree")])[pick(2)]
    cactus = torch.full_like(subject, SUBJECTS.index("cactus"))
    is_maritime = (subject == SUBJECTS.index("boat")) | (subject == SUBJECTS.index("lighthouse"))
    is_rooted = (subject == SUBJECTS.index("house")) | (subject == SUBJECTS.index("tree"))
    subject = torch.where(is_sea & is_rooted, at_sea, subject)
    subject = torch.where(~is_sea & is_maritime, on_land, subject)
    misplaced = (subject == SUBJECTS.index("cactus")) & ~is_desert
    subject = torch.where(misplaced, torch.where(is_sea, at_sea, on_land), subject)
    subject = torch.where(is_desert & is_rooted & (pick(3) > 0), cactus, subject)
    is_city = terrain == landscapes.TERRAINS.index("city")
    crowded = (
        is_city & (subject != SUBJECTS.index("balloon")) & (subject != SUBJECTS.index("shape"))
    )
    subject = torch.where(crowded, torch.zeros_like(subject), subject)
    weather = pick(len(landscapes.WEATHERS))
    is_snow = weather == landscapes.WEATHERS.index("snow")
    weather = torch.where(is_snow & is_desert, torch.zeros_like(weather), weather)
    return Scenes(
        kind=kind,
        shape=shape,
        colour=colour,
        other_shape=pick(len(SHAPES)),
        other_colour=other,
        ground=ground,
        place=pick(len(PLACES)) * (pick(3) > 0),
        size=pick(len(SIZES)) * (pick(2) > 0),
        relation=pick(len(RELATIONS)),
        terrain=terrain,
        time=pick(len(landscapes.TIMES)),
        weather=weather,
        style=(pick(8) == 0).long(),
        subject=subject,
        side=pick(3),
        hat=pick(len(HATS)),
    )


def render(scenes: Scenes, size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """The scenes as pictures, (n, 3, size, size), -1 to 1; ``generator`` lives on ``device``."""
    scenes = scenes.to(device)
    canvas = Canvas(len(scenes), size, generator, device)
    painters = (_paint_one, _paint_two, _paint_landscape, _paint_cat)
    for kind, painter in enumerate(painters):
        rows = (scenes.kind == kind).nonzero()[:, 0]
        if len(rows):
            painter(canvas, rows, scenes[rows])
    return canvas.image.clamp(0, 1) * 2 - 1


def tint(canvas: Canvas, colours: Tensor) -> Tensor:
    """Named colours, (m,), as (m, 3) with a small jitter that keeps the name true."""
    palette = torch.tensor(list(COLOURS.values()), device=canvas.device)
    jitter = canvas.random(3 * len(colours), -0.055, 0.055).view(-1, 3)
    light = canvas.random(len(colours), 0.9, 1.06).view(-1, 1)
    return ((palette[colours] + jitter) * light).clamp(0, 1)


def figure(shapes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance of a unit figure for each picture, in the units of ``x`` and ``y``."""
    distance = torch.empty(torch.broadcast_shapes(x.shape, y.shape), device=x.device)
    figures = {
        "circle": lambda x, y: circle(x, y, 0.95),
        "square": lambda x, y: box(x, y, 0.8, 0.8),
        "triangle": lambda x, y: triangle(x, y + 0.7, 0.95, 1.6),
        "star": star,
        "heart": heart,
        "ring": lambda x, y: circle(x, y, 0.72).abs() - 0.22,
        "cross": lambda x, y: torch.minimum(box(x, y, 0.95, 0.3), box(x, y, 0.3, 0.95)),
        "diamond": lambda x, y: (x.abs() * 1.35 + y.abs() - 1) / 1.68,
    }
    for number, name in enumerate(SHAPES):
        rows = (shapes == number).nonzero()[:, 0]
        if len(rows):
            distance[rows] = figures[name](x[rows], y[rows])
    return distance


def _paint_figure(
    canvas: Canvas, rows: Tensor, shapes: Tensor, colour: Tensor, cx: Tensor, cy: Tensor, r: Tensor
) -> None:
    """One shape: turned a little, lit from a random side, sometimes outlined, with a shadow."""
    count = len(rows)
    x, y = turn((canvas.x - cx) / r, (canvas.y - cy) / r, canvas.random(count, -0.3, 0.3))
    distance = figure(shapes, x, y) * r
    lx, ly = canvas.random(count, -1, 1), canvas.random(count, -0.2, 1)
    shadow = _shadow_opacity(canvas, count)
    canvas.paint(
        rows,
        figure(shapes, x + 0.16 * lx, y + 0.16 * ly) * r,
        torch.zeros(count, 3, device=canvas.device),
        shadow,
    )
    shade = 1 + 0.16 * (x * lx + y * ly).clamp(-1, 1)
    stripes = torch.sin((x + y * lx) * 14 + 6 * lx) > 0
    pattern = torch.where(canvas.random(count) < 0.2, stripes * 0.12 - 0.06, 0.0)
    lit = colour[:, :, None, None] * (shade + pattern)[:, None]
    canvas.paint(rows, distance, lit.clamp(0, 1))
    rim = (canvas.random(count) < 0.3).float()
    canvas.paint(rows, distance.abs() - 0.018, colour * 0.55, rim)


def _shadow_opacity(canvas: Canvas, count: int) -> Tensor:
    return torch.where(canvas.random(count) < 0.5, 0.22, 0.0)


def _paint_ground(canvas: Canvas, rows: Tensor, colours: Tensor) -> None:
    """A background of one named colour: flat, graded, spotlit, striped or dotted."""
    count = len(rows)
    base = tint(canvas, colours)[:, :, None, None]
    manner = canvas.integers(count, 5).view(-1, 1, 1)
    ax, ay = canvas.random(count, -1, 1), canvas.random(count, -1, 1)
    slope = 0.13 * (ax * canvas.x + ay * canvas.y)
    spot = 0.16 - 0.2 * torch.hypot(canvas.x - ax * 0.5, canvas.y - ay * 0.5)
    across, _ = turn(canvas.x, canvas.y, ax * 3)
    stripes = 0.07 * torch.tanh(4 * torch.sin(across * (14 + 8 * ay)))
    light = torch.where(manner == 1, slope, torch.zeros_like(slope))
    light = torch.where(manner == 2, spot, light)
    light = torch.where(manner == 3, stripes, light)
    canvas.blend(
        rows, torch.ones(1, 1, 1, device=canvas.device), (base + light[:, None]).clamp(0, 1)
    )
    dotted = (manner == 4).view(-1).nonzero()[:, 0]
    if len(dotted):
        dots = canvas.scatter(rows[dotted], 7, 0.6, 0.03, 0.07)
        canvas.paint(rows[dotted], dots, (base[dotted, :, 0, 0] + 0.1).clamp(0, 1), 0.8)


def _paint_one(canvas: Canvas, rows: Tensor, scenes: Scenes) -> None:
    """One shape on a background of one colour."""
    count = len(rows)
    _paint_ground(canvas, rows, scenes.ground)
    centres = torch.tensor([_CENTRES[p] for p in PLACES], device=canvas.device)[scenes.place]
    cx = centres[:, 0].view(-1, 1, 1) + canvas.random(count, -0.09, 0.09)
    cy = centres[:, 1].view(-1, 1, 1) + canvas.random(count, -0.09, 0.09)
    radius = torch.tensor(_RADII, device=canvas.device)[scenes.size].view(-1, 1, 1)
    radius = radius * canvas.random(count, 0.9, 1.1)
    _paint_figure(canvas, rows, scenes.shape, tint(canvas, scenes.colour), cx, cy, radius)


def _paint_two(canvas: Canvas, rows: Tensor, scenes: Scenes) -> None:
    """Two shapes, the first one left of the other or above it."""
    count = len(rows)
    _paint_ground(canvas, rows, scenes.ground)
    beside = (scenes.relation == RELATIONS.index("left")).view(-1, 1, 1)
    apart, drift = canvas.random(count, 0.42, 0.52), canvas.random(count, -0.16, 0.16)
    for sign, shapes, colours in (
        (-1, scenes.shape, scenes.colour),
        (1, scenes.other_shape, scenes.other_colour),
    ):
        along = sign * apart + canvas.random(count, -0.05, 0.05)
        aside = sign * drift + canvas.random(count, -0.05, 0.05)
        cx, cy = torch.where(beside, along, aside), torch.where(beside, aside, -along)
        radius = canvas.random(count, 0.27, 0.37)
        _paint_figure(canvas, rows, shapes, tint(canvas, colours), cx, cy, radius)


def _paint_landscape(canvas: Canvas, rows: Tensor, scenes: Scenes) -> None:
    """Sky, terrain, weather, and a subject."""
    view = landscapes.View.draw(
        canvas, rows, scenes.terrain, scenes.time, scenes.weather, scenes.style
    )
    view.paint_sky()
    airborne = (scenes.subject == SUBJECTS.index("shape")).nonzero()[:, 0]
    if len(airborne):
        some = scenes[airborne]
        count = len(airborne)
        cx = (some.side - 1).view(-1, 1, 1) * 0.5 + canvas.random(count, -0.08, 0.08)
        cy, radius = canvas.random(count, 0.52, 0.68), canvas.random(count, 0.2, 0.28)
        _paint_figure(canvas, rows[airborne], some.shape, tint(canvas, some.colour), cx, cy, radius)
    view.paint_terrain()
    colour = tint(canvas, scenes.colour)
    for name in ("house", "tree", "balloon", "boat", "lighthouse", "cactus"):
        chosen = (scenes.subject == SUBJECTS.index(name)).nonzero()[:, 0]
        if len(chosen):
            view.paint_subject(name, chosen, colour[chosen], scenes.side[chosen])
    view.paint_weather()


def _paint_cat(canvas: Canvas, rows: Tensor, scenes: Scenes) -> None:
    """The face of a cat of one colour on a background of another, with or without a hat."""
    count = len(rows)
    _paint_ground(canvas, rows, scenes.ground)
    fur = tint(canvas, scenes.colour)
    radius = canvas.random(count, 0.36, 0.46)
    cx, cy = canvas.random(count, -0.18, 0.18), canvas.random(count, -0.3, -0.12)
    x, y = turn(
        (canvas.x - cx) / radius, (canvas.y - cy) / radius, canvas.random(count, -0.18, 0.18)
    )

    def paint(distance: Tensor, colour: Tensor, opacity: Tensor | float = 1.0) -> None:
        canvas.paint(rows, distance * radius, colour, opacity)

    dark = fur.mean(1, keepdim=True) < 0.25
    lines = torch.where(dark, torch.full_like(fur, 0.75), torch.full_like(fur, 0.1))
    rose = torch.tensor([0.93, 0.55, 0.58], device=canvas.device).expand(count, 3)
    paint(torch.hypot(x / 0.95, (y + 1.5) / 0.9) - 0.95, fur * 0.92)
    ear = canvas.random(count, 0.36, 0.48)
    for sign in (-1, 1):
        ex, ey = turn(x - sign * 0.6, y - 0.45, torch.full_like(radius, -sign * 0.35))
        paint(triangle(ex, ey, ear, 0.75), fur)
        paint(triangle(ex, ey - 0.1, ear * 0.55, 0.42), rose)
    paint(torch.hypot(x / 1.12, y / 0.95) - 0.9, fur)
    stripes = torch.minimum(box(x, y - 0.72, 0.04, 0.2), box(x.abs() - 0.22, y - 0.68, 0.035, 0.14))
    paint(stripes, lines, (canvas.random(count) < 0.4).float() * 0.6)
    iris = torch.tensor(
        [[0.35, 0.7, 0.25], [0.9, 0.7, 0.1], [0.3, 0.6, 0.85]], device=canvas.device
    )
    wide = canvas.random(count, 0.16, 0.22)
    eyes = torch.hypot(x.abs() - 0.4, (y - 0.12) * 0.9) - wide
    paint(eyes - 0.02, lines)
    paint(eyes, iris[canvas.integers(count, 3)])
    look = canvas.random(count, -0.05, 0.05)
    pupil = torch.hypot(((x - look).abs() - 0.4) / canvas.random(count, 0.35, 0.8), y - 0.12)
    paint(pupil - wide * 0.75, torch.full_like(fur, 0.04))
    paint(triangle(x, -(y + 0.12), 0.11, 0.13), rose)
    whisker = (y + 0.27 - (x.abs() - 0.3) * canvas.random(count, -0.25, 0.25)).abs() - 0.014
    twice = torch.minimum(whisker, (y + 0.4 + (x.abs() - 0.3) * 0.3).abs() - 0.014)
    paint(torch.maximum(twice, (x.abs() - 0.75).abs() - 0.4), lines, 0.8)
    smile = (torch.hypot(x.abs() - 0.13, y + 0.3) - 0.13).abs() - 0.025
    paint(torch.maximum(smile, y + 0.3), lines)
    hatted = (scenes.hat == HATS.index("hat")).nonzero()[:, 0]
    if len(hatted):
        _paint_hat(canvas, rows[hatted], tint(canvas, scenes[hatted].other_colour),
                   x[hatted], y[hatted], radius[hatted])  # fmt: skip


def _paint_hat(
    canvas: Canvas, rows: Tensor, colour: Tensor, x: Tensor, y: Tensor, radius: Tensor
) -> None:
    """A top hat, a party hat or a round one, with a band."""
    count = len(rows)
    form = canvas.integers(count, 3).view(-1, 1, 1)
    tall = canvas.random(count, 0.55, 0.85)
    y = y - 0.72
    top = torch.minimum(box(x, y - tall / 2, 0.42, tall / 2), box(x, y, 0.75, 0.07))
    party = triangle(x, y, 0.5, tall * 1.4)
    bowl = torch.minimum(
        torch.maximum(torch.hypot(x, y / tall * 0.6) - 0.55, -y), box(x, y, 0.75, 0.07)
    )
    distance = torch.where(form == 0, top, torch.where(form == 1, party, bowl))
    canvas.paint(rows, distance * radius, colour)
    band = torch.maximum(distance, (y - 0.16).abs() - 0.08)
    canvas.paint(rows, band * radius, 1 - colour, 0.7)
