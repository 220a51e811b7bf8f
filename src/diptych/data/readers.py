"""Recognises what a source is, and reads folders of pictures and foreign WebDataset shards.

Tables are read by `read_tables`, annotation files by `read_annotations`, `read_regions`, `read_questions` and
`read_flickr30k`, conversations, documents and texts by `read_conversations`, features of regions by `region_files`,
Hugging Face data sets by `read_hub`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.data import (
    geometry,
    kinds,
    read_annotations,
    read_conversations,
    read_flickr30k,
    read_hub,
    read_p9d,
    read_questions,
    read_regions,
    read_scenes,
    read_tables,
    read_videos,
    region_files,
)
from diptych.data.decode import JSON_BYTES, TEXT_BYTES, BrokenSample
from diptych.data.files import Files, open_files
from diptych.data.raw import (
    Item,
    Notice,
    RawSample,
    Reading,
    Source,
    SourceError,
    confined,
    encode_json,
    encode_text,
    image_extension,
    is_split,
    key_of,
    list_words,
    read_file,
    split_in,
    split_name,
)
from diptych.data.read_rows import SUFFIXES
from diptych.data.shards import read_dataset_json, read_index
from diptych.data.tar import UnreadableTar

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_SEEN = IMAGE_SUFFIXES | read_videos.SUFFIXES | geometry.SUFFIXES
_BY_LINES = ("nlvr2", "conversations", "documents")
"""Kinds whose files may have a JSON object a line."""
_SIDECARS = {".txt": TEXT_BYTES, ".json": JSON_BYTES, **dict.fromkeys(sorted(geometry.SUFFIXES), 0)}
"""What may lie beside a picture, and how many bytes it may have; 0: as many as the picture"""


def recognise(src: str | Path, reading: Reading | None = None) -> Source:
    """Finds out what `src` is, or takes `reading.kind` for it.

    A name that starts with `hf:` is a data set of the Hugging Face hub, a URL a folder of shards (read by fsspec);
    everything else is a file or a folder.

    Raises:
        SourceError: there is nothing there, or nothing that is understood; the message says what would be.
    """
    reading = reading or Reading()
    if str(src).startswith("hf:") or (reading.kind == "huggingface" and not Path(src).exists()):
        return read_hub.by_name(str(src).removeprefix("hf:"), reading)
    if "://" in str(src):
        return webdataset(str(src), reading)
    path = Path(src).expanduser()
    if not path.exists():
        raise SourceError(f"There is no {src}; a data set of the Hugging Face hub is written hf:{src}.")
    kind = reading.kind if reading.kind != "auto" else _kind(path)
    return _READERS[kind](path, reading)


def _kind(path: Path) -> str:
    if path.is_file():
        suffix = path.suffix.lower()
        if region_files.is_table(path):
            return "regions"
        if suffix in SUFFIXES:
            found = kinds.marked(path) if suffix in (".jsonl", ".ndjson") else ""
            return found if found in _BY_LINES else read_videos.table_kind(path) or "table"
        if read_conversations.is_text(path):
            return "texts"
        if suffix in (".json", ".tar"):
            return "webdataset" if suffix == ".tar" else kinds.kind_of(path)
        if suffix in (".p", ".pkl", ".pickle"):
            raise SourceError(read_regions.pickled(path))
        known = list_words([*sorted(SUFFIXES), ".json", ".tar"])
        raise SourceError(f"{path.name} is not understood: give a folder, or one of {known}.")
    if _tars(path):
        return "webdataset"
    if read_hub.is_saved(path):
        return "huggingface"
    if read_flickr30k.is_here(path):
        return "flickr30k"
    if region_files.is_here(path):
        return "regions"
    if read_p9d.is_here(path):
        return "p9d"
    if found := kinds.files_in(path)[0]:
        return found
    if found := read_videos.tables_in(path)[0]:
        return found
    if read_scenes.is_here(path):
        return "scannet"
    if any(path.glob("refs*.p")):
        return "refcoco"
    lines = [kinds.marked(file) for file in read_tables.files_in(path) if file.suffix in (".jsonl", ".ndjson")]
    if lines and lines[0] in _BY_LINES:
        return lines[0]
    if read_tables.files_in(path):
        return "table"
    if any(path.glob("*.jsonl.gz")):
        return "texts"
    return "folder"


# -------------------------------------------------------------------------------------------- folders of pictures


def image_folder(root: Path, reading: Reading) -> Source:
    """A folder of pictures, videos or shapes; folders named train, val or test are splits, others classes.

    Splits may hold the folders of classes (ImageNet), or these the splits (ModelNet). A `.txt` beside a picture is its
    caption, a `.json` beside it its other fields, a `.ply`, `.off` or `.obj` its shape. Pictures without a folder have
    no class, and a single folder is no class either.

    Raises:
        SourceError: there is no picture.
    """
    base, files = root, _files(root)
    allowed = (Path(reading.images).expanduser() if reading.images else root).resolve()
    pictures = _shown(files)
    if not pictures:
        raise SourceError(
            f"{root} holds no pictures ({list_words(sorted(IMAGE_SUFFIXES))}), videos, shapes, tables, .tar shards, "
            "COCO or Hugging Face files; if it is something else, name it with --kind."
        )
    tops = {name.partition("/")[0] if "/" in name else "" for name in pictures}
    while len(tops) == 1 and "" not in tops and not is_split(next(iter(tops))):  # all lie in one folder: look inside
        base = base / tops.pop()
        files = _files(base)
        pictures = _shown(files)
        tops = {name.partition("/")[0] if "/" in name else "" for name in pictures}
    level = _split_level(pictures)
    labels = {name: _folder_label(name, level) for name in pictures}
    splits = {name: split_name(name.split("/")[level]) if level is not None else "" for name in pictures}
    classes = tuple(sorted(set(labels.values()) - {""}))
    classes = classes if len(classes) > 1 else ()

    def samples() -> Iterator[Item]:
        known = frozenset(files)
        for name in pictures:
            yield _picture(_Folder(base, allowed, known), name, splits[name], labels[name] if classes else "", reading)

    sidecars = {str(Path(name).with_suffix(suffix)) for name in pictures for suffix in _SIDECARS}
    ignored = len(set(files) - set(pictures) - sidecars)
    about = (
        f"a folder of {len(pictures):,} {_called(pictures)}"
        + (f" in the splits {list_words(sorted(set(splits.values())))}" if level is not None else "")
        + (f", with a folder for each of {len(classes):,} classes ({list_words(classes)})" if classes else "")
        + (
            ", captions in .txt files beside them"
            if any(str(Path(p).with_suffix(".txt")) in files for p in pictures[:100])
            else ""
        )
        + (f"; {ignored:,} other files are ignored" if ignored else "")
    )
    return Source("folder", about, samples, len(pictures), classes)


def _shown(files: list[str]) -> list[str]:
    """The files that are samples: pictures, videos, and shapes without a picture of the same name beside them."""
    known = {Path(name).with_suffix("") for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES}
    return [
        name
        for name in files
        if (suffix := Path(name).suffix.lower()) in _SEEN
        and (suffix not in geometry.SUFFIXES or Path(name).with_suffix("") not in known)
    ]


def _called(names: list[str]) -> str:
    """What these files are together: pictures, videos, shapes, or several of them."""
    there = {Path(name).suffix.lower() for name in names}
    known = {"pictures": IMAGE_SUFFIXES, "videos": read_videos.SUFFIXES - {".gif"}, "shapes": geometry.SUFFIXES}
    return " and ".join(what for what, suffixes in known.items() if there & suffixes)


def _files(root: Path) -> list[str]:
    """All files below, as sorted relative POSIX names; hidden ones and links to folders are left out."""
    names = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix()
        names += [name if below == "." else f"{below}/{name}" for name in files if not name.startswith(".")]
    return sorted(names)


def _split_level(names: list[str]) -> int | None:
    """Whether folders on top (0) or those below them (1) are splits; None: neither."""
    folders = [name.split("/")[:-1] for name in names]
    return next((n for n in (0, 1) if all(len(found) > n and is_split(found[n]) for found in folders)), None)


def _folder_label(name: str, level: int | None) -> str:
    """The name of the topmost folder that is no split."""
    folders = name.split("/")[:-1]
    return next((folder for number, folder in enumerate(folders) if number != level), "")


@dataclass(frozen=True)
class _Folder:
    """A folder of pictures."""

    base: Path
    allowed: Path
    """the folder in which links may end"""
    known: frozenset[str]
    """all files"""

    def path(self, name: str, key: str) -> Path:
        """Where a picture is; raises `BrokenSample` for a link that leads out."""
        path = self.base / name
        if path.is_symlink():
            return confined(self.allowed, os.path.abspath(path), key)
        return path


def _picture(folder: _Folder, name: str, split: str, label: str, reading: Reading) -> Item:
    base, known, key = folder.base, folder.known, key_of(name)
    try:
        image = read_file(folder.path(name, key), key, reading.limits.bytes)
        members = {image_extension(image, name): image}
        values = {}
        for suffix in _SIDECARS:
            beside = str(Path(name).with_suffix(suffix))
            # a link could lead to any private file, whose text would then be packed
            if beside not in known or (base / beside).is_symlink():
                continue
            data = read_file(base / beside, key, _SIDECARS[suffix] or reading.limits.bytes)
            if suffix == ".txt":
                members["txt"] = encode_text(data.decode("utf-8", "surrogateescape"), key)
            elif suffix in geometry.SUFFIXES:
                members[suffix[1:]] = data
            else:
                values = _json_object(data, beside, key)
        values |= {"category": label} if label else {}
        if values:
            members["json"] = encode_json(values, key)
    except BrokenSample as broken:
        return broken
    return RawSample(key, split, members)


def _json_object(data: bytes, name: str, key: str) -> dict[str, object]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise BrokenSample(key, f"{name} is not valid JSON") from None
    if not isinstance(values, dict):
        raise BrokenSample(key, f"{name} holds no JSON object")
    return values


# --------------------------------------------------------------------------------------------- foreign WebDatasets


def webdataset(path: Path | str, reading: Reading) -> Source:
    """Tar shards of any origin. A split is named by the file (`train-00000.tar`) or the folder that it lies in.

    Raises:
        SourceError: there is no `.tar`.
    """
    place = Path(path) if "://" not in str(path) else None
    if place is None:
        files = open_files(str(path))
        tars = [(files, name, split_in(name)) for name in files.names() if name.endswith(".tar")]
    else:
        found = [place] if place.is_file() else _tars(place)
        folders = {tar.parent: open_files(tar.parent) for tar in found}
        tars = [
            (
                folders[tar.parent],
                tar.name,
                split_in(tar.stem) or (split_in(tar.parent.name) if tar.parent != place else ""),
            )
            for tar in found
        ]
    if not tars:
        raise SourceError(f"{path} holds no .tar files.")
    try:
        classes = tuple(read_dataset_json(tars[0][0]).get("classes", ()))
    except ValueError as error:
        raise SourceError(str(error)) from None

    def samples() -> Iterator[Item]:
        for files, name, split in tars:
            yield from _tar_samples(files, name, split, reading)

    named = sorted({split for _, _, split in tars} - {""})
    about = f"a WebDataset of {len(tars):,} shards" + (f" in the splits {list_words(named)}" if named else "")
    return Source("webdataset", about, samples, classes=classes)


def _tars(path: Path) -> list[Path]:
    return sorted(tar for tar in [*path.glob("*.tar"), *path.glob("*/*.tar")] if tar.is_file())


def _tar_samples(files: Files, tar: str, split: str, reading: Reading) -> Iterator[Item]:
    try:
        index = read_index(files, tar)
    except UnreadableTar as error:
        yield BrokenSample(tar, str(error))
        return
    for skipped in index.skipped.values():
        for reason, names in skipped.names.items():
            yield Notice(f"members of {tar} left out, because {reason} ({list_words(names)})", skipped.counts[reason])
    for number in range(len(index)):
        key, members = index.key(number), index.members(number)
        name, (_, size) = max(members.items(), key=lambda member: member[1][1])
        if size > reading.limits.bytes:
            yield BrokenSample(key, f"its .{name} has {size:,} bytes; the limit is {reading.limits.bytes:,}")
            continue
        yield RawSample(key, split, {name: files.read(tar, *where) for name, where in members.items()})


_READERS: dict[str, Callable[[Path, Reading], Source]] = {
    "folder": image_folder,
    "table": read_tables.table,
    "coco": read_annotations.coco,
    "karpathy": read_annotations.karpathy,
    "coop": read_annotations.coop,
    "p9d": read_p9d.p9d,
    "visual-genome": read_regions.visual_genome,
    "refcoco": read_regions.refcoco,
    "flickr30k": read_flickr30k.flickr30k,
    "vqa": read_questions.vqa,
    "gqa": read_questions.gqa,
    "nlvr2": read_questions.nlvr2,
    "msrvtt": read_videos.msrvtt,
    "didemo": read_videos.didemo,
    "msrvtt-qa": read_videos.msrvtt_qa,
    "tgif-qa": read_videos.tgif_qa,
    "scannet": read_scenes.scannet,
    "conversations": read_conversations.conversations,
    "documents": read_conversations.documents,
    "texts": read_conversations.texts,
    "regions": region_files.regions,
    "huggingface": read_hub.saved,
    "webdataset": webdataset,
}
