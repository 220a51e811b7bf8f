import numpy as np
import pytest
import torch
from PIL import Image

from diptych.views import augment, image as views
from diptych.views.text import choose


def picture(width: int = 40, height: int = 24) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_to_tensor_keeps_every_pixel() -> None:
    image = picture()
    assert torch.equal(views.to_tensor(image), torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert views.to_tensor(image.convert("L")).shape == (3, 24, 40)


def test_resize_shows_the_whole_picture() -> None:
    image = Image.new("RGB", (30, 10), "red")
    image.paste((0, 0, 255), (15, 0, 30, 10))
    square = views.resize(image, 10)
    assert square.shape == (3, 10, 10)
    assert square[:, 5, 0].tolist() == [255, 0, 0]
    assert square[:, 5, 9].tolist() == [0, 0, 255]


@pytest.mark.parametrize("size", [(40, 24), (31, 47), (12, 9)])
def test_resampling_is_pils_to_its_rounding(size: tuple[int, int]) -> None:
    """The same bicubic weights; each of the two passes rounds its fixed-point sums, by one level at most."""
    image = picture(*size)
    theirs = views.to_tensor(image.resize((16, 16), Image.Resampling.BICUBIC, reducing_gap=2.0))
    assert (views.resize(image, 16).int() - theirs.int()).abs().max() <= 2


def test_large_pictures_are_averaged_first_and_keep_their_mean() -> None:
    image = picture(1600, 1600)
    small = views.resize(image, 8).double()
    blocks = views.to_tensor(image).double().unfold(1, 200, 200).unfold(2, 200, 200).mean((-1, -2))
    assert (small - blocks).abs().max() < 3


@pytest.mark.parametrize("size", [(40, 24), (24, 40), (500, 3)])
def test_random_crop_has_its_size_and_repeats(size: tuple[int, int]) -> None:
    image = picture(*size)
    one = views.random_resized_crop(image, 16, np.random.default_rng(7), (0.3, 1.0))
    same = views.random_resized_crop(image, 16, np.random.default_rng(7), (0.3, 1.0))
    other = views.random_resized_crop(image, 16, np.random.default_rng(8), (0.3, 1.0))
    assert one.shape == (3, 16, 16)
    assert one.equal(same)
    if size != (500, 3):  # no box of an allowed aspect fits: the centre is taken each time
        assert not one.equal(other)


def test_a_crop_shows_its_box_and_nothing_else() -> None:
    image = Image.new("RGB", (64, 16), "red")
    image.paste((0, 0, 255), (21, 0, 42, 16))  # the only box of an allowed aspect, 4 : 3, is the blue one
    crop = views.random_resized_crop(image, 8, np.random.default_rng(0), (1.0, 1.0))
    assert crop.flatten(1).unique(dim=1).T.tolist() == [[0, 0, 255]]


def test_flip_chances() -> None:
    image, rng = views.to_tensor(picture()), np.random.default_rng(0)
    assert views.random_flip(image, rng, chance=0).equal(image)
    assert views.random_flip(image, rng, chance=1)[:, :, 0].equal(image[:, :, -1])


def test_to_picture_is_the_way_back() -> None:
    assert views.to_picture(views.to_tensor(picture())).tobytes() == picture().tobytes()


@pytest.mark.parametrize("function", [augment.rand_augment, augment.auto_augment])
def test_augmentation_repeats_with_its_seed_and_varies_without(function) -> None:
    image = picture()
    results = [function(image, np.random.default_rng(seed)).tobytes() for seed in range(12)]
    again = [function(image, np.random.default_rng(seed)).tobytes() for seed in range(12)]
    assert results == again
    assert len(set(results)) > 6
    assert function(image, np.random.default_rng(0)).size == image.size


def test_level_zero_changes_nothing_where_strength_counts() -> None:
    image = picture()
    for name in ("shear_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness", "posterize"):
        changed = np.asarray(augment._OPERATIONS[name](image, 0.0, 1.0)).astype(int)
        assert np.abs(changed - np.asarray(image)).max() <= 1, name


def test_autoaugment_has_the_papers_25_policies() -> None:
    assert len(augment._IMAGENET_POLICY) == 25
    for pair in augment._IMAGENET_POLICY:
        for name, chance, level in pair:
            assert name in augment._OPERATIONS
            assert 0 <= chance <= 1
            assert 0 <= level <= 9


def test_choose_is_first_in_evaluation_and_any_in_training() -> None:
    texts = ["a", "b", "c"]
    assert choose(texts, None) == "a"
    assert {choose(texts, np.random.default_rng(seed)) for seed in range(20)} == set(texts)
