"""Contestants and budgets as they are typed."""

import pytest

from diptych.app import budgets, contestants


def test_own_options_come_after_those_for_all() -> None:
    clip, filip = contestants.sides(["clip", "filip:keep=0.5,lr=1e-4"], ["lr=5e-4", "image-width=32", "tile=0"])
    assert (clip.recipe.lr, filip.recipe.lr) == (5e-4, 1e-4)
    assert (clip.config.image_width, filip.config.image_width) == (32, 32)
    assert (clip.label, clip.method) == ("clip", "clip")
    assert (filip.label, filip.method, filip.config.keep, filip.config.tile) == (
        "filip:keep=0.5,lr=1e-4",
        "filip",
        0.5,
        0,
    )


def test_values_may_have_spaces_commas_backslashes_and_be_switches() -> None:
    side = contestants.side(r"clip:crop=0.5 1,freeze=^image\.(a,b) ^text\.,flip=true")
    assert side.config.crop == (0.5, 1.0)
    assert side.config.freeze == (r"^image\.(a,b)", r"^text\.")
    assert side.config.flip is True


def test_a_setting_that_one_of_them_lacks_is_left_out_there() -> None:
    clip, filip = contestants.sides(["clip", "filip"], ["keep=0.5"])
    assert filip.config.keep == 0.5
    assert not hasattr(clip.config, "keep")


def test_preset_is_where_the_others_start_from() -> None:
    side = contestants.side("filip:preset=paper,batch=32")
    assert (side.config.image, side.recipe.batch, side.recipe.optimizer) == ("open_clip:ViT-B-32", 32, "lamb")


@pytest.mark.parametrize(
    ("texts", "settings", "said"),
    [
        (["clip", "clip"], [], "named twice"),
        (["clib"], [], "did you mean 'clip'"),
        (["filip:kep=1"], [], "did you mean 'keep'"),
        (["clip"], ["kep=1"], "no option called 'kep'"),
        (["clip:keep"], [], "NAME=VALUE"),
        (["clip:preset=papr"], [], "did you mean 'paper'"),
    ],
)
def test_what_cannot_be_read_is_said(texts, settings, said) -> None:
    with pytest.raises(ValueError, match=said):
        contestants.sides(texts, settings)


@pytest.mark.parametrize(("text", "value"), [("200k", 2e5), ("1.5M", 1.5e6), ("3e15", 3e15), ("2T", 2e12), ("7", 7)])
def test_amounts(text: str, value: float) -> None:
    assert budgets.amount(text) == value


@pytest.mark.parametrize("budget", ["samples=0", "samples=-3", "samples=many", "sample=3", "200k", "minutes="])
def test_bad_budgets_are_said(budget: str) -> None:
    with pytest.raises(ValueError, match=r"amount|budget called"):
        budgets.parsed(budget)
