"""Scaling studies: what their laws say, their page, and one from the command line to the end."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from app_helpers import TINY

from diptych import results
from diptych.app import jobs, scale, scale_page
from diptych.app.contestants import side
from diptych.app.laws import laws, rows, short
from diptych.app.main import main
from diptych.app.runs import Run
from diptych.app.scale import Budget, Scaling, Study
from diptych.app.sources import UnknownSource, open_source
from diptych.results import Row

EVIL = '<img src=x onerror="alert(1)">'
BUDGETS = (20e3, 40e3, 80e3)
SETTINGS = (*(f"{name}={value}" for name, value in TINY.items()), "batch=8", "workers=0", "checkpoints=1")


def run(x, value, seed=0, *, data="colours/val", chance=0.05, n=200, loss=None):
    """A finished run, with a share and where wanted a loss."""
    row = Row(
        "clip", f"clip-{x:g}-{seed}", data, "retrieval", "text_to_image_r1", value, value - 0.02, value, n, chance, seed
    )
    rank = dataclasses.replace(row, metric="text_to_image_median_rank", value=3.0, chance=9.0)
    info = {
        "method": "clip",
        "recipe": {"seed": seed},
        "finished": {"seconds": x / 100, "train": [{"name": "colours", "split": "train", "samples": 40}]},
    }
    log = [{"samples": x * part / 10, "loss": loss + 1 - part / 10} for part in range(1, 11)] if loss else []
    return Run(Path(row.run), info, [row, rank], log)


def studied(values, **about):
    """The runs of three budgets, each with values for its seeds."""
    each = [(x, value, seed) for x, some in zip(BUDGETS, values, strict=True) for seed, value in enumerate(some)]
    return [(x, run(x, value, seed, **about)) for x, value, seed in each]


FALLING = ((0.19, 0.21), (0.35, 0.37), (0.48, 0.5))


def scaling(values=FALLING, **about):
    return Scaling(
        study=Study("clip:lr=0.002", ("my data",), BUDGETS, seeds=len(values[0])),
        title="CLIP (lr=0.002)",
        config={"tau": 0.07},
        recipe={"lr": 0.002, "seed": 0},
        budgets=tuple(Budget(x, int(x), x / 100, ("runs/a",)) for x in BUDGETS),
        laws=tuple(laws(studied(values, **about))),
        machine={"device": "CPU", "versions": {"torch": "2"}, "commit": "abc", "started": "2026-01-02T03:04"},
    )


# --------------------------------------------------------------------------------------------------------------- laws


def test_the_error_of_a_share_halves_where_the_share_says_so():
    """Errors of 0.8, 0.4 and 0.2: the exponent is one, and twice the samples leave 0.1."""
    (law,) = laws([(x, run(x, value)) for x, value in zip(BUDGETS, (0.2, 0.6, 0.8), strict=True)])
    assert law.alpha.value == pytest.approx(1)
    assert law.explained == pytest.approx(1)
    assert [one.x for one in law.predictions] == [160e3, 800e3]
    assert [one.value for one in law.predictions] == pytest.approx([0.9, 0.98])
    assert law.line[0][:2] == pytest.approx((20e3, 0.8))
    assert law.line[-1][:2] == pytest.approx((800e3, 0.02))
    assert law.notes == ()
    assert law.sentence("samples") == (
        "Retrieval on colours/val, caption → picture, R@1: the error falls as samples^-1.00 [-1.00, -1.00]; "
        "ten times the samples would give 98.0 % [98.0, 98.0], by extrapolation."
    )


def test_the_loss_is_the_mean_of_the_last_tenth_and_has_a_law_of_its_own():
    """The last of ten lines is the last tenth: losses of 4, 2 and 1."""
    done = [(x, run(x, 0.3, loss=loss)) for x, loss in zip(BUDGETS, (4.0, 2.0, 1.0), strict=True)]
    (row,) = (row for row in rows(done[0][1]) if row.task == "training")
    assert (row.data, row.metric, row.value, row.n) == ("colours/train", "loss", 4.0, 2000)
    share, loss = laws(done)
    assert (share.metric, loss.metric) == ("text_to_image_r1", "loss")
    assert loss.predictions[0].value == pytest.approx(0.5)
    assert loss.alpha.value == pytest.approx(1)
    assert "Training loss on colours/train falls as samples^-1.00" in loss.sentence("samples")


def test_metrics_may_be_chosen_and_misspelt():
    done = studied(FALLING, loss=2.0)
    assert [law.metric for law in laws(done, ["retrieval/text_to_image_median_rank"])] == ["text_to_image_median_rank"]
    assert [law.task for law in laws(done, ["training/loss"])] == ["training"]
    with pytest.raises(ValueError, match="did you mean 'retrieval/text_to_image_r1'"):
        laws(done, ["retrieval/text_to_image_r2"])


def test_a_loss_below_zero_is_left_out_unless_it_is_asked_for():
    done = studied(FALLING, loss=-2.0)
    assert [law.task for law in laws(done)] == ["retrieval"]
    with pytest.raises(ValueError, match="training/loss on colours/train cannot be fitted"):
        laws(done, ["training/loss"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (((0.3, 0.34), (0.34, 0.3), (0.32, 0.32)), "includes zero"),
        (((0.3, 0.34), (0.5, 0.54), (0.32, 0.34)), "explains only"),
        (((0.05, 0.06), (0.2, 0.21), (0.3, 0.31)), "no better than guessing"),
        (((0.6, 0.7), (0.9, 0.92), (1.0, 1.0)), "at its ceiling"),
    ],
)
def test_what_speaks_against_a_law_is_said(values, said):
    (law,) = laws(studied(values))
    assert any(said in note for note in law.notes)


def test_two_budgets_and_one_seed_say_how_little_they_say():
    (alone,) = laws([(1e3, run(1e3, 0.2)), (4e3, run(4e3, 0.6))])
    assert math.isnan(alone.predictions[0].low)
    assert "[" not in alone.sentence("samples")
    assert len(alone.notes) == 1
    (several,) = laws([(x, run(x, value, seed)) for x, value in ((1e3, 0.2), (4e3, 0.6)) for seed in (0, 1)])
    assert (several.alpha.low, several.alpha.high) == pytest.approx((0.5, 0.5))
    assert "Two budgets" in several.notes[0]


def test_shares_stay_shares():
    """Nothing wrong at all is half a miss of 200; what grows worse does not fall below zero."""
    (best,) = laws([(x, run(x, value)) for x, value in zip(BUDGETS, (0.98, 0.99, 1.0), strict=True)])
    assert best.error(1.0) == 0.5 / 200
    assert best.predictions[-1].high <= 1
    (worse,) = laws([(x, run(x, value)) for x, value in zip(BUDGETS, (0.9, 0.6, 0.1), strict=True)])
    assert worse.predictions[-1].value == 0
    assert "grows as samples^" in worse.sentence("samples")


@pytest.mark.parametrize(("amount", "said"), [(940, "940"), (20_000, "20k"), (1.5e6, "1.5M"), (3.2e15, "3.2P")])
def test_amounts_are_short(amount, said):
    assert short(amount) == said


# --------------------------------------------------------------------------------------------------------------- page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def test_the_page_loads_nothing_runs_nothing_and_escapes(tmp_path):
    page = scale_page.page(scaling(data=EVIL, loss=2.0), tmp_path)
    tags = Tags()
    tags.feed(page)
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "iframe", "object", "embed", "form", "img"}
    assert not [name for _, attributes in tags.seen for name in attributes if name.startswith("on") or name == "href"]
    assert not re.search(r"url\(|@import", page)
    assert "&lt;img src=x" in page


def test_the_page_shows_curves_figures_and_how_to_repeat_it(tmp_path):
    found = scaling(loss=2.0)
    page = scale_page.page(found, tmp_path)
    assert page.count('<svg class="chart"') == 2
    assert "How CLIP (lr=0.002) scales with samples seen" in page
    assert "20.0 %" in page  # the mean of the smallest budget
    assert "13 min 20 s" in page
    assert f"samples<sup>{-found.laws[0].alpha.value:.2f}</sup>" in page
    assert "--over samples --budgets 20000,40000,80000 --seeds 2" in page
    assert "--data &#39;my data&#39;" in page


def test_a_chart_puts_runs_curve_and_predictions_where_they_are():
    (law,) = scaling().laws
    svg = ElementTree.fromstring(scale_page.chart(law, "samples"))
    dots = [dot for dot in svg.iter("circle") if dot.get("fill") == "var(--s0)"]
    assert len(dots) == 6
    across = sorted({float(dot.get("cx")) for dot in dots})
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)  # doublings are equal steps
    rings = [ring for ring in svg.iter("circle") if ring.get("fill") == "var(--paper)"]
    assert [float(ring.get("cx")) for ring in rings] == pytest.approx(
        [across[2] + (across[2] - across[1]) * math.log2(times) for times in (2, 10)], abs=0.5
    )
    fitted, dashed = svg.iter("polyline")
    assert dashed.get("stroke-dasharray")
    assert fitted.get("points").split()[-1] == dashed.get("points").split()[0]
    assert float(rings[1].get("cy")) > float(rings[0].get("cy"))  # less error is further down
    assert len(list(svg.iter("polygon"))) == 1


@pytest.mark.parametrize("values", [((0.5,), (0.5,), (0.5,)), ((0.9,), (1.0,), (1.0,)), ((0.0,), (0.01,), (0.0,))])
def test_a_chart_is_drawn_whatever_the_values(values):
    (law,) = laws(studied(values))
    svg = scale_page.chart(law, "samples")
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


# --------------------------------------------------------------------------------------------------------------- plan


def planned(shards, tmp_path, **about):
    study = Study(**{"method": "clip", "data": (str(shards),), "budgets": (64, 128), "settings": SETTINGS, **about})
    return scale._plan(study, side(study.method, study.settings), tmp_path, "cpu")


def test_budgets_are_whole_batches_and_seeds_differ(shards, tmp_path):
    plan = planned(shards, tmp_path, budgets=(131, 62), seeds=2)
    assert list(plan) == [64, 128]
    assert [[(job.recipe.samples, job.recipe.seed) for job in some] for some in plan.values()] == [
        [(64, 0), (64, 1)],
        [(128, 0), (128, 1)],
    ]
    assert len({job.out for some in plan.values() for job in some}) == 4


def test_another_setting_is_another_folder(shards, tmp_path):
    first, again, other = (
        {job.out for some in planned(shards, tmp_path, settings=(*SETTINGS, lr)).values() for job in some}
        for lr in ("lr=0.001", "lr=0.001", "lr=0.002")
    )
    assert first == again
    assert not first & other


def test_compute_buys_samples(shards, tmp_path):
    def samples(*budgets):
        plan = planned(shards, tmp_path, over="compute", budgets=budgets, seeds=1)
        return {x: some[0].recipe.samples for x, some in plan.items()}

    bought = samples(1e9, 2e9)
    flops = [x / count for x, count in bought.items()]
    assert flops[0] == pytest.approx(flops[1])
    assert [round(given / flops[0] / 8) * 8 for given in (1e9, 2e9)] == list(bought.values())
    assert list(samples(100 * 8 * flops[0], 300 * 8 * flops[0]).values()) == [800, 2400]


def test_pictures_are_drawn_anew_for_each_seed_and_the_samples_stay(shards, tmp_path):
    plan = planned(shards, tmp_path, over="pictures", budgets=(10, 20), seeds=2)
    jobs_of_ten, jobs_of_twenty = plan[10], plan[20]
    assert {job.recipe.samples for job in jobs_of_ten + jobs_of_twenty} == {side("clip").recipe.samples}
    ten, other, twenty = (open_source(job.data[0]) for job in (*jobs_of_ten, jobs_of_twenty[0]))
    keys, others, more = ({part.key(i) for i in range(len(part))} for part in (ten, other, twenty))
    assert (len(keys), len(others), len(more)) == (10, 10, 20)
    assert keys < more
    assert keys != others
    assert jobs_of_ten[0].val == (str(shards),)
    assert len(open_source(jobs_of_ten[0].data[0], "val")) == 20  # what is judged is not cut
    with pytest.raises(UnknownSource, match="has 40 samples"):
        open_source(f"{shards}#41")
    with pytest.raises(ValueError, match="only one"):
        planned(shards, tmp_path, over="pictures", data=(str(shards), "starter"))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"budgets": (64,)}, "at least two budgets"),
        ({"budgets": (64, 64)}, "at least two budgets"),
        ({"seeds": 0}, "a seed"),
        ({"budgets": (2, 64)}, "less than one batch"),
        ({"budgets": (64, 65)}, "same number of batches"),
        ({"metrics": ("retreival/text_to_image_r1",)}, "'retrieval'"),
    ],
)
def test_what_cannot_be_planned_is_said_before_anything_is_trained(shards, tmp_path, about, said):
    with pytest.raises(ValueError, match=said):
        planned(shards, tmp_path, **about)


# ------------------------------------------------------------------------------------------------------------ command


def test_the_runs_of_a_budget_stay_together(shards, tmp_path, monkeypatch, capsys):
    """With runs that were invented, each with its seed and its samples in its share."""

    def run_all(planned, at_a_time):
        assert at_a_time == 3
        finished = []
        for job in planned:
            share = {64: (0.2, 0.21), 128: (0.6, 0.61)}[job.recipe.samples][job.recipe.seed]
            made = run(job.recipe.samples, share, job.recipe.seed)
            about = {"recipe": {"seed": job.recipe.seed, "batch": 8}, "started": "2026-01-02", "versions": {}}
            told = {**made.info["finished"], "steps": job.recipe.samples // 8, "device": "CPU"}
            finished.append(dataclasses.replace(made, info={**made.info, **about, "finished": told}))
        return finished

    monkeypatch.setattr(jobs, "run_all", run_all)
    study = Study("clip", (str(shards),), (128, 64), seeds=2, settings=SETTINGS)
    found = scale.scale(study, tmp_path, at_a_time=3)
    assert [(budget.x, budget.samples, len(budget.runs)) for budget in found.budgets] == [(64, 64, 2), (128, 128, 2)]
    assert [(point.x, point.seed, point.value) for point in found.laws[0].points] == [
        (64, 0, 0.2),
        (64, 1, 0.21),
        (128, 0, 0.6),
        (128, 1, 0.61),
    ]
    assert json.loads((tmp_path / "scale.json").read_text())["laws"][0]["explained"] is None
    assert len(results.from_json((tmp_path / "results.json").read_text())) == 8
    assert "4 runs of clip: 2 budgets, 2 seeds, 384 samples in all" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_trains_fits_writes_and_goes_on(shards, tmp_path, monkeypatch, capsys):
    trained = []

    def train(job):
        if len(trained) == 3 and not stopped:
            stopped.append(job)
            raise KeyboardInterrupt("stopped")
        trained.append(job.out.name)
        plain(job)

    plain, stopped = jobs.train, []
    monkeypatch.setattr(jobs, "train", train)
    out = tmp_path / "study"
    words = ["scale", "clip", "--data", str(shards), "--budgets", "32,64,128", "--seeds", "2", "--task", "retrieval"]
    words += ["--out", str(out), "--at-a-time", "1", "--device", "cpu"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    assert main(words) == 130
    assert not (out / "scale.json").exists()
    assert main(words) == 0
    assert len(trained) == len(set(trained)) == 6  # none was trained twice
    said = capsys.readouterr()
    assert "6 runs of clip: 3 budgets, 2 seeds, 448 samples in all" in said.err
    assert "ten times the samples would give" in said.out
    assert main([*words, "--json"]) == 0
    assert len(trained) == 6
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "scale.json").read_text())
    assert [budget["samples"] for budget in told["budgets"]] == [32, 64, 128]
    assert [len(law["points"]) for law in told["laws"]] == [6, 6, 6]
    assert [law["metric"] for law in told["laws"]] == ["image_to_text_r1", "text_to_image_r1", "loss"]
    measured = results.from_json((out / "results.json").read_text())
    assert {row.run for row in measured} == set(trained)
    losses = [row.value for row in measured if (row.task, row.metric) == ("training", "loss")]
    assert [point["value"] for point in told["laws"][-1]["points"]] == losses
    assert (out / "index.html").read_text(encoding="utf-8").count('<svg class="chart"') == 3
