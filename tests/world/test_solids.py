import math

import numpy as np
import pytest

from diptych.batch import FIELDS
from diptych.world import Knobs, Solids, open_world
from diptych.world.solids import SOLIDS, Part, Thing, _drawn, camera, photograph

ONE = "points=true,objects=1"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("part", "distance"),
    [
        (Part("ball", (0.1, 0, 0), (0.3, 0.3, 0.3)), lambda p: np.linalg.norm(p - [0.1, 0, 0], axis=1) - 0.3),
        (Part("box", (0, 0, 0), (0.1, 0.2, 0.3)), lambda p: np.abs(p / [0.1, 0.2, 0.3]).max(axis=1) - 1),
        (Part("ring", (0, 0, 0), (0.3, 0, 0.1)), lambda p: np.hypot(np.hypot(p[:, 0], p[:, 2]) - 0.3, p[:, 1]) - 0.1),
    ],
)
def test_points_lie_on_their_surface(part: Part, distance) -> None:
    points, normals = _drawn(part, 500, rng())
    np.testing.assert_allclose(distance(points), 0, atol=1e-9)
    assert (((points - part.at) * normals).sum(axis=1) > -1e-9).all() or part.kind == "ring"


def test_a_cone_is_drawn_by_area() -> None:
    """Of a cone without a top (radius r, side s) the disc below has r / (r + s) of the surface."""
    points, _ = _drawn(Part("cone", (0, 0, 0), (0.3, 0.2, 0.0)), 20_000, rng())
    side = math.hypot(0.4, 0.3)
    assert (points[:, 1] == -0.2).mean() == pytest.approx(0.3 / (0.3 + side), abs=0.015)
    mantle = points[points[:, 1] > -0.2]
    np.testing.assert_allclose(np.hypot(mantle[:, 0], mantle[:, 2]), 0.3 * (0.2 - mantle[:, 1]) / 0.4, atol=1e-9)
    assert mantle[:, 1].mean() == pytest.approx(-0.2 + 0.4 / 3, abs=0.01)


@pytest.mark.parametrize("category", SOLIDS)
def test_everything_is_in_the_unit_sphere_whatever_its_proportions(category: str) -> None:
    points, normals = Thing(category, "red", stretch=(1.25, 1.25, 1.25), turn=1.0).surface(2000, rng())
    assert np.linalg.norm(points, axis=1).max() <= 1.0
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_the_camera_is_that_of_the_depth_maps() -> None:
    from diptych.encoders.rasterise import cameras

    for azimuth, elevation in ((0, 0), (30, 20), (-120, -60), (90, 79)):
        np.testing.assert_allclose(camera(azimuth, elevation), cameras([elevation], [azimuth])[0].numpy(), atol=1e-5)


def test_a_ball_in_a_picture() -> None:
    points, normals = Thing("ball", "red").surface(40_000, rng())
    image, depth = photograph(points, normals, np.full((40_000, 3), 255, np.float32), (0, 0, 1), 64)
    seen = depth > 0
    assert math.pi * 14.4**2 < seen.sum() < math.pi * (14.4 + 1.5) ** 2  # points cover pixels that they touch
    assert depth[32, 32] == pytest.approx(0.55, abs=0.01)
    assert (image[~seen] == 255).all()
    assert image[22, 32].mean() > image[42, 32].mean()  # lit from above


def test_samples_repeat_and_differ() -> None:
    world, again = (open_world(f"{ONE},cloud=100,pixels=32,train=50") for _ in range(2))
    first, same = (one.read(3, sorted(one.has)) for one in (world, again))
    assert (first.points == same.points).all()
    assert (np.asarray(first.image) == np.asarray(same.image)).all()
    assert len({tuple(world.read(n, ["view"]).view) for n in range(20)}) == 20
    assert {world.read(n, ["category"]).category for n in range(50)} > {"cube", "ball", "chair"}
    assert set(first) <= set(FIELDS)
    assert first.points.shape == (100, 6)
    assert first.category in first.text
    assert world.classes[first.label] == first.category


def test_what_is_missing_is_missing_on_one_side() -> None:
    """Of a ball with half of its points lost, the rest lies on one side of a plane through the middle."""
    world = Solids(size=40, knobs=Knobs(points=True, objects=(1, 1), cloud=400, missing=0.5, shapes=2))
    whole = Solids(size=40, knobs=Knobs(points=True, objects=(1, 1), cloud=400, shapes=2))
    ball = next(n for n in range(40) if world.read(n, ["category"]).category == "ball")
    half, full = (one.read(ball, ["points"]).points[:, :3] for one in (world, whole))
    assert np.linalg.norm(full.mean(axis=0)) < 0.1
    assert np.linalg.norm(half.mean(axis=0)) > 0.15
    side = half.mean(axis=0)
    assert (half @ side > 0).mean() > 0.95


def test_spread_is_the_noise_of_coordinates() -> None:
    clean, noisy = (
        Solids(size=2, knobs=Knobs(points=True, objects=(1, 1), cloud=2000, spread=spread)) for spread in (0, 0.05)
    )
    moved = noisy.read(0, ["points"]).points - clean.read(0, ["points"]).points
    assert moved[:, :3].std() == pytest.approx(0.05, rel=0.05)
    assert (moved[:, 3:] == 0).all()


def test_rooms_hold_several_things() -> None:
    world = open_world("points=true,objects=3-5,cloud=600,train=20")
    assert "category" not in world.has
    for number in range(20):
        sample = world.read(number, ["points", "point_objects", "object_names", "text"])
        assert 3 <= len(sample.object_names) <= 5
        assert set(sample.point_objects) == set(range(len(sample.object_names)))
        assert np.linalg.norm(sample.points[:, :3], axis=1).max() < 1.45
        assert all(name in sample.text for name in sample.object_names)
    with pytest.raises(ValueError, match="say one of"):
        Knobs(points=True, video=True)
