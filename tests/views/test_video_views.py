from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.views import image as pictures, video as views
from diptych.views.augment import rand_augment

SAMPLERS = [*views.SAMPLERS.values(), partial(views.dense, stride=3)]


def generators(count=200):
    return [np.random.default_rng(seed) for seed in range(count)]


def clip(frames=9, size=(40, 24)):
    """Frame n is n grey, with a red square that is at the same place in all."""
    made = [Image.new("RGB", size, (n, n, n)) for n in range(frames)]
    for frame in made:
        frame.paste((255, 0, 0), (10, 5, 16, 11))
    return made


class Film(list):
    """Frames that note which of them were asked for."""

    asked: tuple[int, ...] = ()

    def __getitem__(self, number):
        self.asked += (number,)
        return super().__getitem__(number)


# --- samplers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (1, 4), (2, 5), (3, 4), (4, 4), (5, 4), (37, 16), (90, 1), (7, 2)]
)
def test_every_sampler_gives_frames_that_are_there_in_order(sampler, length, count):
    for rng in [None, *generators(20)]:
        chosen = sampler(length, count, rng)
        assert (chosen.shape, chosen.dtype) == ((count,), np.int64)
        assert chosen[0] >= 0
        assert chosen[-1] < length
        assert (np.diff(chosen) >= 0).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_choice_without_a_generator_is_one_choice_and_covers_short_clips(sampler):
    assert (sampler(90, 8, None) == sampler(90, 8, None)).all()
    assert set(sampler(3, 8, None)) == {0, 1, 2}
    for rng in generators(5):
        assert len(set(sampler(3, 12, rng))) == 3


def test_uniform_takes_the_middle_of_each_part_or_any_frame_of_it():
    assert views.uniform(8, 4).tolist() == [1, 3, 5, 7]
    assert views.uniform(9, 3).tolist() == [1, 4, 7]
    assert views.uniform(10, 4).tolist() == [1, 3, 6, 8]  # 1.25, 3.75, 6.25, 8.75
    assert views.uniform(2, 4).tolist() == [0, 0, 1, 1]
    chosen = np.array([views.uniform(12, 4, rng) for rng in generators()])
    assert [set(part) for part in chosen.T] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 11}]


def test_headtail_takes_half_from_each_half():
    chosen = np.array([views.headtail(11, 6, rng) for rng in generators()])
    assert set(chosen[:, :3].flat) == set(range(5))
    assert set(chosen[:, 3:].flat) == set(range(5, 11))
    assert all(len(set(row)) == 6 for row in chosen)
    assert views.headtail(8, 4).tolist() == [1, 3, 5, 7]
    assert views.headtail(10, 2).tolist() == [2, 7]  # the middle of each half


def test_scattered_frames_are_distinct_and_all_sets_are_as_likely():
    seen = {tuple(views.scattered(5, 3, rng)) for rng in generators(400)}
    assert len(seen) == 10  # 5 choose 3


def test_dense_frames_have_their_stride_until_the_clip_is_too_short():
    chosen = [views.dense(90, 7, rng, stride=12).tolist() for rng in generators()]
    assert {tuple(np.diff(row)) for row in chosen} == {(12,) * 6}
    assert {row[0] for row in chosen} == set(range(18))  # 90 - 1 - 6 * 12 = 17 is the last start
    assert views.dense(90, 7, stride=12).tolist() == [8, 20, 32, 44, 56, 68, 80]
    assert views.dense(20, 7, stride=12).tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert views.dense(7, 7, stride=12).tolist() == list(range(7))


def test_ends_has_the_first_and_the_last_frame():
    assert views.ends(100, 8).tolist() == [0, 14, 28, 42, 56, 70, 84, 99]


# --- views ------------------------------------------------------------------------------------------------------------


def test_a_view_shows_the_chosen_frames_and_asks_for_no_others():
    film = Film(clip(9))
    shown = views.view(film, 24, 3)
    assert (shown.shape, shown.dtype) == ((3, 3, 24, 24), torch.uint8)
    assert shown[:, 0, -1, -1].tolist() == [1, 4, 7]
    assert film.asked == (1, 4, 7)


def test_a_short_clip_repeats_frames_and_a_picture_is_a_clip_of_equal_frames():
    film = Film(clip(2))
    assert views.view(film, 8, 4)[:, 0, -1, -1].tolist() == [0, 0, 1, 1]
    assert film.asked == (0, 1)
    still = clip(1)[0]
    for rng in (None, np.random.default_rng(0)):
        shown = views.view(still, 16, 5, views.headtail, rng, augment=rand_augment)
        assert (shown == shown[0]).all()
    assert torch.equal(views.view(still, 16, 5)[3], pictures.resize(still, 16))


@pytest.mark.parametrize("crop", [pictures.square, partial(pictures.area, scale=(0.2, 0.5))])
def test_one_box_for_all_frames(crop):
    film = [clip(1)[0]] * 4
    places = set()
    for rng in generators(20):
        shown = views.view(film, 16, 4, rng=rng, crop=crop)
        assert (shown == shown[0]).all()
        places.add(tuple(shown[0, 0].flatten().tolist()))
    assert len(places) > 5


def test_one_operation_for_all_frames():
    film = clip(1) * 4
    changed = 0
    for rng in generators(20):
        shown = views.view(film, 32, 4, rng=rng, augment=partial(rand_augment, n=2, level=5))
        assert (shown == shown[0]).all()
        changed += not torch.equal(shown, views.view(film, 32, 4))
    assert changed > 10


def test_nothing_is_random_in_evaluation():
    film = clip(9)
    once = views.view(film, 16, 4, views.scattered, crop=pictures.square, augment=rand_augment)
    assert torch.equal(once, views.view(film, 16, 4, views.uniform, crop=pictures.square))


def test_squares_are_as_a_resize_and_a_crop_have_them():
    assert pictures.square(320, 256, share=224 / 256) == (48, 16, 272, 240)
    boxes = {pictures.square(320, 256, rng, 224 / 256) for rng in generators()}
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(224, 224)}
    assert min(box[0] for box in boxes) < 10
    assert max(box[2] for box in boxes) > 310
    assert pictures.square(1, 1, generators(1)[0]) == (0, 0, 1, 1)


def test_an_area_without_a_generator_is_the_largest_allowed_box_at_the_centre():
    assert pictures.area(64, 16, None) == (21, 0, 42, 16)  # 4 : 3
    assert pictures.area(40, 40, None) == (0, 0, 40, 40)
