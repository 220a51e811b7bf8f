"""PLY, OFF and OBJ -> surfaces and point clouds, each limit checked on the header or the length before decoding.

trimesh parses the files; nothing that they name (textures, materials) is opened.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.decode import NORMAL, Limits, check_bytes, decoding, refuse

SUFFIXES = frozenset({".ply", ".off", ".obj"})
SURFACE = 8192
"""Points that are drawn of a surface where a cloud is asked for, as many as ShapeNet55's clouds have."""
_ELEMENT = re.compile(rb"^element\s+(\w+)\s+(\d+)\s*$", re.MULTILINE)
_HEADER = 1 << 16  # bytes of a PLY in which its header must end


@dataclass(frozen=True)
class Mesh:
    """Vertices (V, 3) float32, triangles (T, 3) int64 of them (T = 0: a cloud), and what there is at each vertex.

    `colours` are (V, 3) in [0, 1], or None; `labels` are (V,) int64 numbers of classes (ScanNet's PLY), or None.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    colours: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None

    @property
    def cloud(self) -> NDArray[np.float32]:
        """The vertices (V, 3), with their colours (V, 6) where they have some."""
        return self.vertices if self.colours is None else np.concatenate([self.vertices, self.colours], axis=1)

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Points (count, 3 or 6) of the surface, drawn evenly over its area.

        Raises:
            BrokenSample: there is no surface.
        """
        corners = self.cloud[self.faces]  # (T, 3, 3 or 6)
        xyz = corners[..., :3].astype(np.float64)
        areas = np.linalg.norm(np.cross(xyz[:, 1] - xyz[:, 0], xyz[:, 2] - xyz[:, 0]), axis=1)
        total = areas.sum()
        if not 0 < total < np.inf:
            refuse("the mesh has no surface")
        chosen = corners[rng.choice(len(areas), count, p=areas / total)]
        first, second = rng.random((2, count, 1))
        beyond = first + second > 1  # the other half of the parallelogram, folded back
        first, second = np.where(beyond, 1 - first, first), np.where(beyond, 1 - second, second)
        found = chosen[:, 0] * (1 - first - second) + chosen[:, 1] * first + chosen[:, 2] * second
        return found.astype(np.float32)


@decoding("mesh")
def decode_mesh(data: bytes, limits: Limits = NORMAL, kind: str = "ply") -> Mesh:
    """The surface or cloud of a file; `kind` is its extension, one of ply, off and obj.

    Raises:
        BrokenSample: damaged, empty, not finite, or larger than the limits.
        ModuleNotFoundError: trimesh is not installed.
    """
    try:
        import trimesh  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError("meshes need trimesh: pip install 'diptych[points]'.") from None
    check_bytes(data, limits.bytes, "mesh")
    return _checked(_PARSERS[kind](data, limits), limits)


def decode_points(data: bytes, limits: Limits = NORMAL, kind: str = "ply") -> NDArray[np.float32]:
    """A point cloud (N, 3 or 6), float32: the vertices of a file without faces, else `SURFACE` points of its surface.

    The same file always gives the same points. Raises as `decode_mesh`.
    """
    mesh = decode_mesh(data, limits, kind)
    return mesh.sample(SURFACE, np.random.default_rng(zlib.crc32(data))) if len(mesh.faces) else mesh.cloud


def _checked(mesh: Mesh, limits: Limits) -> Mesh:
    if not len(mesh.vertices):
        refuse("the mesh has no points")
    if max(len(mesh.vertices), len(mesh.faces)) > limits.points:
        refuse(_too_many(max(len(mesh.vertices), len(mesh.faces)), limits))
    if len(mesh.faces) and not (mesh.faces.min() >= 0 and mesh.faces.max() < len(mesh.vertices)):
        refuse("a triangle of the mesh has a corner that is no vertex")
    if not np.isfinite(mesh.cloud).all():
        refuse("the mesh holds numbers that are not finite")
    return mesh


def _too_many(count: int, limits: Limits) -> str:
    return f"the mesh has {count:,} points, triangles or lines; the limit is {limits.points:,}"


def _ply(data: bytes, limits: Limits) -> Mesh:
    from trimesh.exchange.ply import load_ply

    header, end, _ = data[:_HEADER].partition(b"end_header")
    if not end:
        refuse("the PLY has no header")
    for name, count in _ELEMENT.findall(header):
        if len(count) > 15 or int(count) > min(limits.points, len(data)):
            refuse(f"the PLY claims {_shown(count)} of {name.decode()[:20]!r} in {len(data):,} bytes")
    told = load_ply(io.BytesIO(data), skip_materials=True, fix_texture=False)
    raw = told["metadata"]["_ply_raw"]["vertex"]["data"]
    names = raw.dtype.names if isinstance(raw, np.ndarray) else tuple(raw)
    mesh = _mesh(told.get("vertices"), told.get("faces"))
    if {"red", "green", "blue"} <= set(names):
        colours = np.stack([np.asarray(raw[name]).reshape(-1) for name in ("red", "green", "blue")], axis=1)
        whole = 255 if colours.dtype.kind in "iu" else 1
        mesh = replace(mesh, colours=(colours.astype(np.float32) / whole).clip(0, 1))
    if "label" in names:
        mesh = replace(mesh, labels=np.asarray(raw["label"]).reshape(-1).astype(np.int64))
    return mesh


def _shown(digits: bytes) -> str:
    return digits.decode("ascii")[:15] + ("..." if len(digits) > 15 else "")


def _off(data: bytes, limits: Limits) -> Mesh:
    from trimesh.exchange.off import load_off

    told = load_off(io.StringIO(_lines(data, limits)))
    return _mesh(told["vertices"], told["faces"])


def _obj(data: bytes, limits: Limits) -> Mesh:
    from trimesh.exchange.obj import load_obj

    told: Any = load_obj(io.StringIO(_lines(data, limits)), skip_materials=True)
    if "vertices" in told:
        return _mesh(told["vertices"], None)
    parts = [_mesh(part["vertices"], part["faces"]) for part in told["geometry"].values()]
    if not parts:
        refuse("the mesh has no points")
    before = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, before[:-1], strict=True)]),
    )


def _lines(data: bytes, limits: Limits) -> str:
    """A text file, if it has no more lines than two meshes of the allowed size."""
    if (count := data.count(b"\n")) > 2 * limits.points:
        refuse(_too_many(count, limits))
    return data.decode("utf-8", "replace")


def _mesh(vertices: Any, faces: Any) -> Mesh:
    with np.errstate(over="ignore"):  # what overflows is found by the check for finite numbers
        places = np.asarray([] if vertices is None else vertices, dtype=np.float32)
    corners = np.asarray([] if faces is None else faces, dtype=np.int64)
    return Mesh(places.reshape(-1, 3), corners.reshape(-1, 3))


_PARSERS: dict[str, Callable[[bytes, Limits], Mesh]] = {"ply": _ply, "off": _off, "obj": _obj}
