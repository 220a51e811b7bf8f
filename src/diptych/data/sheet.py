"""A contact sheet: sample pictures with their captions on one page, to be looked at before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.data.decode import BrokenSample
from diptych.data.video import glance

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from diptych.data.dataset import Dataset

SIDE = 220
"""Pixels of a picture on the sheet."""
_GAP, _LINE, _FOOT, _MARGIN, _LINES = 22, 19, 16, 32, 4
_BOXES = ((214, 69, 65), (38, 121, 186), (44, 150, 84), (222, 140, 30), (133, 84, 172))
_PAPER, _INK, _PALE, _EDGE = (250, 249, 246), (34, 34, 34), (128, 126, 120), (224, 221, 214)


@dataclass(frozen=True)
class Shown:
    """A sample on the sheet: its picture (None where it has none), captions, class and boxes, as far as it has them."""

    key: str
    split: str
    image: Image | None
    texts: tuple[str, ...] = ()
    category: str = ""
    boxes: tuple[tuple[float, ...], ...] = ()
    """x0, y0, x1, y1 in [0, 1]"""


def contact_sheet(dataset: Dataset, n: int = 24, *, columns: int = 6, seed: int = 0) -> Image:
    """A page with `n` samples drawn at random; a broken one is shown as such.

    What is shown comes from the fields image, sides, video (its first, middle and last frame), texts, category and
    boxes, as far as the data set has them.
    """
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.choice(len(dataset), min(n, len(dataset)), replace=False))
    fields = sorted({"image", "sides", "video", "texts", "category", "boxes"} & set(dataset.has))
    shown = [_shown(dataset, int(index), fields) for index in indices]
    return draw_sheet(shown, f"{dataset.name}: {len(shown)} of {len(dataset):,} samples, {dataset.split}", columns)


def thumbnail(image: Image) -> Image:
    """A copy that fits on the sheet; pictures smaller than half of it are enlarged without smoothing."""
    from PIL import Image as Pictures

    factor = SIDE // max(image.size)
    if factor >= 2:
        return image.resize((image.width * factor, image.height * factor), Pictures.Resampling.NEAREST)
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Pictures.Resampling.LANCZOS)
    return small


def shown_of(key: str, split: str, values: Mapping[str, Any]) -> Shown:
    """What the sheet keeps of a decoded sample."""
    pictures, category, boxes = pictures_in(values), values.get("category"), values.get("boxes")
    pictures = pictures or (glance(values["video"]) if values.get("video") else [])
    texts = values.get("texts") or [text for text in [values.get("text")] if text]
    return Shown(
        key,
        split,
        _side_by_side(pictures) if pictures else None,
        tuple(texts),
        category or "",
        () if boxes is None else tuple(tuple(map(float, box)) for box in boxes),
    )


def pictures_in(values: Mapping[str, Any]) -> list[Image]:
    """The picture of a sample, or those of its two sides; empty where it has none."""
    samples = [values] if values.get("image") is not None else values.get("sides") or ()
    return [sample["image"] for sample in samples if "image" in sample]


def _side_by_side(pictures: Sequence[Image]) -> Image:
    from PIL import Image as Pictures

    small = [thumbnail(picture) for picture in pictures]
    if len(small) == 1:
        return small[0]
    width = len(small) * (SIDE + _GAP) - _GAP
    page = Pictures.new("RGB", (width, max(picture.height for picture in small)), _PAPER)
    for number, picture in enumerate(small):
        page.paste(picture, (number * (SIDE + _GAP), 0))
    return thumbnail(page)


def _shown(dataset: Dataset, index: int, fields: Sequence[str]) -> Shown:
    try:
        sample = dataset.read(index, fields)
        return shown_of(sample.key, dataset.split, sample)
    except BrokenSample as broken:
        return Shown(dataset.key(index), dataset.split, None, (f"broken: {broken.reason}",))


def draw_sheet(samples: Sequence[Shown], title: str, columns: int = 6) -> Image:
    """Draws samples in rows, RGB; each row is as high as its longest caption asks for, up to four lines."""
    from PIL import Image as Pictures, ImageDraw

    columns = max(1, min(columns, len(samples)))
    body, small, heading = _font(14), _font(11), _font(20)
    rows = [samples[start : start + columns] for start in range(0, len(samples), columns)]
    captions = {id(sample): _wrap(_caption(sample), body, SIDE, _LINES) for sample in samples}
    heights = [SIDE + 28 + max(_LINE * len(captions[id(s)]) + _FOOT * len(_labels(s)) for s in row) for row in rows]
    width = max(2 * _MARGIN + columns * SIDE + (columns - 1) * _GAP, 560)
    page = Pictures.new("RGB", (width, 2 * _MARGIN + 40 + sum(heights) + _GAP * max(0, len(rows) - 1)), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 6), _drawable(title), font=heading, fill=_INK)
    top = _MARGIN + 40
    for row, height in zip(rows, heights, strict=True):
        for column, sample in enumerate(row):
            left = _MARGIN + column * (SIDE + _GAP)
            _draw_sample(page, draw, sample, (left, top))
            for number, line in enumerate(captions[id(sample)]):
                draw.text((left, top + SIDE + 8 + number * _LINE), line, font=body, fill=_INK)
            foot = top + SIDE + 11 + _LINE * len(captions[id(sample)])
            for number, label in enumerate(_labels(sample)):
                line = _cut(_drawable(label), small, SIDE)
                draw.text((left, foot + number * _FOOT), line, font=small, fill=_PALE)
        top += height + _GAP
    return page


def _draw_sample(page: Image, draw: ImageDraw, sample: Shown, corner: tuple[int, int]) -> None:
    left, top = corner
    draw.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), fill=(255, 255, 255), outline=_EDGE)
    if sample.image is None:
        draw.text((left + 12, top + SIDE // 2 - 8), "no picture", font=_font(14), fill=_PALE)
        return
    image = sample.image if max(sample.image.size) <= SIDE else thumbnail(sample.image)
    left, top = left + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2
    page.paste(image.convert("RGB"), (left, top))
    for number, (x0, y0, x1, y1) in enumerate(sample.boxes):
        right, bottom = (image.width - 1) * x1, (image.height - 1) * y1
        corners = (left + (image.width - 1) * x0, top + (image.height - 1) * y0, left + right, top + bottom)
        draw.rectangle(corners, outline=_BOXES[number % len(_BOXES)], width=2)


def _caption(sample: Shown) -> str:
    more = f" (+{len(sample.texts) - 1} more)" if len(sample.texts) > 1 else ""
    return (sample.texts[0] + more) if sample.texts else ""


def _labels(sample: Shown) -> list[str]:
    """The pale lines below the caption."""
    name = f"{sample.split} · {sample.key}" if sample.split else sample.key
    return [f"class: {sample.category}", name] if sample.category else [name]


# --------------------------------------------------------------------------------------------------------- text


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings; else the font inside PIL."""
    from PIL import ImageFont

    path = _font_path()
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)


@lru_cache(maxsize=1)
def _font_path() -> Path | None:
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return path if path.is_file() else None


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    """Code points that the font can draw; empty if that cannot be known."""
    path = _font_path()
    if path is None:
        return frozenset()
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(path)).get_charmap())


def _drawable(text: str) -> str:
    """One line of text in which every letter that the font lacks is a visible empty box."""
    letters = _letters()
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return "".join(c if not letters or ord(c) in letters else "\u25a1" for c in text if c.isprintable())


def _wrap(text: str, font: Any, width: int, lines: int) -> list[str]:
    """Text as at most `lines` lines of at most `width` pixels; a word that is too long is broken anywhere."""
    done: list[str] = []
    line = ""
    for word in _drawable(text[: 100 * lines]).split(" "):
        wider = f"{line} {word}".strip()
        if font.getlength(wider) <= width:
            line = wider
            continue
        done += [line] if line else []
        while font.getlength(word) > width:
            head = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            done.append(word[:head])
            word = word[head:]
        line = word
        if len(done) > lines:
            break
    done += [line] if line else []
    return done if len(done) <= lines else [*done[: lines - 1], _cut(done[lines - 1] + " …", font, width)]


def _cut(line: str, font: Any, width: int) -> str:
    """The start of a line that fits, with … where something is missing."""
    line = line[:200]  # narrower than any line that is asked for
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"
