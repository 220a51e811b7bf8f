"""Before a run: what fits, what it takes, which switch buys what, and what is refused in one sentence."""

import json
from dataclasses import replace

import pytest
import torch
from app_helpers import FLAGS, tiny

from diptych.app import devices, plan
from diptych.app.devices import Device
from diptych.app.main import main
from diptych.app.wording import size
from diptych.batch import MissingField
from diptych.recipe import Recipe
from diptych.training import cost

RECIPE = Recipe(samples=640, batch=16, workers=0)
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.fixture
def small(monkeypatch):
    """A device that is not here, with little memory and a billion operations a second, ten billion in bf16."""

    def made(memory: float = 5e6, bf16: bool = False) -> str:
        rates = {"fp32": 1e9, "bf16": 1e10}
        monkeypatch.setattr(devices, "find", lambda name: Device("Small", "cpu", memory, 1.0, bf16, rates))
        return "small"

    return made


def planned(shards, device, method="clip", recipe=RECIPE, switches=False, **options) -> plan.Plan:
    return plan.plan(method, str(shards), tiny(method, **options), recipe, device, switches=switches)


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"), [("cuda:h10", "cuda:h100"), ("cuda:rtx409", "cuda:rtx4090"), ("cpuu", "cpu")]
)
def test_an_unknown_device_names_the_nearest(typed, meant):
    with pytest.raises(ValueError, match=f"'{typed}'; did you mean '{meant}'"):
        devices.find(typed)


@no_cuda
def test_a_missing_cuda_device_asks_which_one_is_meant():
    with pytest.raises(ValueError, match=r"sees no CUDA device here.*cuda:h100"):
        devices.find("cuda")


def test_a_device_that_is_here_has_its_memory_and_no_assumed_rate():
    here = devices.find("cpu")
    assert here.here
    assert 1e8 < here.memory < 1e14
    there = devices.find("cuda:rtx4090")
    assert not there.here
    assert there.memory == 0.9 * 24 * 2**30
    assert there.rates["bf16"] == pytest.approx(0.35 * 165.2e12)


def test_bf16_is_chosen_where_there_is_such_arithmetic_and_refused_where_there_is_none(shards):
    chosen = {name: plan.settled(RECIPE, devices.find(name)).precision for name in ("cuda:a100", "cuda:t4")}
    assert chosen == {"cuda:a100": "bf16", "cuda:t4": "fp32"}
    with pytest.raises(ValueError, match="T4 has no bf16 arithmetic"):
        planned(shards, "cuda:t4", recipe=replace(RECIPE, precision="bf16"))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_largest_batch_fits_and_one_more_does_not(shards, small):
    device = small()
    made = planned(shards, device)
    largest = made.estimate.largest
    assert made.estimate.fits
    assert largest > RECIPE.batch
    for batch, fits in ((largest, True), (largest + 1, False)):
        asked = planned(shards, device, recipe=replace(RECIPE, samples=10 * batch, batch=batch)).estimate
        assert asked.fits == fits
        assert asked.largest == largest


def test_a_batch_too_large_does_not_fit(shards, small, capsys):
    small()
    assert main(["plan", "clip", "--data", str(shards), "--batch", "4096", "--samples", "8192", "--quick", *FLAGS]) == 0
    shown = capsys.readouterr().out
    assert "A batch of 4,096 does not fit:" in shown
    assert "of 5.0 MB" in shown


def test_where_nothing_fits_it_says_so(shards, small, capsys):
    made = planned(shards, small(1000))
    assert (made.estimate.largest, made.estimate.fits) == (0, False)
    small(1000)
    assert main(["plan", "clip", "--data", str(shards), "--quick", *FLAGS]) == 0
    assert "not even one sample fits" in capsys.readouterr().out


def test_accumulated_parts_share_the_memory_of_one(shards, small):
    device = small()
    whole = planned(shards, device, recipe=replace(RECIPE, batch=8)).estimate
    parts = planned(shards, device, recipe=replace(RECIPE, batch=32, accumulate=4)).estimate
    assert parts.memory == whole.memory
    assert parts.largest == 4 * whole.largest


def test_parts_under_one_loss_have_all_logits_and_are_computed_twice(shards, small):
    device = small(1e9)

    def of(accumulate=1, grad_cache=False):
        recipe = replace(RECIPE, samples=40960, batch=4096, accumulate=accumulate, grad_cache=grad_cache)
        return planned(shards, device, recipe=recipe).estimate

    whole, parts, cached = of(), of(4), of(4, True)
    assert cached.memory["logits"] == whole.memory["logits"] == 16 * parts.memory["logits"]
    assert cached.memory["activations"] < whole.memory["activations"] / 4  # none but features, when logits are there
    assert whole.largest < cached.largest < parts.largest
    assert 1.1 * whole.flops_per_sample < cached.flops_per_sample < 4 / 3 * whole.flops_per_sample


def test_the_parts_are_those_of_the_recipe(shards, small):
    made = planned(shards, small(), recipe=replace(RECIPE, ema=0.9, optimizer="sgd"))
    memory = made.estimate.memory
    assert memory["optimiser (sgd)"] == memory["gradients"] == memory["averaged copy"] == 4 * made.trained
    assert made.estimate.bytes == sum(memory.values())
    assert "averaged copy" not in planned(shards, small()).estimate.memory


# -- time --------------------------------------------------------------------------------------------------------------


def test_time_elsewhere_is_operations_by_rate(shards, small):
    made = planned(shards, small())
    now = made.estimate
    assert now.computing == pytest.approx(now.flops_per_sample / 1e9)
    assert now.run_seconds == pytest.approx(640 * (now.computing + now.reading))  # workers=0: one after the other
    assert now.step_seconds == pytest.approx(now.run_seconds / 40)
    quicker = planned(shards, small(bf16=True)).estimate
    assert quicker.computing == pytest.approx(now.computing / 10)


@pytest.mark.parametrize("looks", [False, True], ids=["needs no numbers", "looks at its numbers"])
def test_a_large_method_without_numbers_is_planned_like_one_with_them(shards, small, monkeypatch, looks):
    options = {"remember": 64, "freeze": (r"^image\.",), "crop": (1.0, 1.0)} if looks else {}
    device, built, build = small(), [], plan._Asked.build
    usual = planned(shards, device, **options).estimate
    monkeypatch.setattr(plan, "_LARGE", 0)
    monkeypatch.setattr(plan._Asked, "build", lambda asked, place: (built.append(place), build(asked, place))[1])
    found = planned(shards, device, **options).estimate
    assert (found.memory, found.flops_per_sample) == (usual.memory, usual.flops_per_sample)
    assert ("cpu" in built) == looks


def test_time_here_is_measured(shards):
    made = planned(shards, "cpu")
    assert made.device.here
    assert 0 < made.estimate.computing < 1
    assert made.estimate.run_seconds == pytest.approx(40 * made.estimate.step_seconds)


def test_what_limits_a_run(shards, small, monkeypatch):
    monkeypatch.setattr(cost, "reading", lambda *_: 1.0)
    one, many = (planned(shards, small(), recipe=replace(RECIPE, workers=n)).estimate for n in (1, 10**9))
    assert (one.limit, many.limit) == ("reading", "computing")
    assert one.run_seconds == pytest.approx(640)


# -- switches ----------------------------------------------------------------------------------------------------------


def test_switches_are_those_that_apply(shards, small):
    wide = replace(RECIPE, batch=64)
    tried = {
        s.option for s in planned(shards, small(), switches=True, recipe=replace(wide, ema=0.9, workers=1)).switches
    }
    assert {"--batch 32", "--accumulate 2", "--ema 0", "--tile 16", "--image-size 8"} <= tried
    assert not [option for option in tried if option.startswith(("--freeze", "--lora", "--remember", "--precision"))]
    again = {s.option for s in planned(shards, small(), switches=True, tile=16, recipe=wide).switches}
    assert not [option for option in again if option.startswith(("--tile", "--ema"))]


def test_a_switch_says_what_a_plan_with_it_says(shards, small):
    device, recipe = small(bf16=True), replace(RECIPE, batch=64, precision="fp32")
    tried = {s.option: s.estimate for s in planned(shards, device, recipe=recipe, switches=True).switches}
    tiled = planned(shards, device, recipe=recipe, tile=16).estimate
    assert tried["--tile 16"].memory == tiled.memory
    assert tried["--tile 16"].largest == tiled.largest
    half = planned(shards, device, recipe=replace(recipe, batch=32)).estimate
    assert tried["--batch 32"].memory == half.memory
    assert tried["--precision bf16"].computing < planned(shards, device, recipe=recipe).estimate.computing


def test_where_it_does_not_fit_batch_and_parts_are_tried_that_do(shards, small):
    made = planned(shards, small(), recipe=replace(RECIPE, samples=10_240, batch=1024), switches=True)
    assert not made.estimate.fits
    tried = {s.option.split()[0]: s.estimate for s in made.switches}
    assert tried["--batch"].fits
    assert tried["--accumulate"].fits


# -- command -----------------------------------------------------------------------------------------------------------


def test_the_command_prints_json(shards, capsys):
    args = [
        "plan",
        "filip",
        "--data",
        str(shards),
        "--batch",
        "8",
        "--samples",
        "64",
        "--workers",
        "0",
        "--json",
        *FLAGS,
    ]
    assert main([*args, "--device", "cuda:h100", "--precision", "fp32", "--quick"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"] == "filip"
    assert told["estimate"]["fits"]
    assert told["estimate"]["bytes"] == pytest.approx(sum(told["estimate"]["memory"].values()))
    assert told["flops"] == pytest.approx(64 * told["estimate"]["flops_per_sample"])
    assert told["switches"] == []


def test_the_command_shows_what_was_assumed(shards, capsys):
    assert main(["plan", "clip", "--data", str(shards), "--device", "cuda:h100", "--precision", "fp32", *FLAGS]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "A batch of 64 fits" in shown
    assert "--accumulate 2" in shown
    assert "(assumed)" in shown
    assert "35% of the peak rate of its data sheet" in shown


def test_mistakes_are_one_sentence(shards, capsys):
    assert main(["plan", "clip", "--data", str(shards), "--device", "cuda:h10"]) == 1
    assert "'cuda:h100'" in capsys.readouterr().err
    assert main(["plan", "clip", "--data", str(shards), "--batchh", "8"]) == 2
    assert "--batch" in capsys.readouterr().err
    assert main(["plan", "--data", str(shards)]) == 2


def test_data_without_the_fields_are_refused(tmp_path):
    from app_helpers import png

    from diptych.data.shards import ShardWriter

    with ShardWriter(tmp_path, "train") as writer:
        writer.add("one", {"png": png((1, 2, 3))})
    with pytest.raises(MissingField, match="clip needs texts"):
        plan.plan("clip", str(tmp_path), device="cuda:h100")


@pytest.mark.parametrize(("number", "said"), [(940e3, "940 kB"), (8.44e6, "8.4 MB"), (1.25e12, "1.2 TB"), (0, "0 kB")])
def test_sizes(number, said):
    assert size(number) == said
