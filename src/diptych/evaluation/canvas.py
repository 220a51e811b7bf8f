"""A sheet of paper to draw on: one typeface, one palette, text that wraps and is never cut at an edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

INK = (27, 31, 36)
MUTED = (101, 109, 118)
RULE = (222, 226, 230)
PAPER = (255, 255, 255)
RIGHT = (9, 121, 86)
WRONG = (176, 58, 46)
MARGIN = 40

TITLE, HEADING, BODY, SMALL = 30, 22, 20, 17  # pixels
LINE = 1.32  # line spacing, of the size

Colour = tuple[int, int, int]
Corner = Literal["left", "centre", "right"]

_FALLBACKS = ("Noto Sans CJK", "Noto Sans", "WenQuanYi", "Arial Unicode", "Hiragino", "Microsoft YaHei", "FreeSans")


@dataclass(frozen=True)
class Style:
    """How text looks."""

    size: int = BODY
    colour: Colour = INK
    bold: bool = False

    def width(self, text: str) -> float:
        """Width in pixels of one line."""
        return self.font(text).getlength(text)

    def font(self, text: str) -> ImageFont.FreeTypeFont:
        """A font that has the characters of the text."""
        return _font(_path(frozenset(text), self.bold), self.size)

    @property
    def height(self) -> int:
        """Height of a line in pixels."""
        return round(self.size * LINE)


class Canvas:
    """A white sheet of fixed size, in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def line(self, x: float, y: float, text: str, style: Style, align: Corner = "left") -> None:
        """One line of text; y is its top, x its left edge, centre or right edge."""
        shift = {"left": 0.0, "centre": 0.5, "right": 1.0}[align] * style.width(text)
        middle = y + style.height / 2
        self.draw.text((round(x - shift), round(middle)), text, fill=style.colour, font=style.font(text), anchor="lm")

    def lines(self, x: float, y: float, texts: Sequence[str], style: Style, align: Corner = "left") -> None:
        """Lines of text, one below the other."""
        for number, text in enumerate(texts):
            self.line(x, y + number * style.height, text, style, align)

    def heading(self, title: str, subtitle: str) -> int:
        """Title and subtitle at the top of the sheet; returns the y at which the content may begin."""
        room, y = self.image.width - 2 * MARGIN, MARGIN
        for text, style in ((title, Style(TITLE, bold=True)), (subtitle, Style(BODY, MUTED))):
            wrapped = wrap(text, style, room, 3)
            self.lines(MARGIN, y, wrapped, style)
            y += len(wrapped) * style.height
        return y + 24

    def picture(self, x: int, y: int, side: int, picture: Image.Image, frame: Colour | None = None) -> None:
        """A picture fitted into a square, on white, with a thin rule around it or a thick frame in a colour."""
        self.image.paste(fitted(picture, side), (x, y))
        box = (x, y, x + side - 1, y + side - 1)
        if frame is None:
            self.draw.rectangle(box, outline=RULE, width=1)
        else:
            self.draw.rounded_rectangle((x - 5, y - 5, x + side + 4, y + side + 4), 6, outline=frame, width=5)

    def rule(self, y: int) -> None:
        """A thin horizontal rule between the margins."""
        self.draw.line((MARGIN, y, self.image.width - MARGIN, y), fill=RULE, width=1)

    def save(self, path: Path, *, few_colours: bool = False) -> None:
        """Writes a PNG; of 256 colours, a quarter of the size, where no smooth shades are to be read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        image = self.image
        if few_colours:
            image = image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            palette = image.getpalette() or []
            image.putpalette([255 if value > 251 else value for value in palette])  # the paper stays white
        image.save(path, optimize=True)


def heading_height(width: int, title: str, subtitle: str) -> int:
    """The y at which the content of a sheet begins, before the sheet is there."""
    return Canvas(width, 1).heading(title, subtitle)


def wrap(text: str, style: Style, width: float, lines: int) -> list[str]:
    """The text in at most `lines` lines of at most `width` pixels; an ellipsis stands for what does not fit."""
    words, wrapped = _breakable(text, style, width), [""]
    for word in words:
        longer = f"{wrapped[-1]} {word}".strip()
        if style.width(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], shortened(" ".join(wrapped[lines - 1 :]), style, width)]
    return wrapped


def shortened(text: str, style: Style, width: float) -> str:
    """The text, its end replaced by an ellipsis where it is wider than `width` pixels."""
    if style.width(text) <= width:
        return text
    while text and style.width(f"{text.rstrip()}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def squeezed(text: str, style: Style, width: float) -> str:
    """The text, its middle replaced by an ellipsis where it is wider than `width`: names often differ at their end."""
    kept = len(text)
    squeezed_text = text
    while kept > 1 and style.width(squeezed_text) > width:
        kept -= 1
        squeezed_text = f"{text[: kept // 2].rstrip()}…{text[len(text) - (kept + 1) // 2 :].lstrip()}"
    return squeezed_text


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """The whole picture centred in a white square of `side` pixels, its aspect kept."""
    picture = picture.convert("RGB")
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    square = Image.new("RGB", (side, side), PAPER)
    resized = picture.resize(size, Image.Resampling.LANCZOS)  # type: ignore[arg-type]
    square.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def tiled(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures as one, in rows of `columns`, all fitted into squares of one side."""
    side = max(max(picture.size) for picture in pictures)
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * side, rows * side), PAPER)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        whole.paste(fitted(picture, side), (column * side, row * side))
    return whole


def slanted(text: str, style: Style, degrees: int = 45) -> Image.Image:
    """One line of text, turned; an RGBA picture to be pasted with itself as mask."""
    plain = Image.new("RGBA", (round(style.width(text)) + 4, style.height), (*PAPER, 0))
    place = (2, style.height // 2)
    ImageDraw.Draw(plain).text(place, text, fill=style.colour, font=style.font(text), anchor="lm")
    return plain.rotate(degrees, Image.Resampling.BICUBIC, expand=True)


def _breakable(text: str, style: Style, width: float) -> list[str]:
    """The words of a text; a word that is wider than a line, or a script without spaces, is cut where it must be."""
    words = []
    for word in text.split():
        while style.width(word) > width and len(word) > 1:
            fits = next(end for end in range(len(word) - 1, 0, -1) if style.width(word[:end]) <= width or end == 1)
            words.append(word[:fits])
            word = word[fits:]
        words.append(word)
    return words


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _path(characters: frozenset[str], bold: bool) -> str:
    """The first font that has all the characters: DejaVu, which comes with matplotlib, then what is installed."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    own = str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"))
    wanted = {ord(character) for character in characters if not character.isspace()}
    for path in (own, *_installed()):
        if wanted <= FT2Font(path).get_charmap().keys():
            return path
    return own  # characters that no font has are drawn as boxes


@cache
def _installed() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    upright = [font for font in fontManager.ttflist if font.style == "normal"]
    return tuple(font.fname for name in _FALLBACKS for font in upright if font.name.startswith(name))
