import numpy as np
import pytest

from diptych.views import points as view


def cloud(number: int = 100, columns: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(2, 3, (number, columns)).astype(np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_unit_is_centred_and_reaches_one() -> None:
    found = view.unit(cloud())
    np.testing.assert_allclose(found[:, :3].mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(found[:, :3], axis=1).max() == pytest.approx(1)
    assert (found[:, 3:] == cloud()[:, 3:]).all()
    np.testing.assert_allclose(view.unit(found), found, atol=1e-6)
    assert (view.unit(np.ones((4, 3), np.float32)) == 0).all()


def test_take_without_random_numbers_is_spread_over_the_order() -> None:
    line = np.arange(10, dtype=np.float32)[:, None].repeat(3, 1)
    assert view.take(line, 5)[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert view.take(line, 20)[:, 0].tolist() == [n // 2 for n in range(20)]
    assert len(np.unique(view.take(line, 8, rng())[:, 0])) == 8
    assert len(view.take(line, 12, rng())) == 12
    with pytest.raises(ValueError, match="empty"):
        view.take(line[:0], 5)


def test_upright_is_the_two_turns_of_the_released_code() -> None:
    """First by 90 degrees about x, then by -90 degrees about y, rows times matrices."""
    about_x = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    about_y = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(view.upright(cloud(5, 3)), cloud(5, 3) @ about_x @ about_y, atol=1e-6)
    assert view.upright(np.array([[0, 0, 1.0]], np.float32)).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("up", "axis"), [("y", 1), ("z", 2)])
def test_turns_keep_heights_and_distances(up, axis: int) -> None:
    found = view.turn(cloud(), rng(3), up)
    np.testing.assert_allclose(found[:, axis], cloud()[:, axis], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[:, :3], axis=1), np.linalg.norm(cloud()[:, :3], axis=1), rtol=1e-5)
    assert np.abs(found[:, :3] - cloud()[:, :3]).max() > 0.1
    quarter = view.turned_by(90, up) @ np.array([1.0, 0, 0])
    np.testing.assert_allclose(quarter, [0, 0, -1] if up == "y" else [0, 1, 0], atol=1e-6)
    quarters = {tuple(view.turn(np.eye(3, dtype=np.float32)[:1], rng(s), up, 90).round(3)[0]) for s in range(30)}
    assert len(quarters) == 4


def test_scale_and_shift_move_all_points_alike() -> None:
    ratio = view.scale(cloud(), rng())[:, :3] / cloud()[:, :3]
    assert np.ptp(ratio) < 1e-5
    assert 0.8 <= ratio.mean() <= 1.25
    moved = view.shift(cloud(), rng())[:, :3] - cloud()[:, :3]
    np.testing.assert_allclose(moved, moved[:1].repeat(100, 0), atol=1e-5)
    assert 0 < np.abs(moved).max() <= 0.1 + 1e-5


def test_jitter_is_cut_off_and_drop_keeps_the_number() -> None:
    moved = view.jitter(cloud(), rng(), sigma=1.0, most=0.05)[:, :3] - cloud()[:, :3]
    assert np.abs(moved).max() == pytest.approx(0.05, abs=1e-5)
    found = view.drop(cloud(1000), rng(1))
    lost = (found == cloud(1000)[0]).all(axis=1)
    assert 1 < lost.sum() < 900
    assert (found[~lost] == cloud(1000)[~lost]).all()
