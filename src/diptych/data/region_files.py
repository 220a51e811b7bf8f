"""Features of regions that a detector left in files: tables of bottom-up attention, and an `.npz` a picture of UNITER.

A table (Anderson et al., 2018, arXiv:1707.07998) has a line a picture, with tabs between columns and no header. LXMERT
(airsplay/lxmert, src/utils.py) writes ten of them: id, height and width of the picture, class, confidence, attribute
and its confidence of each region, their number, boxes in pixels, features. The first release has six: id, width,
height, number, boxes, features. Arrays are base64 of int64 and float32. UNITER (ChenRocks/UNITER,
scripts/convert_imgdir.py) has `features`, `norm_bb` (boxes in [0, 1] with width and height behind them), `conf` and
`soft_labels` (shares of all classes, background first).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diptych.data.decode import BrokenSample, Limits, decode_npz
from diptych.data.raw import (
    Item,
    RawSample,
    Reading,
    Source,
    SourceError,
    confined,
    encode_npz,
    key_of,
    read_file,
    split_in,
)

_COLUMNS = {
    10: "id height width region_labels region_scores region_attributes region_attribute_scores number boxes regions",
    6: "id width height number boxes regions",
}
_TYPES = {"region_labels": np.int64, "region_attributes": np.int64}  # all others are float32
_MOST = 1000  # regions of a picture
_WIDEST = 1 << 16  # numbers of a region
_LONGEST_LINE = 128 << 20  # bytes; a hundred regions of 2048 numbers have one megabyte
_GLANCE = 1 << 16
_WHOLE = re.compile(r"[1-9]\d{0,6}")
_NUMBERED = re.compile(r"(?:^|_)0*(\d{1,18})$")

Place = tuple[Path, int]
"""A file, and where in it the line begins."""


def is_table(path: Path) -> bool:
    """Whether the first line of a file has the columns of region features."""
    if path.suffix.lower() != ".tsv" or not path.is_file():
        return False
    with path.open("rb") as file:
        cells = file.readline(_GLANCE).decode("latin-1").split("\t")
    names = _COLUMNS.get(len(cells), "").split()
    counts = [cell for name, cell in zip(names, cells, strict=False) if name in ("width", "height", "number")]
    return bool(counts) and all(_WHOLE.fullmatch(cell) for cell in counts)


def is_here(folder: Path) -> bool:
    """Whether a folder holds region features and nothing else."""
    found = files_in(folder)
    return bool(found) and len(found) == sum(path.is_file() for path in folder.iterdir())


def files_in(folder: Path) -> list[Path]:
    """The files with region features of a folder: tables, or else an `.npz` a picture."""
    tables = [path for path in sorted(folder.glob("*.tsv")) if is_table(path)]
    return tables or sorted(path for path in folder.glob("*.npz") if path.is_file())


class RegionFiles:
    """The region features of many pictures, found by the names of these.

    `COCO_val2014_000000000042.jpg` finds the entry of the same name, in capitals or not, with words and a `_` before
    it (`nlvr2_dev-850-0-img0`), or with the same number at its end (`42`), if there is just one.

    Raises:
        SourceError: no such file, or no features in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = files_in(path) if path.is_dir() else [path] if path.is_file() else []
        if not files or (path.is_file() and not is_table(path)):
            raise SourceError(
                f"{path} holds no region features: give a table with the 10 columns of LXMERT or the 6 of bottom-up "
                "attention (.tsv), or a folder with an .npz a picture."
            )
        self.files = files

    @cached_property
    def _places(self) -> dict[str, Place | None]:
        """Name -> place; None where two pictures share it."""
        found: dict[str, Place | None] = {}
        for place, name in self._names():
            own = name.lower()
            found[own] = place
            for other in dict.fromkeys([own.partition("_")[2], _number(own)]):
                if other and other != own:
                    found[other] = None if other in found else place
        return found

    def _names(self) -> Iterator[tuple[Place, str]]:
        for file in self.files:
            if file.suffix.lower() == ".npz":
                yield (file, 0), file.stem
                continue
            with file.open("rb") as table:
                for start, name in _rows(table, file):
                    yield (file, start), name.decode("utf-8", "replace").strip()

    def _find(self, name: str) -> Place | None:
        stem = Path(name).stem.lower()
        return self._places.get(stem) or self._places.get(_number(stem))

    def has(self, name: str) -> bool:
        """Whether there are features of this picture."""
        return self._find(name) is not None

    def read(self, name: str, key: str, limits: Limits) -> bytes:
        """The `.regions.npz` member of a picture.

        Raises:
            BrokenSample: there is none, or it is damaged; the reason names the file.
        """
        place = self._find(name)
        if place is None:
            raise BrokenSample(key, f"{self.path.name} has no region features of {name}")
        return _member(*place, key, limits)

    def samples(self, limits: Limits) -> Iterator[Item]:
        """All pictures, without the pictures."""
        for place, name in self._names():
            key = key_of(name + ".x")
            try:
                yield RawSample(key, split_in(place[0].stem), {"regions.npz": _member(*place, key, limits)})
            except BrokenSample as broken:
                yield broken


def regions(path: Path, reading: Reading) -> Source:
    """A table of region features, or a folder of tables or `.npz` files, as samples without pictures.

    Raises:
        SourceError: there are no region features.
    """
    found = RegionFiles(path)
    about = f"region features ({found.files[0].name}{' and others' if len(found.files) > 1 else ''})"
    return Source("regions", about, lambda: found.samples(reading.limits))


def _number(stem: str) -> str:
    """`#42` for a name that ends in the number 42 and has nothing, or `_`, before it."""
    match = _NUMBERED.search(stem)
    return f"#{match[1]}" if match else ""


def _member(file: Path, start: int, key: str, limits: Limits) -> bytes:
    try:
        if file.suffix.lower() == ".npz":
            own = confined(file.parent, file.name, key)
            arrays = _of_uniter(decode_npz(read_file(own, key, limits.bytes), limits))
        else:
            with file.open("rb") as table:
                table.seek(start)
                arrays = _of_table(table.readline(limits.bytes * 3 // 2 + 1), limits)
    except BrokenSample as broken:
        where = f" (line at byte {start:,})" if start else ""
        raise BrokenSample(key, f"{file.name}{where}: {broken.reason}") from None
    return encode_npz(arrays)


def _rows(table: BinaryIO, file: Path) -> Iterator[tuple[int, bytes]]:
    """Where each line begins and its first cell, with a small part of the line in memory at a time."""
    start = size = 0
    while part := table.readline(_GLANCE):
        name, size = part.partition(b"\t")[0], len(part)
        while part and not part.endswith(b"\n"):
            part = table.readline(_GLANCE)
            size += len(part)
            if size > _LONGEST_LINE:
                raise SourceError(f"{file.name} has a line of more than {_LONGEST_LINE:,} bytes: it is no table.")
        yield start, name
        start += size


def _of_table(line: bytes, limits: Limits) -> dict[str, np.ndarray]:
    if len(line) > limits.bytes * 3 // 2:
        raise BrokenSample("", f"the line has more than {limits.bytes * 3 // 2:,} bytes")
    cells = line.rstrip(b"\r\n").split(b"\t")
    if len(cells) not in _COLUMNS:
        raise BrokenSample("", f"the line has {len(cells)} columns instead of 10 or 6")
    row = dict(zip(_COLUMNS[len(cells)].split(), cells, strict=True))
    number = _whole(row.pop("number"), "number of boxes", _MOST)
    width, height = _whole(row.pop("width"), "width"), _whole(row.pop("height"), "height")
    del row["id"]
    found = {name: _array(name, cell, number, limits) for name, cell in row.items()}
    scale = np.array([width, height, width, height], np.float32)
    found["region_boxes"] = (found.pop("boxes") / scale).clip(0, 1)
    return found


def _whole(digits: bytes, what: str, most: int = 1_000_000) -> int:
    cell = digits[:20].decode("latin-1")
    if not _WHOLE.fullmatch(cell) or int(cell) > most:
        raise BrokenSample("", f"the {what} is {cell!r} instead of a number from 1 to {most:,}")
    return int(cell)


def _array(name: str, cell: bytes, number: int, limits: Limits) -> np.ndarray:
    """One cell as (number,), (number, 4) or (number, D); its length is checked before it is decoded."""
    kind = np.dtype(_TYPES.get(name, np.float32))
    room = len(cell) // 4 * 3 - cell[-2:].count(b"=")
    wide = {"boxes": 4, "regions": room // (number * kind.itemsize)}.get(name, 1)
    if room > limits.bytes or not 0 < wide <= _WIDEST or room != number * wide * kind.itemsize:
        raise BrokenSample("", f"its {name} have {room:,} bytes, which is not right for {number} regions")
    try:
        array = np.frombuffer(base64.b64decode(cell, validate=True), kind)
        return array.reshape(number, wide) if name in ("boxes", "regions") else array.reshape(number)
    except (binascii.Error, ValueError):
        raise BrokenSample("", f"its {name} are no base64") from None


def _of_uniter(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not {"features", "norm_bb"} <= set(arrays):
        raise BrokenSample("", f"it has {', '.join(sorted(arrays))[:80] or 'nothing'} instead of features and norm_bb")
    boxes, shares = arrays["norm_bb"], arrays.get("soft_labels")
    if boxes.ndim != 2 or boxes.shape[1] < 4 or len(boxes) > _MOST:
        raise BrokenSample("", f"norm_bb has the shape {boxes.shape} instead of up to {_MOST} rows of x0, y0, x1, y1")
    found = {"regions": arrays["features"], "region_boxes": boxes[:, :4].clip(0, 1)}
    if shares is not None:
        if shares.ndim != 2 or shares.shape[1] < 2:
            raise BrokenSample("", f"soft_labels has the shape {shares.shape} instead of a row of shares a region")
        found |= {"region_classes": shares, "region_labels": shares[:, 1:].argmax(axis=1)}  # background comes first
    return found | ({"region_scores": arrays["conf"]} if "conf" in arrays else {})
