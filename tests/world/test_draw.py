from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diptych.world import Background, Knobs, Object, Scene, Sprite, draw, scene
from diptych.world.draw import RGB, TONE_RGB, turned_hues
from diptych.world.scene import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, TONES
from diptych.world.shapes import DISTANCES, REACH, SIDE, lookup


def alone(**words) -> Scene:
    return Scene((Object(**{"category": "circle", "colour": "red", "radius": 0.3} | words),))


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    return [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]


@pytest.mark.parametrize("size", [33, 64, 100])
def test_boxes_are_the_bounds_of_the_masks(size):
    for index in range(10):
        drawing = draw(scene(0, index, Knobs()), size)
        assert drawing.image.shape == (size, size, 3)
        assert drawing.image.dtype == np.uint8
        assert drawing.masks.shape == (drawing.count, size, size)
        assert drawing.boxes.dtype == np.float32
        for box, mask in zip(drawing.boxes, drawing.masks, strict=True):
            np.testing.assert_allclose(box, box_of(mask), atol=1e-6)
        assert drawing.masks.sum(0).max() <= 1  # a pixel shows one object


def test_a_circle_is_where_the_scene_says():
    drawing = draw(alone(x=0.4, y=0.6, radius=0.25), 200)
    mask = drawing.masks[0]
    reach = 0.88 * 0.25
    np.testing.assert_allclose(drawing.boxes[0], [0.4 - reach, 0.6 - reach, 0.4 + reach, 0.6 + reach], atol=0.006)
    assert mask.mean() == pytest.approx(math.pi * reach**2, rel=0.02)
    np.testing.assert_array_equal(drawing.image[120, 80], RGB["red"])
    np.testing.assert_array_equal(drawing.image[5, 5], TONE_RGB["cream"])


def test_the_same_scene_at_another_size_shows_the_same():
    for index in range(10):
        small, large = (draw(scene(0, index, Knobs()), size) for size in (64, 256))
        shares = large.masks.reshape(-1, 64, 4, 64, 4).mean((2, 4))
        assert ((shares > 0.5) == small.masks).mean() > 0.99


def test_a_palette_turns_the_hues_of_everything_and_nothing_else():
    made = scene(0, 0, Knobs(noise=0.0))
    plain, third = draw(made, 64), draw(made, 64, palette=120)
    np.testing.assert_array_equal(third.image, np.roll(plain.image, 1, axis=2))  # red is green, green blue, blue red
    np.testing.assert_array_equal(third.owner, plain.owner)
    np.testing.assert_array_equal(draw(made, 64, palette=0).image, plain.image)
    turned = turned_hues(40)
    np.testing.assert_allclose(turned @ turned @ turned, turned_hues(120), atol=1e-6)
    np.testing.assert_allclose(turned @ np.ones(3), np.ones(3), atol=1e-6)  # greys stay as they are


def test_pixels_of_plain_objects_have_their_colour():
    for colour in COLOURS:
        drawing = draw(alone(colour=colour, category="square"), 64)
        inside = drawing.image[drawing.masks[0]]
        assert (np.median(inside, axis=0) == RGB[colour]).all()


def test_nearer_objects_cover_farther_ones():
    near, far = Object("circle", "red", x=0.45, z=0.1, radius=0.2), Object("square", "blue", x=0.55, z=0.9, radius=0.2)
    for objects in ((near, far), (far, near)):
        drawing = draw(Scene(objects), 100)
        front, behind = (objects.index(thing) for thing in (near, far))
        assert drawing.owner[50, 45] == front
        np.testing.assert_array_equal(drawing.image[50, 45], RGB["red"])
        # all of the near one is seen; the box of the far one is that of its visible part alone
        np.testing.assert_array_equal(drawing.masks[front], draw(Scene((near,)), 100).masks[0])
        whole = draw(Scene((far,)), 100)
        assert drawing.masks[behind].sum() < whole.masks[0].sum()
        assert drawing.boxes[behind][0] >= whole.boxes[0][0]


def test_a_hidden_object_has_an_empty_mask_and_a_zero_box():
    hidden, cover = Object("circle", "red", z=0.9, radius=0.1), Object("square", "blue", z=0.1, radius=0.3)
    drawing = draw(Scene((hidden, cover)), 64)
    assert not drawing.masks[0].any()
    np.testing.assert_array_equal(drawing.boxes[0], 0)
    assert drawing.masks[1].any()


@pytest.mark.parametrize("occlusion", [0.0, 0.3, 0.6])
def test_enough_of_every_generated_object_is_visible(occlusion):
    shares = []
    for index in range(60):
        made = scene(0, index, Knobs(occlusion=occlusion))
        drawing = draw(made, 64)
        for i, thing in enumerate(made.objects):
            whole = draw(Scene((thing,)), 64).masks[0].sum()
            shares.append(drawing.masks[i].sum() / whole)
    assert min(shares) > {0.0: 0.95, 0.3: 0.4, 0.6: 0.1}[occlusion]


def test_every_shape_fits_its_circle_and_is_unlike_the_others():
    masks = {shape: draw(alone(category=shape, radius=0.4), 64).masks[0] for shape in SHAPES}
    y, x = np.mgrid[:64, :64]
    outside = np.hypot(x - 31.5, y - 31.5) > 0.4 * 64 + 0.5
    for shape, mask in masks.items():
        assert not (mask & outside).any(), shape
        assert 0.12 < mask.mean() / (math.pi * 0.16) < 0.9, shape
    likeness = {(a, b): (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum() for a, b in combinations(SHAPES, 2)}
    alike = {pair for pair, share in likeness.items() if share > 0.82}
    assert all("hexagon" in pair for pair in alike)  # which is therefore the last of the shapes


@pytest.mark.parametrize(
    ("shape", "u", "v", "distance"),
    [
        ("circle", 0.0, 0.0, -0.88),
        ("circle", 0.6, 0.8, 0.12),
        ("square", 0.0, 0.5, -0.2),
        ("square", 1.0, 0.3, 0.3),
        ("square", 1.0, 1.1, 0.5),
        ("ring", 0.0, 0.0, 0.46),
        ("ring", 0.0, 0.69, -0.23),
        ("crescent", 0.38, 0.0, 0.72),
        ("mushroom", 0.0, -0.5, -0.37),
        ("mushroom", 0.6, 0.5, 0.27),
        ("diamond", 0.0, 1.5, 0.5),
        ("star", 0.0, -1.0, 0.0),
    ],
)
def test_distances_by_hand(shape, u, v, distance):
    found = DISTANCES[shape](np.array([u], np.float32), np.array([v], np.float32))
    assert found == pytest.approx(distance, abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_agrees_with_the_distance_function(shape):
    u, v = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 500)).astype(np.float32)
    exact, fast = DISTANCES[shape](u, v), lookup(shape, u, v)
    half_a_cell = REACH / (SIDE - 1) * math.sqrt(2)
    np.testing.assert_allclose(fast, exact, atol=1.5 * half_a_cell)


def test_distances_beyond_the_table_stay_outside():
    far = np.array([-3.0, 3.0], np.float32)
    assert (lookup("circle", far, far) > 0).all()


def test_textures_are_unlike_each_other_in_every_colour():
    for colour in COLOURS:
        pictures = [draw(alone(colour=colour, texture=texture), 64).image.astype(float) for texture in TEXTURES]
        for a, b in combinations(pictures, 2):
            assert np.abs(a - b).mean() > 3


def test_colours_are_far_apart():
    for a, b in combinations(COLOURS, 2):
        assert np.linalg.norm(np.subtract(RGB[a], RGB[b])) > 70, (a, b)
    for tone in TONES:  # every background sets off every colour but white, which its outline sets off
        assert min(np.linalg.norm(np.subtract(TONE_RGB[tone], RGB[colour])) for colour in set(COLOURS) - {"white"}) > 70


def test_tilt_turns_clockwise():
    upright = draw(alone(category="arrow"), 64).masks[0]
    down = draw(alone(category="arrow", angle=math.pi / 2), 64).masks[0]
    assert (np.rot90(upright, -1) == down).mean() > 0.98


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_are_pale_and_repeat(kind):
    scene = Scene((), Background(kind, "sky", clutter=0, noise=0.0))
    image = draw(scene, 64).image
    np.testing.assert_array_equal(image, draw(scene, 64).image)
    assert image.min() > 180
    assert image.std(axis=(0, 1)).max() < 12
    assert (len(np.unique(image.reshape(-1, 3), axis=0)) == 1) == (kind == "plain")


def test_noise_and_clutter_follow_their_amount_and_seed():
    plain = draw(Scene((), Background()), 64).image.astype(float)
    noisy = draw(Scene((), Background(noise=0.04, seed=1)), 64).image.astype(float)
    assert (noisy - plain)[..., 2].std() == pytest.approx(0.04 * 255, rel=0.15)
    assert not np.array_equal(noisy, draw(Scene((), Background(noise=0.04, seed=2)), 64).image)
    changed = [(draw(Scene((), Background(clutter=n, seed=3)), 64).image != plain).any(-1).mean() for n in (0, 4, 16)]
    assert changed[0] == 0
    assert 0 < changed[1] < changed[2] < 0.15


def sprite(name: str = "boat") -> Sprite:
    picture = Image.new("RGBA", (80, 40))
    ImageDraw.Draw(picture).rectangle((0, 0, 79, 39), fill=(10, 200, 30, 255))
    ImageDraw.Draw(picture).rectangle((0, 0, 39, 19), fill=(0, 0, 0, 0))  # a transparent quarter, top left
    return Sprite(name, np.asarray(picture))


def test_cut_outs_keep_their_form_and_colour():
    drawing = draw(alone(category="boat", colour="", radius=0.4), 100, {"boat": sprite()})
    half = 0.4 * 1.7 / 2
    np.testing.assert_allclose(drawing.boxes[0], [0.5 - half, 0.5 - half / 2, 0.5 + half, 0.5 + half / 2], atol=0.015)
    mask = drawing.masks[0]
    assert mask[50 + 10, 50 - 20]
    assert not mask[50 - 10, 50 - 20]  # the transparent quarter
    np.testing.assert_allclose(drawing.image[60, 60], (10, 200, 30), atol=2)
    np.testing.assert_array_equal(drawing.image[40, 30], TONE_RGB["cream"])


def test_cut_outs_turn_like_shapes():
    boat = {"boat": sprite()}
    upright = draw(alone(category="boat", radius=0.4), 64, boat).masks[0]
    turned = draw(alone(category="boat", radius=0.4, angle=math.pi / 2), 64, boat).masks[0]
    assert (np.rot90(upright, -1) == turned).mean() > 0.97


def test_cut_outs_can_be_dyed():
    drawing = draw(alone(category="boat", colour="purple", radius=0.4), 64, {"boat": sprite()})
    red, green, blue = drawing.image[drawing.masks[0]].mean(0)
    assert blue > red > green


def test_a_cut_out_at_the_border_is_cut_off():
    drawing = draw(alone(category="boat", x=0.0, y=1.0, radius=0.3), 64, {"boat": sprite()})
    assert drawing.boxes[0][0] == 0
    assert drawing.boxes[0][3] == 1


def test_errors():
    with pytest.raises(ValueError, match="'unicorn' is neither a shape nor one of the cut-outs"):
        draw(alone(category="unicorn"), 64)
    with pytest.raises(ValueError, match="must be a uint8 array"):
        Sprite("boat", np.zeros((4, 4, 3), np.uint8))
