import pytest
import torch

from diptych.encoders.base import EncoderError
from diptych.encoders.points import SOURCES, Abstraction, PointNet2, ball, farthest, point_encoder


def cloud(number: int = 80, columns: int = 3) -> torch.Tensor:
    return torch.rand(2, number, columns, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_farthest_points_by_hand() -> None:
    """From 0 the farthest is 10, then 4 (4 and 6 from both), then 7 (3 from both)."""
    line = torch.tensor([0.0, 1, 4, 7, 10])
    xyz = torch.stack([line, torch.zeros(5), torch.zeros(5)], dim=-1)[None]
    assert farthest(xyz, 4)[0].tolist() == [0, 4, 2, 3]
    with pytest.raises(EncoderError, match="no 6 centres"):
        farthest(xyz, 6)


def test_balls_by_hand() -> None:
    line = torch.tensor([0.0, 1, 4, 7, 10])
    xyz = torch.stack([line, torch.zeros(5), torch.zeros(5)], dim=-1)[None]
    assert ball(xyz, xyz[:, [0, 3]], 3.0, 3)[0].tolist() == [[0, 1, 0], [3, 2, 4]]
    assert ball(xyz, xyz[:, [2]], 0.5, 7)[0].tolist() == [[2] * 7]


def test_a_group_is_seen_from_its_centre() -> None:
    torch.manual_seed(0)
    layer = Abstraction(4, 0.5, 8, (1, 6))
    xyz, features = cloud(20), torch.ones(2, 20, 1)
    centres, found = layer(xyz, features)
    moved_centres, moved = layer(xyz + 5, features)
    torch.testing.assert_close(moved_centres, centres + 5)
    torch.testing.assert_close(moved, found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("columns", [3, 6])
def test_the_order_of_the_points_does_not_matter(name: str, columns: int) -> None:
    """But for the first, at which the choice of centres begins."""
    torch.manual_seed(0)
    encoder = point_encoder(name, width=24, layers=2, heads=2, columns=columns).eval()
    points = cloud(columns=columns)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(79)])
    found, shuffled = encoder(points), encoder(points[:, order])
    torch.testing.assert_close(found.pooled, shuffled.pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.tokens, shuffled.tokens, atol=1e-5, rtol=1e-4)
    assert found.pooled.shape == (2, 24)
    assert found.mask.all()
    assert (found.pooled[0] - found.pooled[1]).abs().max() > 1e-3
    found.pooled.sum().backward()


def test_edits_reach_the_layers_of_the_transformer() -> None:
    torch.manual_seed(0)
    encoder, seen = point_encoder("point_patches", width=16, layers=2, heads=2).eval(), []
    encoder(cloud(), edit=lambda index, hidden, mask: (seen.append((index, hidden.shape[1])) or hidden, mask))
    assert seen == [(0, 65), (1, 65)]
    with pytest.raises(EncoderError, match="cannot be edited"):
        PointNet2(12)(cloud(), edit=lambda index, hidden, mask: (hidden, mask))


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(EncoderError, match="reads 6 columns of a point and got 3"):
        point_encoder("pointnet2", width=12, columns=6)(cloud())
    with pytest.raises(EncoderError, match="no point encoder 'dgcnn'"):
        point_encoder("dgcnn")
