"""Meshes and clouds: files, what is drawn of a surface, broken and hostile ones, folders of them, ScanNet."""

import json
import time

import numpy as np
import pytest
from shard_helpers import npz, picture

from diptych.data.dataset import ShardedData
from diptych.data.decode import BrokenSample, Limits
from diptych.data.fields import decode_sample, fields_of
from diptych.data.geometry import SURFACE, Mesh, decode_mesh, decode_points
from diptych.data.pack import pack
from diptych.data.raw import Packing, Reading
from diptych.data.readers import recognise

OFF = b"OFF\n# a square and a triangle\n5 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n0 0 1\n4 0 1 2 3\n3 0 1 4\n"
OBJ = b"""mtllib ../../etc/passwd
v 0 0 0 1 0 0
v 1 0 0 1 0 0
v 0 1 0 1 0 0
v 0 0 1 0 0 1
usemtl a
f 1 2 3
usemtl b
f 1//1 2//1 -1//1
"""


def ply(vertices, faces=(), form="ascii", columns=(), head="") -> bytes:
    """A PLY with further columns of whole numbers: (name, values)."""
    lines = ["ply", f"format {form} 1.0", *filter(None, [head]), f"element vertex {len(vertices)}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property {'uchar' if name != 'label' else 'ushort'} {name}" for name, _ in columns]
    if len(faces):
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    lines = "\n".join([*lines, "end_header\n"]).encode()
    if form == "ascii":
        rows = [[*vertex, *(values[n] for _, values in columns)] for n, vertex in enumerate(vertices)]
        rows += [[len(face), *face] for face in faces]
        return lines + "\n".join(" ".join(map(str, row)) for row in rows).encode() + b"\n"
    kinds = [("xyz", "<f4", 3), *((name, "<u1" if name != "label" else "<u2") for name, _ in columns)]
    table = np.zeros(len(vertices), np.dtype(kinds))
    table["xyz"] = vertices
    for name, values in columns:
        table[name] = values
    return lines + table.tobytes() + b"".join(bytes([len(f)]) + np.array(f, "<i4").tobytes() for f in faces)


RED = [("red", [255, 0]), ("green", [0, 255]), ("blue", [0, 0])]
PAIR = [[0, 0, 0], [1, 2, 3]]


def test_surfaces_of_each_format() -> None:
    square = decode_mesh(OFF, kind="off")
    assert square.vertices.shape == (5, 3)
    assert sorted(map(sorted, square.faces.tolist())) == [[0, 1, 2], [0, 1, 4], [0, 2, 3]]
    both = decode_mesh(OBJ, kind="obj")
    xyz = both.vertices[both.faces]
    assert sorted(float(triangle.sum()) for triangle in xyz) == [2.0, 2.0]
    assert {tuple(corner) for corner in xyz.reshape(-1, 3)} == {(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)}
    corner = decode_mesh(ply([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))
    assert corner.faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_clouds_have_their_colours_and_labels(form: str) -> None:
    mesh = decode_mesh(ply(PAIR, form=form, columns=[*RED, ("label", [7, 40])]))
    assert mesh.cloud.tolist() == [[0, 0, 0, 1, 0, 0], [1, 2, 3, 0, 1, 0]]
    assert mesh.labels.tolist() == [7, 40]
    assert decode_points(ply(PAIR, form=form)).tolist() == PAIR


def test_a_surface_is_drawn_evenly_over_its_area() -> None:
    """A triangle of three times the area of another gets three times the points, each within it."""
    vertices = np.array([[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 5], [1, 0, 5], [0, 2, 5]], np.float32)
    mesh = Mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]]))
    points = mesh.sample(8000, np.random.default_rng(0))
    low = points[points[:, 2] == 0]
    assert len(low) == pytest.approx(6000, abs=6 * (8000 * 3 / 16) ** 0.5)
    assert (low[:, :2] >= 0).all()
    assert (low[:, 0] / 3 + low[:, 1] / 2 <= 1 + 1e-6).all()
    np.testing.assert_allclose(low.mean(axis=0), [1, 2 / 3, 0], atol=0.05)


def test_colours_are_mixed_between_corners() -> None:
    triangle = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    points = Mesh(triangle, np.array([[0, 1, 2]]), colours=triangle).sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(points[:, :3], points[:, 3:], atol=1e-6)


def test_the_same_file_gives_the_same_points() -> None:
    first, again, other = (decode_points(data, kind="off") for data in (OFF, OFF, OFF + b"# "))
    assert first.shape == (SURFACE, 3)
    assert (first == again).all()
    assert (first != other).any()


def test_fields_of_members() -> None:
    assert fields_of({"off": OFF}) == {"points", "mesh"}
    assert fields_of({"ply": ply(PAIR)}) == {"points"}
    sample = decode_sample("k", {"obj": OBJ}, ["points", "mesh"])
    assert (sample.points.shape, sample.mesh.faces.shape) == ((SURFACE, 3), (2, 3))
    cloud = {"points": np.zeros((4, 3)), "point_labels": np.arange(4), "point_objects": np.array([-1, 0, 0, 1])}
    members = {"points.npz": npz(**cloud)}
    assert fields_of(members) == set(cloud)
    assert decode_sample("k", members, ["point_objects"]).point_objects.tolist() == [-1, 0, 0, 1]
    assert decode_sample("k", {"points.npz": npz(a=np.ones((2, 3)))}, ["points"]).points.shape == (2, 3)
    with pytest.raises(BrokenSample, match=r"not as many everywhere: 3 point_labels, 4 points"):
        decode_sample("k", {"points.npz": npz(points=np.zeros((4, 3)), point_labels=np.arange(3))}, ["points"])
    for wrong in (np.zeros((0, 3)), np.zeros((4, 2)), np.full((1, 3), np.nan)):
        with pytest.raises(BrokenSample, match="points"):
            decode_sample("k", {"npz": npz(points=wrong)}, ["points"])


HOSTILE = {
    "empty": (b"", "ply", "0 bytes"),
    "no header": (b"ply\n" + b"x" * 100, "ply", "no header"),
    "huge count": (ply(PAIR).replace(b"vertex 2", b"vertex 999999999999"), "ply", "claims 999999999999 of 'vertex'"),
    "huger count": (ply(PAIR).replace(b"vertex 2", b"vertex " + b"9" * 5000), "ply", "claims 9"),
    "cut short": (ply(PAIR * 9, form="binary_little_endian")[:-20], "ply", "cannot be decoded"),
    "long list": (ply(PAIR, [[0, 1, 1]], "binary_little_endian")[:-13] + b"\xff", "ply", "decode|vertex"),
    "no vertices": (ply([]), "ply", "no points|cannot be decoded"),
    "nan": (ply([[0, 0, "nan"], [1, 1, 1]]), "ply", "not finite"),
    "overflow": (ply([[0, 0, "1e300"], [1, 1, 1]]), "ply", "not finite"),
    "corner outside": (ply(PAIR, [[0, 1, 7]]), "ply", "no vertex|cannot be decoded"),
    "off counts": (OFF.replace(b"5 2 0", b"99999999999 2 0"), "off", "cannot be decoded"),
    "off minus": (OFF.replace(b"3 0 1 4", b"3 0 1 -1"), "off", "no vertex|cannot be decoded"),
    "no off": (b"\x89PNG\r\n", "off", "cannot be decoded"),
    "binary obj": (bytes(range(256)) * 50, "obj", "cannot be decoded|no points"),
    "obj index": (OBJ.replace(b"f 1 2 3", b"f 1 2 99999999"), "obj", "cannot be decoded|no vertex"),
    "obj text": (b"hello\n" * 10, "obj", "cannot be decoded|no points"),
}


@pytest.mark.parametrize(("data", "kind", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_broken_samples(data: bytes, kind: str, reason: str) -> None:
    began = time.perf_counter()
    with pytest.raises(BrokenSample, match=reason):
        decode_points(data, kind=kind)
    assert time.perf_counter() - began < 20


def test_a_surface_without_area_is_broken() -> None:
    with pytest.raises(BrokenSample, match="no surface"):
        decode_points(ply([[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 1, 2]]))


def test_limits() -> None:
    few = Limits(points=2)
    for data, kind in ((ply([[0, 0, 0]] * 3), "ply"), (OFF, "off"), (OBJ, "obj")):
        with pytest.raises(BrokenSample, match=r"limit is 2|claims 3"):
            decode_mesh(data, few, kind)
    with pytest.raises(BrokenSample, match="limit is 10"):
        decode_mesh(OFF, Limits(bytes=10), "off")


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def test_a_folder_of_classes_with_splits_inside_as_modelnet_has_it(tmp_path) -> None:
    names = ("chair/train/chair_1.off", "chair/test/chair_2.off", "sofa/train/sofa_1.off", "sofa/test/sofa_2.off")
    source = put(tmp_path / "ModelNet", dict.fromkeys(names, OFF))
    report = pack(source, tmp_path / "out")
    assert (
        report.about
        == ("a folder of 4 shapes in the splits test and train, with a folder for each of 2 classes (chair and sofa)")
        or "4 shapes in the splits test, train, with a folder for each of 2 classes (chair, sofa)" in report.about
    )
    assert report.splits == {"train": 2, "test": 2}
    data = ShardedData(tmp_path / "out", "test")
    assert data.classes == ("chair", "sofa")
    assert {"points", "mesh", "category"} <= data.has
    assert data.read(1, ("points", "category")).points.shape == (SURFACE, 3)


def test_a_shape_beside_its_picture_is_one_sample(tmp_path) -> None:
    put(tmp_path / "in", {"a.png": picture(), "a.obj": OBJ, "a.json": {"view": [30, 20, 1]}, "b.ply": ply(PAIR)})
    report = pack(tmp_path / "in", tmp_path / "out", Reading(), Packing(split="train"))
    assert sum(report.splits.values()) == 2
    (split,) = report.splits
    data = ShardedData(tmp_path / "out", split)
    (number,) = (n for n in range(2) if data.key(n) == "a")
    sample = data.read(number, ("image", "points", "view"))
    assert sample.points.shape == (SURFACE, 3)
    assert sample.view.tolist() == [30, 20, 1]


ROOM = {
    "{}_vh_clean_2.ply": ply(PAIR, [[0, 1, 1]], columns=RED),
    "{}_vh_clean_2.labels.ply": ply(PAIR, columns=[("label", [2, 0])]),
    "{}_vh_clean_2.0.010000.segs.json": {"segIndices": [5, 9]},
    "{}.aggregation.json": {"segGroups": [{"label": "office chair", "segments": [9, 3]}]},
}


def test_scenes_of_scannet(tmp_path) -> None:
    for name in ("scene0000_00", "scene0001_00"):
        put(tmp_path / "in" / "scans" / name, {file.format(name): data for file, data in ROOM.items()})
    put(tmp_path / "in" / "scans" / "scene0002_00", {"scene0002_00_vh_clean_2.ply": ply(PAIR)})
    put(tmp_path / "in" / "scans" / "scene0001_00", {"scene0001_00.aggregation.json": {"segGroups": 3}})
    source = recognise(tmp_path / "in")
    assert (source.kind, source.about) == ("scannet", "ScanNet: 3 scenes")
    report = pack(tmp_path / "in", tmp_path / "out", Reading(), Packing(split="train", max_broken=0.9))
    assert report.broken == {"scene0001_00": "its segments or objects are not as ScanNet writes them"}
    (split,) = report.splits
    data = ShardedData(tmp_path / "out", split)
    (number,) = (n for n in range(len(data)) if data.key(n) == "scene0000_00")
    sample = data.read(number, ("points", "point_labels", "point_objects", "object_names"))
    assert sample.points.tolist() == [[0, 0, 0, 1, 0, 0], [1, 2, 3, 0, 1, 0]]
    assert sample.point_labels.tolist() == [2, 0]
    assert sample.point_objects.tolist() == [-1, 0]
    assert sample.object_names == ["office chair"]
