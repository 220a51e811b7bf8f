"""UNITER against its sheet, its paper's code and BERT; the objectives alone have tests of their own."""

from pathlib import Path

import method_helpers
import numpy as np
import pytest
import torch
from method_helpers import (
    batch_of,
    figures,
    learn,
    loss_of,
    public_folders,
    small,
    write_tokenizer,
)
from torch import Tensor, nn
from torch.testing import assert_close

from diptych import methods
from diptych.batch import Batch, Features
from diptych.encoders.base import EncoderError
from diptych.encoders.halves import own_bert
from diptych.evaluation.tasks import evaluate
from diptych.methods.fusion import uniter
from diptych.models.official.uniter import from_official
from diptych.objectives.masked import IGNORE, labelled_cross_entropy
from diptych.objectives.transport import transport_distance
from diptych.world.data import World
from diptych.world.knobs import Knobs

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "uniter_official.npz")
TYPES = "uniter.embeddings.token_type_embeddings.weight"
WIDTH, WORDS, FEATURES, CLASSES, ANSWERS = 16, 40, 10, 7, 5


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name])


def official(*heads: str) -> dict[str, Tensor]:
    """The weights that the paper's code had, by its own names: the pre-trained ones, then those of some heads."""
    names = [name for part in ("pretrain", *heads) for name in REFERENCE if name.startswith(f"state/{part}/")]
    found = {name.split("/")[2]: reference(name) for name in names}
    if {"pair", "attention", "triplet_head"} & set(heads):
        found[TYPES] = torch.cat([found[TYPES], reference("third_type")[None]])
    return found


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A BERT of the reference's sizes, as transformers saves it, with other weights than the reference."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=12,
    )
    BertModel(config).save_pretrained(folder)
    write_tokenizer(folder, WORDS)
    return folder


@pytest.fixture
def theirs(bert, tmp_path):
    """Makes a UNITER that starts from a checkpoint of the paper's code."""

    def make(task: str = "pretrain", *heads: str, **options) -> uniter.UNITER:
        torch.save(official(*heads), tmp_path / "official.pt")
        config = uniter.Config(
            tasks=(task,),
            start=str(tmp_path / "official.pt"),
            text=f"hf:{bert}",
            context=12,
            region_width=FEATURES,
            region_classes=CLASSES,
            answers=tuple(f"answer {number}" for number in range(ANSWERS)),
            **options,
        )
        method = uniter.UNITER(config).eval()
        assert set(from_official(official(*heads))) == set(method.state_dict())
        return method

    return make


def batch(**changed: Tensor) -> Batch:
    """The inputs of the reference, padded."""
    found = {
        "text": reference("ids"),
        "text_mask": torch.arange(6) < reference("text_lengths")[:, None],
        "regions": reference("features"),
        "region_boxes": reference("boxes"),
        "region_mask": torch.arange(4) < reference("region_counts")[:, None],
        "region_classes": reference("soft"),
    }
    return Batch({**found, **changed})


def encoded(method: uniter.UNITER, inputs: Batch | None = None) -> tuple[Features, Features]:
    inputs = inputs or batch()
    return method.encode_image(inputs), method.encode_text(inputs)


def close(mine: Tensor, expected: Tensor) -> None:
    assert_close(mine, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.shows("P", "uniter")
@pytest.mark.shows("L", "uniter")
@torch.no_grad()
def test_hidden_states_are_those_of_the_papers_code(theirs) -> None:
    method = theirs()
    image, text = encoded(method)
    fused = method.fuse(image, text)
    close(fused.text * text.mask[..., None], reference("hidden_text"))
    close(fused.image * image.mask[..., None], reference("hidden_regions"))
    close(fused.pooled, reference("pooled"))
    close(method.read(text.take(slice(1)))[0], reference("hidden_text_alone"))
    close(method.read(method.seen(image.take(slice(1, 2))))[0], reference("hidden_regions_alone"))


@pytest.mark.shows("P", "uniter")
@torch.no_grad()
def test_losses_of_pre_training_are_those_of_the_papers_code(theirs) -> None:
    method = theirs()
    image, text = encoded(method)
    fused = method.fuse(image, text)
    close(method.match_head(fused.pooled), reference("itm_scores"))
    close(transport_distance(fused.text, fused.image, text.mask, image.mask), reference("distance"))

    words = method.words(method.fuse(*encoded(method, batch(text=reference("mlm_ids")))).text)
    labels = reference("mlm_labels")
    labels = labels.masked_fill(labels < 0, IGNORE)
    close(labelled_cross_entropy(words, labels), reference("mlm").mean())

    blank = reference("region_masks")
    hidden = method.fuse(method.encode_image(batch(), blank), text).image
    for task in ("mrfr", "mrckl", "mrc"):
        close(method.guess_regions(task, batch(), hidden, blank), reference(task).mean())


@pytest.mark.shows("P", "uniter")
@torch.no_grad()
def test_answers_expressions_and_ranks_are_those_of_the_papers_code(theirs) -> None:
    answers = theirs("vqa", "vqa")
    assert not torch.equal(answers.answer_head.answers.bias, reference("state/vqa/vqa_output.3.bias"))
    answers.load_state_dict(from_official(official("vqa")))  # a head whose answers have no names is not taken unasked
    close(answers.answer(*encoded(answers)), reference("vqa"))
    expressions = theirs("referring", "re")
    image, text = encoded(expressions)
    boxes, scores = expressions.locate(image, text, text.mask)
    assert torch.equal(boxes, reference("boxes"))
    close(scores[image.mask], reference("re")[image.mask])
    assert bool((scores[~image.mask] == -torch.inf).all())
    ranks = theirs("retrieval", "rank")
    close(ranks.match(*encoded(ranks)), reference("rank")[:, 0])


@pytest.mark.shows("P", "uniter")
@pytest.mark.parametrize("pair", ["attention", "pair", "triplet"])
@torch.no_grad()
def test_judgements_of_two_pictures_are_those_of_the_papers_code(theirs, pair) -> None:
    method = theirs("nlvr2", "triplet_head" if pair == "triplet" else pair, pair=pair)
    image, text = encoded(method)
    first, second = torch.tensor([0, 2]), torch.tensor([1, 1])
    logits = method.judge_logits(image.take(first), image.take(second), text.take(first))
    close(logits, reference(f"nlvr2_{pair}"))
    close(method.judge(image.take(first), image.take(second), text.take(first)), logits[:, 1] - logits[:, 0])


@pytest.mark.shows("F", "uniter")
@torch.no_grad()
def test_text_alone_is_bert_and_public_weights_of_a_bert_load(tmp_path) -> None:
    bert = own_bert(32, 32, 2, 2).model.eval()
    method = small("uniter", text_layers=2).eval()
    method.trunk.encoder.model.load_state_dict(bert.state_dict())
    words = method.tokenize(["a red star", "two dogs above a plain blue boat"])
    expected = bert(words.text, attention_mask=words.text_mask).last_hidden_state
    found = method.read(method.encode_text(words))[0]
    assert_close(found[words.text_mask], expected[words.text_mask], atol=1e-6, rtol=1e-6)


@pytest.mark.shows("F", "uniter")
@torch.no_grad()
def test_padding_of_words_and_regions_changes_nothing(theirs) -> None:
    method = theirs()
    image, text = encoded(method)
    more = batch(
        text=nn.functional.pad(reference("ids"), (0, 3), value=7),
        text_mask=nn.functional.pad(text.mask, (0, 3)),
        regions=torch.cat([reference("features"), torch.randn(3, 2, FEATURES)], 1),
        region_boxes=torch.cat([reference("boxes"), torch.rand(3, 2, 4)], 1),
        region_mask=nn.functional.pad(image.mask, (0, 2)),
    )
    padded = encoded(method, more)
    fused = method.fuse(*padded)
    close(fused.pooled, reference("pooled"))
    close(transport_distance(fused.text, fused.image, padded[1].mask, padded[0].mask), reference("distance"))


def seen_in(method: uniter.UNITER, index: int, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Words and blank regions that the model was shown in a step."""
    found: dict[str, Tensor | None] = {}
    text, image = method.encode_text, method.encode_image
    method.encode_text = lambda inputs: (found.update(text=inputs.text), text(inputs))[1]
    method.encode_image = lambda inputs, blank=None: (found.update(blank=blank), image(inputs, blank))[1]
    loss_of(method, batch, index)
    method.encode_text, method.encode_image = text, image
    return found["text"], found["blank"]


@pytest.mark.shows("F", "uniter")
def test_one_modality_is_masked_at_a_time() -> None:
    method = small("uniter", mask_words=0.5)
    batch = batch_of(method, World(size=8))
    tasks = {index: set(loss_of(method, batch, index)) for index in range(16)}
    assert {task for names in tasks.values() for task in names} == {"itm", "wra", "mlm", "mrfr", "mrckl"}
    for index, names in tasks.items():
        text, blank = seen_in(method, index, batch)
        if names == {"mlm"}:
            assert blank is None
            assert bool(((text == method.mask_id).any(1) | (text != batch.text).any(1)).all())
        else:
            assert torch.equal(text, batch.text)
        if names & {"mrfr", "mrckl"}:
            assert bool((blank & batch.region_mask).any(1).all())
            assert not bool((blank & ~batch.region_mask).any())
        else:
            assert blank is None


@pytest.mark.shows("F", "uniter")
def test_joint_masking_hides_and_guesses_both() -> None:
    method = small("uniter", mask_words=0.5, masking="joint")
    batch = batch_of(method, World(size=8))
    for index in range(8):
        names = set(loss_of(method, batch, index))
        text, blank = seen_in(method, index, batch)
        assert names in ({"itm", "wra"}, {"mlm", "mrfr"}, {"mlm", "mrckl"})
        assert ("mlm" in names) == (not torch.equal(text, batch.text)) == (blank is not None)


@pytest.mark.shows("F", "uniter")
def test_a_masked_region_does_not_depend_on_what_it_was(theirs) -> None:
    method = theirs()
    features = reference("features").clone().requires_grad_()
    blank = reference("region_masks")
    image = method.encode_image(batch(regions=features), blank)
    image.tokens.sum().backward()
    assert not features.grad[blank].any()
    assert features.grad[~blank].any()
    bare = torch.zeros_like(features)
    assert_close(method.encode_image(batch(regions=bare), blank).tokens[blank], image.tokens[blank])


@pytest.mark.shows("F", "uniter")
def test_one_map_embeds_features_and_guesses_them(theirs) -> None:
    method = theirs()
    before = method.guess_regions("mrfr", batch(), reference("hidden_regions"), reference("region_masks"))
    before.backward()
    assert method.regions.look.weight.grad.abs().sum() > 0
    method.regions.look.weight.data *= 2
    assert method.guess_regions("mrfr", batch(), reference("hidden_regions"), reference("region_masks")) != before
    assert {name for name in method.state_dict() if name.startswith("feature_head")} == {
        "feature_head.bias",
        *(f"feature_head.transform.{part}.{kind}" for part in (0, 2) for kind in ("weight", "bias")),
    }


@pytest.mark.shows("F", "uniter")
def test_alignment_draws_matched_pairs_together_and_only_as_told_pushes_others_apart() -> None:
    for negatives in (True, False):
        method = small("uniter", itm=1, mlm=0, mrfr=0, mrckl=0, wra_negatives=negatives).eval()
        batch = batch_of(method, World(size=8))
        terms = loss_of(method, batch)
        torch.manual_seed(0)
        pairs = uniter.matching.random_pairs(8, "cpu")
        image, text = method.encode_image(batch).take(pairs.image), method.encode_text(batch)
        fused = method.fuse(image, text)
        distance = transport_distance(fused.text, fused.image, text.mask, image.mask)
        assert 0 < pairs.matched.sum() < 8
        kept = distance[pairs.matched].sum(), distance[~pairs.matched].sum()
        expected = (kept[0] - kept[1]) / 8 if negatives else kept[0] / pairs.matched.sum()
        assert_close(terms["wra"], 0.1 * expected)


@pytest.mark.shows("F", "uniter")
def test_ranks_come_from_the_matched_row_and_the_margin_is_in_shares_of_one() -> None:
    method = small("uniter", tasks=("retrieval",), negatives=7).eval()
    batch = batch_of(method, World(size=8))
    with torch.no_grad():
        image, text = encoded(method, batch)
        rows = [image.take(torch.full((8,), index)) for index in range(8)]
        scores = torch.stack([method.match(row, text) for row in rows]).sigmoid()  # (I, T)
        assert_close(
            method.match(image, text), method.match_head(method.fuse(image, text).pooled)[:, 1], atol=0, rtol=0
        )
        own = scores.diagonal()
        gaps = torch.cat([0.2 + scores - own, 0.2 + scores.T - own], 1).clamp(min=0)
        expected = (gaps.sum() - 16 * 0.2) / (2 * 8 * 7)  # without the pairs themselves
        assert_close(loss_of(method, batch).total, expected)


@pytest.mark.shows("F", "uniter")
def test_the_hardest_of_the_others_are_those_with_the_highest_scores() -> None:
    method = small("uniter", tasks=("retrieval",), negatives=7, hardest=2)
    batch = batch_of(method, World(size=8))
    image, text = encoded(method.eval(), batch)
    images = method.train().others(image, text, "image")
    assert method.training
    assert images.shape == (8, 2)
    method.eval()
    with torch.no_grad():
        scores = torch.stack([method.match(image.take(torch.full((8,), i)), text) for i in range(8)], dim=1)
    scores.fill_diagonal_(-torch.inf)
    assert torch.equal(images.sort(1).values, scores.topk(2).indices.sort(1).values)


@pytest.mark.shows("F", "uniter")
def test_without_a_head_for_it_boxes_are_those_that_the_words_move_to() -> None:
    method = small("uniter").eval()
    batch = batch_of(method, World(size=4), 4)
    with torch.no_grad():
        image, text = encoded(method, batch)
        plan = method.align(image, text)
        about = torch.zeros_like(text.mask)
        about[:, 2] = True
        boxes, scores = method.locate(image, text, about)
    assert "Locates" not in method.lacks
    assert_close(plan.sum((1, 2)), torch.ones(4))
    assert torch.equal(scores[image.mask], plan[:, 2][image.mask])
    assert torch.equal(boxes, batch.region_boxes)


@pytest.mark.shows("R", "uniter")
def test_paper_preset_has_the_papers_trunk_and_training(tmp_path, monkeypatch) -> None:
    public_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    counts = {}
    for name in ("paper", "large"):
        preset = methods.presets("uniter")[name]
        with torch.device("meta"):
            method = methods.build("uniter", preset.config, weights=False)
        trunk = (method.trunk, method.regions, method.region_norm, method.pooler)
        counts[name] = sum(value.numel() for part in trunk for value in part.parameters())
        assert (preset.recipe.lr, preset.recipe.betas, preset.recipe.weight_decay) == (5e-5, (0.9, 0.98), 0.01)
    zero_row = 2048  # of the paper's table of masks
    assert counts == {"paper": 109_898_752 - zero_row, "large": 335_695_872 - zero_row}


@pytest.mark.shows("E", "uniter")
def test_retrieval_finds_the_pairs_that_were_learned(monkeypatch) -> None:
    monkeypatch.setattr(method_helpers, "DRAWS", 150)  # dropout of each step's own: of four, the rows are learned by it
    rows = figures("uniter", ["pair_retrieval"], tasks=("retrieval",), negatives=7)
    for figure in ("pair_retrieval image_to_text_r1", "pair_retrieval text_to_image_r1"):
        assert rows[figure].value > 2 * rows[figure].chance


@pytest.mark.shows("E", "uniter")
def test_questions_are_answered_that_were_learned(monkeypatch) -> None:
    monkeypatch.setattr(method_helpers, "DRAWS", 60)
    scenes = World(size=8, knobs=Knobs(objects=(1, 1), questions=("colour",), each=1))
    method = small("uniter", tasks=("vqa",))
    learn(method, batch_of(method, scenes), steps=60)
    found = {row.metric: row for row in evaluate(method, scenes, ["vqa"])}
    assert found["accuracy"].value > 2 * found["accuracy"].chance


def test_a_narrow_trunk_and_the_parts_around_it_begin_at_one_scale() -> None:
    """Parts that begin at BERT's 0.02 whatever the width pass on so little that matching is not learned."""
    method = uniter.UNITER(uniter.Config(text_width=48, region_width=40, region_classes=30))
    expected = 0.02 * (768 / 48) ** 0.5  # 0.08
    around = (method.regions.look, method.pooler, method.class_head[-1])
    for part in (method.trunk.encoder.model.embeddings.word_embeddings, *around):
        assert part.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_a_text_encoder_of_one_kind_of_token_is_refused(tmp_path, monkeypatch) -> None:
    public_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    with torch.device("meta"), pytest.raises(EncoderError, match="one kind of token"):
        uniter.UNITER(uniter.Config(text="hf:roberta-base", region_width=4, region_classes=3))
