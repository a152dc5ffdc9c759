"""Captions of scenes, by a small grammar that drops attributes and uses synonyms.

A caption never names what the scene lacks; what it leaves out varies freely between the scenes
that it fits. That is what makes short prompts work, and lets seeds differ.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from training.shapes import landscapes, scenes

LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"

_GROUNDS = ("on {} background", "on {}", "against {} background", "with {} background")
_PLACES = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
    "centre": ("in the middle", "in the center"),
}
_SIZES = {"small": ("small", "tiny", "little"), "big": ("big", "large", "huge"), "medium": ("",)}
_TIMES = {
    "day": ("during the day", "on a sunny day", "by day", "in the sunshine", "under a blue sky"),
    "sunset": ("at sunset", "in the evening", "at dusk", "in the sunset", "at golden hour"),
    "night": ("at night", "under the stars", "under the moon", "in a starry night", "by moonlight"),
    "dawn": ("at dawn", "in the morning", "at sunrise", "in the morning light"),
}
_TERRAINS = {
    "mountains": ("a mountain landscape", "mountains", "snowy mountains", "the mountains"),
    "hills": ("green hills", "rolling hills", "a meadow", "hills", "a hilly landscape"),
    "forest": ("a forest", "the woods", "a forest landscape", "a pine forest"),
    "sea": ("the sea", "the ocean", "a seascape", "the blue sea"),
    "desert": ("a desert", "sand dunes", "the desert", "a desert landscape"),
    "city": ("a city", "a city skyline", "a town", "the city"),
}
_WITHIN = {
    "mountains": ("in the mountains", "in front of the mountains", "in a mountain landscape"),
    "hills": ("in the hills", "on a meadow", "in green hills", "in a meadow"),
    "forest": ("in the forest", "in the woods", "in front of a forest"),
    "sea": ("on the sea", "at the sea", "on the ocean", "by the sea"),
    "desert": ("in the desert", "in a desert", "in the dunes"),
    "city": ("in the city", "in a city"),
}
_ABOVE = {
    "mountains": ("over the mountains", "above the mountains"),
    "hills": ("over green hills", "above a meadow", "over the hills"),
    "forest": ("over the forest", "above the woods"),
    "sea": ("over the sea", "above the ocean"),
    "desert": ("over the desert", "above the dunes"),
    "city": ("over the city", "above a city skyline"),
}
_WEATHERS = {
    "clouds": ("with clouds", "under a cloudy sky", "with white clouds"),
    "snow": ("in the snow", "in winter", "in falling snow", "with snow falling"),
    "clear": ("",),
}
_MOODS = ("serene", "beautiful", "quiet", "peaceful", "lonely", "magical", "calm", "scenic")
_FANTASY = ("fantasy", "alien", "dreamlike", "surreal")
_SUBJECTS = {
    "house": ("house", "cottage", "home"),
    "tree": ("tree",),
    "balloon": ("hot air balloon", "balloon"),
    "boat": ("sailing boat", "boat", "ship", "sailboat"),
    "lighthouse": ("lighthouse", "light house on a cliff", "lighthouse on a cliff"),
    "cactus": ("cactus",),
}
_HATS = ("wearing a hat", "with a hat", "wearing a {} hat", "in a {} hat")
_MEDIA = ("a picture of", "an image of", "a drawing of", "an illustration of", "a painting of")
# What people put into negative prompts. Learned as captions of anything, they mean nothing.
_NOISE = (
    "blurry low quality worst bad ugly distorted deformed noisy grainy jpeg artifacts watermark "
    "text signature cropped out of frame lowres duplicate extra mutation poorly drawn "
    "oversaturated image photo realistic render style blur pixelated error username logo"
).split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_COLOURS = tuple(scenes.COLOURS)


class Captions:
    """Writes captions. ``complete`` ones name every attribute, for scoring; others drop some."""

    def __init__(self, seed: int, *, complete: bool = False) -> None:
        self._rng = random.Random(seed)
        self._complete = complete

    def of(self, batch: scenes.Scenes) -> list[str]:
        """One caption for each scene of a batch."""
        columns = {name: values.tolist() for name, values in vars(batch).items()}
        rows = zip(*columns.values(), strict=True)
        return [self._caption(dict(zip(columns, row, strict=True))) for row in rows]

    def noise(self) -> str:
        """Words that say nothing about a picture: quality words, and words nobody knows."""
        words = self._rng.sample(_NOISE, self._rng.randint(1, 6))
        if self._rng.random() < 0.3:
            words.append("".join(self._rng.choices(_LETTERS, k=self._rng.randint(3, 8))))
        return self._rng.choice((", ", " ")).join(words)

    def _caption(self, scene: dict[str, int]) -> str:
        describe = (self._one, self._two, self._landscape, self._cat)[scene["kind"]]
        text = describe(scene)
        if self._rng.random() < 0.08:
            text = f"{self._pick(_MEDIA)} {text}"
        return " ".join(text.split())

    def _pick(self, options: Sequence[str]) -> str:
        return self._rng.choice(options)

    def _names(self, share: float) -> bool:
        """Whether this caption names an attribute that a ``share`` of captions name."""
        return self._complete or self._rng.random() < share

    def _ground(self, colour: int) -> str:
        manner, name = self._pick(_GROUNDS), _COLOURS[colour]
        return manner.format(_article(name) if "background" in manner else name)

    def _one(self, scene: dict[str, int]) -> str:
        place, size = scenes.PLACES[scene["place"]], scenes.SIZES[scene["size"]]
        named = self._pick(_SIZES[size]) if self._names(0.9) else ""
        parts = [_thing(scene["shape"], scene["colour"], named)]
        if self._names(0.3 if place == "centre" else 0.9):
            parts.append(self._pick(_PLACES[place]))
        if self._names(0.85):
            parts.append(self._ground(scene["ground"]))
        return " ".join(parts)

    def _two(self, scene: dict[str, int]) -> str:
        first = _thing(scene["shape"], scene["colour"])
        second = _thing(scene["other_shape"], scene["other_colour"])
        beside = scenes.RELATIONS[scene["relation"]] == "left"
        there, back = ("left of", "right of") if beside else ("above", "below")
        if not self._names(0.85):
            text = self._pick((f"{first} and {second}", f"{second} and {first}"))
        else:
            text = self._pick((f"{first} {there} {second}", f"{second} {back} {first}"))
        return f"{text} {self._ground(scene['ground'])}" if self._names(0.8) else text

    def _landscape(self, scene: dict[str, int]) -> str:
        terrain = landscapes.TERRAINS[scene["terrain"]]
        subject = scenes.SUBJECTS[scene["subject"]]
        fantasy = landscapes.STYLES[scene["style"]] == "fantasy"
        mood = self._pick(_MOODS) if self._rng.random() < 0.3 else ""
        if fantasy and self._names(0.9):
            mood = f"{mood} {self._pick(_FANTASY)}"
        if subject == "none" or not self._names(0.9):
            text = self._scenery(terrain, mood, fantasy)
        else:
            text = self._subject(scene, subject, terrain, mood)
        endings = []
        if self._names(0.8):
            endings.append(self._pick(_TIMES[landscapes.TIMES[scene["time"]]]))
        if self._names(0.8):
            endings.append(self._pick(_WEATHERS[landscapes.WEATHERS[scene["weather"]]]))
        self._rng.shuffle(endings)
        return " ".join([text, *endings])

    def _scenery(self, terrain: str, mood: str, fantasy: bool) -> str:
        scenery = self._pick(_TERRAINS[terrain])
        if not self._names(0.8):
            scenery = "a landscape"
        elif fantasy and self._rng.random() < 0.3:
            scenery = f"a landscape with {scenery}"
        head, _, rest = scenery.partition(" ")
        if not mood.strip():
            return scenery
        if head == "a":
            return _article(f"{mood} {rest}")
        return f"the {mood} {rest}" if head == "the" else f"{mood} {scenery}"

    def _subject(self, scene: dict[str, int], subject: str, terrain: str, mood: str) -> str:
        if subject == "shape":
            return f"{_thing(scene['shape'], scene['colour'])} {self._pick(_ABOVE[terrain])}"
        painted = subject not in ("tree", "cactus") and self._names(0.6)
        colour = _COLOURS[scene["colour"]] if painted else ""
        text = _article(f"{mood} {colour} {self._pick(_SUBJECTS[subject])}")
        side = ("left", "centre", "right")[scene["side"]]
        if side != "centre" and self._rng.random() < 0.25:
            text = f"{text} {self._pick(_PLACES[side])}"
        where = _ABOVE if subject == "balloon" else _WITHIN
        return f"{text} {self._pick(where[terrain])}" if self._names(0.85) else text

    def _cat(self, scene: dict[str, int]) -> str:
        colour = _COLOURS[scene["colour"]] if self._names(0.7) else ""
        text = _article(f"{colour} cat")
        if scenes.HATS[scene["hat"]] == "hat":
            text = f"{text} {self._pick(_HATS).format(_COLOURS[scene['other_colour']])}"
        return f"{text} {self._ground(scene['ground'])}" if self._names(0.7) else text


def _article(words: str) -> str:
    words = words.strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _thing(shape: int, colour: int, size: str = "") -> str:
    return _article(f"{size} {_COLOURS[colour]} {scenes.SHAPES[shape]}")


def train_tokenizer(texts: Sequence[str], folder: Path) -> CLIPTokenizer:
    """A byte-pair tokenizer that knows each word of ``texts`` whole and can spell all others."""
    spelled = Tokenizer(BPE(end_of_word_suffix="</w>"))
    spelled.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=list(_LETTERS),
        show_progress=False,
    )
    spelled.train_from_iterator([*texts, *_NOISE], trainer)
    model = json.loads(spelled.to_str())["model"]
    letters = sorted(ByteLevel.alphabet())  # one for each of the 256 bytes
    tokens = dict.fromkeys([*model["vocab"], *letters, *(f"{c}</w>" for c in letters)])
    vocabulary = {token: number for number, token in enumerate([*tokens, START, END])}
    merges = [" ".join(merge) for merge in model["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH
    )
