"""What every reader of a foreign source yields, and the few guards that they share.

A reader turns a folder, a table or an annotation file into `RawSample`s: encoded members under the extensions of a
shard, nothing decoded. What it cannot read it yields as a `BrokenSample`, with the key and the reason, and goes on.
"""

from __future__ import annotations

import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diptych.batch import FIELDS
from diptych.data.decode import BrokenSample, Limits
from diptych.text import one_line

Kind = Literal[
    "auto",
    "folder",
    "table",
    "coco",
    "karpathy",
    "coop",
    "p9d",
    "visual-genome",
    "refcoco",
    "flickr30k",
    "vqa",
    "gqa",
    "nlvr2",
    "msrvtt",
    "didemo",
    "msrvtt-qa",
    "tgif-qa",
    "scannet",
    "conversations",
    "documents",
    "texts",
    "regions",
    "huggingface",
    "webdataset",
]

JSON_KEYS = frozenset(name for item in FIELDS.values() for name in item.files if not name.startswith("."))
"""Keys of the `.json` member that fields are read from."""

_SPLITS = {
    "train": ("train", "training", "restval"),
    "val": ("val", "valid", "validation", "dev", "devel"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {alias: split for split, aliases in _SPLITS.items() for alias in aliases}
_MAGIC = (
    (b"\xff\xd8\xff", 0, "jpg"),
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"WEBP", 8, "webp"),
    (b"GIF8", 0, "gif"),
    (b"BM", 0, "bmp"),
    (b"II*\0", 0, "tif"),
    (b"MM\0*", 0, "tif"),
)
_LARGEST_JSON = 2 << 30  # bytes; the annotations of COCO have a quarter of that
_NOT_IN_KEYS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\s\\:~]+")


class SourceError(ValueError):
    """A source that cannot be read as asked; the message says what to do."""


@dataclass(frozen=True)
class RawSample:
    """One sample as it goes into a shard: extension (no dot, such as `jpg` or `json`) -> bytes."""

    key: str
    split: str
    """empty where the source has no splits"""
    members: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    """what was left out of the sample, and why"""


@dataclass(frozen=True)
class Notice:
    """Something in the source that was left out without breaking a sample."""

    text: str
    count: int = 1


Item = RawSample | BrokenSample | Notice


@dataclass(frozen=True)
class Reading:
    """How a source is read. Empty values are guessed, and the guess is said."""

    kind: Kind = "auto"
    """what the source is"""
    images: str = ""
    """folder that holds the pictures which a table, a JSON file or a link names; nothing outside it is read"""
    regions: str = ""
    """region features of the pictures that an annotation file names: a .tsv of LXMERT or bottom-up attention, or a
    folder with an .npz a picture as UNITER has them; the pictures themselves may then be absent"""
    image_column: str = ""
    """column of a table, or feature of a Hugging Face data set, with the picture or its path"""
    text_column: str = ""
    """column with the caption, or with a list of captions"""
    label_column: str = ""
    """column with the class"""
    split_column: str = ""
    """column with train, val or test"""
    key_column: str = ""
    """column with a name for the sample; else the path of the picture names it"""
    limits: Limits = field(default_factory=Limits)
    """files above these sizes are broken"""


@dataclass(frozen=True)
class Packing:
    """How a data set is written."""

    split: str = ""
    """put all samples into this split; else the source says, else one key in ten (by its SHA-1) goes to val"""
    caption: str = "a picture of {category}"
    """caption for samples that have a class and no caption; empty makes none"""
    max_side: int = 0
    """pictures with a longer side are made smaller and encoded again; 0 copies all bytes unchanged"""
    quality: int = 90
    """of JPEG pictures that are encoded again"""
    max_broken: float = 0.05
    """largest share of broken samples; above it nothing is written"""
    shard_bytes: int = 256 << 20
    """size of a shard"""
    name: str = ""
    """of the data set; else that of the destination"""
    licence: str = ""
    """what the data may be used for; kept in dataset.json"""


@dataclass(frozen=True)
class Source:
    """A source that was recognised; `samples()` reads it from the start, each time it is called."""

    kind: str
    about: str
    """one sentence: what was found, and what was guessed"""
    samples: Callable[[], Iterator[Item]]
    total: int | None = None
    """number of samples, where it is known beforehand"""
    classes: tuple[str, ...] = ()
    """names of the classes in their order, where the source declares one"""


def split_name(name: str) -> str:
    """`validation`, `dev`, ... -> val; `restval`, ... -> train; other words stay; anything else is an empty string.

    A word that ends in a digit gets a `_`, for shards are numbered behind the split's name.
    """
    word = name.strip().lower()
    if word in _SPLIT_OF or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", word):
        return _SPLIT_OF.get(word, "")
    return word + "_" if word[-1].isdigit() else word


def split_order(name: str) -> tuple[int, str]:
    """Sorts splits: train, val, test, then the others by name."""
    usual = ("train", "val", "test")
    return (usual.index(name) if name in usual else len(usual), name)


def is_split(name: str) -> bool:
    """Whether a folder or file of this name is a split rather than a class."""
    return name.strip().lower() in _SPLIT_OF


def split_in(stem: str) -> str:
    """The split that a file name speaks of (`captions_val2017` -> val), or an empty string."""
    words = re.findall(r"[a-z]+", stem.lower())
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), "")


def key_of(name: str) -> str:
    """A path or any other name -> a key: no extension, no `..`, no dots in the last part, no control characters.

    `dogs/rex.v2.jpg` -> `dogs/rex_v2`.
    """
    name = _NOT_IN_KEYS.sub("_", unicodedata.normalize("NFC", name.replace("\\", "/")).strip())
    parts = [part for part in name.split("/") if part not in ("", ".", "..")] or ["unnamed"]
    stem, dot, suffix = parts[-1].rpartition(".")
    if dot and stem and re.fullmatch(r"[A-Za-z0-9]{1,5}", suffix):
        parts[-1] = stem
    parts[-1] = re.sub(r"\.+", "_", parts[-1].strip(".")) or "unnamed"
    return re.sub(r"\.\.+", "_", "/".join(parts))[-400:].lstrip("/")


def confined(root: Path, name: str, key: str) -> Path:
    """The file that `name` means inside `root`.

    Raises:
        BrokenSample: the name is a URL, leaves `root` (by `..`, as an absolute path or through a link), or no file.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise BrokenSample(key, f"{_short(name)} is a URL, and URLs are not fetched; download the pictures first")
    if not name.strip() or "\0" in name:
        raise BrokenSample(key, "it names no picture")
    try:
        base = root.resolve()
        path = (base / name).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long a name, a loop of links
        raise BrokenSample(key, f"{_short(name)} is no name of a file") from None
    if not path.is_relative_to(base):
        raise BrokenSample(key, f"{_short(name)} leads out of the folder of pictures, which --images can name")
    if not found:
        raise BrokenSample(key, f"{_short(name)} is missing, or no plain file")
    return path


def read_file(path: Path, key: str, limit: int) -> bytes:
    """The bytes of a file, after a look at its kind and size.

    Raises:
        BrokenSample: it is no plain file, has more than `limit` bytes, is empty, or cannot be read.
    """
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise BrokenSample(key, f"{path.name} is no plain file")
        size = path.stat().st_size
        if size > limit:
            raise BrokenSample(key, f"{path.name} has {size:,} bytes; the limit is {limit:,}")
        with path.open("rb") as file:
            data = file.read(limit)
    except OSError as error:
        raise BrokenSample(key, f"{path.name} cannot be read ({error.strerror})") from None
    if not data:
        raise BrokenSample(key, f"{path.name} is empty")
    return data


def image_extension(data: bytes, name: str = "") -> str:
    """`jpg`, `png`, ... from the first bytes, whatever the file is called; else the file's own, else `bin`."""
    for magic, offset, extension in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return extension
    suffix = name.rpartition(".")[2].lower()
    return suffix if re.fullmatch(r"[a-z0-9]{1,5}", suffix) else "bin"


def read_json(path: Path) -> Any:
    """The content of a JSON file that describes a whole data set.

    Raises:
        SourceError: it is no plain file, too large to be read whole, or not valid JSON.
    """
    if not path.is_file():
        raise SourceError(f"{path} is no plain file.")
    if path.stat().st_size > _LARGEST_JSON:
        raise SourceError(f"{path} has more than {_LARGEST_JSON:,} bytes of JSON: split it, or make it a table.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not valid JSON ({error}).") from None


def encode_text(text: str, key: str) -> bytes:
    """A caption as UTF-8, without white space around it.

    Raises:
        BrokenSample: it is empty or no valid Unicode.
    """
    stripped = text.strip()
    if not stripped:
        raise BrokenSample(key, "the caption is empty")
    try:
        return stripped.encode("utf-8")
    except UnicodeEncodeError:
        raise BrokenSample(key, "the caption is not valid UTF-8") from None


def encode_json(values: Mapping[str, Any], key: str) -> bytes:
    """A `.json` member: keys sorted, so that the same values give the same bytes.

    Raises:
        BrokenSample: a value is no valid Unicode or not a plain value.
    """
    try:
        return json.dumps(plain(values), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        raise BrokenSample(key, "its text is not valid UTF-8") from None
    except RecursionError:
        raise BrokenSample(key, "its values are nested too deeply") from None


def encode_npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays by name as an `.npz` member, not compressed; the same arrays give the same bytes."""
    import numpy as np

    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays become lists, NaN and infinity null, dates and the like their text."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def members_of(
    image: bytes, image_name: str, texts: Sequence[str], meta: Mapping[str, Any], key: str
) -> dict[str, Any]:
    """The members of a usual sample: a picture, its captions (the first is `txt`) and everything else as `json`.

    Raises:
        BrokenSample: a caption is empty or no valid Unicode.
    """
    members = {image_extension(image, image_name): image}
    captions = [encode_text(text, key).decode() for text in texts]
    if captions:
        members["txt"] = captions[0].encode()
    values = {**meta, **({"texts": captions} if len(captions) > 1 else {})}
    if values:
        members["json"] = encode_json(values, key)
    return members


def list_words(words: Iterable[str], most: int = 8) -> str:
    """`a, b, c and 4 more`."""
    words = list(words)
    shown = ", ".join(one_line(word, 60) for word in words[:most]) or "nothing"
    return shown + (f" and {len(words) - most} more" if len(words) > most else "")


def _short(name: str) -> str:
    return repr(one_line(name, 80))
