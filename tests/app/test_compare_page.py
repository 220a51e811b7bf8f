"""The page of a comparison, and the sentences and figures that stand on it."""

import dataclasses
import json
import math
import re
import shlex

import pytest
from app_helpers import RECIPE, tiny
from test_report import EVIL, tags

from diptych import results
from diptych.app import compare_cases, compare_page, leaderboard, measure, options, runs, sources
from diptych.app.commands import compare as command
from diptych.app.comparison import Comparison, Contestant, Cost, Difference, Score
from diptych.app.disagreement import Case
from diptych.app.leaderboard import Figure
from diptych.evaluation.measures import stacked, write_samples
from diptych.results import Row

TITLES = {"clip": "CLIP", "filip": "FILIP", "filip:keep=0.5": "FILIP (keep=0.5)"}
VALUES = {"clip": 0.25, "filip": 0.5, "filip:keep=0.5": 0.375}
FIRST = ("starter/val", "retrieval", "text_to_image_r1")


def score(label, value, metric="text_to_image_r1", task="retrieval", data="starter/val", chance=0.05, seeds=2):
    by_seed = tuple(value + 0.01 * (seed - (seeds - 1) / 2) for seed in range(seeds))
    return Score(label, data, task, metric, value, value - 0.1, value + 0.1, 40, chance, by_seed)


def difference(label, value, p, place=FIRST):
    return Difference(label, "clip", *place, value, value - 0.04, value + 0.04, 40, p / 2, p)


def cost(label, factor=1.0, **more):
    known = {"seconds": 100 * factor, "flops": 2e12 * factor, "padding": math.nan, "memory_gb": 1.5, **more}
    return Cost(label, 64, samples_per_second=64 / factor, parameters=12_345, trained_parameters=12_000, **known)


def made(labels=("clip", "filip"), seeds=2, **more):
    """A comparison of invented figures: the first scores 25 %, FILIP 50 %."""
    contestants = tuple(
        Contestant(
            label, label.split(":")[0], TITLES.get(label, label), {"keep": 1.0}, {"batch": 8}, folders(label, seeds)
        )
        for label in labels
    )
    scores = [score(label, VALUES.get(label, 0.3), seeds=seeds) for label in labels]
    scores += [score(label, 5.0, "text_to_image_median_rank", chance=20.0, seeds=seeds) for label in labels]
    known = {
        "scores": tuple(scores),
        "differences": tuple(difference(label, VALUES.get(label, 0.3) - 0.25, 0.004) for label in labels[1:]),
        "costs": tuple(cost(label, 1 + number) for number, label in enumerate(labels)),
        "leaks": {"found": 0, "judged": 281, "pairs": []},
        "machine": {"kind": "Linux, 2 cores", "commit": "abc1234", "versions": {"torch": "2.9"}, "wall_seconds": 75.0},
    }
    plain = Comparison(contestants, tuple(range(seeds)), ("starter",), ("starter",), "samples=2000")
    return dataclasses.replace(plain, **{**known, **more})


def folders(label, seeds):
    return tuple(f"runs/{label.replace(':', '_')}-{seed}" for seed in range(seeds))


def write_runs(comparison, folder, *, evaluations=2, caption="a red field"):
    """Finished runs: the first contestant finds no caption's picture, the others find all of them."""
    data = sources.open_source("starter", "val")
    keys = [data.key(index) for index in range(4)]
    for place, one in enumerate(comparison.contestants):
        for name in one.runs:
            run = folder / name
            info = runs.describe("clip", tiny("clip"), RECIPE, {"data": ["starter"], "val": []}, ())
            told = {"name": "starter", "samples": 2426, "licence": ""}
            info["finished"] = {
                **{"steps": 8, "seconds": 1.0, "samples_per_second": 64.0, "device": "CPU"},
                **{"parameters": 10, "trained_parameters": 10},
                "train": [{**told, "split": "train"}],
                "val": [{**told, "split": "val", "samples": 281}],
            }
            runs.write(run, info)
            row = Row("clip", run.name, *FIRST, 0.2 * (1 + place), n=40, chance=0.05)
            log = [{"step": n, "samples": 8 * n, "loss": 2 / n} for n in range(1, 9)]
            way = [{"samples": 32 * (1 + n), "rows": json.loads(results.to_json([row]))} for n in range(evaluations)]
            (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log + way))
            images = {"key": keys, "image_to_text_r1": [0, 1, 0, 1], "image_to_text_median_rank": [3, 1, 3, 1]}
            hits = [int(place > 0)] * 4
            ranks = [1 if place else 17] * 4
            texts = [f"{caption} {number}" for number in range(4)]
            asked = {"key": keys, "text": texts, "text_to_image_r1": hits, "text_to_image_median_rank": ranks}
            write_samples(stacked(images, asked), run / "samples" / "retrieval.parquet")


def page_of(comparison, folder, **more):
    write_runs(comparison, folder, **more)
    compare_page.write(comparison, folder)
    return (folder / "index.html").read_text(encoding="utf-8")


def words(page):
    """What a reader sees, without tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)).split())


@pytest.fixture
def page(tmp_path):
    return page_of(made(), tmp_path)


# -------------------------------------------------------------------------------------------------------- the page


def test_the_page_loads_nothing_and_runs_nothing(page):
    seen = tags(page)
    assert not {tag for tag, _ in seen} & {"script", "link", "iframe", "object", "embed", "form"}
    for _, attributes in seen:
        assert not {name for name in attributes if name.startswith("on")}
        for name in ("src", "href", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"url\(|@import|https?:", page)
    assert "default-src 'none'" in page


def test_the_page_says_who_met_whom_and_what_came_of_it(page):
    text = words(page)
    assert "CLIP and FILIP head to head on starter" in text
    assert "learned from the same 2,426 samples of starter in the same order: 2 seeds each, 2,000 samples a run" in text
    assert "judged on 281 samples of starter/val" in text
    assert "FILIP is ahead of CLIP by 25.0 points." in text
    assert "50.0 % against 25.0 % of 40 captions find their own picture first" in text
    assert "95 % interval +21.0 to +29.0, p = 0.004)" in text
    assert "281 judged pictures were compared with the trained ones: none is nearly the same." in text
    assert "These figures flatter" not in text


def test_the_best_contestant_stands_first_on_the_leaderboard(page):
    board = words(page[page.index('<table class="board">') : page.index("All figures")])
    assert board.index("FILIP") < board.index("CLIP")
    assert "▲ +25.0" in board


def test_learning_and_cost_have_charts_with_every_seed(page):
    learning, trading = page.split("Quality against cost")
    losses = re.search(r"Training loss</figcaption>(.*?)</figure>", learning, re.S)[1]
    assert losses.count("<polyline") == 2 * (2 + 1)
    assert "caption → picture, R@1, starter/val</figcaption>" in learning
    assert trading.count('<svg class="chart"') == 3
    assert "minutes" in trading
    assert "teraFLOP" in trading
    text = words(trading)
    assert "time of training 1 min 40 s 3 min 20 s × 2.00" in text
    assert "samples a second 64 32 × 0.50" in text
    assert "padding" not in text  # it was measured of nobody


def test_samples_are_shown_with_picture_caption_and_what_each_got(page):
    part = page[page.index("Where they disagree") :]
    assert part.count("data:image/webp") == 4
    text = words(part)
    assert "FILIP does better than CLIP" in text
    assert "CLIP does better than FILIP" not in text
    assert "a red field 3" in text
    assert text.count("CLIP 0 of 2 rank 17 FILIP 2 of 2 rank 1") == 4
    assert len(page) < 300_000


def test_what_comes_from_data_is_escaped(tmp_path):
    labels = ("clip", f"filip:keep={EVIL}")
    page = page_of(made(labels, machine={"commit": EVIL, "versions": {EVIL: EVIL}}), tmp_path, caption=EVIL)
    assert EVIL not in page
    assert page.count("&lt;img src=x") > 10
    assert {attributes["src"][:10] for tag, attributes in tags(page) if tag == "img"} == {"data:image"}


def test_leaks_are_told_before_anything_else(tmp_path):
    text = words(page_of(made(leaks={"found": 3, "judged": 281, "pairs": [["a", "b"]]}), tmp_path))
    assert text.index("These figures flatter.") < text.index("FILIP is ahead of CLIP")
    assert "281 judged pictures were compared with the trained ones: 3 are nearly the same." in text


def test_one_seed_no_evaluations_on_the_way_and_unknown_costs(tmp_path):
    unknown = (cost("clip", seconds=math.nan, flops=math.nan), cost("filip", seconds=math.nan, flops=math.nan))
    page = page_of(made(seeds=1, costs=unknown), tmp_path, evaluations=0)
    tags(page)
    text = words(page)
    assert "nan" not in text.lower()
    assert "1 seed each" in text
    assert "With one seed, a 95 % interval holds the figure of this one run" in text
    assert "Training loss" in text
    assert "R@1, starter/val</figcaption>" not in page
    assert "Computation of training" not in text
    assert "CLIP 0 of 1 rank 17 FILIP 1 of 1 rank 1" in text


def test_a_page_of_hardly_anything(tmp_path):
    empty = made(scores=(), differences=(), costs=(), leaks={}, machine={})
    text = words(compare_page.page(empty, tmp_path))  # not even runs
    assert "CLIP and FILIP head to head on starter" in text
    assert "Nobody looked whether judged pictures are also trained on." in text
    for heading in ("Leaderboard", "All figures", "How they learned", "Quality against cost", "Where they disagree"):
        assert heading not in text


def test_data_that_have_moved_leave_only_the_samples_out(tmp_path):
    page = page_of(dataclasses.replace(made(), val=(str(tmp_path / "gone"),)), tmp_path)
    assert "Leaderboard" in page
    assert "Where they disagree" not in page


def test_variants_of_one_method_differ_in_name_and_colour(tmp_path):
    page = page_of(made(("clip", "filip", "filip:keep=0.5")), tmp_path)
    text = words(page)
    assert "CLIP, FILIP and FILIP (keep=0.5) head to head" in text
    assert "p = 0.004 after Holm&#39;s correction" in text
    assert '<i class="dot s2"></i>FILIP (keep=0.5)' in page
    assert '<i class="dot s1"></i>FILIP<' in page
    assert '<i class="dot s0"></i>CLIP<' in page


def test_many_contestants_are_counted_in_the_heading_and_named_below(tmp_path):
    labels = ("clip", *(f"method-{number}" for number in range(1, 10)))
    page = compare_page.page(made(labels), tmp_path)
    text = words(page)
    assert "10 contestants head to head on starter" in text
    assert "method-8 and method-9 learned from" in text
    tags(page)
    assert '<i class="dot s0"></i>method-8<' in page  # there are eight colours
    assert "s8" not in page


def test_the_command_on_the_page_makes_the_same_comparison(tmp_path):
    comparison = made(("clip", "filip:keep=0.5"), val=("starter", "world@gallery"), data=("my data",))
    contest = {"val": ["starter", "world@gallery"], "tasks": ["foils"], "settings": ["lr=5e-4"], "budget": "minutes=2"}
    (tmp_path / "plan.json").write_text(json.dumps({"contest": contest}))
    typed = shlex.split(compare_page.command(comparison, tmp_path).replace("\\\n", " "))
    assert typed[:2] == ["diptych", "compare"]
    chosen = options.parse(command.Options, typed[2:], "compare")
    assert chosen.contestants == ("clip", "filip:keep=0.5")
    assert chosen.data == ("my data",)
    assert chosen.val == ("starter", "world@gallery")
    assert chosen.task == ("foils",)
    assert chosen.set == ("lr=5e-4",)
    assert (chosen.budget, chosen.seeds, chosen.out) == ("minutes=2", 2, tmp_path)


# ----------------------------------------------------------------------------------------------------- single samples


def mark(values, details=()):
    side = leaderboard.Side("clip", "CLIP", 0, ())
    return compare_cases._mark(Case("a", "", 0, (values,), (details,) if details else ()), 0, side)


def test_hits_are_counted_and_parts_of_hits_averaged():
    assert mark((1.0, 0.0, 1.0)) == {
        "name": "CLIP",
        "colour": 0,
        "hits": [True, False, True],
        "said": "2 of 3",
        "detail": "",
    }
    assert mark((0.5, 0.0))["said"] == "25 %"
    assert mark((0.0, 0.0), (4, 30))["detail"] == "rank 4, 30"
    assert mark((1.0, 1.0), (1, 1))["detail"] == "rank 1"
    assert mark((0.0, 1.0), ("cat", "dog"))["detail"] == "cat, dog"


def test_the_box_of_a_phrase_is_drawn_where_the_phrase_says():
    sample = {
        "text": "a dog and a dog",
        "spans": [(2, 5, 1), (12, 15, 0)],
        "boxes": [[0.5, 0.25, 1.0, 1.5], [0.0, 0.0, 0.25, 0.5]],
    }
    first, second, third = (compare_cases._box(Case("a", "dog", number, ()), sample) for number in range(3))
    assert first == "left:0.0%;top:0.0%;width:25.0%;height:50.0%"
    assert second == "left:50.0%;top:25.0%;width:50.0%;height:75.0%"
    assert third == ""
    assert compare_cases._box(Case("a", "dog", 0, ()), {}) == ""


def test_with_more_contestants_each_pair_shows_fewer_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_cases, "_A_TASK", 8)
    monkeypatch.setattr(compare_cases, "_FEWEST", 1)
    comparison = made(("clip", "filip", "filip:keep=0.5"))
    write_runs(comparison, tmp_path)
    (group,) = compare_cases.groups(comparison, leaderboard.sides(comparison, tmp_path))
    assert [len(part["cases"]) for part in group["parts"]] == [2, 2]
    assert [part["better"].name for part in group["parts"]] == ["FILIP", "FILIP (keep=0.5)"]


def test_samples_of_a_second_data_set_lie_beside_the_run(tmp_path):
    comparison = made(val=("world:evaluation=16", "starter"))
    write_runs(comparison, tmp_path)
    for one in comparison.contestants:
        for name in one.runs:
            beside = measure.folder_of(tmp_path / name, sources.open_source("starter", "val"))
            beside.mkdir(parents=True)
            (tmp_path / name / "samples").rename(beside / "samples")
    (group,) = compare_cases.groups(comparison, leaderboard.sides(comparison, tmp_path))
    assert group["data"] == "starter/val"
    assert [len(part["cases"]) for part in group["parts"]] == [4]


# ------------------------------------------------------------------------------------------------------ the verdicts


def test_a_difference_that_chance_could_make_is_not_called_one():
    unsure = made(differences=(difference("filip", 0.02, 0.05),))
    (verdict,) = leaderboard.verdicts(unsure)
    assert verdict.claim == "No difference between FILIP and CLIP could be shown."
    assert "+2.0 points" in verdict.evidence
    (worse,) = leaderboard.verdicts(made(differences=(difference("filip", -0.031, 0.0002),)))
    assert worse.claim == "FILIP is behind CLIP by 3.1 points."
    assert "difference \N{MINUS SIGN}3.1 points, 95 % interval \N{MINUS SIGN}7.1 to +0.9, p < 0.001" in worse.evidence


def test_a_difference_without_interval_and_p_value_shows_nothing():
    bare = dataclasses.replace(difference("filip", 0.25, math.nan), low=math.nan, high=math.nan)
    (verdict,) = leaderboard.verdicts(made(differences=(bare,)))
    assert verdict.claim.startswith("No difference")
    assert verdict.evidence.endswith("(difference +25.0 points).")


def test_every_task_stands_on_the_leaderboard_once_before_any_stands_there_twice():
    tasks = ("retrieval", "foils", "pointing", "zero_shot")
    scores = [
        score("clip", 0.3, metric, task, data)
        for data in ("a/val", "b/val")
        for task in tasks
        for metric in ("mean_per_class", "top1")
    ]
    found = leaderboard.columns(made(scores=tuple(scores)))
    assert [(one.data, one.task) for one in found] == [
        *(("a/val", task) for task in tasks),
        ("b/val", "retrieval"),
        ("b/val", "foils"),
    ]
    assert {one.metric for one in found} == {"top1"}


def test_only_shares_stand_for_the_others():
    ranks = tuple(score(label, 5.0, "text_to_image_median_rank", chance=20.0) for label in ("clip", "filip"))
    assert leaderboard.headline(made(scores=ranks)) is None
    assert leaderboard.verdicts(made(scores=ranks)) == []
    assert leaderboard.headline(made()) == Figure(*FIRST)


def test_a_contestant_without_the_headline_figure_stands_last():
    lacking = made(("clip", "filip", "filip:keep=0.5"))
    lacking = dataclasses.replace(lacking, scores=tuple(one for one in lacking.scores if one.label != "filip"))
    assert leaderboard.ranked(lacking) == ["filip:keep=0.5", "clip", "filip"]


def test_alike_titles_are_told_apart_by_what_was_typed():
    alike = made(("filip", "filip:keep=0.5"))
    alike = dataclasses.replace(
        alike, contestants=tuple(dataclasses.replace(one, title="FILIP") for one in alike.contestants)
    )
    assert leaderboard.names(alike) == {"filip": "FILIP (filip)", "filip:keep=0.5": "FILIP (filip:keep=0.5)"}


@pytest.mark.parametrize(
    ("p", "said"), [(0.0004, "p < 0.001"), (0.004, "p = 0.004"), (0.32, "p = 0.32"), (math.nan, "")]
)
def test_p_values_in_words(p, said):
    assert leaderboard.p_value(p) == said


def test_points_have_signs():
    assert leaderboard.points(0.031) == "+3.1"
    assert leaderboard.points(-0.031) == "\N{MINUS SIGN}3.1"
    assert leaderboard.points(-1.5, share=False) == "\N{MINUS SIGN}1.5"
    assert leaderboard.points(math.nan) == ""
