import math

import pytest
import torch

from diptych.encoders.rasterise import DARKEST, NOTHING, VIEWS, cameras, depth_maps, depth_maps_plain, shades

FRONT = cameras([0.0], [0.0])


def maps(points, views=FRONT, distance=1.0, size=224, radius=0.02) -> torch.Tensor:
    """(V, S, S) of one cloud."""
    cloud = torch.tensor(points, dtype=torch.float32).reshape(1, -1, 3)
    return depth_maps(cloud, views, torch.full((1, len(views)), distance), size, radius)[0]


@pytest.mark.shows("F", "clip2point")
def test_a_point_at_the_origin_covers_the_four_by_four_pixels_in_the_middle() -> None:
    (found,) = maps([0.0, 0, 0])
    assert (found[110:114, 110:114] == 1).all()
    assert (found != NOTHING).sum() == 16
    grey = shades(found[None])[0]
    assert (grey[found == NOTHING] == 1).all()
    assert (grey[110:114, 110:114] == 0).all()  # (1 - 1) / 1


@pytest.mark.shows("F", "clip2point")
def test_x_is_right_and_y_is_above_from_the_front() -> None:
    rows, columns = (maps([0.5, 0.25, 0])[0] != NOTHING).nonzero(as_tuple=True)
    assert columns.float().mean() == pytest.approx(224 * 0.75 - 0.5)
    assert rows.float().mean() == pytest.approx(224 * 0.375 - 0.5)


@pytest.mark.shows("F", "clip2point")
def test_the_nearest_of_two_points_on_a_ray_is_seen() -> None:
    (found,) = maps([[0.0, 0, -0.3], [0, 0, 0.4], [0, 0, 0.1]])  # the camera is at z = 1
    assert found[112, 112].item() == pytest.approx(0.6)


def test_what_is_behind_the_camera_or_beside_the_picture_is_not_seen() -> None:
    (found,) = maps([[0.0, 0, 1.5], [1.5, 0, 0], [0, -1.5, 0]])
    assert (found == NOTHING).all()
    (half,) = maps([1.0, 0, 0])
    assert 0 < (half != NOTHING).sum() < 16


def test_clouds_shrink_with_the_distance_and_are_as_far_as_the_camera() -> None:
    (found,) = maps([0.5, 0, 0.5], distance=2.0)
    _, columns = (found != NOTHING).nonzero(as_tuple=True)
    assert columns.float().mean() == pytest.approx(224 * 0.625 - 0.5)
    assert found.max().item() == pytest.approx(2 - 0.25)


@pytest.mark.shows("F", "clip2point")
@pytest.mark.parametrize(
    ("elevation", "azimuth", "right", "up"),
    [  # where the poles are, +X is to the left: PyTorch3D's fallback of the axis that is lost
        (0, 0, (1, 0, 0), (0, 1, 0)),
        (0, 90, (0, 0, -1), (0, 1, 0)),
        (0, 180, (-1, 0, 0), (0, 1, 0)),
        (180, 0, (-1, 0, 0), (0, 1, 0)),
        (90, 0, (-1, 0, 0), (0, 0, 1)),
        (270, 0, (1, 0, 0), (0, 0, 1)),
    ],
)
def test_cameras_by_hand(elevation, azimuth, right, up) -> None:
    (view,) = cameras([elevation], [azimuth])
    torch.testing.assert_close(view[:2], torch.tensor([right, up]).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [6, 10])
def test_cameras_are_rotations_and_differ(count: int) -> None:
    views = cameras(*VIEWS[count])
    torch.testing.assert_close(views @ views.mT, torch.eye(3).expand_as(views), atol=1e-5, rtol=0)
    assert len({tuple(view.round().flatten().tolist()) for view in 2 * views}) == count


def cloud(number: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, number, 3, generator=generator) * 1.2 - 0.6
    return points, cameras(*VIEWS[6]), 0.9 + 0.2 * torch.rand(2, 6, generator=generator)


@pytest.mark.parametrize(("size", "radius"), [(32, 0.02), (32, 0.15), (17, 0.3)])
def test_all_at_once_is_point_after_point_in_value_and_gradient(size: int, radius: float) -> None:
    found = []
    for draw in (depth_maps, depth_maps_plain):
        points, views, distance = cloud()
        points.requires_grad_()
        distance.requires_grad_()
        seen = draw(points, views, distance, size, radius)
        weight = torch.linspace(-1, 1, seen.numel()).view_as(seen)
        (seen * weight).sum().backward()
        found.append((seen.detach(), points.grad, distance.grad))
    assert torch.equal(found[0][0], found[1][0])
    for ours, plain in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_order_of_the_points_does_not_matter() -> None:
    points, views, distance = cloud()
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(1))
    assert torch.equal(depth_maps(points, views, distance, 32), depth_maps(points[:, order], views, distance, 32))


@pytest.mark.shows("F", "clip2point")
def test_shades_of_the_released_code() -> None:
    """The least depth is taken with empty pixels at 1; what is divided by is the largest depth, not the range."""
    depth = torch.tensor([[0.5, 0.8], [1.2, NOTHING]])
    expected = torch.tensor([[0, 0.3 / 1.2 * DARKEST], [0.7 / 1.2 * DARKEST, 1]])
    torch.testing.assert_close(shades(depth), expected)
    beyond = torch.tensor([[1.25, NOTHING]])
    torch.testing.assert_close(shades(beyond), torch.tensor([[0.25 / 1.25 * DARKEST, 1]]))
    torch.testing.assert_close(shades(depth, "clean")[0], torch.tensor([0, 0.3 / 0.7 * DARKEST]))


def test_an_empty_map_is_white() -> None:
    for norm in ("official", "clean"):
        assert (shades(torch.full((3, 3), NOTHING), norm) == 1).all()
    assert math.isclose(DARKEST, 0.7843, abs_tol=1e-4)
