"""Scanned rooms as ScanNet has them (Dai et al., CVPR 2017): a cloud with colours, a class and object for each point.

A scene `scans/scene0000_00/` has `scene0000_00_vh_clean_2.ply` (vertices with colours); beside it, where there are any,
`..._vh_clean_2.labels.ply` (a class for each vertex), `..._vh_clean_2.0.010000.segs.json` (a segment for each vertex)
and `....aggregation.json` (the segments of each object, and what it is).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.decode import JSON_BYTES, BrokenSample, decode_json
from diptych.data.geometry import decode_mesh
from diptych.data.raw import (
    Item,
    RawSample,
    Reading,
    Source,
    SourceError,
    encode_json,
    encode_npz,
    is_split,
    key_of,
    read_file,
    split_name,
)

CLEAN = "_vh_clean_2.ply"
_LABELS, _SEGMENTS, _OBJECTS = "_vh_clean_2.labels.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json"


def is_here(folder: Path) -> bool:
    """Whether a folder is a scene, or holds scenes, perhaps in folders of splits."""
    return any(True for _ in _scenes(folder))


def _scenes(folder: Path) -> Iterator[Path]:
    for pattern in ("", "*/", "*/*/"):
        yield from (path for path in folder.glob(f"{pattern}*{CLEAN}") if path.is_file() and not path.is_symlink())


def scannet(path: Path, reading: Reading) -> Source:
    """Scenes with `points` (N, 6), and `point_labels`, `point_objects` and `object_names` where they are given.

    Folders named train, val or test are splits. Raises:
        SourceError: there is no scene.
    """
    scenes = sorted(_scenes(path))
    if not scenes:
        raise SourceError(f"{path} holds no scene of ScanNet, which has a file *{CLEAN}.")

    def samples() -> Iterator[Item]:
        for scene in scenes:
            above = next((folder for folder in scene.relative_to(path).parts[:-1] if is_split(folder)), "")
            try:
                yield _scene(scene, split_name(above) if above else "", reading)
            except BrokenSample as broken:
                yield BrokenSample(scene.name.removesuffix(CLEAN), broken.reason)

    return Source("scannet", f"ScanNet: {len(scenes):,} scenes", samples, len(scenes))


def _scene(path: Path, split: str, reading: Reading) -> RawSample:
    name, limits = path.name.removesuffix(CLEAN), reading.limits
    key = key_of(name + ".x")
    cloud = decode_mesh(read_file(path, key, limits.bytes), limits).cloud
    arrays: dict[str, np.ndarray] = {"points": cloud}
    values = {}
    labels, segments, objects = (path.with_name(name + end) for end in (_LABELS, _SEGMENTS, _OBJECTS))
    if _plain(labels):
        found = decode_mesh(read_file(labels, key, limits.bytes), limits).labels
        if found is None:
            raise BrokenSample(key, f"{labels.name} has no labels")
        arrays["point_labels"] = found
    if _plain(segments) and _plain(objects):
        numbers, names = _objects(_json(segments, key), _json(objects, key))
        arrays["point_objects"], values["object_names"] = numbers, names
    lengths = {array: len(value) for array, value in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise BrokenSample(key, f"its files speak of different numbers of points: {lengths}")
    members = {"points.npz": encode_npz(arrays)}
    return RawSample(key, split, members | ({"json": encode_json(values, key)} if values else {}))


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _json(path: Path, key: str) -> Mapping[str, Any]:
    return decode_json(read_file(path, key, JSON_BYTES))


def _objects(segments: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    """The object of each point (N,), -1 is none, and the names of the objects."""
    try:
        of_point = np.asarray(segments["segIndices"], dtype=np.int64)
        groups = [(str(group["label"]), [int(n) for n in group["segments"]]) for group in told["segGroups"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BrokenSample("", "its segments or objects are not as ScanNet writes them") from None
    owner = {segment: number for number, (_, own) in enumerate(groups) for segment in own}
    return np.array([owner.get(segment, -1) for segment in of_point.ravel().tolist()], np.int64), [n for n, _ in groups]
