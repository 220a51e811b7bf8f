"""LXMERT against its sheet, its published code and transformers' LXMERT, on copied random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_helpers import batch_of, learn, public_folders, small
from tokenizers import Tokenizer, models, pre_tokenizers

from diptych import methods
from diptych.batch import Batch, Features, Sample, Step
from diptych.card import AnswersQuestions, JudgesStatements, MatchesPairs
from diptych.evaluation.tasks import evaluate
from diptych.methods.fusion.lxmert import CARD, PRESETS, Config
from diptych.models.official.lxmert import from_official
from diptych.objectives.masked import IGNORE
from diptych.recipe import Recipe
from diptych.world.data import World
from diptych.world.knobs import Knobs

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "star", "is", "what", "blue", "ring", "the"]
SIZES = {
    "width": 8,
    "heads": 2,
    "text_layers": 1,
    "image_layers": 1,
    "cross_layers": 1,
    "region_width": 6,
    "region_labels": 5,
    "region_attributes": 4,
    "regions_most": 4,
    "answers": tuple("bcdefgh"),
}
LOSSES = ("mlm", "matching", "label", "attribute", "feature", "qa")
REFERENCE = Path(__file__).parents[1] / "reference" / "lxmert_pretraining.npz"


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    """The folder of a BERT of twelve words, without weights."""
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("bert")
    BertConfig(vocab_size=len(WORDS)).save_pretrained(folder)
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    return f"hf:{folder}"


@pytest.fixture
def method(bert):
    """A small LXMERT with weights that are far from where training begins, in evaluation."""
    found = methods.build("lxmert", {**SIZES, "words": bert})
    generator = torch.Generator().manual_seed(0)
    for value in found.parameters():
        value.data = torch.randn(value.shape, generator=generator) * 0.3
    return found.eval()


def pairs(seed: int = 0) -> Batch:
    """Three corrupted pairs of 5 words and 4 objects; the second is unmatched and two texts end early."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.tensor([5, 3, 4])[:, None]
    ids = torch.randint(5, len(WORDS), (3, 5), generator=generator) * mask
    chosen = torch.zeros(3, 4, dtype=torch.bool)
    chosen[[0, 1, 2], [1, 0, 3]] = True
    corners = torch.rand(3, 4, 2, 2, generator=generator).sort(2).values
    return Batch(
        {
            "text": ids,
            "text_mask": mask,
            "word_labels": torch.tensor([[-100, 6, -100, -100, -100], [-100, -100, 7, -100, -100], [5] + [-100] * 4]),
            "regions": torch.randn(3, 4, 6, generator=generator),
            "region_boxes": corners.flatten(2),
            "region_mask": torch.ones(3, 4, dtype=torch.bool),
            "features": torch.randn(3, 4, 6, generator=generator),
            "chosen": chosen,
            "region_labels": torch.randint(5, (3, 4), generator=generator),
            "region_scores": torch.rand(3, 4, generator=generator),
            "region_attributes": torch.randint(4, (3, 4), generator=generator),
            "region_attribute_scores": torch.rand(3, 4, generator=generator),
            "matched": torch.tensor([True, False, True]),
            "answer": torch.tensor([2, IGNORE, 6]),
        }
    )


def fused(method, batch: Batch):
    return method.fuse(method.encode_image(batch), method.encode_text(batch))


def twin(method, kind: str, **options):
    """transformers' LXMERT of the same sizes, whose weights `method` takes over."""
    import transformers

    config = transformers.LxmertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=32,
        num_qa_labels=7,
        num_object_labels=5,
        num_attr_labels=4,
        l_layers=1,
        x_layers=1,
        r_layers=1,
        visual_feat_dim=6,
        **options,
    )
    torch.manual_seed(0)
    found = getattr(transformers, kind)(config).eval()
    for value in found.parameters():
        value.data = torch.randn(value.shape) * 0.3
    weights = found.state_dict()
    if kind == "LxmertModel":
        weights = {f"lxmert.{name}": value for name, value in weights.items()}
    ours = from_official(weights)
    assert all(name in method.state_dict() for name in ours)
    method.load_state_dict(ours, strict=False)
    return found


def seen_by_twin(batch: Batch) -> dict[str, torch.Tensor]:
    return {
        "input_ids": batch.text,
        "attention_mask": batch.text_mask.long(),
        "visual_feats": batch.regions,
        "visual_pos": batch.region_boxes,
        "visual_attention_mask": batch.region_mask.long(),
    }


def twin_losses(found, batch: Batch) -> dict[str, torch.Tensor]:
    """The losses of transformers' model, one at a time."""
    none = torch.zeros(3, 4)
    seen = {
        "label": ("obj", batch.region_labels, batch.region_scores),
        "attribute": ("attr", batch.region_attributes, batch.region_attribute_scores),
        "feature": ("feat", batch.features, batch.chosen.float()),
    }
    asked = {
        "mlm": {"labels": batch.word_labels},
        "matching": {"matched_label": batch.matched.long()},
        "qa": {"ans": batch.answer},
    }
    for name in seen:
        asked[name] = {
            "obj_labels": {key: (labels, sure if one == name else none) for one, (key, labels, sure) in seen.items()}
        }
    return {name: found(**seen_by_twin(batch), **labels).loss for name, labels in asked.items()}


# -- against transformers ----------------------------------------------------------------------------------------------


@pytest.mark.shows("P", "lxmert")
@pytest.mark.parametrize("objects", [4, 2])
def test_states_are_those_of_transformers(method, objects: int) -> None:
    theirs = twin(method, "LxmertModel")
    batch = pairs()
    batch = Batch({**batch, "region_mask": torch.arange(4).expand(3, 4) < objects})
    expected = theirs(**seen_by_twin(batch))
    found = fused(method, batch)
    torch.testing.assert_close(found.pooled, expected.pooled_output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.image, expected.vision_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.text, expected.language_output, rtol=1e-5, atol=1e-5)


@pytest.mark.shows("P", "lxmert")
def test_losses_are_those_of_transformers_but_for_its_rounded_factor(method) -> None:
    theirs = twin(method, "LxmertForPreTraining")  # 6.67 where the paper's code has 1 / 0.15
    batch = pairs()
    found, expected = method.guess(batch, answers=True), twin_losses(theirs, batch)
    assert set(found) == set(expected)
    for name in ("mlm", "matching", "qa"):
        torch.testing.assert_close(found[name], expected[name])
    for name in ("label", "attribute", "feature"):
        torch.testing.assert_close(found[name] * (6.67 * 0.15), expected[name])
        assert abs(found[name] - expected[name]) > 1e-4 * found[name]


@pytest.mark.shows("P", "lxmert")
def test_gradients_of_the_official_form_are_those_of_transformers(bert) -> None:
    mine = methods.build("lxmert", {**SIZES, "words": bert, "official": True}).eval()
    theirs = twin(mine, "LxmertForPreTraining", visual_loss_normalizer=1 / 0.15)
    batch = pairs()
    mine.guess(batch, answers=True).total.backward()
    sum(twin_losses(theirs, batch).values()).backward()
    expected = from_official({name: value.grad for name, value in theirs.named_parameters()})
    grads = dict(mine.named_parameters())
    assert len(expected) == len(grads)
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name].grad, grad, rtol=1e-4, atol=1e-5, msg=name)
    assert not mine.words.position.weight.grad[0].any()


def test_unless_official_the_first_position_is_trained(method) -> None:
    method.guess(pairs(), answers=True).total.backward()
    assert method.words.position.weight.grad[0].any()


@pytest.mark.shows("P", "lxmert")
@pytest.mark.shows("L", "lxmert")
def test_a_question_answerer_of_transformers_is_started_from(method, bert, tmp_path) -> None:
    theirs = twin(method, "LxmertForQuestionAnswering")
    theirs.save_pretrained(tmp_path)
    (tmp_path / "answers.json").write_text('["h", "g", {"ans": "f"}, "e", "d", "c", "b"]', encoding="utf-8")
    options = {**SIZES, "words": bert, "tasks": ("vqa",), "start": f"hf:{tmp_path}"}
    mine = methods.build("lxmert", options).eval()
    batch = pairs()
    found = mine.answer(mine.encode_image(batch), mine.encode_text(batch))
    expected = theirs(**seen_by_twin(batch)).question_answering_score
    torch.testing.assert_close(found, expected.flip(1))  # the rows by their names


# -- against the paper's code ------------------------------------------------------------------------------------------


def reference(method) -> tuple[dict[str, torch.Tensor], Batch]:
    """What the paper's code computed, with its weights in `method`."""
    told = {name: torch.from_numpy(value) for name, value in np.load(REFERENCE).items() if value.dtype.kind in "fi"}
    state = {name.removeprefix("weights."): told.pop(name) for name in list(told) if name.startswith("weights.")}
    positions = "bert.embeddings.position_embeddings.weight"
    state[positions] = torch.nn.functional.pad(state[positions], (0, 0, 0, 512 - len(state[positions])))
    method.load_state_dict(from_official(state))
    batch = {
        "text": told["ids"],
        "text_mask": told["mask"].bool(),
        "word_labels": told["lm"].masked_fill(told["lm"] < 0, IGNORE),
        "regions": told["feats"],
        "region_boxes": told["pos"],
        "region_mask": torch.ones(told["obj"].shape, dtype=torch.bool),
        "features": told["target"],
        "chosen": told["feat_mask"].bool(),
        "region_labels": told["obj"],
        "region_scores": told["obj_conf"],
        "region_attributes": told["attr"],
        "region_attribute_scores": told["attr_conf"],
        "matched": told["matched"].bool(),
        "answer": told["ans"].masked_fill(told["ans"] < 0, IGNORE),
    }
    return told, Batch(batch)


@pytest.mark.shows("P", "lxmert")
@pytest.mark.shows("F", "lxmert")
def test_states_and_losses_are_those_of_the_papers_code(method) -> None:
    expected, batch = reference(method)
    found = fused(method, batch)
    torch.testing.assert_close(found.pooled, expected["pooled"])
    torch.testing.assert_close(found.text, expected["lang"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.image, expected["visn"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(method.answer_head(found.pooled), expected["scores"], rtol=1e-5, atol=1e-5)
    losses = method.guess(batch, answers=True)
    torch.testing.assert_close(torch.stack([losses[name] for name in LOSSES]), expected["losses"])


def published() -> dict[str, torch.Tensor]:
    """The names and shapes of the released weights, by way of transformers; without numbers."""
    from transformers import LxmertConfig, LxmertForPreTraining

    with torch.device("meta"):
        found = LxmertForPreTraining(LxmertConfig()).state_dict()
    return {name.replace("lxmert.", "bert.", 1): value for name, value in found.items()}


def paper(**options):
    """The paper's model with its 9,500 answers, without numbers."""
    config = replace(PRESETS["paper"].config, answers=tuple(map(str, range(9500))), **options)
    with torch.device("meta"):
        return methods.build("lxmert", config, weights=False)


@pytest.fixture
def public(tmp_path, monkeypatch) -> None:
    public_folders(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.shows("L", "lxmert")
def test_every_published_weight_has_its_place(public) -> None:
    theirs, ours = published(), paper().state_dict()
    found = from_official(theirs)
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in ours.items()}
    assert len(found) == len(theirs) - 1  # the words' embeddings are there twice


@pytest.mark.shows("L", "lxmert")
def test_fine_tuned_checkpoints_of_the_papers_code_are_started_from(bert, tmp_path) -> None:
    for task, head, width in (("vqa", "answer_head", 8), ("nlvr2", "pair_head", 16)):
        theirs = {
            "module.lxrt_encoder.model.bert.pooler.dense.weight": torch.randn(8, 8),
            "logit_fc.0.weight": torch.randn(16, width),
            "logit_fc.2.bias": torch.randn(16),
            "logit_fc.3.weight": torch.randn(7 if task == "vqa" else 2, 16),
        }
        torch.save(theirs, tmp_path / "BEST.pth")
        (tmp_path / "answers.json").write_text('["b", "c", "d", "e", "f", "g", "h"]', encoding="utf-8")
        options = {**SIZES, "words": bert, "tasks": (task,), "start": str(tmp_path / "BEST.pth")}
        mine = methods.build("lxmert", options)
        assert torch.equal(mine.pooler.weight, theirs["module.lxrt_encoder.model.bert.pooler.dense.weight"])
        assert torch.equal(getattr(mine, head).transform[0].weight, theirs["logit_fc.0.weight"])
        assert torch.equal(getattr(mine, head).answers.weight, theirs["logit_fc.3.weight"])


@pytest.mark.shows("R", "lxmert")
def test_the_paper_has_its_number_of_parameters(public) -> None:
    mine = paper()
    count = {name: sum(value.numel() for value in part.parameters()) for name, part in mine.named_children()}
    heads = ("word_head", "match_head", "object_head", "answer_head")
    assert sum(count.values()) == 228_051_752
    assert sum(value for name, value in count.items() if name not in heads) == 207_936_768
    assert count["cross"] == 5 * 16_539_648


# -- the mechanism -----------------------------------------------------------------------------------------------------


@pytest.mark.shows("F", "lxmert")
def test_both_directions_share_their_cross_attention(method) -> None:
    first, second = method.cross[0].first, method.cross[0].second
    for mine, other in zip(first.cross_attention.parameters(), second.cross_attention.parameters(), strict=True):
        assert mine.data_ptr() == other.data_ptr()
    assert not any(name.startswith("cross.0.second.cross_attention") for name in method.state_dict())
    fused(method, pairs()).image.square().sum().backward()
    assert all(value.grad.any() for value in first.cross_attention.part.query.parameters())
    assert first.feed_forward.part.expand.weight.grad is None


@pytest.mark.shows("F", "lxmert")
def test_an_object_without_features_is_half_its_place(method) -> None:
    embed = method.objects
    for norm in (embed.look_norm, embed.place_norm):
        norm.reset_parameters()
    torch.nn.init.zeros_(embed.look.bias)
    boxes = torch.rand(2, 3, 4)
    place = embed.place(boxes)
    expected = (place - place.mean(-1, keepdim=True)) / place.var(-1, unbiased=False, keepdim=True).sqrt() / 2
    torch.testing.assert_close(embed(torch.zeros(2, 3, 6), boxes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.shows("F", "lxmert")
def test_the_order_of_objects_does_not_matter(method) -> None:
    batch, order = pairs(), torch.tensor([2, 0, 3, 1])
    of_objects = {name for name in batch if name.startswith("region") or name in ("features", "chosen")}
    other = Batch({name: value[:, order] if name in of_objects else value for name, value in batch.items()})
    found, expected = fused(method, other), fused(method, batch)
    torch.testing.assert_close(found.pooled, expected.pooled)
    torch.testing.assert_close(found.image, expected.image[:, order])
    mine, theirs = method.guess(other, answers=True), method.guess(batch, answers=True)
    for name in LOSSES:
        torch.testing.assert_close(mine[name], theirs[name])


@pytest.mark.shows("F", "lxmert")
def test_without_cross_layers_a_pair_is_its_text(bert) -> None:
    mine = methods.build("lxmert", {**SIZES, "words": bert, "cross_layers": 0}).eval()
    batch = pairs()
    other = Batch({**batch, "regions": batch.regions + 1})
    assert torch.equal(fused(mine, other).pooled, fused(mine, batch).pooled)
    assert not torch.equal(fused(mine, other).image, fused(mine, batch).image)


@pytest.mark.shows("F", "lxmert")
def test_labels_are_weighed_by_confidence_and_answers_of_unmatched_pairs_by_nothing(method) -> None:
    batch = pairs()
    whole = method.guess(batch, answers=True)
    only, twice = torch.zeros(3, 4), torch.ones(3, 4)
    only[1, 2], twice[1, 2] = 1, 2
    for name in ("label", "attribute"):
        scores = "region_scores" if name == "label" else "region_attribute_scores"
        own, more = (
            method.guess(Batch({**batch, scores: batch[scores] * factor}), answers=True)[name]
            for factor in (only, twice)
        )
        torch.testing.assert_close(more, whole[name] + own)
        assert own > 0
    rows = [row for row in range(3) if batch.answer[row] != IGNORE]
    logits = method.answer_head(fused(method, batch).pooled).log_softmax(1)
    by_hand = -sum(logits[row, batch.answer[row]] for row in rows) / len(rows)
    torch.testing.assert_close(whole["qa"], by_hand)


@pytest.mark.shows("F", "lxmert")
def test_labels_of_all_objects_count_unless_only_masked_ones_are_to(method, bert) -> None:
    batch = pairs()
    logits = method.object_head(fused(method, batch).image)["label"].log_softmax(-1)
    error = -logits.gather(2, batch.region_labels[..., None])[..., 0] * batch.region_scores  # (3, 4)
    torch.testing.assert_close(method.guess(batch, answers=False)["label"], error.sum() / 12 / 0.15)
    paper = methods.build("lxmert", {**SIZES, "words": bert, "mask_only_labels": True}).eval()
    paper.load_state_dict(method.state_dict())
    torch.testing.assert_close(paper.guess(batch, answers=False)["label"], error[batch.chosen].sum() / 12 / 0.15)


@pytest.mark.shows("F", "lxmert")
def test_what_has_no_label_has_no_loss(method) -> None:
    batch = pairs()
    empty = {
        "word_labels": torch.full((3, 5), IGNORE),
        "answer": torch.full((3,), IGNORE),
        "chosen": torch.zeros(3, 4, dtype=torch.bool),
        "region_labels": torch.full((3, 4), 5),  # one that the head does not know
        "region_attributes": torch.full((3, 4), -1),
    }
    found = method.guess(Batch({**batch, **empty}), answers=True)
    assert {name for name, value in found.items() if value.item() == 0} == set(LOSSES) - {"matching"}
    found.total.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in method.parameters())


def whole_pairs(size: int) -> Batch:
    """Pairs before corruption: text i is made of the word 5 + i % 7, objects of picture i of the number i + 1."""
    word = 5 + torch.arange(size) % 7
    return Batch(
        {
            "text": torch.stack([torch.full((size,), 2), *[word] * 8, torch.full((size,), 3)], 1),
            "text_mask": torch.ones(size, 10, dtype=torch.bool),
            "regions": (torch.arange(size) + 1.0)[:, None, None].expand(size, 4, 6).clone(),
            "region_boxes": torch.rand(size, 4, 4),
            "region_mask": torch.ones(size, 4, dtype=torch.bool),
            "answer_scores": torch.eye(7)[torch.arange(size) % 7],
            "asked": torch.arange(size) % 2 == 0,
        }
    )


@pytest.mark.shows("F", "lxmert")
def test_half_of_the_sentences_are_replaced_and_lose_their_answers(method) -> None:
    torch.manual_seed(0)
    whole = whole_pairs(2000)
    found = method.corrupt(whole)
    assert 0.46 < found.matched.float().mean() < 0.54
    assert torch.equal(found.answer != IGNORE, found.matched & whole.asked)
    known = found.answer != IGNORE
    assert torch.equal(found.answer[known], (torch.arange(2000) % 7)[known])
    labels = found.word_labels[:, 1:-1]
    original = torch.where(labels == IGNORE, found.text[:, 1:-1], labels)
    assert bool((original == original[:, :1]).all())  # masking comes after replacing: a sentence's own words are asked
    assert torch.equal(original[found.matched], whole.text[:, 1:-1][found.matched])
    assert (original != whole.text[:, 1:-1]).any(1)[~found.matched].float().mean() == pytest.approx(6 / 7, abs=0.04)
    assert torch.equal(found.word_labels[:, [0, -1]], torch.full((2000, 2), IGNORE))


@pytest.mark.shows("F", "lxmert")
def test_words_and_objects_are_masked_as_in_bert(method) -> None:
    torch.manual_seed(0)
    whole = whole_pairs(2000)
    found = method.corrupt(whole)
    words = found.word_labels != IGNORE
    assert words[:, 1:-1].float().mean() == pytest.approx(0.15, abs=0.01)
    assert (found.text[words] == method.mask_id).float().mean() == pytest.approx(0.8 + 0.1 / 12, abs=0.03)
    assert found.chosen.float().mean() == pytest.approx(0.15, abs=0.015)
    seen = found.regions[found.chosen][:, 0]
    own = found.features[found.chosen][:, 0]
    assert (seen == 0).float().mean() == pytest.approx(0.8, abs=0.04)
    assert (seen == own).float().mean() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(found.regions[~found.chosen], whole.regions[~found.chosen])
    assert torch.equal(found.features, whole.regions)
    assert torch.equal(found.region_boxes, whole.region_boxes)


def sample(**fields) -> Sample:
    values = {
        "regions": np.zeros((2, 6), np.float32),
        "region_boxes": np.zeros((2, 4), np.float32),
        "texts": ["red star", "the star"],
        "questions": [{"question": "what is the star", "answers": ["b"], "type": ""}],
    }
    return Sample("a", {**values, **fields})


def test_captions_and_questions_are_sentences_alike(method) -> None:
    rng = np.random.default_rng(0)
    seen = [method.views(sample(), rng) for _ in range(300)]
    asked = np.array([bool(view["asked"]) for view in seen])
    assert 0.24 < asked.mean() < 0.43  # one of three sentences
    for view, question in zip(seen, asked, strict=True):
        assert (WORDS.index("what") in view["text"].tolist()) == question
        assert "question" not in view
    view = method.views(sample(), None)
    assert view["asked"]
    assert len(view["text"]) == len(view["text_mask"]) == 6
    assert not method.views(sample(questions=[]), None)["asked"]


def test_the_papers_schedule_has_two_stages_and_fine_tuning_a_rate_of_its_own(bert) -> None:
    tasks = ("pretrain_without_qa", "pretrain", "vqa", "nlvr2")
    mine = methods.build(
        "lxmert", {**SIZES, "words": bert, "tasks": tasks, "finetune_lr": 0.5, "task_shares": (4, 4, 1, 1)}
    )
    stages = mine.stages(Recipe())
    assert [stage.share for stage in stages] == [0.4, 0.4, 0.1, 0.1]
    assert [stage.lr for stage in stages] == [(), (), ((".*", 0.5),), ((".*", 0.5),)]
    assert stages[0].needs == stages[1].needs == (*CARD.needs, "region_labels", "region_scores")
    assert "questions" in stages[0].uses
    assert "questions" in stages[2].needs
    assert PRESETS["paper"].config.tasks == tasks[:2]
    batch = Batch(
        {**whole_pairs(4), "region_labels": torch.zeros(4, 4, dtype=torch.long), "region_scores": torch.ones(4, 4)}
    )
    assert set(mine.loss(batch, Step(stage="pretrain_without_qa"))) == {"mlm", "matching", "feature", "label"}
    assert set(mine.loss(batch, Step(stage="pretrain"))) == {"mlm", "matching", "feature", "label", "qa"}


@pytest.mark.shows("F", "lxmert")
def test_fine_tuning_scores_each_answer_by_itself_and_statements_by_both_pairs(bert) -> None:
    mine = methods.build("lxmert", {**SIZES, "words": bert, "tasks": ("vqa", "nlvr2")}).eval()
    batch = pairs()
    image, text = mine.encode_image(batch), mine.encode_text(batch)
    scores = torch.rand(3, 7)
    question = {"question": batch.text, "question_mask": batch.text_mask}
    asked = Batch({**batch, **question, "answer_scores": scores, "asked": torch.ones(3, dtype=torch.bool)})
    logits = mine.answer(image, text)
    code = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores) * 7
    torch.testing.assert_close(mine.vqa(asked, Step())["vqa"], code)
    other = Features(image.tokens.flip(0), image.pooled.flip(0), image.mask.flip(0))
    both = torch.cat([mine.fuse(one, text).pooled for one in (image, other)], 1)
    assert [part.weight.shape for part in (mine.pair_head.transform[0], mine.pair_head.answers)] == [(16, 16), (2, 16)]
    expected = mine.pair_head(both)
    torch.testing.assert_close(mine.judge(image, other, text), expected[:, 1] - expected[:, 0])
    assert isinstance(mine, MatchesPairs)
    assert isinstance(mine, AnswersQuestions)
    assert isinstance(mine, JudgesStatements)


@pytest.mark.shows("F", "lxmert")
def test_answers_of_pre_training_are_taken_over_by_name(method, bert, tmp_path) -> None:
    method.save_pretrained(tmp_path)
    torch.manual_seed(3)
    options = {**SIZES, "words": bert, "tasks": ("vqa",), "answers": ("h", "new", "b"), "start": str(tmp_path)}
    mine = methods.build("lxmert", options)
    assert torch.equal(mine.answer_head.answers.weight[[0, 2]], method.answer_head.answers.weight[[6, 0]])
    assert torch.equal(mine.answer_head.transform[0].weight, method.answer_head.transform[0].weight)
    assert torch.equal(
        mine.cross[0].first.cross_attention.part.key.weight, method.cross[0].first.cross_attention.part.key.weight
    )


def test_without_questions_there_is_nothing_to_answer() -> None:
    mine = methods.build("lxmert", {**{name: SIZES[name] for name in SIZES if name != "answers"}})
    assert mine.answer_head is None
    assert "AnswersQuestions" in mine.lacks
    assert Config().answers == ()


@pytest.mark.shows("E", "lxmert")
def test_a_task_of_its_paper_finds_what_it_has_learned() -> None:
    scenes = World(size=8, knobs=Knobs(objects=(1, 1), questions=("colour",), each=1))
    mine = small("lxmert", tasks=("vqa",), dropout=0.0)
    learn(mine, batch_of(mine, scenes), steps=40)
    found = {row.metric: row for row in evaluate(mine, scenes, ["vqa"])}
    assert found["accuracy"].value > 2 * found["accuracy"].chance
