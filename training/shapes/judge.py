"""An independent judge: names a picture's attributes, and has only ever seen rendered scenes.

It shares nothing with the model that it scores but the renderer: no weights, no text, no latents.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.shapes import landscapes, scenes
from training.shapes.steps import Trainer

SIZE = 128
POOL = 40_000

# What it names: the number of options, and the kinds of scene that have the attribute.
OPTIONS = {
    "kind": (len(scenes.KINDS), scenes.KINDS),
    "shape": (len(scenes.SHAPES), ("one", "two")),
    "colour": (len(scenes.COLOURS), ("one", "two", "cat")),
    "other_shape": (len(scenes.SHAPES), ("two",)),
    "other_colour": (len(scenes.COLOURS), ("two",)),
    "ground": (len(scenes.COLOURS), ("one", "two", "cat")),
    "place": (len(scenes.PLACES), ("one",)),
    "size": (len(scenes.SIZES), ("one",)),
    "relation": (len(scenes.RELATIONS), ("two",)),
    "terrain": (len(landscapes.TERRAINS), ("landscape",)),
    "time": (len(landscapes.TIMES), ("landscape",)),
    "weather": (len(landscapes.WEATHERS), ("landscape",)),
    "style": (len(landscapes.STYLES), ("landscape",)),
    "subject": (len(scenes.SUBJECTS), ("landscape",)),
    "hat": (len(scenes.HATS), ("cat",)),
}


class Judge(nn.Module):
    """A plain convolutional classifier with one head for each attribute."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3, width, 2 * width, 4 * width, 4 * width, 8 * width]
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        features = channels[-1] * (SIZE // 2**5) ** 2
        self.heads = nn.ModuleDict(
            {name: nn.Linear(features, options) for name, (options, _) in OPTIONS.items()}
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Scores for every option of every attribute; ``pictures`` (n, 3, 128, 128), -1 to 1."""
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def name(self, pictures: Tensor) -> dict[str, Tensor]:
        """The attributes, (n,) each, of pictures of any size from -1 to 1."""
        seen = functional.interpolate(pictures.float(), SIZE, mode="area")
        return {name: scores.argmax(1) for name, scores in self(seen).items()}


def has(batch: scenes.Scenes, name: str) -> Tensor:
    """Which scenes of a batch have the attribute, (n,) of bool."""
    kinds = [scenes.KINDS.index(kind) for kind in OPTIONS[name][1]]
    has_it = torch.isin(batch.kind, torch.tensor(kinds, device=batch.kind.device))
    if name == "shape":
        floating = batch.subject == scenes.SUBJECTS.index("shape")
        return has_it | ((batch.kind == scenes.KINDS.index("landscape")) & floating)
    return has_it


def train_judge(steps: int, seed: int, device: torch.device, pool: int = POOL) -> Judge:
    """A judge that has seen ``pool`` rendered scenes, blurred and noisy as pictures come."""
    drawn = scenes.sample(pool, torch.Generator().manual_seed(seed))
    generator = torch.Generator(device).manual_seed(seed)
    pictures = torch.cat(
        [
            scenes.render(drawn[first : first + 256], SIZE, generator, device).half()
            for first in range(0, pool, 256)
        ]
    )
    truth = drawn.to(device)
    present = {name: has(truth, name).float() for name in OPTIONS}
    model = Judge().to(device).train()
    trainer = Trainer(model, "judge", steps, peak=1e-3)
    for _ in trainer.steps():
        rows = torch.randint(pool, (min(256, pool),), device=device, generator=generator)
        with torch.autocast(device.type, torch.bfloat16):
            scores = model(_spoil(pictures[rows].float(), generator))
        loss = torch.zeros((), device=device)
        for name, values in scores.items():
            wrong = functional.cross_entropy(
                values.float(), getattr(truth, name)[rows], reduction="none"
            )
            counted = present[name][rows]
            loss = loss + (wrong * counted).sum() / counted.sum().clamp(min=1)
        trainer.learn(loss)
    judge: Judge = trainer.average.module
    return judge.eval().requires_grad_(False)


def _spoil(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures blurred, all of them noisy: colours and edges are never perfect."""
    count, device = len(pictures), pictures.device
    smaller = functional.interpolate(pictures, scale_factor=0.5, mode="area")
    blurred = functional.interpolate(smaller, SIZE, mode="bilinear")
    is_blurred = torch.rand(count, 1, 1, 1, device=device, generator=generator) < 0.5
    noise = torch.randn(pictures.shape, device=device, generator=generator)
    strength = 0.1 * torch.rand(count, 1, 1, 1, device=device, generator=generator)
    return torch.where(is_blurred, blurred, pictures) + strength * noise
