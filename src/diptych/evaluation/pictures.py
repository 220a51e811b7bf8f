"""Pictures for people: what was retrieved, where a word points, which classes are taken for which.

Pure functions from pictures, words and numbers to a `Canvas`; `panels` chooses what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from diptych.evaluation.canvas import (
    BODY,
    HEADING,
    INK,
    MARGIN,
    MUTED,
    PAPER,
    RIGHT,
    RULE,
    SMALL,
    WRONG,
    Canvas,
    Colour,
    Style,
    heading_height,
    shortened,
    slanted,
    squeezed,
    wrap,
)

_THUMB, _GAP, _SIDE = 144, 22, 160
_ACROSS, _LINES = 4, 3  # captioned pictures in a row, and lines of a caption
_ROW = 44  # height of a row of a heat map
_FOUND = (38, 98, 196)  # blue: right and wrong are said by how it overlaps
_HOT = np.array([214, 40, 40], dtype=np.float64)  # the colour of the strongest heat


@dataclass(frozen=True)
class FoundPictures:
    """A caption with the pictures that it ranks first; `answer` is shown where the right one is not among them."""

    text: str
    pictures: Sequence[Image.Image]
    right: Sequence[bool]
    rank: int
    answer: Image.Image


@dataclass(frozen=True)
class FoundTexts:
    """A picture with the captions that it ranks first; `answer` is shown where the right one is not among them."""

    picture: Image.Image
    texts: Sequence[str]
    right: Sequence[bool]
    rank: int
    answer: str


@dataclass(frozen=True)
class Captioned:
    """A picture, the caption that was written of it, and one of a person's."""

    picture: Image.Image
    written: str
    person: str


@dataclass(frozen=True)
class WordHeat:
    """A picture and, for each of some words, its heat (h, w) and the box (x0, y0, x1, y1 in [0, 1]) that it names."""

    picture: Image.Image
    words: Sequence[str]
    maps: Sequence[np.ndarray]
    boxes: Sequence[Sequence[float] | None]


@dataclass(frozen=True)
class WordBoxes:
    """A picture and, for each of some words, the box that was found (None: none) and one that is right."""

    picture: Image.Image
    words: Sequence[str]
    found: Sequence[Sequence[float] | None]
    true: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Answer:
    """A question, what a method said, what is true, and whether that is right."""

    question: str
    said: str
    truth: str
    right: bool


@dataclass(frozen=True)
class Answered:
    """A picture with answers to questions about it."""

    picture: Image.Image
    answers: Sequence[Answer]


def text_to_image_grid(found: Sequence[FoundPictures], title: str, subtitle: str) -> Canvas:
    """A row a caption: the caption, its first pictures, and at the end the right one where it came later."""
    column, shown = 330, max(len(row.pictures) for row in found)
    row_height = _THUMB + 2 * _GAP
    pictures_at = MARGIN + column + _GAP
    answer_at = pictures_at + shown * (_THUMB + _GAP) + _GAP
    width = answer_at + _THUMB + MARGIN
    top = heading_height(width, title, subtitle) + Style(SMALL).height + 8
    sheet = Canvas(width, top + len(found) * row_height + MARGIN - _GAP)
    sheet.heading(title, subtitle)
    heads = Style(SMALL, MUTED)
    for place in range(shown):
        centre = pictures_at + place * (_THUMB + _GAP) + _THUMB / 2
        sheet.line(centre, top - heads.height - 8, str(place + 1), heads, "centre")
    sheet.line(answer_at + _THUMB / 2, top - heads.height - 8, "right one", heads, "centre")
    for number, row in enumerate(found):
        y = top + number * row_height
        sheet.rule(y)
        y += _GAP
        _query_text(sheet, y, row, column)
        for place, (picture, right) in enumerate(zip(row.pictures, row.right, strict=True)):
            sheet.picture(pictures_at + place * (_THUMB + _GAP), y, _THUMB, picture, RIGHT if right else None)
        if not any(row.right):
            sheet.picture(answer_at, y, _THUMB, row.answer)
    return sheet


def image_to_text_grid(found: Sequence[FoundTexts], title: str, subtitle: str) -> Canvas:
    """A row a picture: the picture, its first captions in order, and the right one where it came later."""
    width, body = 1180, Style(BODY)
    shown = max(len(row.texts) for row in found)
    step = body.height + 6
    row_height = max(_THUMB, (shown + 1) * step) + 2 * _GAP
    top = heading_height(width, title, subtitle)
    sheet = Canvas(width, top + len(found) * row_height + MARGIN - _GAP)
    sheet.heading(title, subtitle)
    texts_at = MARGIN + _THUMB + 2 * _GAP
    room = width - MARGIN - texts_at - 44
    for number, row in enumerate(found):
        y = top + number * row_height
        sheet.rule(y)
        y += _GAP
        sheet.picture(MARGIN, y, _THUMB, row.picture)
        listed = [(str(place), *answer) for place, answer in enumerate(zip(row.texts, row.right, strict=True), start=1)]
        if not any(row.right):
            listed.append((f"{row.rank:,}", row.answer, True))
        for place, (rank, text, right) in enumerate(listed):
            style = Style(BODY, RIGHT, bold=True) if right else body
            sheet.line(texts_at + 26, y + place * step, rank, Style(BODY, RIGHT if right else MUTED), "right")
            sheet.line(texts_at + 44, y + place * step, shortened(text, style, room), style)
    return sheet


def answers(rows: Sequence[Answered], title: str, subtitle: str) -> Canvas:
    """A row a picture: the picture, and beside it each question with the answer, and the truth where it is another."""
    width, asked, said = 1180, Style(BODY), Style(BODY, RIGHT, bold=True)
    step = 2 * asked.height + 10
    heights = [max(_THUMB, len(row.answers) * step) + 2 * _GAP for row in rows]
    top = heading_height(width, title, subtitle)
    sheet = Canvas(width, top + sum(heights) + MARGIN - _GAP)
    sheet.heading(title, subtitle)
    texts_at, y = MARGIN + _THUMB + 2 * _GAP, top
    room = width - MARGIN - texts_at
    for row, height in zip(rows, heights, strict=True):
        sheet.rule(y)
        sheet.picture(MARGIN, y + _GAP, _THUMB, row.picture)
        for place, one in enumerate(row.answers):
            line = y + _GAP + place * step
            sheet.line(texts_at, line, shortened(one.question, asked, room), asked)
            answer = shortened(one.said or "no answer", said, room / 2)
            sheet.line(texts_at, line + asked.height, answer, said if one.right else Style(BODY, WRONG, bold=True))
            if one.truth and not one.right:
                truth = shortened(f"right: {one.truth}", asked, room / 2 - _GAP)
                sheet.line(texts_at + said.width(answer) + _GAP, line + asked.height, truth, Style(BODY, MUTED))
        y += height
    return sheet


def captioned(shown: Sequence[Captioned], title: str, subtitle: str) -> Canvas:
    """Four pictures in a row; below each the caption that was written, and below that, in grey, a person's."""
    width, written, person = 1180, Style(BODY, bold=True), Style(BODY, MUTED)
    column = (width - 2 * MARGIN + _GAP) // _ACROSS
    room = column - _GAP
    below = [
        (wrap(one.written or "nothing", written, room, _LINES), wrap(one.person, person, room, _LINES)) for one in shown
    ]
    rows = [below[first : first + _ACROSS] for first in range(0, len(shown), _ACROSS)]
    lines = [max(len(said) + len(wanted) for said, wanted in row) for row in rows]
    steps = [room + 12 + count * written.height + 2 * _GAP for count in lines]
    top = heading_height(width, title, subtitle)
    sheet = Canvas(width, top + sum(steps) - _GAP + MARGIN)
    sheet.heading(title, subtitle)
    for place, (one, (said, wanted)) in enumerate(zip(shown, below, strict=True)):
        x, y = MARGIN + place % _ACROSS * column, top + sum(steps[: place // _ACROSS])
        sheet.picture(x, y, room, one.picture)
        sheet.lines(x, y + room + 8, said, written)
        sheet.lines(x, y + room + 12 + len(said) * written.height, wanted, person)
    return sheet


def heat_map(rows: Sequence[WordHeat], title: str, subtitle: str) -> Canvas:
    """A row a picture: the picture, then the same picture under the heat of each word, on one scale a row.

    A dot marks the strongest place if there is one, a dashed frame the box that the word names: green where the dot
    hits it, else red.
    """
    sheet, places = _by_words([(row.picture, row.words) for row in rows], title, subtitle, beside=100)
    for row, (x, y) in zip(rows, places, strict=True):
        scale = min(float(np.min(heat)) for heat in row.maps), max(float(np.max(heat)) for heat in row.maps)
        for place, (heat, box) in enumerate(zip(row.maps, row.boxes, strict=True)):
            drawn = _overlaid(row.picture, heat, box, scale, _SIDE)
            sheet.picture(x + place * (_SIDE + _GAP), y, _SIDE, drawn)
        words = max(len(row.words) for row in rows)
        _colour_bar(sheet, x + words * (_SIDE + _GAP), y, _SIDE, scale)
    return sheet


def word_boxes(rows: Sequence[WordBoxes], title: str, subtitle: str) -> Canvas:
    """A row a picture: the picture, then the same picture with the box that was found for each word, and a true one.

    The found box is solid, the true one dashed.
    """
    sheet, places = _by_words([(row.picture, row.words) for row in rows], title, subtitle)
    for row, (x, y) in zip(rows, places, strict=True):
        for place, (found, true) in enumerate(zip(row.found, row.true, strict=True)):
            drawn = row.picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            draw = ImageDraw.Draw(drawn)
            if found is not None:
                x0, y0, x1, y1 = _pixels(found, _SIDE)
                draw.rectangle((x0 - 1, y0 - 1, max(x0, x1) + 1, max(y0, y1) + 1), outline=PAPER, width=5)
                draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=_FOUND, width=3)
            _dashed(draw, _pixels(true, _SIDE), INK)
            sheet.picture(x + place * (_SIDE + _GAP), y, _SIDE, drawn)
    return sheet


def _by_words(
    rows: Sequence[tuple[Image.Image, Sequence[str]]], title: str, subtitle: str, *, beside: int = 0
) -> tuple[Canvas, list[tuple[int, int]]]:
    """A sheet with a row a picture, and room beside it for a picture above each of its words.

    Returns:
        The sheet with pictures and words, and for each row the corner at which the first word's picture begins.
    """
    most, label = max(len(words) for _, words in rows), Style(SMALL)
    labels = [[wrap(word, label, _SIDE + _GAP - 8, 2) for word in words] for _, words in rows]
    height = _SIDE + label.height * max(len(lines) for row in labels for lines in row) + 8 + 2 * _GAP
    width = max(2 * MARGIN + (most + 1) * (_SIDE + _GAP) + beside, 760)
    top = heading_height(width, title, subtitle)
    sheet = Canvas(width, top + len(rows) * height + MARGIN - _GAP)
    sheet.heading(title, subtitle)
    places = []
    for number, (picture, _) in enumerate(rows):
        y, x = top + number * height + _GAP, MARGIN + _SIDE + _GAP
        sheet.rule(y - _GAP)
        sheet.picture(MARGIN, y, _SIDE, picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
        for place, lines in enumerate(labels[number]):
            sheet.lines(x + place * (_SIDE + _GAP) + _SIDE / 2, y + _SIDE + 8, lines, label, "centre")
        places.append((x, y))
    return sheet, places


def _pixels(box: Sequence[float], side: int) -> list[int]:
    return [round(float(value) * (side - 1)) for value in box]


def confusion_matrix(
    counts: np.ndarray, classes: Sequence[str], title: str, subtitle: str, *, others: bool = False
) -> Canvas:
    """Counts (C, C), rows true and columns predicted, shaded by the share of the row; the diagonal is right.

    Where `others` says that the last class stands for several, its diagonal is neither right nor wrong: grey.
    """
    size = len(classes)
    cell = max(26, min(64, 900 // size))
    label = Style(BODY if cell >= 30 else SMALL)
    names = [squeezed(name, label, 260) for name in classes]
    left = MARGIN + round(max(label.width(name) for name in names)) + 44
    turned = [slanted(name, label) for name in names]
    width = max(left + size * cell + max(picture.width for picture in turned) - cell // 2 + 16, 760)
    above = heading_height(width, title, subtitle)
    top = above + max(picture.height for picture in turned) + Style(SMALL).height + 14
    sheet = Canvas(width, top + size * cell + MARGIN)
    sheet.heading(title, subtitle)
    sheet.line(left, above, "predicted →", Style(SMALL, MUTED))
    sheet.line(left - 14, top - Style(SMALL).height - 8, "true ↓", Style(SMALL, MUTED), "right")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row in range(size):
        y = top + row * cell
        sheet.line(left - 14, y + (cell - label.height) / 2, names[row], label, "right")
        picture = turned[row]
        sheet.image.paste(picture, (left + row * cell + cell // 2 - 8, top - picture.height - 2), picture)
        for column in range(size):
            box = (left + column * cell, y, left + (column + 1) * cell, y + cell)
            colour = RIGHT if row == column else WRONG
            if others and row == column == size - 1:
                colour = MUTED
            _cell(sheet, box, float(shares[row, column]), str(int(counts[row, column]) or ""), colour)
    sheet.draw.rectangle((left, top, left + size * cell, top + size * cell), outline=MUTED, width=1)
    return sheet


def shares(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, subtitle: str) -> Canvas:
    """Shares (R, C) in [0, 1], each in per cent in a cell that is shaded by it; cells without a figure are empty."""
    small, label = Style(SMALL, MUTED), Style(BODY)
    names = [squeezed(name, label, 260) for name in rows]
    left = MARGIN + round(max(label.width(name) for name in names)) + 14
    cell = max(72, round(max(small.width(name) for name in columns)) + 18)
    width = max(left + cell * len(columns) + MARGIN, 760)
    top = heading_height(width, title, subtitle) + small.height + 8
    sheet = Canvas(width, top + _ROW * len(rows) + MARGIN)
    sheet.heading(title, subtitle)
    for place, name in enumerate(columns):
        sheet.line(left + (place + 0.5) * cell, top - small.height - 8, name, small, "centre")
    for row, name in enumerate(names):
        y = top + row * _ROW
        sheet.line(left - 14, y + (_ROW - label.height) / 2, name, label, "right")
        for column, value in enumerate(values[row].tolist()):
            box = (left + column * cell, y, left + (column + 1) * cell, y + _ROW)
            there = np.isfinite(value)
            _cell(sheet, box, value if there else 0.0, f"{100 * value:.0f}" if there else "", RIGHT)
    return sheet


def _query_text(sheet: Canvas, y: int, row: FoundPictures, width: int) -> None:
    """The caption, and below it the rank of the right picture."""
    style = Style(HEADING)
    text = wrap(row.text, style, width, 4)
    sheet.lines(MARGIN, y, text, style)
    colour = RIGHT if any(row.right) else MUTED
    sheet.line(MARGIN, y + len(text) * style.height + 8, f"right picture at rank {row.rank:,}", Style(SMALL, colour))


def _overlaid(
    picture: Image.Image, heat: np.ndarray, box: Sequence[float] | None, scale: tuple[float, float], side: int
) -> Image.Image:
    """The picture, paled, under its heat; with the strongest place and the box that would be right."""
    low, high = scale
    share = (np.asarray(heat, dtype=np.float64) - low) / max(high - low, 1e-12)  # (h, w) in [0, 1]
    smooth = Image.fromarray(share.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    alpha = np.clip(np.asarray(smooth, dtype=np.float64), 0, 1)[..., None] * 0.85
    grey = picture.convert("L").resize((side, side), Image.Resampling.LANCZOS)
    pale = 110 + np.asarray(grey, dtype=np.float64)[..., None] * (145 / 255)
    mixed = Image.fromarray((pale * (1 - alpha) + _HOT * alpha).astype(np.uint8))
    draw = ImageDraw.Draw(mixed)
    rows, columns = heat.shape
    row, column = divmod(int(np.argmax(heat)), columns)
    x, y = (column + 0.5) / columns, (row + 0.5) / rows
    if box is not None:
        hit = box[0] <= x <= box[2] and box[1] <= y <= box[3]
        _dashed(draw, _pixels(box, side), RIGHT if hit else WRONG)
    if (heat == heat.max()).sum() == 1:
        x, y = x * side, y * side
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=PAPER, outline=INK, width=2)
    return mixed


def _dashed(draw: ImageDraw.ImageDraw, box: Sequence[int], colour: Colour) -> None:
    """A frame of coloured dashes on white, which shows on pale and on hot ground alike."""
    x0, y0, x1, y1 = box
    draw.rectangle((x0 - 2, y0 - 2, x1 + 2, y1 + 2), outline=PAPER, width=4)
    for start in range(x0, x1, 13):
        for y in (y0, y1):
            draw.line((start, y, min(start + 8, x1), y), fill=colour, width=4)
    for start in range(y0, y1, 13):
        for x in (x0, x1):
            draw.line((x, start, x, min(start + 8, y1)), fill=colour, width=4)


def _colour_bar(sheet: Canvas, x: int, y: int, height: int, scale: tuple[float, float]) -> None:
    """A vertical bar from the weakest to the strongest heat of a row, with both values."""
    for step in range(height):
        alpha = (1 - step / (height - 1)) * 0.85
        colour = tuple(int(value) for value in 255 * (1 - alpha) + _HOT * alpha)
        sheet.draw.line((x, y + step, x + 18, y + step), fill=colour)
    sheet.draw.rectangle((x, y, x + 18, y + height - 1), outline=RULE, width=1)
    style = Style(SMALL, MUTED)
    for value, top in ((scale[1], y - 4), (scale[0], y + height - style.height + 4)):
        sheet.line(x + 28, top, f"{value:.2f}".replace("-", "−"), style)


def _cell(sheet: Canvas, box: tuple[int, int, int, int], share: float, text: str, full: Colour) -> None:
    """One cell of a matrix: shaded by its share, with what is written in it."""
    strength = share**0.7  # small shares stay visible
    colour = tuple(int(255 * (1 - strength) + value * strength) for value in full)
    sheet.draw.rectangle(box, fill=colour, outline=RULE, width=1)
    if text:
        style = Style(SMALL if len(text) < 4 else SMALL - 4, PAPER if strength > 0.55 else INK)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2 - style.height / 2
        sheet.line(x, y, text, style, "centre")
