"""`diptych compare` and `diptych claim` on runs of seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from app_helpers import TINY

from diptych import methods
from diptych.app import claim, compare, comparison, jobs, leaks
from diptych.app.main import main
from diptych.card import Claim

WORLD = "world:train=64,evaluation=32,pixels=16,gallery=4"
SETTINGS = (
    *(f"{name}={value}" for name, value in TINY.items()),
    "batch=8",
    "workers=1",
    "evaluations=1",
    "precision=fp32",
)
CONTEST = compare.Contest(
    contestants=("clip", "filip"),
    data=(WORLD,),
    tasks=("foils",),
    settings=SETTINGS,
    budget="samples=32",
    seeds=2,
)
FLAGS = [
    *("--data", WORLD, "--task", "foils", "--budget", "samples=32", "--seeds", "2"),
    *(word for setting in SETTINGS for word in ("--set", setting)),
]


def table(out: Path) -> tuple:
    """The figures of a comparison, without what differs from one machine or hour to another."""
    found = comparison.read(out)
    return found.contestants, found.scores, found.differences, found.leaks


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """A comparison in one go."""
    out = tmp_path_factory.mktemp("comparisons") / "unbroken"
    compare.compare(CONTEST, out, compare.How(device="cpu", at_a_time=1))
    return out


def test_says_all_that_was_asked(unbroken: Path) -> None:
    found = comparison.read(unbroken)
    assert [one.label for one in found.contestants] == ["clip", "filip"]
    assert {(s.label, s.metric) for s in found.scores} == {
        (m, f) for m in ("clip", "filip") for f in ("accuracy", "pairwise")
    }
    assert all(len(score.by_seed) == 2 for score in found.scores)
    assert {d.against for d in found.differences} == {"clip"}
    for cost in found.costs:
        assert (cost.samples, cost.trained_parameters) == (32, cost.parameters)
        assert min(cost.seconds, cost.samples_per_second, cost.memory_gb, cost.flops) > 0
        assert 0 < cost.padding < 1
    assert found.leaks["judged"] == 32
    assert len(json.loads((unbroken / "results.json").read_text())) == 4 * len({s.metric for s in found.scores})
    assert "<html" in (unbroken / "index.html").read_text()


def test_the_commit_is_that_of_the_runs(unbroken: Path) -> None:
    """Runs that were made before are told with the code that made them, not with the code that reads them."""
    run = next((unbroken / "runs").glob("*/run.json"))
    assert comparison.read(unbroken).machine["commit"] == json.loads(run.read_text())["commit"]


def test_sides_start_alike_and_see_the_same_order(unbroken: Path) -> None:
    """With the same seed both towers start from the same weights, so that one more FILIP would equal the first."""
    twice = replace(CONTEST, contestants=("clip", "clip:tile=3"), seeds=1)
    found = compare.compare(twice, unbroken.parent / "twice", compare.How(device="cpu", at_a_time=1))
    for difference in found.differences:  # the tiled loss is the same loss
        assert (difference.value, difference.p) == (0, 1)


def test_another_run_of_the_same_command_trains_nothing(unbroken: Path, monkeypatch) -> None:
    before = table(unbroken)
    monkeypatch.setattr(jobs, "train", lambda job: pytest.fail("trained again"))
    compare.compare(CONTEST, unbroken, compare.How(device="cpu"))
    assert table(unbroken) == before


def test_another_comparison_does_not_overwrite(unbroken: Path) -> None:
    with pytest.raises(ValueError, match=r"another comparison \(budget"):
        compare.compare(replace(CONTEST, budget="samples=64"), unbroken, compare.How(device="cpu"))


def test_beside_each_other_as_one_after_the_other(unbroken: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # sums are rounded by the number of threads
    compare.compare(CONTEST, tmp_path / "out", compare.How(device="cpu", at_a_time=2))
    assert table(tmp_path / "out")[1:] == table(unbroken)[1:]


def command(out: Path, *more: str) -> subprocess.Popen:
    words = ["compare", "clip", "filip", *FLAGS, "--out", str(out), "--device", "cpu", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "diptych", *words],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.slow
def test_killed_half_way_it_goes_on_to_the_same_table(unbroken: Path, tmp_path, how) -> None:
    out = tmp_path / "out"
    first = command(out, "--at-a-time", "2" if how == signal.SIGTERM else "1")
    while first.poll() is None and not list(out.glob("runs/*/checkpoints/last/state.json")):
        time.sleep(0.02)
    first.send_signal(how)
    first.communicate()
    assert first.returncode != 0
    assert not (out / comparison.FILE).exists()
    second = command(out)
    said, _ = second.communicate()
    assert second.returncode == 0, said
    assert table(out)[1:] == table(unbroken)[1:]


def test_a_worker_that_fails_is_told(tmp_path) -> None:
    sides = compare.sides(CONTEST.contestants, SETTINGS)
    missing = str(tmp_path / "nothing")
    these = [
        jobs.Job(s.method, (missing,), (), (), s.config, s.recipe, tmp_path / "runs" / s.label, "cpu") for s in sides
    ]
    with pytest.raises(jobs.JobFailed, match=r"clip: .*nothing.* messages are in|filip: .*nothing"):
        jobs.run_all(these, at_a_time=2)


def test_refuses_where_judged_pictures_are_trained_on(shards, tmp_path, capsys) -> None:
    """The coloured pictures of both splits look alike."""
    words = ["clip", "filip", "--data", str(shards), "--seeds", "1", "--out", str(tmp_path / "out")]
    assert main(["compare", *words, *FLAGS[FLAGS.index("--set") :]]) == 1
    assert "--allow-leaks" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/runs/*"))


def test_leaks_are_counted_and_named(shards) -> None:
    found = leaks.search((str(shards),), ())
    assert (found["judged"], found["trained"]) == (20, 40)
    assert 0 < found["found"] <= 20
    assert all(a.startswith("s") and b.startswith("s") for a, b in found["pairs"])
    assert leaks.search((WORLD,), ())["found"] == 0


def test_dry_run_says_the_cost_and_trains_nothing(tmp_path, capsys) -> None:
    assert main(["compare", "clip", "filip", *FLAGS, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 runs" in said
    assert "Nothing was trained" in said
    assert not (tmp_path / "out").exists()


def test_budget_of_operations_gives_the_cheaper_method_more_samples(tmp_path) -> None:
    some = replace(CONTEST, budget="flops=2e9", contestants=("clip:image_layers=1", "clip:image_layers=4"))
    cheap, dear = compare.plan(some, tmp_path, compare.How(device="cpu"))
    assert cheap.flops < dear.flops
    assert cheap.side.recipe.samples > dear.side.recipe.samples
    for entry in (cheap, dear):
        assert entry.flops * entry.side.recipe.samples == pytest.approx(
            2e9, rel=0.5 * 8 / entry.side.recipe.samples + 0.01
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clip"], "at least two"),
        (["clip", "filip", "--seeds", "0"], "seeds is 0"),
        (["clip", "filip", "--budget", "sample=3"], "did you mean 'samples'"),
        (["clip", "filip:kep=2"], "did you mean 'keep'"),
        (["clip", "filip", "--task", "foil"], "did you mean 'foils'"),
        (["clip", "filip", "--task", "vqa"], "vqa"),
    ],
)
def test_mistakes_are_said_in_a_sentence(words, said, tmp_path, capsys) -> None:
    assert main(["compare", *words, "--data", WORLD, "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err


def test_a_contestant_does_the_tasks_that_it_can(tmp_path) -> None:
    both = replace(CONTEST, tasks=("pair_foils", "foils"))
    entries = compare.plan(both, tmp_path, compare.How(device="cpu"))
    assert [compare._tasks(both, entry) for entry in entries] == [("foils",), ("foils",)]


CLAIM = Claim(
    about="nothing in particular",
    metric="foils/pairwise",
    data=(WORLD,),
    val=(WORLD,),
    baseline="clip",
    control="clip:pool=mean",
    budget="samples=32",
    settings=SETTINGS,
    seeds=2,
)


def test_claim_is_measured_and_written(tmp_path, monkeypatch) -> None:
    card = replace(methods.card("filip"), claims={"small": CLAIM})
    monkeypatch.setattr(claim.methods, "card", lambda id: card)
    how = compare.How(device="cpu", at_a_time=1)
    found = claim.measure("filip", "small", how=how, results=tmp_path / "r", runs=tmp_path)
    told = json.loads((tmp_path / "r" / "filip" / "small.json").read_text())
    assert told["verdict"] == found.verdict
    assert told["card"] == claim.digest(CLAIM)
    assert [d["against"] for d in told["differences"]] == ["clip", "clip:pool=mean"]
    assert "clip:pool=mean" in told["summary"]
    assert {"commit", "kind", "versions"} <= told["comparison"]["machine"].keys()


def difference(low: float, high: float, label: str = "clip") -> comparison.Difference:
    """Baseline minus method, as a comparison whose first side is the method tells it."""
    return comparison.Difference(label, "filip", "w/val", "t", "m", (low + high) / 2, low, high, 9, 0.01, 0.01)


@pytest.mark.parametrize(
    ("direction", "margin", "clip", "control", "verdict"),
    [
        ("higher", 0, (-0.3, -0.1), (-0.3, -0.2), claim.CONFIRMED),
        ("higher", 0, (-0.3, -0.1), (-0.3, 0.1), claim.NOT_CONFIRMED),  # no better than the control
        ("higher", 0, (-0.3, 0.1), (-0.3, -0.1), claim.NOT_CONFIRMED),
        ("higher", 0.2, (-0.3, 0.1), (-0.3, -0.1), claim.CONFIRMED),  # behind by no more than it may be
        ("higher", 0, (0.1, 0.3), (0.1, 0.3), claim.NOT_CONFIRMED),
        ("lower", 0, (0.1, 0.3), (0.1, 0.3), claim.CONFIRMED),
        ("lower", 0.2, (-0.1, 0.3), (0.1, 0.3), claim.CONFIRMED),
    ],
)
def test_verdict_takes_every_interval_on_the_claimed_side(direction, margin, clip, control, verdict) -> None:
    labels = ("filip", "clip", "control")
    scores = tuple(comparison.Score(label, "w/val", "t", "m", 0.5, chance=0.1) for label in labels)
    found = comparison.Comparison(
        tuple(comparison.Contestant(label, "filip", label) for label in labels),
        (0,),
        ("w",),
        ("w",),
        "samples=1",
        scores,
        (difference(*clip), difference(*control, label="control")),
        tuple(comparison.Cost(label, 1, 1.0, 1.0, 0.5, 1, 1, 3e12, 0.0) for label in labels),
    )
    some = replace(CLAIM, metric="t/m", direction=direction, margin=margin)
    decided = claim.decide("filip", "small", some, found)
    assert decided.verdict == verdict
    assert "a run took filip 3 TFLOP and 0.50 GB; clip 3 TFLOP and 0.50 GB; control" in decided.summary
    assert decided.differences[0].value == -sum(clip) / 2


@pytest.mark.parametrize(("share", "verdict"), [(0.5, claim.CONFIRMED), (0.3, claim.NOT_CONFIRMED)])
def test_a_share_of_the_baselines_figure_may_be_claimed(share, verdict) -> None:
    by_seed = {"filip": (0.10, 0.12, 0.11), "clip": (0.30, 0.31, 0.32)}
    scores = [comparison.Score(label, "w/val", "t", "m", 0.5, by_seed=values) for label, values in by_seed.items()]
    sides = tuple(comparison.Contestant(label, label, label) for label in by_seed)
    alone = (difference(0.1, 0.3),)
    found = comparison.Comparison(sides, (0, 1, 2), ("w",), ("w",), "samples=1", tuple(scores), alone)
    some = replace(CLAIM, metric="t/m", direction="lower", share=share, control="")
    decided = claim.decide("filip", "small", some, found)
    assert decided.verdict == verdict
    assert decided.differences[0].value == pytest.approx(0.11 - share * 0.31)
    assert f"difference to {100 * share:g} % of that" in decided.summary
    assert claim.digest(CLAIM) == claim.digest(replace(CLAIM, share=1.0)) != claim.digest(some)


def test_a_comparison_comes_back_as_it_was_written(unbroken: Path, tmp_path) -> None:
    found = comparison.read(unbroken)
    comparison.write(found, tmp_path)
    assert (tmp_path / comparison.FILE).read_text() == (unbroken / comparison.FILE).read_text()


def test_a_method_that_claims_nothing_is_told(capsys) -> None:
    assert main(["claim", "clip"]) == 1
    assert "claims nothing" in capsys.readouterr().err
    assert main(["claim", "filip/pionting"]) == 1
    assert "did you mean 'pointing'" in capsys.readouterr().err
