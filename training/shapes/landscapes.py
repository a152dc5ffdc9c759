"""Landscapes in flat colours: a sky, a terrain in layers, weather, and one subject."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.shapes.canvas import Canvas, box, circle, crescent, triangle, turn

TERRAINS = ("mountains", "hills", "forest", "sea", "desert", "city")
TIMES = ("day", "sunset", "night", "dawn")
WEATHERS = ("clear", "clouds", "snow")
STYLES = ("plain", "fantasy")

# Sky from its top over the middle to the horizon, for each time of day.
_SKY = (
    ((0.20, 0.50, 0.90), (0.46, 0.73, 0.97), (0.80, 0.92, 0.99)),
    ((0.28, 0.20, 0.50), (0.88, 0.38, 0.42), (1.00, 0.72, 0.36)),
    ((0.02, 0.03, 0.12), (0.06, 0.08, 0.24), (0.16, 0.20, 0.44)),
    ((0.50, 0.60, 0.88), (0.84, 0.74, 0.88), (1.00, 0.84, 0.74)),
)
# What that light leaves of a colour.
_LIGHT = ((1.0, 1.0, 1.0), (0.78, 0.52, 0.52), (0.24, 0.28, 0.46), (0.92, 0.82, 0.88))
_SUN = ((1.0, 0.96, 0.72), (1.0, 0.84, 0.45), (0.95, 0.95, 0.88), (1.0, 0.95, 0.85))
# Near ground and far ground.
_GROUND = {
    "mountains": ((0.22, 0.44, 0.26), (0.42, 0.42, 0.52)),
    "hills": ((0.30, 0.60, 0.22), (0.45, 0.72, 0.38)),
    "forest": ((0.10, 0.36, 0.20), (0.28, 0.52, 0.34)),
    "sea": ((0.04, 0.26, 0.52), (0.16, 0.52, 0.72)),
    "desert": ((0.86, 0.62, 0.32), (0.94, 0.76, 0.48)),
    "city": ((0.24, 0.26, 0.34), (0.46, 0.48, 0.58)),
}
_SIDES = (-0.5, 0.0, 0.5)


@dataclass
class View:
    """What a batch of landscapes is painted with; every tensor has one row a picture."""

    canvas: Canvas
    rows: Tensor
    terrain: Tensor
    time: Tensor
    weather: Tensor
    fantasy: Tensor
    sky: Tensor  # (m, 3 stops, 3)
    near: Tensor
    far: Tensor
    light: Tensor
    sun_colour: Tensor
    sun_x: Tensor
    sun_y: Tensor
    horizon: Tensor

    @classmethod
    def draw(
        cls,
        canvas: Canvas,
        rows: Tensor,
        terrain: Tensor,
        time: Tensor,
        weather: Tensor,
        style: Tensor,
    ) -> View:
        """Chooses palette, light and horizon of each picture."""
        count, device = len(rows), canvas.device

        def colours(table: object, index: Tensor, jitter: float) -> Tensor:
            chosen = torch.tensor(table, device=device)[index]
            noise = canvas.random(chosen.numel(), -jitter, jitter).view(chosen.shape)
            return (chosen + noise).clamp(0, 1)

        fantasy = (style == STYLES.index("fantasy")).view(-1, 1, 1)
        angle = torch.where(
            fantasy, canvas.random(count, 0.3, 0.7), canvas.random(count, -0.03, 0.03)
        )
        snowy = (weather == WEATHERS.index("snow")).float().view(-1, 1) * 0.72
        near, far = (
            torch.lerp(
                _rotate_hue(colours([_GROUND[t][i] for t in TERRAINS], terrain, 0.05), angle),
                torch.tensor([0.93, 0.95, 0.98], device=device),
                snowy * (terrain != TERRAINS.index("sea")).view(-1, 1),
            )
            for i in (0, 1)
        )
        light = colours(_LIGHT, time, 0.04)
        low_sun = ((time == 1) | (time == 3)).view(-1, 1, 1)
        horizon = canvas.random(count, -0.2, 0.12)
        high = canvas.random(count, 0.5, 0.82)
        return cls(
            canvas=canvas,
            rows=rows,
            terrain=terrain,
            time=time,
            weather=weather,
            fantasy=fantasy,
            sky=_rotate_hue(colours(_SKY, time, 0.035), angle[:, None]),
            near=near * light,
            far=far * light,
            light=light,
            sun_colour=colours(_SUN, time, 0.03),
            sun_x=canvas.random(count, -0.75, 0.75),
            sun_y=torch.where(low_sun, horizon + canvas.random(count, 0.06, 0.3), high),
            horizon=horizon,
        )

    def paint_sky(self) -> None:
        """Gradient, stars, sun or moon with its glow, clouds, birds."""
        canvas, count = self.canvas, len(self.rows)
        height = ((canvas.y - self.horizon) / (1 - self.horizon)).clamp(0, 1)[:, None]
        top, middle, bottom = (self.sky[:, i, :, None, None] for i in range(3))
        bend = 0.45
        lower = torch.lerp(bottom, middle, (height / bend).clamp(max=1))
        gradient = torch.lerp(lower, top, ((height - bend) / (1 - bend)).clamp(min=0))
        canvas.blend(
            self.rows,
            torch.ones(1, 1, 1, device=canvas.device),
            gradient.expand(-1, -1, -1, canvas.size),
        )
        at_night = self._where(self.time == TIMES.index("night"))
        if len(at_night):
            density = 0.75
            stars = canvas.scatter(self.rows[at_night], 13, density, 0.008, 0.024)
            white = torch.tensor([0.97, 0.97, 0.9], device=canvas.device).expand(len(at_night), 3)
            canvas.paint(self.rows[at_night], stars, white, canvas.random(len(at_night), 0.7, 1.0))
        self._paint_sun()
        self._paint_planet()
        cloudy = self._where(self.weather == WEATHERS.index("clouds"))
        if len(cloudy):
            self._paint_clouds(cloudy)
        birds = self._where((canvas.random(count).view(-1) < 0.35) & (self.time != 2))
        if len(birds):
            self._paint_birds(birds)

    def paint_terrain(self) -> None:
        """The ground, from the horizon to the lower edge."""
        painters = {
            "mountains": self._paint_mountains,
            "hills": self._paint_hills,
            "forest": self._paint_forest,
            "sea": self._paint_sea,
            "desert": self._paint_desert,
            "city": self._paint_city,
        }
        for number, name in enumerate(TERRAINS):
            chosen = self._where(self.terrain == number)
            if len(chosen):
                painters[name](chosen)

    def paint_weather(self) -> None:
        """Falling snow, over everything."""
        chosen = self._where(self.weather == WEATHERS.index("snow"))
        if not len(chosen):
            return
        white = torch.full((len(chosen), 3), 0.98, device=self.canvas.device)
        for columns, low, high in ((12, 0.012, 0.022), (8, 0.02, 0.036)):
            flakes = self.canvas.scatter(self.rows[chosen], columns, 0.6, low, high)
            self.canvas.paint(self.rows[chosen], flakes, white, 0.92)

    def paint_subject(self, name: str, chosen: Tensor, colour: Tensor, side: Tensor) -> None:
        """A house, tree, balloon, boat, lighthouse or cactus at the left, middle or right."""
        canvas, count = self.canvas, len(chosen)
        place = torch.tensor(_SIDES, device=canvas.device)[side].view(-1, 1, 1)
        x = canvas.x - place - canvas.random(count, -0.08, 0.08)
        subject = _Subject(
            self, chosen, x, colour * torch.lerp(self.light[chosen], torch.ones_like(colour), 0.55)
        )
        getattr(subject, name)()

    def _where(self, mask: Tensor) -> Tensor:
        return mask.nonzero()[:, 0]

    def _paint_sun(self) -> None:
        canvas, count = self.canvas, len(self.rows)
        x, y = canvas.x - self.sun_x, canvas.y - self.sun_y
        night = (self.time == TIMES.index("night")).view(-1, 1, 1)
        low = ((self.time == 1) | (self.time == 3)).view(-1, 1, 1)
        radius = torch.where(low, canvas.random(count, 0.15, 0.24), canvas.random(count, 0.1, 0.17))
        away = torch.hypot(x, y)
        glow = torch.where(night, 0.25, 0.5) * torch.exp(
            -away / (radius * torch.where(low, 2.2, 1.3))
        )
        canvas.blend(self.rows, glow, self.sun_colour)
        tilted = turn(x, y, canvas.random(count, -1.2, 1.2))
        is_crescent = night & (canvas.random(count) < 0.5)
        disc = torch.where(is_crescent, crescent(*tilted, radius), circle(x, y, radius))
        canvas.paint(self.rows, disc, self.sun_colour)
        craters = torch.minimum(
            circle(tilted[0] - radius * 0.3, tilted[1] + radius * 0.2, radius * 0.2),
            circle(tilted[0] + radius * 0.4, tilted[1] - radius * 0.25, radius * 0.15),
        )
        canvas.paint(self.rows, craters, self.sun_colour * 0.86, (night & ~is_crescent).float())

    def _paint_planet(self) -> None:
        """In a fantasy sky: a second, ringed world."""
        canvas = self.canvas
        chosen = self._where(self.fantasy.view(-1))
        count = len(chosen)
        if not count:
            return
        cx = -torch.sign(self.sun_x[chosen]) * canvas.random(count, 0.3, 0.7)
        radius = canvas.random(count, 0.14, 0.26)
        x, y = turn(
            canvas.x - cx,
            canvas.y - canvas.random(count, 0.45, 0.7),
            canvas.random(count, -0.6, 0.6),
        )
        body = torch.rand(count, 3, device=canvas.device, generator=canvas.generator) * 0.6 + 0.3
        shade = (1 - 0.35 * (x / radius).clamp(-1, 1))[:, None] * body[:, :, None, None]
        canvas.paint(self.rows[chosen], circle(x, y, radius), shade.clamp(0, 1))
        ring = (torch.hypot(x, y * 3.4) - radius * 1.55).abs() - radius * 0.14
        hidden = torch.where(y > 0, -circle(x, y, radius), -torch.ones_like(x))
        pale = (body + 0.35).clamp(0, 1)
        canvas.paint(self.rows[chosen], torch.maximum(ring, hidden), pale, 0.9)

    def _paint_clouds(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        colour = torch.lerp(self.sky[chosen, 2], torch.ones(3, device=canvas.device), 0.55)
        colour = colour * torch.lerp(self.light[chosen], torch.ones_like(colour), 0.45)
        for number in range(4):
            there = 1.0 if number < 2 else (canvas.random(count) < 0.6).float()
            size = canvas.random(count, 0.13, 0.24)
            x = (canvas.x - canvas.random(count, -0.95, 0.95)) / size
            y = (canvas.y - canvas.random(count, 0.2, 0.88)) / size
            puffs = [circle(x, y, 0.75)]
            for along in (-1.05, 0.95, -1.8, 1.7):
                bump = canvas.random(count, 0.32, 0.66) * (1.0 if abs(along) < 1.5 else 0.62)
                puffs.append(circle(x - along, y + 0.25, bump))
            cloud = torch.maximum(torch.stack(puffs).amin(0), -(y + 0.42))
            canvas.paint(
                self.rows[chosen], cloud * size, colour, canvas.random(count, 0.75, 0.97) * there
            )

    def _paint_birds(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        dark = torch.tensor([0.13, 0.12, 0.18], device=canvas.device).expand(count, 3)
        cx, cy = canvas.random(count, -0.7, 0.7), canvas.random(count, 0.3, 0.8)
        for _ in range(3):
            size = canvas.random(count, 0.04, 0.07)
            x = (canvas.x - cx - canvas.random(count, -0.2, 0.2)) / size
            y = (canvas.y - cy - canvas.random(count, -0.14, 0.14)) / size
            wing = (y + (x.abs() - 0.62).abs() * 0.75 - 0.4).abs() - 0.15
            canvas.paint(self.rows[chosen], torch.maximum(wing, x.abs() - 1.2) * size, dark)

    # Terrains, far layers first.

    def _layer(self, chosen: Tensor, height: Tensor, colour: Tensor) -> Tensor:
        """Fills what lies below the outline ``height``, (m, 1, size); returns its distance."""
        slope = torch.gradient(height, spacing=2 / self.canvas.size, dim=-1)[0]
        distance = (self.canvas.y - height) / torch.sqrt(1 + slope**2)
        self.canvas.paint(self.rows[chosen], distance, colour)
        return distance

    def _waves(self, count: int, octaves: int, frequency: float, ridged: bool) -> Tensor:
        """A random outline between about -1 and 1: waves, or with sharp ridges."""
        total = torch.zeros(count, 1, self.canvas.size, device=self.canvas.device)
        for octave in range(octaves):
            phase = self.canvas.random(count, 0, 2 * math.pi)
            rate = frequency * self.canvas.random(count, 0.8, 1.25) * 1.9**octave
            angle = self.canvas.x * rate + phase
            wave = (
                torch.asin(torch.sin(angle) * 0.999) * 2 / math.pi if ridged else torch.sin(angle)
            )
            total = total + wave * 0.5**octave
        return total / 1.5

    def _haze(self, chosen: Tensor, colour: Tensor, amount: float) -> Tensor:
        return torch.lerp(colour, self.sky[chosen, 2], amount)

    def _paint_mountains(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        horizon, far, near = self.horizon[chosen], self.far[chosen], self.near[chosen]
        back = horizon + 0.16 + 0.2 * self._waves(count, 3, 3.0, ridged=True)
        self._layer(chosen, back, self._haze(chosen, far, 0.55))
        peaks = (
            horizon
            + 0.12
            + canvas.random(count, 0.28, 0.42) * self._waves(count, 4, 2.3, ridged=True)
        )
        inside = self._layer(chosen, peaks, self._haze(chosen, far, 0.15))
        lit = torch.gradient(peaks, dim=-1)[0] * torch.sign(self.sun_x[chosen]) > 0
        shadow = torch.where(lit, torch.full_like(inside, 1.0), inside)
        canvas.paint(self.rows[chosen], shadow, self._haze(chosen, far, 0.15) * 0.8)
        level = (
            horizon
            + canvas.random(count, 0.16, 0.3)
            + 0.05 * self._waves(count, 2, 16.0, ridged=True)
        )
        snow = (
            torch.tensor([0.97, 0.97, 1.0], device=canvas.device) * self.light[chosen].sqrt()
        ).clamp(0, 1)
        canvas.paint(self.rows[chosen], torch.maximum(inside, level - canvas.y), snow)
        front = horizon - 0.2 + 0.1 * self._waves(count, 3, 4.0, ridged=False)
        self._layer(chosen, front, self._haze(chosen, near, 0.2) * 0.9)
        with_lake = self._where(canvas.random(count).view(-1) < 0.4)
        if len(with_lake):
            shore = (horizon - 0.36)[with_lake]
            self._water(chosen[with_lake], shore, self.sky[chosen, 1][with_lake])
        bank = horizon - 0.56 + 0.07 * self._waves(count, 2, 3.0, ridged=False)
        self._layer(chosen, bank, near)

    def _paint_hills(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        horizon = self.horizon[chosen]
        for step in range(4):
            depth = step / 3
            height = horizon - 0.27 * step + 0.03
            height = height + canvas.random(count, 0.08, 0.16) * self._waves(
                count, 2, 2.6, ridged=False
            )
            colour = torch.lerp(
                self._haze(chosen, self.far[chosen], 0.35), self.near[chosen], depth
            )
            inside = self._layer(chosen, height, colour)
        flowers = self._where(canvas.random(count).view(-1) < 0.5)
        if len(flowers):
            dots = canvas.scatter(self.rows[chosen[flowers]], 16, 0.45, 0.012, 0.022)
            petals = torch.rand(len(flowers), 3, device=canvas.device, generator=canvas.generator)
            colour = (petals * 0.5 + 0.5) * self.light[chosen[flowers]].sqrt()
            canvas.paint(
                self.rows[chosen[flowers]], torch.maximum(dots, inside[flowers] + 0.04), colour
            )

    def _paint_forest(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        horizon = self.horizon[chosen]
        self._layer(
            chosen,
            horizon + 0.1 * self._waves(count, 2, 2.5, ridged=False),
            self._haze(chosen, self.far[chosen], 0.5),
        )
        for step, columns in enumerate((15, 11, 8)):
            base = horizon - 0.1 - 0.24 * step
            colour = torch.lerp(
                self._haze(chosen, self.far[chosen], 0.35), self.near[chosen], step / 2
            )
            shift = canvas.random(count, 0, 2 / columns)
            cells = canvas.cells(count, 1, columns + 1).view(count, columns + 1)
            position = (canvas.x + 1 + shift) / 2 * columns
            number = position.floor().long().clamp(0, columns)
            tall = (
                cells.gather(1, number.view(count, -1)).view(count, 1, -1) * 0.2
                + 0.26
                + 0.06 * step
            )
            x = (position - position.floor() - 0.5) * 2 / columns
            tiers = tall * (1 - torch.remainder((canvas.y - base) / tall * 3, 1) * 0.16)
            tree = triangle(x, canvas.y - base, 1.1 / columns, tiers)
            canvas.paint(self.rows[chosen], tree, colour)
            floor = base + 0.03 * self._waves(count, 2, 5.0, ridged=False)
            self._layer(chosen, floor, colour * 0.92)

    def _water(self, chosen: Tensor, level: Tensor, colour: Tensor) -> None:
        """A sheet of water below ``level`` with waves, and the sun's glitter on it."""
        canvas, count = self.canvas, len(chosen)
        depth = (level - canvas.y).clamp(min=0)
        swell = torch.sin(canvas.x * canvas.random(count, 3, 8) + canvas.random(count, 0, 6))
        rate = canvas.random(count, 9, 14)
        bands = torch.sin(rate * torch.log1p(depth / 0.12) + 0.9 * swell)
        shade = (1 + 0.09 * bands - 0.25 * depth)[:, None] * colour[:, :, None, None]
        surface = (canvas.y - level).expand(-1, -1, canvas.size)
        canvas.paint(self.rows[chosen], surface, shade.clamp(0, 1))
        width = 0.06 + 0.25 * depth
        glitter = (
            torch.exp(-(((canvas.x - self.sun_x[chosen]) / width) ** 2)) * (bands > 0.1) * 0.55
        )
        canvas.blend(self.rows[chosen], glitter * (surface < 0), self.sun_colour[chosen])

    def _paint_sea(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        island = self._where(canvas.random(count).view(-1) < 0.35)
        if len(island):
            x = canvas.x - canvas.random(len(island), -0.8, 0.8)
            rise = canvas.random(len(island), 0.1, 0.24) * torch.exp(
                -((x / canvas.random(len(island), 0.15, 0.4)) ** 2)
            )
            rough = 1 + 0.25 * self._waves(len(island), 3, 9.0, ridged=True)
            rock = torch.tensor([0.35, 0.4, 0.4], device=canvas.device) * self.light[chosen[island]]
            outline = self.horizon[chosen[island]] + rise * rough - 0.01
            self._layer(chosen[island], outline, self._haze(chosen[island], rock, 0.35))
        colour = torch.lerp(self.near[chosen], self.sky[chosen, 1], 0.3)
        self._water(chosen, self.horizon[chosen], colour)
        beach = self._where(canvas.random(count).view(-1) < 0.35)
        if len(beach):
            sand = torch.tensor([0.92, 0.82, 0.6], device=canvas.device) * self.light[chosen[beach]]
            height = canvas.random(len(beach), -0.92, -0.78) + 0.06 * self._waves(
                len(beach), 2, 2.0, ridged=False
            )
            self._layer(
                chosen[beach],
                height + 0.02,
                torch.full_like(sand, 0.92) * self.light[chosen[beach]].sqrt(),
            )
            self._layer(chosen[beach], height, sand)

    def _paint_desert(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        pyramids = self._where(canvas.random(count).view(-1) < 0.35)
        if len(pyramids):
            some = chosen[pyramids]
            x, y = (
                canvas.x - canvas.random(len(some), -0.7, 0.7),
                canvas.y - self.horizon[some] + 0.08,
            )
            tall = canvas.random(len(some), 0.28, 0.5)
            stone = self._haze(some, self.far[some], 0.2)
            body = triangle(x, y, tall * 0.9, tall)
            canvas.paint(self.rows[some], body, stone)
            canvas.paint(self.rows[some], torch.maximum(body, -x - 0.2 * (tall - y)), stone * 0.78)
        for step in range(4):
            height = self.horizon[chosen] - 0.24 * step
            ridge = 1 - self._waves(count, 1, 2.2, ridged=False).abs() * 1.6
            height = height + 0.12 * ridge
            colour = torch.lerp(
                self._haze(chosen, self.far[chosen], 0.25), self.near[chosen], step / 3
            )
            inside = self._layer(chosen, height, colour)
            away = -torch.gradient(height, spacing=2 / canvas.size, dim=-1)[0]
            away = (away * torch.sign(self.sun_x[chosen]) * 6).clamp(0, 1)
            depth = 0.72 + 0.28 * (-inside / 0.3).clamp(0, 1)
            shaded = colour[:, :, None, None] * depth[:, None]
            canvas.paint(self.rows[chosen], inside, shaded, away)

    def _paint_city(self, chosen: Tensor) -> None:
        canvas, count = self.canvas, len(chosen)
        lit = torch.tensor([1.0, 0.86, 0.45], device=canvas.device).expand(count, 3)
        glass = torch.tensor([0.62, 0.76, 0.88], device=canvas.device).expand(count, 3)
        dark = ((self.time[chosen] == 1) | (self.time[chosen] == 2)).view(-1, 1)
        pane = torch.where(dark, lit, glass * self.light[chosen])
        horizon = self.horizon[chosen] - 0.2
        for step, columns in enumerate((13, 9)):
            heights = canvas.cells(count, columns, 1).view(count, columns)
            tall = horizon + (0.75 - 0.3 * step) * canvas.blocks(heights) + 0.16
            gap = (
                canvas.blocks((canvas.cells(count, columns, 1).view(count, columns) - 0.5) * 0.16)
                + 1
            )
            colour = torch.lerp(
                self._haze(chosen, self.far[chosen], 0.45), self.near[chosen], float(step)
            )
            tower = (canvas.y - tall).expand(-1, -1, canvas.size)
            body = colour[:, :, None, None] * gap[:, None]
            canvas.paint(self.rows[chosen], tower, body.clamp(0, 1))
            across, down = columns * 3, 30
            fx = torch.remainder((canvas.x + 1) / 2 * across, 1) - 0.5
            fy = torch.remainder((canvas.y + 1) / 2 * down, 1) - 0.5
            on = canvas.cells(count, across, down) < 0.55
            column = ((canvas.x + 1) / 2 * across).long().clamp(max=across - 1)
            row = ((canvas.y + 1) / 2 * down).long().clamp(max=down - 1)
            there = on[:, row.view(-1, 1), column.view(1, -1)]
            window = (box(fx, fy, 0.27, 0.27) < 0) & there & (tower < -0.05)
            canvas.blend(self.rows[chosen], window * (0.55 + 0.35 * step), pane)
        self._layer(chosen, (horizon - 0.32).expand(-1, -1, canvas.size), self.near[chosen] * 0.6)
        level = horizon - 0.42
        road = (canvas.y - level).abs() - 0.012
        dashes = torch.remainder(canvas.x * 4 + canvas.random(count), 1) < 0.55
        canvas.paint(self.rows[chosen], torch.where(dashes, road, torch.ones_like(road)), lit * 0.9)


class _Subject:
    """Paints one thing into the pictures ``chosen`` of a view, around x = 0."""

    def __init__(self, view: View, chosen: Tensor, x: Tensor, colour: Tensor) -> None:
        self.canvas = view.canvas
        self.view = view
        self.chosen = chosen
        self.rows = view.rows[chosen]
        self.x = x
        self.colour = colour
        self.light = torch.lerp(view.light[chosen], torch.ones_like(colour), 0.4)
        self.night = (view.time[chosen] == TIMES.index("night")).view(-1, 1)
        self.count = len(chosen)

    def random(self, low: float, high: float) -> Tensor:
        return self.canvas.random(self.count, low, high)

    def shade(self, red: float, green: float, blue: float) -> Tensor:
        return torch.tensor([red, green, blue], device=self.canvas.device) * self.light

    def paint(self, distance: Tensor, colour: Tensor, opacity: Tensor | float = 1.0) -> None:
        self.canvas.paint(self.rows, distance, colour, opacity)

    def window(self) -> Tensor:
        lit = torch.tensor([1.0, 0.88, 0.45], device=self.canvas.device).expand(self.count, 3)
        return torch.where(self.night, lit, self.shade(0.62, 0.8, 0.92))

    def house(self) -> None:
        wide, tall = self.random(0.24, 0.32), self.random(0.16, 0.21)
        x, y = self.x, self.canvas.y + self.random(0.42, 0.55)
        roof = torch.tensor(
            [[0.45, 0.2, 0.16], [0.3, 0.3, 0.36], [0.55, 0.35, 0.2]], device=self.canvas.device
        )
        roof = roof[self.canvas.integers(self.count, 3)] * self.light
        chimney = box(x - wide * 0.5, y - tall - 0.2, 0.045, 0.14)
        self.paint(chimney, roof * 0.7)
        self.paint(box(x, y, wide, tall), self.colour)
        self.paint(triangle(x, y - tall, wide * 1.2, self.random(0.2, 0.32)), roof)
        self.paint(box(x, y + tall * 0.45, 0.05, tall * 0.55), roof * 0.6)
        pane = box(x.abs() - wide * 0.58, y - tall * 0.2, 0.055, 0.055)
        self.paint(pane, self.window())
        bars = torch.minimum((x.abs() - wide * 0.58).abs(), (y - tall * 0.2).abs()) - 0.007
        self.paint(torch.maximum(pane, bars), roof * 0.6)

    def tree(self) -> None:
        y = self.canvas.y + self.random(0.58, 0.7)
        size = self.random(0.8, 1.25)
        x, y = self.x / size, y / size
        self.paint(box(x, y - 0.14, 0.045, 0.2) * size, self.shade(0.36, 0.24, 0.15))
        leaf = torch.tensor(
            [[0.2, 0.52, 0.2], [0.42, 0.62, 0.2], [0.85, 0.5, 0.15], [0.9, 0.6, 0.7]],
            device=self.canvas.device,
        )
        leaf = leaf[self.canvas.integers(self.count, 4)] * self.light
        for dx, dy, radius in (
            (-0.16, 0.42, 0.17),
            (0.16, 0.4, 0.17),
            (0.0, 0.58, 0.22),
            (0.0, 0.4, 0.2),
        ):
            puff = circle(
                x - dx, y - dy - self.random(-0.03, 0.03), radius + self.random(-0.02, 0.03)
            )
            self.paint(puff * size, leaf * (0.85 + 0.25 * dy))

    def balloon(self) -> None:
        radius = self.random(0.2, 0.28)
        x, y = self.x / radius, (self.canvas.y - self.random(0.35, 0.55)) / radius
        ropes = (x.abs() - 0.2 - 0.25 * (y + 1.3)).abs() - 0.03
        self.paint(
            torch.maximum(ropes, (y + 1.15).abs() - 0.35) * radius, self.shade(0.3, 0.22, 0.15)
        )
        self.paint(box(x, y + 1.6, 0.22, 0.15) * radius, self.shade(0.5, 0.32, 0.18))
        envelope = torch.minimum(circle(x, y, 1.0), triangle(x, -(y + 0.35), 0.93, 1.35))
        self.paint(envelope * radius, self.colour)
        bend = torch.sqrt((1.02 - y.clamp(-1, 1) ** 2).clamp(min=0.05))
        pale = torch.lerp(self.colour, torch.ones_like(self.colour), 0.35)
        stripes = torch.where(
            torch.sin(x / bend * self.random(5, 9)) > 0.25, envelope, torch.ones_like(envelope)
        )
        self.paint(torch.maximum(stripes, (y - 0.1).abs() - 0.8) * radius, pale)

    def boat(self) -> None:
        size = self.random(0.3, 0.42)
        x = self.x / size
        y = (self.canvas.y - self.view.horizon[self.chosen] + self.random(0.2, 0.36)) / size
        self.paint(box(x, y - 0.75, 0.03, 0.75) * size, self.shade(0.35, 0.25, 0.18))
        flip = torch.where(self.random(0, 1) < 0.5, 1.0, -1.0)
        main = torch.maximum(triangle(x, y - 0.22, 0.62, 1.25), -(x * flip) + 0.05)
        jib = torch.maximum(triangle(x, y - 0.22, 0.5, 0.95), (x * flip) + 0.05)
        self.paint(main * size, self.colour)
        self.paint(jib * size, torch.lerp(self.colour, torch.ones_like(self.colour), 0.3))
        hull = torch.maximum(y.abs() - 0.14, x.abs() - 0.62 - y * 0.9)
        self.paint(hull * size, self.shade(0.42, 0.22, 0.14))
        self.paint(torch.maximum(hull, 0.06 - y) * size, self.shade(0.92, 0.9, 0.85))

    def lighthouse(self) -> None:
        x = self.x
        base = self.view.horizon[self.chosen] - self.random(0.12, 0.26)
        rise = torch.exp(-((x / self.random(0.3, 0.46)) ** 4))
        rough = 0.05 * self.view._waves(self.count, 3, 8.0, ridged=True)
        rock = self.canvas.y - (-1.3 + (base + 1.42) * rise + rough * rise)
        tall = self.random(0.62, 0.8)
        y = self.canvas.y - base - 0.1
        glow = torch.where(self.night[:, :, None], 0.75, 0.12)
        lamp = tall + 0.06
        beam = torch.exp(-(((y - lamp) / (0.03 + 0.22 * x.abs())) ** 2)) * torch.exp(-x.abs() * 1.4)
        warm = torch.tensor([1.0, 0.95, 0.65], device=self.canvas.device).expand(self.count, 3)
        self.canvas.blend(self.rows, beam * glow, warm)
        self.paint(rock * 0.7, self.shade(0.36, 0.33, 0.33))
        tower = torch.maximum(x.abs() - 0.115 + 0.06 * y / tall, (y - tall / 2).abs() - tall / 2)
        self.paint(tower, self.shade(0.95, 0.94, 0.92))
        bands = torch.remainder(y / tall * 2.5 + 0.5, 1) - 0.5
        self.paint(torch.maximum(tower, bands * 0.3), self.colour)
        self.paint(box(x, y - tall, 0.09, 0.018), self.shade(0.2, 0.2, 0.24))
        self.paint(
            box(x, y - lamp, 0.05, 0.05), torch.where(self.night, warm, self.shade(0.95, 0.9, 0.6))
        )
        self.paint(triangle(x, y - lamp - 0.05, 0.08, 0.1), self.colour * 0.8)

    def cactus(self) -> None:
        size = self.random(0.8, 1.15)
        x, y = self.x / size, (self.canvas.y + self.random(0.45, 0.62)) / size
        low, high = self.random(0.12, 0.2), self.random(0.24, 0.34)

        def rod(
            cx: Tensor | float, bottom: Tensor | float, top: Tensor | float, radius: float
        ) -> Tensor:
            inner = y - torch.minimum(
                torch.maximum(y, torch.as_tensor(bottom, device=y.device)),
                torch.as_tensor(top, device=y.device),
            )
            return torch.hypot(x - cx, inner) - radius

        def arm(sign: int, height: Tensor) -> Tensor:
            flat = torch.maximum((y - height).abs() - 0.05, (x * sign - 0.12).abs() - 0.12)
            return torch.minimum(flat, rod(sign * 0.24, height, height + 0.2, 0.055))

        green = self.shade(0.18, 0.5, 0.24)
        parts = torch.stack([rod(0.0, 0.0, 0.6, 0.085), arm(-1, low + 0.1), arm(1, high)]).amin(0)
        self.paint(parts * size, green)
        self.paint(torch.maximum(parts, x.abs() - 0.02) * size, green * 1.25)


def _rotate_hue(colour: Tensor, turns: Tensor) -> Tensor:
    """Turns colours (..., 3) around the grey axis; ``turns`` in whole turns, broadcastable."""
    angle = turns * 2 * math.pi
    while angle.dim() > colour.dim():
        angle = angle.squeeze(-1)
    c, s = torch.cos(angle), torch.sin(angle)
    red, green, blue = colour.unbind(-1)
    c, s = c.squeeze(-1), s.squeeze(-1)
    mean, root = (1 - c) / 3, s / math.sqrt(3)
    return torch.stack(
        [
            red * (c + mean) + green * (mean - root) + blue * (mean + root),
            red * (mean + root) + green * (c + mean) + blue * (mean - root),
            red * (mean - root) + green * (mean + root) + blue * (c + mean),
        ],
        -1,
    ).clamp(0, 1)
