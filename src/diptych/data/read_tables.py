"""Tables of pictures: CSV, TSV, JSON and Parquet; one row a caption, or one row a picture.

Rows that name the same picture are one sample with several captions. Columns are named by options or guessed from the
header, and the guess is part of `Source.about`. Columns with the name of a field (`boxes`, `tags`, ...) become fields,
all others are kept beside them in the `.json` member.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from diptych.data.decode import TEXT_BYTES, BrokenSample
from diptych.data.raw import (
    JSON_KEYS,
    Item,
    RawSample,
    Reading,
    Source,
    SourceError,
    confined,
    is_split,
    key_of,
    list_words,
    members_of,
    plain,
    read_file,
    split_in,
    split_name,
)
from diptych.data.read_rows import SUFFIXES, rows
from diptych.text import one_line

_LOOKED_AT = 50  # rows from which columns and the folder of pictures are guessed

_GLANCE = 4096  # letters or bytes of a cell that are looked at

_GUESSES = {
    "image": "image image_path img_path filepath file_path path file_name filename file img picture photo image_file "
    "image_name image_id jpg png webp url",
    "text": "text caption captions texts sentence sentences description comment title alt_text alt prompt report txt",
    "label": "label category class class_name classname target species breed",
    "split": "split subset partition set fold",
    "key": "key sample_id uid uuid",
}
_LISTS = frozenset({"tags", "keywords"})  # in a cell of a CSV their words stand between ; or , or |


@dataclass(frozen=True)
class Columns:
    """Which column holds what; empty where there is none."""

    image: str = ""
    text: str = ""
    label: str = ""
    split: str = ""
    key: str = ""


@dataclass(frozen=True)
class _Table:
    """A table that was recognised: its columns, the split that its name says, and where its pictures are."""

    path: Path
    columns: Columns
    split: str
    root: Path
    suffix: str
    """what the names of pictures lack, such as `.jpg`"""


@dataclass
class _Group:
    """The rows of one picture."""

    name: str
    row: Mapping[str, Any]
    split: str
    texts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def files_in(folder: Path) -> list[Path]:
    """The tables of a folder: those at its top, or one in each folder of a split."""
    top = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    return top or sorted(
        path
        for below in folder.iterdir()
        if below.is_dir() and is_split(below.name)
        for path in below.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def table(path: Path, reading: Reading) -> Source:
    """One table, or a folder of tables named after their splits (`train.csv`, `val.csv`).

    Raises:
        SourceError: there is no table, several of them that are no splits, or no column with pictures.
    """
    tables = [path] if path.is_file() else files_in(path)
    if not tables:
        raise SourceError(f"{path} holds no table ({list_words(sorted(SUFFIXES))}).")
    splits = {
        item: split_in(item.stem) or (split_in(item.parent.name) if item.parent != path else "") for item in tables
    }
    if len(tables) > 1 and "" in splits.values():
        names = list_words(item.name for item in tables)
        raise SourceError(f"{path} holds several tables ({names}): give one of them, or name them after splits.")
    found = [_recognise(item, splits[item] if len(tables) > 1 else "", reading) for item in tables]

    def samples() -> Iterator[Item]:
        for one in found:
            yield from _samples(one, reading)

    taken = [f"{role} from {one_line(name, 60)!r}" for role, name in vars(found[0].columns).items() if name]
    what = "a table" if len(tables) == 1 else "tables"
    below = f", pictures in {found[0].root.name}/" if found[0].root != tables[0].parent else ""
    about = f"{what} ({list_words(item.name for item in tables)}) with {', '.join(taken)}{below}"
    return Source("table", about, samples)


def _recognise(path: Path, split: str, reading: Reading) -> _Table:
    """The columns as asked for, or as their names and the first rows suggest; and where the pictures are.

    Raises:
        SourceError: no row can be read, or no column holds pictures.
    """
    first = (row for row in islice(rows(path), _LOOKED_AT) if not isinstance(row, BrokenSample))
    cells = [_glance(row) for _, row in first]
    names = list(dict.fromkeys(name for row in cells for name in row))
    if not names:
        raise SourceError(f"{path.name} has no rows that can be read.")
    asked = {role: getattr(reading, f"{role}_column") for role in _GUESSES}
    for role, name in asked.items():
        if name and name not in names:
            raise SourceError(f"{path.name} has no column {name!r} for the {role}; it has {list_words(names, 30)}.")
    columns = Columns(**asked)
    if not columns.image:
        columns = replace(columns, image=_image_column(names, cells, set(asked.values())))
    if not columns.image:
        raise SourceError(
            f"{path.name} has the columns {list_words(names, 30)}, and none looks like pictures: name it with "
            "--image-column (or, if the table is beside the point, read its folder with --kind folder)."
        )
    columns = guess(names, columns, ("text", "label", "split", "key"))
    return _Table(path, columns, split, *_root(path, [_path_in(row.get(columns.image)) for row in cells], reading))


def _glance(cell: Any) -> Any:
    """A cell or a row with the start of each text or picture in it: enough to tell what it is."""
    if isinstance(cell, Mapping):
        return {name: _glance(value) for name, value in cell.items()}
    return cell[:_GLANCE] if isinstance(cell, str | bytes) else cell


def _root(path: Path, names: Sequence[str], reading: Reading) -> tuple[Path, str]:
    """The folder that the names are relative to, and the ending that they lack.

    Without `--images` it is the folder of the table, or one right below it in which any of the first pictures is.
    """
    named = [Path(reading.images).expanduser()] if reading.images else []
    near = named or [path.parent, *sorted(below for below in path.parent.iterdir() if below.is_dir())]
    for root in near:
        for suffix in ("", ".jpg", ".jpeg", ".png", ".webp"):
            if any(name and _is_there(root, name + suffix) for name in names):
                return root, suffix
    return near[0], ""


def _is_there(root: Path, name: str) -> bool:
    try:
        return bool(confined(root, name, name))
    except BrokenSample:
        return False


def guess(names: Sequence[str], columns: Columns, roles: Sequence[str]) -> Columns:
    """Fills the roles that nobody named by the usual names of columns; no column serves twice."""
    taken = set(vars(columns).values())
    for role in roles:
        if not getattr(columns, role):
            name = _by_name(names, role, taken)
            columns = replace(columns, **{role: name})
            taken.add(name)
    return columns


def _by_name(names: Sequence[str], role: str, taken: set[str]) -> str:
    plain_names = {
        name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in names if name not in taken
    }
    return next((plain_names[guess] for guess in _GUESSES[role].split() if guess in plain_names), "")


def _image_column(names: Sequence[str], rows: Sequence[Mapping[str, Any]], taken: set[str]) -> str:
    """The column whose cells look like pictures: first among the usual names, then among all."""
    usual = _by_name(names, "image", taken)
    for name in [usual, *names] if usual else names:
        cells = [row.get(name) for row in rows if row.get(name)]
        if cells and name not in taken and sum(map(_looks_like_picture, cells)) >= len(cells) / 2:
            return name
    return usual


def _looks_like_picture(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower().endswith((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
    return isinstance(cell, bytes) or (isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes))


# ------------------------------------------------------------------------------------------------------- samples


def _samples(one: _Table, reading: Reading) -> Iterator[Item]:
    """Rows with pictures inside stream through; rows with names of pictures are first gathered by picture."""
    columns = one.columns
    groups: dict[str, _Group] = {}
    for row in rows(one.path):
        if isinstance(row, BrokenSample):
            yield row
            continue
        place, cells = row
        image = cells.get(columns.image)
        try:
            if isinstance(image, bytes | Mapping) and not _path_in(image):
                group = _group(place, "", cells, columns, one.split)
                yield _sample(group, one, _bytes_in(image, place), reading)
                continue
            name = _path_in(image)
            if not name:
                raise BrokenSample(place, f"the column {columns.image!r} names no picture")
            new = _group(place, name, cells, columns, one.split)
        except BrokenSample as broken:
            yield broken
            continue
        _join(groups.setdefault(name, new), new)
    for group in groups.values():
        yield _sample(group, one, None, reading)


def _path_in(cell: Any) -> str:
    """The path of a picture in a cell, empty where the picture itself is there."""
    if isinstance(cell, Mapping):
        return "" if cell.get("bytes") else str(cell.get("path") or "")
    name = cell.strip() if isinstance(cell, str) else ""
    return posixpath.normpath(name.replace("\\", "/")) if name and "://" not in name else name


def _bytes_in(cell: bytes | Mapping[str, Any], place: str) -> bytes:
    data = cell if isinstance(cell, bytes) else cell.get("bytes")
    if not isinstance(data, bytes):
        raise BrokenSample(place, "the row holds no picture")
    return data


def _group(place: str, name: str, row: Mapping[str, Any], columns: Columns, split: str) -> _Group:
    """A group of one row.

    Raises:
        BrokenSample: its caption is empty, or its split is no word.
    """
    said = str(row.get(columns.split) or "") if columns.split else ""
    own = split_name(said)
    if said and not own:
        raise BrokenSample(place, f"{said[:40]!r} is no name of a split")
    texts = texts_in(row.get(columns.text)) if columns.text else []
    if columns.text and not any(text.strip() for text in texts):
        raise BrokenSample(place, "the caption is empty")
    if any(text != text.encode("utf-8", "replace").decode() for text in [name, *texts]):
        raise BrokenSample(place, "the row is not valid UTF-8")
    if name and sum(len(cell) for cell in row.values() if isinstance(cell, str | bytes)) > TEXT_BYTES:
        raise BrokenSample(place, f"the row has more than {TEXT_BYTES:,} characters")  # all rows are held at once
    return _Group(name or place, row, own or split, [text for text in texts if text.strip()])


def _join(group: _Group, other: _Group) -> None:
    """Adds the captions of another row of the same picture."""
    group.texts += [text for text in other.texts if text not in group.texts]
    if other.split != group.split:
        group.notes.append("rows of one picture name different splits; the first row's holds")


def texts_in(cell: Any) -> list[str]:
    """The captions of a cell: a string, a list of strings, or such a list as JSON."""
    if isinstance(cell, list | tuple):
        return [str(item) for item in cell if item is not None]
    if cell is None or isinstance(cell, float):  # an empty cell of a Parquet file is NaN
        return []
    text = str(cell)
    if text.lstrip().startswith('["'):
        values = _json_or_none(text)
        if isinstance(values, list) and all(isinstance(item, str) for item in values):
            return values
    return [text]


def _sample(group: _Group, one: _Table, image: bytes | None, reading: Reading) -> Item:
    columns = one.columns
    named = str(group.row.get(columns.key) or "") if columns.key else ""
    key = key_of(named + ".x" if named else group.name)
    try:
        if image is None:
            path = confined(one.root, group.name + one.suffix, key)
            image = read_file(path, key, reading.limits.bytes)
        elif len(image) > reading.limits.bytes:
            raise BrokenSample(key, f"the picture has {len(image):,} bytes; the limit is {reading.limits.bytes:,}")
        members = members_of(image, group.name, group.texts, metadata(group.row, columns, key), key)
    except BrokenSample as broken:
        return broken
    return RawSample(key, group.split, members, tuple(dict.fromkeys(group.notes)))


def metadata(row: Mapping[str, Any], columns: Columns, key: str) -> dict[str, Any]:
    """Everything in a row but picture, captions and split, as the values of a `.json` member.

    Raises:
        BrokenSample: a value is nested too deeply.
    """
    used = set(vars(columns).values())
    try:
        values = {name: _value(name, cell) for name, cell in row.items() if name and name not in used}
    except RecursionError:
        raise BrokenSample(key, "its values are nested too deeply") from None
    values = {name: value for name, value in values.items() if value is not None}
    label = plain(row.get(columns.label)) if columns.label else None
    if isinstance(label, str) and label.strip():
        number = re.fullmatch(r"-?[0-9]{1,9}", label.strip()) is not None
        values["label" if number else "category"] = int(label) if number else label.strip()
    elif isinstance(label, int) and not isinstance(label, bool):
        values["label"] = label
    return values


def _value(name: str, cell: Any) -> Any:
    """A cell for the `.json` member. One with the name of a field is kept only if it can be that field's value."""
    cell = plain(cell)
    if isinstance(cell, str):
        text = cell.encode("utf-8", "replace").decode().strip()
        if name in _LISTS and not text.startswith("["):
            separator = next((mark for mark in ";|," if mark in text), ",")
            return [word.strip() for word in text.split(separator) if word.strip()]
        cell = (_json_or_none(text) if name in JSON_KEYS and text[:1] in "[{" else text) or None
    if name in JSON_KEYS and name not in ("label", "category") and not isinstance(cell, list | dict):
        return None
    return cell


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
