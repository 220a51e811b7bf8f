from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diptych.evaluation import pictures
from diptych.evaluation.canvas import MARGIN, PAPER, RIGHT, Canvas, Style, fitted, shortened, wrap
from diptych.evaluation.panels import _largest

LONG = "a remarkably long caption that goes on about a small brown fox with an implausibly bushy tail and more"


def thing(colour: str) -> Image.Image:
    return Image.new("RGB", (60, 30), colour)


def ink_at_the_edges(sheet: Canvas) -> bool:
    """Whether anything was drawn within ten pixels of an edge, that is: out of its place, or cut off."""
    pixels = np.asarray(sheet.image)
    inner = slice(10, -10)
    frame = pixels.copy()
    frame[inner, inner] = PAPER
    return bool((frame != np.array(PAPER)).any())


def test_text_wraps_within_its_width_and_ends_in_an_ellipsis() -> None:
    style = Style(20)
    whole = wrap(LONG, style, 300, 99)
    assert " ".join(whole) == LONG
    assert max(style.width(line) for line in whole) <= 300
    cut = wrap(LONG, style, 300, 2)
    assert len(cut) == 2
    assert cut[-1].endswith("…")
    assert max(style.width(line) for line in cut) <= 300
    assert shortened("short", style, 300) == "short"


def test_a_word_wider_than_a_line_is_broken_not_lost() -> None:
    style = Style(20)
    lines = wrap("x" * 200, style, 150, 99)
    assert "".join(lines) == "x" * 200
    assert max(style.width(line) for line in lines) <= 150


def test_a_picture_keeps_its_aspect() -> None:
    square = np.asarray(fitted(thing("black"), 80))
    dark = (square < 128).all(axis=2)
    assert dark.sum(axis=1).max() == 80
    assert dark.sum(axis=0).max() == 40


def sheets() -> dict[str, Canvas]:
    right = [False, True, False, False, False]
    found = [
        pictures.FoundPictures(LONG * 3, [thing("red")] * 5, right, 2, thing("red")),
        pictures.FoundPictures("short", [thing("red")] * 5, [False] * 5, 1234, thing("blue")),
    ]
    texts = [
        pictures.FoundTexts(thing("red"), [LONG, "b", "c", "d", "e"], right, 2, "b"),
        pictures.FoundTexts(thing("red"), ["a", "b", "c", "d", LONG], [False] * 5, 77, LONG * 2),
    ]
    heat = np.arange(16.0).reshape(4, 4)
    rows = [
        pictures.WordHeat(
            thing("red"), ["word", LONG, "x"], [heat, heat.T, -heat], [None, [0.7, 0.7, 1, 1], [0, 0, 1, 1]]
        ),
        pictures.WordHeat(thing("blue"), ["flat"], [np.zeros((7, 5))], [None]),
    ]
    names = [f"class with quite a long name {i}" for i in range(25)]
    return {
        "text_to_image": pictures.text_to_image_grid(found, LONG, LONG * 4),
        "image_to_text": pictures.image_to_text_grid(texts, "Title", "subtitle"),
        "heat": pictures.heat_map(rows, "Title", LONG * 3),
        "confusion": pictures.confusion_matrix(np.eye(25, dtype=int) * 1234, names, "Title", LONG),
        "small confusion": pictures.confusion_matrix(np.array([[3, 1], [0, 0]]), ["cat", "dog"], LONG, "subtitle"),
    }


SHEETS = sheets()


@pytest.mark.parametrize("name", SHEETS)
def test_nothing_is_cut_off_at_the_edges(name: str) -> None:
    assert MARGIN > 10
    assert not ink_at_the_edges(SHEETS[name])


@pytest.mark.parametrize("name", SHEETS)
def test_files_are_small(name: str, tmp_path) -> None:
    SHEETS[name].save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < 150_000


def count(sheet: Canvas, colour) -> int:
    return int((np.asarray(sheet.image) == np.array(colour)).all(axis=2).sum())


def test_the_right_picture_is_framed() -> None:
    def grid(right: bool) -> Canvas:
        row = pictures.FoundPictures("a", [thing("red")], [right], 1 if right else 9, thing("red"))
        return pictures.text_to_image_grid([row], "", "")

    assert count(grid(True), RIGHT) > 2000
    assert count(grid(False), RIGHT) == 0


def test_the_heat_is_strongest_where_it_is_strongest() -> None:
    heat = np.zeros((4, 4))
    heat[0, 3] = 1.0
    sheet = pictures.heat_map([pictures.WordHeat(Image.new("RGB", (8, 8), "white"), ["w"], [heat], [None])], "", "")
    pixels = np.asarray(sheet.image).astype(int)
    redness = pixels[..., 0] - pixels[..., 1]
    side, gap = 160, 22
    x, y = MARGIN + side + gap, int(np.argmax((pixels != 255).any(axis=2).any(axis=1))) + gap
    patch = redness[y : y + side, x : x + side]
    corner = patch[: side // 4, 3 * side // 4 :].mean()
    assert corner > 60
    assert patch[side // 2 :, : side // 2].mean() < 1


def test_rare_classes_are_put_together() -> None:
    counts = np.diag(np.arange(30, 0, -1))
    counts[29, 0] = 5  # the rarest is taken for the first
    folded, names, others = _largest(counts, [f"c{i}" for i in range(30)])
    assert folded.shape == (25, 25)
    assert folded.sum() == counts.sum()
    assert others
    assert names[-1] == "6 other classes"
    assert folded[24, 0] == 5
    assert folded[24, 24] == counts.diagonal()[24:].sum()
    few, kept, rest = _largest(np.array([[2, 0, 1], [0, 0, 0], [0, 0, 0]]), ["a", "never", "guessed"])
    assert not rest
    assert kept == ["a", "guessed"]
    assert few.tolist() == [[2, 1], [0, 0]]
