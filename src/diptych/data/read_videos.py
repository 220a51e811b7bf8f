"""Videos with captions, moments or questions: MSR-VTT, DiDeMo, MSRVTT-QA and TGIF-QA.

Sources: Xu et al., CVPR 2016 (MSR-VTT), with the test pairs "1k-A" of Yu et al., ECCV 2018 (JSFusion); Hendricks et
al., arXiv 1708.01641 (DiDeMo) and LisaAnne/LocalizingMoments, data/README.md; Xu et al., ACM MM 2017 (MSRVTT-QA);
Jang et al., arXiv 1704.04497 (TGIF-QA) and YunseokJANG/tgif-qa, dataset/README.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample
from diptych.data.kinds import files_in
from diptych.data.raw import (
    Item,
    RawSample,
    Reading,
    Source,
    SourceError,
    key_of,
    list_words,
    read_json,
    split_in,
    split_name,
)
from diptych.data.read_pictures import Picture, Where, list_of, source, words
from diptych.data.read_rows import rows
from diptych.data.video import CONTAINERS

SUFFIXES = frozenset({*(f".{name}" for name in CONTAINERS if "." not in name), ".gif"})
_TABLES = {  # columns of a table -> what it is
    "msrvtt": {"vid_key", "video_id", "sentence"},
    "tgif-qa": {"gif_name", "question", "answer"},
}
_SEGMENT = 5.0  # seconds, the unit of DiDeMo's times
_CHOICES = ("a1", "a2", "a3", "a4", "a5")


def table_kind(path: Path) -> str:
    """`msrvtt` or `tgif-qa` for their tables, by the names of the columns; else an empty string."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return ""
    with path.open("rb") as file:
        start = file.readline(1 << 12).decode("utf-8-sig", "replace")
    columns = {name.strip().strip('"') for name in start.replace("\t", ",").split(",")}
    return next((kind for kind, needed in _TABLES.items() if needed <= columns), "")


def tables_in(folder: Path, kind: str = "") -> tuple[str, list[Path]]:
    """The tables of a folder that are of one of these data sets, all of one kind."""
    found = {path: table_kind(path) for path in sorted(folder.iterdir()) if path.is_file()}
    kind = kind or next(filter(None, found.values()), "")
    return kind, [path for path, own in found.items() if own and own == kind]


# -------------------------------------------------------------------------------------------------------- MSR-VTT


def msrvtt(path: Path, reading: Reading) -> Source:
    """MSR-VTT: videos with about twenty captions each, in the splits of the file.

    A table of test pairs (`MSRVTT_JSFUSION_test.csv`) in the same folder makes it the split "1k-A" of retrieval: its
    videos are `test`, with its sentence alone, and all others are `train`. Such a table by itself gives the pairs.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the videos.
    """
    files = _files(path, "msrvtt")
    tables = tables_in(path if path.is_dir() else path.parent, "msrvtt")[1] if path.suffix != ".csv" else [path]
    broken: list[BrokenSample] = []
    videos: dict[str, Picture] = {}
    for file in files:
        if file.suffix == ".json":
            _add_msrvtt(file, videos, broken)
    pairs: dict[str, Picture] = {}
    for file in tables:
        for row in rows(file):
            name = "" if isinstance(row, BrokenSample) else words(row[1].get("video_id"))
            text = "" if isinstance(row, BrokenSample) else words(row[1].get("sentence"))
            if not name or not text:
                reason = row.reason if isinstance(row, BrokenSample) else "the row has no video_id or no sentence"
                broken.append(BrokenSample(row.key if isinstance(row, BrokenSample) else row[0], reason))
                continue
            more = videos[name].more if name in videos else {}
            pairs[name] = Picture(name, "test", captions=[text], more=more)
    if pairs:
        videos = {name: replace(video, split="train") for name, video in videos.items()} | pairs
    found = list(videos.values())
    captions = sum(len(video.captions) for video in found)
    names = list_words(file.name for file in dict.fromkeys([*files, *tables]))
    about = f"MSR-VTT ({names}): {len(found):,} videos, {captions:,} captions"
    about += f", of which {len(pairs):,} test pairs" if pairs else ""
    return _source("msrvtt", about, found, broken, Where(path, reading, with_captions=True))


def _add_msrvtt(file: Path, videos: dict[str, Picture], broken: list[BrokenSample]) -> None:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("videos"), list):
        raise SourceError(f"{file} is no file of MSR-VTT: it has no list of videos.")
    for index, entry in enumerate(content["videos"]):
        entry = entry if isinstance(entry, dict) else {}
        name, split = words(entry.get("video_id")), words(entry.get("split"))
        if not name:
            broken.append(BrokenSample(f"{file.name}: videos[{index}]", "the entry has no video_id"))
            continue
        split = "val" if split == "validate" else split_name(split)
        category = entry.get("category")
        videos[name] = Picture(name, split, more={"topic": category} if isinstance(category, int) else {})
    for index, entry in enumerate(list_of(content.get("sentences"))):
        entry = entry if isinstance(entry, dict) else {}
        name, text = words(entry.get("video_id")), words(entry.get("caption"))
        if name not in videos or not text:
            reason = "the caption is empty" if name in videos else f"it belongs to no video of the file ({name!r})"
            broken.append(BrokenSample(f"{file.name}: sentences[{index}]", reason))
            continue
        videos[name].captions.append(text)


# --------------------------------------------------------------------------------------------------------- DiDeMo


def didemo(path: Path, reading: Reading) -> Source:
    """DiDeMo: moments of a video, each described, and all descriptions joined to the paragraph of retrieval work.

    A moment is given in segments of five seconds by several people; the one that most of them gave counts.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the videos.
    """
    files = _files(path, "didemo")
    broken: list[BrokenSample] = []
    videos: dict[tuple[str, str], Picture] = {}
    for place, split, entry in _entries(files):
        name, text = words(entry.get("video")), words(entry.get("description"))
        times = [(a, b) for a, b in (pair for pair in list_of(entry.get("times")) if _is_pair(pair)) if 0 <= a <= b]
        if not name or not text or not times:
            broken.append(BrokenSample(place, "the entry has no video, no description, or no times"))
            continue
        first, last = Counter(times).most_common(1)[0][0]
        video = videos.setdefault((split, name), Picture(name, split, more={"moments": []}))
        video.captions.append(text)
        video.more["moments"].append((first * _SEGMENT, (last + 1) * _SEGMENT, text))
    found = [replace(video, captions=[" ".join(map(_sentence, video.captions))]) for video in videos.values()]
    moments = sum(len(video.more["moments"]) for video in found)
    about = f"DiDeMo ({list_words(file.name for file in files)}): {len(found):,} videos, {moments:,} moments"
    return _source("didemo", about, found, broken, Where(path, reading))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(item, int) for item in value)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


# ------------------------------------------------------------------------------------------------------ questions


def msrvtt_qa(path: Path, reading: Reading) -> Source:
    """MSRVTT-QA: questions about the videos of MSR-VTT, each with one word as its answer.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the videos.
    """
    files = _files(path, "msrvtt-qa")
    return _asked("msrvtt-qa", "MSRVTT-QA", files, _entries, _question_of_msrvtt, Where(path, reading))


def _question_of_msrvtt(place: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    number, question, answer = entry.get("video_id"), words(entry.get("question")), words(entry.get("answer"))
    name = f"video{number}" if isinstance(number, int) else words(number)
    kind = question.lower().split()[:1]  # what, who, how, when or where: the types of the paper
    return name, {"question": question, "answers": [answer] if answer else [], "type": "".join(kind)}


def tgif_qa(path: Path, reading: Reading) -> Source:
    """TGIF-QA: questions about animated GIFs; of five `choices` for actions and transitions, else open.

    Raises:
        SourceError: no such table, or no folder with the GIFs.
    """
    files = [path] if path.is_file() else tables_in(path, "tgif-qa")[1]
    return _asked("tgif-qa", "TGIF-QA", files, _table_rows, _question_of_tgif, Where(path, reading))


def _question_of_tgif(place: str, row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    stem = place.rpartition(":")[0].lower()
    kind = next((kind for kind in ("frameqa", "action", "transition", "count") if kind in stem), "")
    choices = [words(row.get(name)) for name in _CHOICES if words(row.get(name))]
    answer = words(str(row.get("answer") or ""))
    if choices:
        answer = choices[int(answer)] if answer.isdecimal() and int(answer) < len(choices) else ""
    asked = {"question": words(row.get("question")), "answers": [answer] if answer else [], "type": kind}
    return words(row.get("gif_name")), asked | ({"choices": choices} if choices else {})


def _asked(
    kind: str,
    title: str,
    files: Sequence[Path],
    entries: Callable[[Sequence[Path]], Iterator[tuple[str, str, Mapping[str, Any]]]],
    read: Callable[[str, Mapping[str, Any]], tuple[str, dict[str, Any]]],
    where: Where,
) -> Source:
    broken: list[BrokenSample] = []
    videos: dict[tuple[str, str], Picture] = {}
    for place, split, entry in entries(files):
        name, asked = read(place, entry)
        if not name or not asked["question"]:
            broken.append(BrokenSample(place, str(entry.get("broken") or "the entry names no video or asks nothing")))
            continue
        video = videos.setdefault((split, name), Picture(name, split, more={"questions": []}))
        video.more["questions"].append(asked)
    found = list(videos.values())
    count = sum(len(video.more["questions"]) for video in found)
    about = f"{title} ({list_words(file.name for file in files)}): {len(found):,} videos, {count:,} questions"
    return _source(kind, about, found, broken, where)


# -------------------------------------------------------------------------------------------------- files and videos


def _files(path: Path, kind: str) -> list[Path]:
    return [path] if path.is_file() else files_in(path, kind)[1]


def _entries(files: Sequence[Path]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Place, split and entry for all entries of lists in JSON; what is no object becomes an empty one."""
    for file in files:
        content = read_json(file)
        if not isinstance(content, list):
            raise SourceError(f"{file} is no list of entries.")
        for index, entry in enumerate(content):
            yield f"{file.name}[{index}]", split_in(file.stem), entry if isinstance(entry, dict) else {}


def _table_rows(files: Sequence[Path]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The same for tables; what is wrong with a row stands under `broken`."""
    for file in files:
        for row in rows(file):
            place, cells = (row.key, {"broken": row.reason}) if isinstance(row, BrokenSample) else row
            yield place, split_in(file.stem), cells


def _source(kind: str, about: str, videos: Sequence[Picture], broken: Sequence[BrokenSample], where: Where) -> Source:
    """The samples of videos, which lie anywhere below the usual folders and are found by their names."""
    wanted = {_stem(video.name) for video in videos}
    root, there = next(
        ((root, found) for root in where.roots() if root.is_dir() and wanted & (found := _films(root)).keys()),
        (where.roots()[0], {}),
    )
    named = [replace(v, name=there.get(_stem(v.name), v.name), key=key_of(_stem(v.name) + ".x")) for v in videos]
    reading = replace(where.reading, images=str(root)) if there else where.reading
    plain = source(kind, about, named, broken, replace(where, reading=reading))

    def samples() -> Iterator[Item]:
        for item in plain.samples():
            yield animated(item) if isinstance(item, RawSample) else item

    return replace(plain, samples=samples)


def animated(sample: RawSample) -> RawSample:
    """The sample with a GIF as its video rather than its picture."""
    return replace(sample, members={"video.gif" if ext == "gif" else ext: data for ext, data in sample.members.items()})


def _films(root: Path) -> dict[str, str]:
    """Name without its ending -> relative path, for all videos below a folder."""
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    return {_stem(path.name): path.relative_to(root).as_posix() for path in found}


def _stem(name: str) -> str:
    return Path(name).stem if Path(name).suffix.lower() in {*SUFFIXES, ".mpg", ".m4v", ".3gp", ".wmv"} else name
