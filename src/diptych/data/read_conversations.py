"""Conversations about pictures or videos, documents with pictures between their texts, and texts alone.

Sources: LLaVA's instruction data (Liu et al., arXiv 2304.08485; haotian-liu/LLaVA, docs/Finetune_Custom_Data.md:
`from`, `value` and the marker `<image>`), the messages of chat models (`role`, `content`, the content a text or a list
of parts), MMC4 (Zhu et al., arXiv 2304.06939: `text_list`, `image_info`) and OBELICS (Laurençon et al., arXiv
2306.16527: `texts` and `images`, of which one is null at each place).
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.decode import TEXT_BYTES, BrokenSample
from diptych.data.kinds import files_in, marked
from diptych.data.raw import (
    Item,
    RawSample,
    Reading,
    Source,
    SourceError,
    confined,
    encode_json,
    encode_text,
    image_extension,
    key_of,
    list_words,
    read_file,
    read_json,
    split_in,
)
from diptych.data.read_pictures import Where, dicts, list_of
from diptych.data.read_rows import Row, json_lines
from diptych.data.video import CONTAINERS
from diptych.views.conversations import MARKER

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot"), "assistant"),
    "system": "system",
}
_MARKERS = re.compile(r"<(?:image|video)>")
_FILMS = frozenset(f".{name}" for name in CONTAINERS if "." not in name)
_LOOKED_AT = 20  # entries whose media are looked for in a folder before it is ruled out
_MOST = 64  # media of a sample

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class _Said:
    """What an entry says, as the field `conversation` has it, and the names of what it shows, in order of markers."""

    place: str
    split: str
    key: str
    turns: Turns
    media: tuple[str, ...]


Read = Callable[[Mapping[str, Any]], tuple[Turns, list[Any]]]
"""An entry -> its turns and the names of its media. Raises `BrokenSample`."""


def conversations(path: Path, reading: Reading) -> Source:
    """LLaVA's JSON or messages of chat models, as a list or a line each; without pictures, with some, or with a video.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the pictures.
    """
    return _source("conversations", "conversations", path, reading, _conversation)


def documents(path: Path, reading: Reading) -> Source:
    """Documents of MMC4 or OBELICS, one a line: their texts with a marker where each picture stands.

    Raises:
        SourceError: no such file, or no folder with the pictures.
    """
    return _source("documents", "documents with pictures", path, reading, _document)


def texts(path: Path, reading: Reading) -> Source:
    """Texts alone: JSON Lines (`.gz` too) with a column of texts or of words and definitions, or paragraphs of `.txt`.

    Raises:
        SourceError: there is no such file, or no column with texts.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if is_text(file))
    if not files:
        raise SourceError(f"{path} holds no texts (.txt, .jsonl, .jsonl.gz).")

    def samples() -> Iterator[Item]:
        for file in files:
            for row in _paragraphs(file) if file.suffix == ".txt" else _lines(file):
                yield row if isinstance(row, BrokenSample) else _text(row, split_in(file.stem), reading)

    return Source("texts", f"texts ({list_words(file.name for file in files)})", samples)


def is_text(path: Path) -> bool:
    """Whether it is a file that `texts` reads."""
    return path.name.endswith((".txt", ".jsonl", ".jsonl.gz")) and path.is_file()


# --------------------------------------------------------------------------------------------------- what is said


def _conversation(entry: Mapping[str, Any]) -> tuple[Turns, list[Any]]:
    """Turns, and media: those named beside them, else those in the parts of messages."""
    turns: Turns = []
    inside: list[Any] = []
    for one in dicts(entry.get("conversations")) or dicts(entry.get("messages")):
        role = _ROLES.get(str(one.get("from", one.get("role", ""))).lower(), "")
        content = one.get("value", one.get("content"))
        for part in content if isinstance(content, list) else ():
            name = part.get("image", part.get("video")) if isinstance(part, Mapping) else None
            inside += [name] if isinstance(name, str) else []
        text = "\n".join(map(_part, content)) if isinstance(content, list) else content
        if not role or not isinstance(text, str) or not text.strip():
            raise BrokenSample("", "a turn is empty, or is said by nobody that is known (user, assistant, system)")
        turns.append({"role": role, "text": _MARKERS.sub(MARKER, text).strip()})
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BrokenSample("", "nobody answers in it")
    named = [entry.get(name) for name in ("image", "images", "video", "videos")]
    beside = [name for value in named if value for name in (value if isinstance(value, list) else [value])]
    return turns, beside or inside


def _part(part: Any) -> str:
    """A part of a message: a text, or a marker for what is seen."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("image", "video"):
        return MARKER
    raise BrokenSample("", "a part of a message is neither text nor image nor video")


def _document(entry: Mapping[str, Any]) -> tuple[Turns, list[Any]]:
    """One turn that nobody says, with a marker for each picture: MMC4's ahead of the text that it goes with."""
    parts: list[tuple[str, Any]] = []  # what is seen or said, in order
    if "text_list" in entry:
        infos = [info for info in dicts(entry.get("image_info")) if isinstance(info.get("matched_text_index"), int)]
        for number, text in enumerate(list_of(entry["text_list"])):
            own = [info for info in infos if info["matched_text_index"] == number]
            parts += [("seen", info.get("image_name")) for info in own] + [("said", text)]
    else:
        for image, text in itertools.zip_longest(list_of(entry.get("images")), list_of(entry.get("texts"))):
            parts += [("seen", image)] if image else []
            parts += [("said", text)] if text else []
    said = [MARKER if kind == "seen" else _MARKERS.sub("", str(value)).strip() for kind, value in parts]
    if not any(text not in ("", MARKER) for text in said):
        raise BrokenSample("", "it has no text")
    return [{"role": "text", "text": "\n".join(filter(None, said))}], [v for kind, v in parts if kind == "seen"]


# ------------------------------------------------------------------------------------------------ entries and media


def _source(kind: str, title: str, path: Path, reading: Reading, read: Read) -> Source:
    files = [path] if path.is_file() else _files(path, kind)
    if not files:
        raise SourceError(f"{path} holds no {title}.")
    entries: list[_Said | BrokenSample] = [_said(*row) for row in _entries(files, read)]
    shown = [entry for entry in entries if isinstance(entry, _Said) and entry.media]
    root = _root(shown[:_LOOKED_AT], Where(path, reading)) if shown else path.parent
    several = any(len(entry.media) > 1 for entry in shown) or kind == "documents"

    def samples() -> Iterator[Item]:
        for entry in entries:
            yield entry if isinstance(entry, BrokenSample) else _sample(entry, root, several, reading)

    count = len(entries) - len(shown)
    about = f"{title} ({list_words(file.name for file in files)}): {len(entries):,}, of which {count:,} show nothing"
    return Source(kind, about, samples, len(entries))


def _files(folder: Path, kind: str) -> list[Path]:
    found = [file for file in sorted(folder.iterdir()) if file.suffix in (".jsonl", ".ndjson") and marked(file) == kind]
    return found or files_in(folder, kind)[1]


def _entries(files: Sequence[Path], read: Read) -> Iterator[tuple[str, str, Any, Read]]:
    """Place, split and content of each entry."""
    for file in files:
        if file.suffix.lower() == ".json":
            content = read_json(file)
            if not isinstance(content, list):
                raise SourceError(f"{file} is no list of entries.")
            for number, entry in enumerate(content):
                yield f"{file.name}[{number}]", split_in(file.stem), entry, read
        else:
            for row in json_lines(file):
                place, entry = (row.key, row) if isinstance(row, BrokenSample) else row
                yield place, split_in(file.stem), entry, read


def _said(place: str, split: str, entry: Any, read: Read) -> _Said | BrokenSample:
    if isinstance(entry, BrokenSample):
        return entry
    if not isinstance(entry, Mapping):
        return BrokenSample(place, "the entry is no object")
    try:
        turns, media = read(entry)
    except BrokenSample as broken:
        return BrokenSample(place, broken.reason)
    markers = sum(turn["text"].count(MARKER) for turn in turns)
    if not all(isinstance(name, str) and name for name in media) or len(media) > _MOST:
        return BrokenSample(place, f"it does not name its pictures, or has more than {_MOST}")
    if markers and markers != len(media):
        return BrokenSample(place, f"its text has {markers} markers {MARKER} for {len(media)} pictures or videos")
    if sum(len(turn["text"]) for turn in turns) > TEXT_BYTES:
        return BrokenSample(place, f"it has more than {TEXT_BYTES:,} characters")
    named = entry.get("id")
    key = key_of(f"{named}.x") if isinstance(named, str | int) and str(named).strip() else key_of(f"{place}.x")
    return _Said(place, split, key, turns, tuple(media))


def _root(entries: Sequence[_Said], where: Where) -> Path:
    """The folder in which a medium of the first entries is.

    Raises:
        SourceError: none of them is in any of the usual places.
    """
    for root in where.roots():
        if any(_is_there(root, name) for entry in entries for name in entry.media):
            return root
    raise SourceError(
        f"Nothing that the first {len(entries)} entries of {where.path.name} show (such as {entries[0].media[0]!r}) is "
        f"in {list_words(str(root) for root in where.roots())}: name its folder with --images."
    )


def _is_there(root: Path, name: str) -> bool:
    try:
        return bool(confined(root, name, name))
    except BrokenSample:
        return False


def _sample(entry: _Said, root: Path, several: bool, reading: Reading) -> Item:
    try:
        members: dict[str, bytes] = {}
        for number, name in enumerate(entry.media):
            data = read_file(confined(root, name, entry.key), entry.key, reading.limits.bytes)
            film = Path(name).suffix.lower() in _FILMS
            extension = Path(name).suffix.lower()[1:] if film else image_extension(data, name)
            if film and len(entry.media) > 1:
                raise BrokenSample(entry.key, "it shows a video and something else, and a sample has one video")
            members[f"{number}.{extension}" if several and not film else extension] = data
        members["json"] = encode_json({"conversation": entry.turns}, entry.key)
    except BrokenSample as broken:
        return BrokenSample(entry.key, broken.reason)
    return RawSample(entry.key, entry.split, members)


# --------------------------------------------------------------------------------------------------------- texts


def _paragraphs(file: Path) -> Iterator[Row]:
    """What stands between empty lines."""
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        groups = itertools.groupby(opened, key=lambda line: bool(line.strip()))
        for number, (_, lines) in enumerate((group for group in groups if group[0]), start=1):
            yield f"{file.name}:{number}", {"text": "".join(itertools.islice(lines, _MOST * 64))}


def _lines(file: Path) -> Iterator[Row]:
    if file.suffix != ".gz":
        yield from json_lines(file)
        return
    with gzip.open(file, "rb") as opened:
        for number in itertools.count(1):
            line = opened.readline(TEXT_BYTES)
            if not line:
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            place = f"{file.name}:{number}"
            yield (place, row) if isinstance(row, dict) else BrokenSample(place, "the row is no JSON object")


def _text(row: tuple[str, Mapping[str, Any]], split: str, reading: Reading) -> Item:
    """A row as a sample; a definition is told as `word, other word: what it is; an example`."""
    place, cells = row
    value = cells.get(reading.text_column or "text")
    if value is None and isinstance(cells.get("definition"), str) and not reading.text_column:
        named = ", ".join(str(word) for word in list_of(cells.get("words")))
        value = "; ".join([f"{named}: {cells['definition']}", *map(str, list_of(cells.get("examples")))])
    key = key_of(f"{cells.get('key') or place}.x")
    if not isinstance(value, str) or not value.strip():
        return BrokenSample(key, f"it has no text in the column {reading.text_column or 'text'!r}")
    try:
        return RawSample(key, split, {"txt": encode_text(value, key)})
    except BrokenSample as broken:
        return broken
