"""The scenes that models/shapes is trained on, and their captions."""

import torch

from training.shapes import landscapes, scenes
from training.shapes.captions import END, START, Captions, train_tokenizer

CPU = torch.device("cpu")


def drawn(count: int, seed: int = 5) -> scenes.Scenes:
    return scenes.sample(count, torch.Generator().manual_seed(seed))


def painted(batch: scenes.Scenes, size: int = 64, seed: int = 9) -> torch.Tensor:
    return scenes.render(batch, size, torch.Generator().manual_seed(seed), CPU)


def test_the_same_seeds_draw_and_paint_the_same() -> None:
    assert torch.equal(painted(drawn(12)), painted(drawn(12)))
    assert not torch.equal(painted(drawn(12)), painted(drawn(12), seed=10))


def test_pictures_of_any_size_are_full_and_in_range() -> None:
    for size in (32, 96):
        pictures = painted(drawn(12), size)
        assert pictures.shape == (12, 3, size, size)
        assert pictures.isfinite().all() and pictures.abs().max() <= 1


def test_the_background_of_a_plain_scene_has_the_colour_that_is_named() -> None:
    batch = drawn(400)
    plain = batch[batch.kind == scenes.KINDS.index("one")]
    border = painted(plain)[:, :, :3].mean((2, 3)) / 2 + 0.5
    palette = torch.tensor(list(scenes.COLOURS.values()))
    nearest = torch.cdist(border, palette).argmin(1)
    assert (nearest == plain.ground).float().mean() > 0.9  # gradients and patterns blur some


def test_two_shapes_and_their_background_differ_in_colour() -> None:
    batch = drawn(5000)
    assert (batch.colour != batch.ground).all()
    assert (batch.other_colour != batch.ground).all()
    assert (batch.other_colour != batch.colour).all()


def test_what_stands_in_a_landscape_belongs_there() -> None:
    batch = drawn(5000)
    boats = batch[batch.subject == scenes.SUBJECTS.index("boat")]
    assert (boats.terrain == landscapes.TERRAINS.index("sea")).all()
    cacti = batch[batch.subject == scenes.SUBJECTS.index("cactus")]
    assert (cacti.terrain == landscapes.TERRAINS.index("desert")).all()


def test_a_caption_leaves_millions_of_pictures_open() -> None:
    """One scene painted over and over: its pixels vary in at least 25 bits."""
    batch = drawn(1)
    batch.kind[:] = scenes.KINDS.index("landscape")
    same = batch[torch.zeros(600, dtype=torch.long)]
    pixels = painted(same, 32).flatten(1)
    spread = torch.linalg.svdvals(pixels - pixels.mean(0)) / len(pixels) ** 0.5
    # Each independent direction that varies by several grey levels holds log2 of their number.
    bits = torch.log2(spread[spread > 2 / 255] / (2 / 255)).sum()
    assert bits > 25


def test_complete_captions_name_every_attribute() -> None:
    batch = drawn(500)
    texts = Captions(1, complete=True).of(batch)
    for row, text in enumerate(texts):
        if scenes.KINDS[batch.kind[row]] == "one":
            words = text.split()
            assert scenes.SHAPES[batch.shape[row]] in words
            assert list(scenes.COLOURS)[batch.colour[row]] in words
            assert list(scenes.COLOURS)[batch.ground[row]] in words
        elif scenes.KINDS[batch.kind[row]] == "two":
            assert any(word in text for word in ("left of", "right of", "above", "below"))


def test_captions_never_name_a_colour_that_is_not_there() -> None:
    batch = drawn(800)
    for row, text in enumerate(Captions(2).of(batch)):
        kind = scenes.KINDS[batch.kind[row]]
        if kind == "landscape":  # meadows are green and seas blue whatever the subject
            continue
        there = {batch.colour[row].item(), batch.ground[row].item()}
        if kind == "two" or scenes.HATS[batch.hat[row]] == "hat":
            there.add(batch.other_colour[row].item())
        named = {number for number, name in enumerate(scenes.COLOURS) if name in text.split()}
        assert named <= there, text


def test_the_tokenizer_knows_each_word_whole_and_spells_the_others(tmp_path) -> None:
    texts = Captions(3).of(drawn(3000))
    tokenizer = train_tokenizer(texts, tmp_path)
    for word in {word for text in texts[:500] for word in text.split()}:
        assert len(tokenizer.tokenize(word)) == 1, word
    spelled = tokenizer("zebra café")["input_ids"]
    assert "".join(tokenizer.decode(spelled).split()) == f"{START}zebracafé{END}"
