"""The skeleton of fusion encoders, on a method that is as small as one can be."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import AnswersQuestions, Card, JudgesStatements, Locates, MatchesPairs
from diptych.encoders.tokenizer import own_tokenizer
from diptych.models.fusion_encoder import Fused, FusionConfig, FusionEncoder, side
from diptych.models.start import start_from
from diptych.recipe import Recipe
from diptych.views import regions

CARD = Card("toy", "Toy", 2020, "0", "fusion", needs=("regions", "texts"))
WIDTH = 8


@dataclass(frozen=True)
class Config(FusionConfig):
    """No options of its own."""


class Toy(FusionEncoder):
    """Sums of regions and of words, added up."""

    card = CARD
    sees = ("regions", "region_boxes")

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config)
        self.tokenizer = own_tokenizer(config.context)
        self.words = nn.Embedding(self.tokenizer.vocab_size, WIDTH)
        self.regions = nn.Linear(3, WIDTH)
        self.make_heads(WIDTH)
        self.begin(weights)

    def view_image(self, sample, rng):
        return regions.view(sample, 4)

    def encode_image(self, batch):
        tokens = self.regions(batch.regions)
        return Features(tokens, tokens.sum(1), batch.region_mask, batch.region_boxes)

    def encode_text(self, batch):
        tokens = self.words(batch.text)
        return Features(tokens, (tokens * batch.text_mask[..., None]).sum(1), batch.text_mask)

    def fuse(self, image, text):
        pooled = image.pooled + text.pooled
        return Fused(text.tokens, image.tokens * pooled[:, None], pooled)

    def pretrain(self, batch, step: Step) -> Terms:
        return Terms(itm=self.match(self.encode_image(batch), self.encode_text(batch)).mean())


def toy(**options) -> Toy:
    torch.manual_seed(0)
    return Toy(Config(**options))


def seen(count: int = 2) -> dict[str, np.ndarray]:
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1]], np.float32)[:count]
    return {"regions": np.eye(3, dtype=np.float32)[:count], "region_boxes": boxes}


def test_tasks_are_stages_that_name_what_they_read() -> None:
    method = toy(
        tasks=("pretrain", "vqa", "nlvr2"), answers=("yes",), task_shares=(2, 1, 1), task_data=("all", "asked", "all")
    )
    stages = method.stages(Recipe())
    assert [stage.name for stage in stages] == ["pretrain", "vqa", "nlvr2"]
    assert [stage.share for stage in stages] == [0.5, 0.25, 0.25]
    assert [stage.data for stage in stages] == [None, "asked", None]
    assert stages[0].needs is None
    assert stages[1].needs == ("regions", "region_boxes", "questions")
    assert stages[2].needs == ("sides", "text", "label")


def test_mistakes_in_tasks_are_told() -> None:
    with pytest.raises(ValueError, match="did you mean 'vqa'"):
        toy(tasks=("vqa2",))
    with pytest.raises(ValueError, match="tasks is empty"):
        toy(tasks=())
    with pytest.raises(ValueError, match="task_shares has 1 values for 2 tasks"):
        toy(tasks=("pretrain", "nlvr2"), task_shares=(1.0,)).stages(Recipe())
    with pytest.raises(ValueError, match="train on data with questions"):
        toy(tasks=("vqa",))


def test_views_are_of_what_the_sample_has() -> None:
    method = toy(tasks=("vqa", "referring"), answers=("red", "2"))
    asked = [{"question": "How many?", "answers": ["two"] * 3 + ["red"], "type": "count"}]
    sample = Sample("a", {**seen(), "questions": asked, "boxes": seen()["region_boxes"], "expressions": [("it", 1)]})
    views = method.views(sample, None)
    assert "text" not in views
    assert views["asked"]
    # of four people three say 2: leaving out one of those leaves 2 of 3, and leaving out the other leaves 3 of 3
    assert views["answer_scores"].tolist() == pytest.approx([(3 * 1 / 3 + 0) / 4, (3 * 2 / 3 + 1) / 4])
    assert views["target"] == 1
    assert views["region_mask"].tolist() == [True, True, False, False]
    far = Sample("a", {**sample, "boxes": np.array([[0, 0, 0.1, 0.1]] * 2, np.float32)})
    assert method.views(far, None)["target"] == -1


def test_an_answer_that_nobody_knows_counts_for_nothing() -> None:
    method = toy(tasks=("vqa",), answers=("red",))
    views = method.views(Sample("a", {**seen(), "questions": [{"question": "Who?", "answers": ["he"]}]}), None)
    assert not views["asked"]
    batch = Batch({name: torch.as_tensor(value)[None] for name, value in views.items()})
    assert method.loss(batch, Step()).total == 0


def test_a_sample_without_questions_asks_nothing() -> None:
    method = toy(tasks=("vqa",), answers=("red",))
    views = method.views(Sample("a", {**seen(), "questions": []}), np.random.default_rng(0))
    assert not views["asked"]


def test_each_stage_has_its_loss_and_any_other_name_means_the_first() -> None:
    method = toy(tasks=("referring", "pretrain"))
    text = method.tokenize(["it"])
    batch = Batch(
        {
            "regions": torch.eye(3)[None],
            "region_mask": torch.ones(1, 3, dtype=torch.bool),
            "region_boxes": torch.rand(1, 3, 4),
            "expression": text.text,
            "expression_mask": text.text_mask,
            "target": torch.tensor([2]),
            **text,
        }
    )
    assert set(method.loss(batch, Step(stage="pretrain"))) == {"itm"}
    found = method.loss(batch, Step())
    _, scores = method.locate(method.encode_image(batch), method.encode_text(batch), batch.text_mask)
    assert found["referring"].item() == pytest.approx(-scores.log_softmax(1)[0, 2].item())


def test_a_statement_is_judged_by_both_images() -> None:
    method = toy(tasks=("nlvr2",))
    sides = [Sample("0", seen(2)), Sample("1", seen(3))]
    sample = Sample("a", {"sides": sides, "text": "same", "label": 1})
    views = method.views(sample, None)
    batch = Batch({name: torch.as_tensor(value)[None] for name, value in views.items()})
    assert side(batch, 1).region_mask.tolist() == [[True, True, True, False]]
    first, second, text = *(method.encode_image(side(batch, i)) for i in (0, 1)), method.encode_text(batch)
    both = torch.cat([method.fuse(first, text).pooled, method.fuse(second, text).pooled], 1)
    logits = method.pair_head(both)
    assert method.judge(first, second, text).item() == pytest.approx((logits[0, 1] - logits[0, 0]).item())
    assert method.loss(batch, Step())["nlvr2"].item() == pytest.approx(-logits.log_softmax(1)[0, 1].item())


def test_says_which_protocols_it_was_not_trained_for() -> None:
    method = toy(tasks=("pretrain", "vqa"), answers=("a",))
    assert all(isinstance(method, protocol) for protocol in (MatchesPairs, AnswersQuestions, JudgesStatements, Locates))
    assert set(method.lacks) == {"JudgesStatements", "Locates"}
    assert "nlvr2" in method.lacks["JudgesStatements"]


# -- weights to start from ---------------------------------------------------------------------------------------------


def test_starts_from_what_fits_and_takes_answers_by_name(tmp_path) -> None:
    other = toy(tasks=("vqa",), answers=("red", "blue", "green"))
    other.save_pretrained(tmp_path / "other")
    torch.manual_seed(1)
    config = Config(tasks=("vqa", "nlvr2"), answers=("green", "new", "red"), start=str(tmp_path / "other"))
    method, fresh = Toy(config), Toy(replace(config, start=""))
    assert torch.equal(method.regions.weight, other.regions.weight)
    mine, theirs = method.answer_head.answers.weight, other.answer_head.answers.weight
    assert torch.equal(mine[[0, 2]], theirs[[2, 0]])
    assert not any(torch.equal(mine[1], row) for row in theirs)
    assert method.pair_head[0].weight.shape == fresh.pair_head[0].weight.shape


def test_an_official_file_goes_through_the_table_of_names(tmp_path) -> None:
    save_file({"module.visn_fc.weight": torch.ones(WIDTH, 3)}, tmp_path / "theirs.safetensors")
    method = toy()
    start_from(method, str(tmp_path / "theirs.safetensors"), lambda s: {"regions.weight": s["visn_fc.weight"]})
    assert (method.regions.weight == 1).all()
    torch.save({"state_dict": {"regions.bias": torch.ones(WIDTH)}}, tmp_path / "theirs.pt")
    start_from(method, str(tmp_path / "theirs.pt"))
    assert (method.regions.bias == 1).all()


def test_files_that_are_no_weights_are_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to start from"):
        start_from(toy(), str(tmp_path / "none.pt"))
    torch.save({"call": print}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="more than tensors"):
        start_from(toy(), str(tmp_path / "code.pt"))
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        start_from(toy(), str(tmp_path / "bad.safetensors"))
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is it of another kind"):
        start_from(toy(), str(tmp_path / "other.safetensors"))


def test_published_answers_go_by_the_list_beside_the_weights(tmp_path) -> None:
    theirs = {"regions.weight": torch.ones(WIDTH, 3), "answer_head.answers.bias": torch.tensor([1.0, 2.0])}
    save_file(theirs, tmp_path / "model.safetensors")
    options = {"tasks": ("vqa",), "answers": ("red", "blue"), "start": f"hf:{tmp_path}"}
    assert toy(**options).answer_head.answers.bias.tolist() != [1, 2]  # nobody knows whose rows they are
    (tmp_path / "answers.json").write_text('["blue", {"ans": "red"}]', encoding="utf-8")
    assert toy(**options).answer_head.answers.bias.tolist() == [2, 1]
    (tmp_path / "answers.json").write_text('{"blue": 1', encoding="utf-8")
    with pytest.raises(ValueError, match="no list of answers"):
        toy(**options)
    with pytest.raises(FileNotFoundError, match="has none of"):
        toy(start=f"hf:{tmp_path.parent}")
