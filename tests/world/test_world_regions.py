from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diptych.world import Knobs, Object, Sprite, World, draw, open_world, outline, vocabulary
from diptych.world.regions import Regions, detect, width

FIELDS = (*Regions._fields, "boxes", "attributes")


def test_exact_regions_are_the_objects_in_another_order():
    world = open_world("region_noise=0,evaluation=40", "val")
    for index in range(40):
        sample = world.read(index, FIELDS)
        places = [next(j for j, box in enumerate(sample.boxes) if (box == own).all()) for own in sample.region_boxes]
        assert sorted(places) == list(range(len(sample.boxes)))
        for i, j in enumerate(places):
            words, thing = world.words, sample.attributes[j]
            values = (*words.categories, *words.colours, *words.textures, *words.sizes)
            assert {values[k] for k in np.flatnonzero(sample.regions[i])} == set(thing.values())
            assert set(sample.regions[i]) == {0, 1}
            assert words.categories[sample.region_labels[i]] == thing["category"]
            assert words.colours[sample.region_attributes[i]] == thing["colour"]
            np.testing.assert_array_equal(sample.region_classes[i], np.eye(21)[1 + sample.region_labels[i]])
        assert (sample.region_scores == 1).all()
        assert (sample.region_attribute_scores == 1).all()


def test_the_order_of_regions_tells_nothing():
    world = open_world("region_noise=0,objects=3,train=600")
    counts = np.zeros((3, 3))
    for index in range(600):
        sample = world.read(index, ["boxes", "region_boxes"])
        counts += (sample.region_boxes[:, None] == sample.boxes).all(-1)
    assert counts.sum() == 1800
    np.testing.assert_allclose(counts / 600, 1 / 3, atol=0.07)  # 3.6 standard deviations


def test_noise_has_its_size_and_classes_are_the_posterior_of_the_features():
    noisy, exact = (open_world(f"region_noise={noise},train=150") for noise in (0.35, 0))
    differences, right, sure = [], [], []
    for index in range(150):
        a, b = noisy.read(index, FIELDS), exact.read(index, FIELDS)
        differences.append(a.regions - b.regions)  # the same order, the same numbers scaled
        right += list(a.region_labels == b.region_labels)
        sure += list(a.region_scores)
        np.testing.assert_allclose(a.region_classes.sum(1), 1, rtol=1e-5)
        # by hand, for the first class against background: a Gaussian around one against one around zero
        f = a.regions[:, 0].astype(float)
        expected = np.exp((f**2 - (f - 1) ** 2) / (2 * 0.35**2))
        np.testing.assert_allclose(a.region_classes[:, 1] / a.region_classes[:, 0], expected, rtol=1e-3)
        assert (a.region_scores == a.region_classes[:, 1:].max(1)).all()
    assert np.concatenate(differences).std() == pytest.approx(0.35, rel=0.02)
    assert 0.75 < np.mean(right) < 0.95
    assert np.mean(sure) == pytest.approx(np.mean(right), abs=0.08)  # it knows how sure it is, about


def test_noisy_boxes_still_find_their_objects():
    world = open_world("train=100")
    best, matched = [], []
    for index in range(100):
        sample = world.read(index, FIELDS)
        a, b = sample.region_boxes[:, None], sample.boxes[None]
        assert (sample.region_boxes >= 0).all()
        assert (sample.region_boxes <= 1).all()
        assert (sample.region_boxes[:, 2:] > sample.region_boxes[:, :2]).all()
        sides = np.clip(np.minimum(a, b)[..., 2:] - np.maximum(a, b)[..., :2], 0, 1)
        areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
        overlap = sides.prod(-1) / (areas[0] + areas[1] - sides.prod(-1))
        best += list(overlap.max(1))
        matched.append(len(set(overlap.argmax(1))) == len(sample.boxes))
    assert min(best) > 0.5
    assert 0.7 < np.mean(best) < 0.95
    assert np.mean(matched) > 0.97


def test_false_detections_show_nothing():
    world = open_world("region_noise=0,region_extra=3,train=100")
    extras = []
    for index in range(100):
        sample = world.read(index, FIELDS)
        empty = (sample.regions == 0).all(1)
        extras.append(empty.sum())
        assert len(empty) - empty.sum() == len(sample.boxes)
        assert (sample.region_classes[empty, 0] == 1).all()
        assert (sample.region_scores[empty] == 0).all()
    assert set(extras) == {0, 1, 2, 3}


def test_what_cannot_be_seen_is_not_detected():
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0, 0, 0, 0]])
    words = vocabulary(Knobs())
    found = detect([Object("star", "red", "plain", "large"), Object("ring", "blue", "plain", "small")], boxes, words,
                   0.0, 0, np.random.default_rng(0))  # fmt: skip
    assert found.regions.shape == (1, width(words)) == (1, 20 + 10 + 5 + 2)
    assert words.categories[found.region_labels[0]] == "star"


def test_cut_outs_have_no_colour_to_detect():
    pixels = np.full((8, 8, 4), 255, np.uint8)
    world = World(knobs=Knobs(objects=(2, 3)), sprites=[Sprite(f"thing {i}", pixels) for i in range(5)])
    sample = world.read(0, FIELDS)
    assert sample.regions.shape[1] == 5 + 2
    assert (sample.region_attributes == -1).all()
    assert (sample.region_attribute_scores == 0).all()
    assert sample.region_classes.shape[1] == 6


def test_an_outline_is_that_of_the_picture():
    world = World()
    for index in range(30):
        scene = world.scene(index)
        made, drawn = outline(scene, 64), draw(scene, 64)
        np.testing.assert_array_equal(made.owner, drawn.owner)
    with pytest.raises(ValueError, match="neither a shape nor"):
        outline(replace(scene, objects=(Object("blob"),)), 64)
