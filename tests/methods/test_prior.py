"""PRIOR against its sheet, and with equal weights against transformers' LLaVA. The weights alone: test_weighted.py."""

import math

import numpy as np
import pytest
import torch
from method_helpers import batch_of, loss_of, small, world_of
from torch import nn
from torch.nn import functional as F

from diptych import methods
from diptych.app.fitting import fitted
from diptych.batch import Batch, Sample, Step
from diptych.card import Generates, PredictsTexts
from diptych.data.loader import collate
from diptych.methods.generative.prior import learned_labels
from diptych.models.reference import read_alone, scored
from diptych.recipe import Recipe
from diptych.views.conversations import IGNORE

pytestmark = pytest.mark.shows("F", "prior")
TEXTS = ["a red star", "two blue squares left of a big green disc", "a red disc"]


def labels_of(method, texts=TEXTS) -> torch.Tensor:
    """Captions about pictures, as the method learns them."""
    view = (method.views(Sample("", {"image": picture(), "texts": [text]}), None) for text in texts)
    return learned_labels(collate(list(view)))


def picture():
    return world_of("prior").read(0, ("image",)).image


def judged_batch(method, size: int = 4) -> Batch:
    """Captions about pictures, with chances that differ: a reference that has learned nothing finds all equally odd."""
    batch = batch_of(method, world_of("prior"), size)
    return Batch({**batch, "chances": torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(0))})


def gradients(terms, method) -> dict[str, torch.Tensor]:
    method.zero_grad()
    terms.total.backward()
    return {name: value.grad.clone() for name, value in method.named_parameters() if value.grad is not None}


# ---- the reference


def test_is_a_reference_and_writes() -> None:
    assert isinstance(small("prior"), Generates)
    assert isinstance(small("prior"), PredictsTexts)


def test_chances_are_of_the_token_at_each_place() -> None:
    """By hand, from all logits of transformers' model on the first token and the caption."""
    method = small("prior").eval()
    labels = labels_of(method)
    with torch.no_grad():
        logs = read_alone(method.reference, labels)
        for row, found in zip(labels, logs, strict=True):
            said = row[row != IGNORE]
            begin = torch.tensor([method.reference.tokenizer.begin])
            logits = method.reference.model(input_ids=torch.cat([begin, said])[None]).logits[0]
            expected = logits.log_softmax(-1)[torch.arange(len(said)), said]
            torch.testing.assert_close(found[row != IGNORE], expected)
            assert (found[row == IGNORE] == 0).all()


def test_a_reference_that_is_always_right_leaves_no_weight_but_where_it_is_wrong() -> None:
    """It knows that a caption begins with `a red`, not what follows: only that word is worth anything."""
    method = small("prior", tasks=("reference", "pretrain"))
    texts = ["a red star", "a red disc"]
    samples = [Sample("", {"image": picture(), "texts": [text]}) for text in texts]
    alone = collate([method.views(Sample("", {"texts": [text]}), None) for text in texts])
    optimiser = torch.optim.AdamW(method.reference.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        method.loss(alone, Step(stage="reference")).total.backward()
        optimiser.step()
    shown = collate([method.views(sample, None) for sample in samples])
    labels = learned_labels(shown)
    chances = method.judged(labels)
    learned = [row[one != IGNORE].tolist() for row, one in zip(chances, labels, strict=True)]
    for row in learned:
        assert row == pytest.approx([1, 1, 0.5, 1], abs=0.05)


def test_pictures_and_what_surrounds_a_caption_change_no_chance() -> None:
    method = small("prior").eval()
    labels = labels_of(method)
    moved = F.pad(labels, (3, 2), value=IGNORE)
    torch.testing.assert_close(method.judged(moved)[:, 3:-2], method.judged(labels))


def test_no_gradient_reaches_the_reference_and_none_else_in_its_stage() -> None:
    method = small("prior", tasks=("reference", "pretrain"))
    first, second = method.stages(Recipe())
    terms = loss_of(method, batch_of(method, world_of("prior"), stage=second), stage=second)
    assert not any(name.startswith("reference.") for name in gradients(terms, method))
    assert second.freeze == (r"^reference\.",)
    terms = loss_of(method, batch_of(method, world_of("prior"), stage=first), stage=first)
    assert all(name.startswith("reference.") for name in gradients(terms, method))
    assert first.train == (r"^reference\.",)
    assert (first.needs, second.needs) == (("texts",), ("image", "texts"))
    assert small("prior", captions="first").stages(Recipe())[0].needs == ("image", "text")


# ---- the loss


def test_loss_by_hand() -> None:
    """Sum of w' times cross-entropy over the tokens of all samples, divided by their number."""
    method = small("prior").eval()
    batch = judged_batch(method, 3)
    labels = learned_labels(batch)
    total = count = 0.0
    with torch.no_grad():
        plain = [row_losses(method, batch, row) for row in range(3)]
        for row, losses in enumerate(plain):
            raw = 1 - batch.chances[row][labels[row] != IGNORE]
            total += float((raw * len(raw) / raw.sum() * losses).sum())
            count += len(raw)
        found = method.loss(batch, Step()).total
    assert found.item() == pytest.approx(total / count, rel=1e-5)


def row_losses(method, batch: Batch, row: int) -> torch.Tensor:
    """Cross-entropy of each learned token of one sample."""
    one = Batch({name: value[row : row + 1] for name, value in batch.items()})
    length = int(one.length)
    embeds = method.splice(one.ids, one.visual, method.connect(method.see(one)))[:, :length]
    logits = method.language.model(inputs_embeds=embeds).logits[0, :-1]
    return F.cross_entropy(logits, one.labels[0, 1:length], reduction="none", ignore_index=IGNORE)[
        one.labels[0, 1:length] != IGNORE
    ]


def test_no_exponent_and_equal_weights_are_next_token_prediction_exactly() -> None:
    found = []
    for options in ({"weights": "equal"}, {"gamma": 0.0}):
        method = small("prior", **options)
        terms = method.loss(judged_batch(method), Step())
        found.append({"loss": terms.total.detach(), **gradients(terms, method)})
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-8, msg=name)


def test_shuffled_weights_are_another_loss_of_the_same_scale() -> None:
    losses = {}
    for weights in ("prior", "shuffled", "equal"):
        method = small("prior", weights=weights)
        losses[weights] = method.loss(judged_batch(method, 8), Step()).total.item()
    assert len(set(losses.values())) == 3
    assert max(losses.values()) < 1.05 * min(losses.values())  # of words that are all as hard as yet


def test_packed_is_unpacked() -> None:
    found = []
    for budget in (0, 1):
        method = small("prior", pack=budget)
        terms = method.loss(judged_batch(method), Step())
        found.append({"loss": terms.total.detach(), **gradients(terms, method)})
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-4, atol=1e-7, msg=name)


# ---- chances that were scored ahead


def record(method, texts, by: str = "x") -> dict:
    """The field `chances` of a sample."""
    found = method.eval().text_chances(texts)
    ids, chances = ([np.array(part) for part in side] for side in zip(*found, strict=True))
    return {"by": by, "ids": ids, "chances": [part.astype(np.float32) for part in chances]}


def test_scored_captions_give_the_loss_of_the_reference() -> None:
    method = small("prior").eval()
    samples = [Sample("", {"image": picture(), "texts": [text]}) for text in TEXTS]
    ahead = [Sample("", {**sample, "chances": record(method, [*TEXTS[::-1]])}) for sample in samples]
    losses = [
        method.loss(collate([method.views(one, None) for one in part]), Step()).total for part in (samples, ahead)
    ]
    torch.testing.assert_close(*losses)


def test_a_run_on_scored_captions_has_no_reference_and_goes_by_one_model() -> None:
    judge = small("prior")
    method = methods.build("prior", {**vars(judge.config), "scored_by": "x"})
    assert method.reference is None
    (stage,) = method.stages(Recipe())
    assert (stage.uses, stage.freeze) == (("chances",), ())
    sample = Sample("", {"image": picture(), "texts": TEXTS, "chances": record(judge, TEXTS)})
    assert method.loss(collate([method.views(sample, None)]), Step()).total.isfinite()
    with pytest.raises(ValueError, match="scored by the model y, and the run takes those of x"):
        method.views(Sample("", {**sample, "chances": record(judge, TEXTS, "y")}), None)
    with pytest.raises(ValueError, match="has no reference"):
        method.text_chances(TEXTS)


def test_a_changed_caption_or_tokenizer_is_noticed() -> None:
    method = small("prior")
    labels = torch.tensor([IGNORE, 5, 6, 7])
    kept = {"by": "x", "ids": [np.array([5, 6, 7, 8])], "chances": [np.array([0.1, 0.2, 0.3, 0.4], np.float32)]}
    assert scored(kept, labels, "").tolist() == pytest.approx([0, 0.1, 0.2, 0.3])  # cut at the context
    with pytest.raises(ValueError, match="another tokenizer, or has changed since"):
        scored(kept, torch.tensor([IGNORE, 5, 6, 9]), "x")
    with pytest.raises(ValueError, match="another tokenizer"):
        method.views(Sample("", {"image": picture(), "texts": ["a cup"], "chances": record(method, TEXTS)}), None)


def test_the_model_that_scored_is_taken_from_the_data() -> None:
    class Scored:
        name, split, has = "scored", "train", frozenset({"image", "texts", "chances"})

        def __len__(self) -> int:
            return 5

        def read(self, index, fields):
            return Sample(str(index), {"chances": {"by": "abc", "ids": [], "chances": []}})

    config = methods.config_class("prior")
    assert fitted("prior", config(), Scored()).scored_by == "abc"
    assert fitted("prior", config(), world_of("prior")).scored_by == ""


# ---- without an encoder


def test_patches_are_seen_by_one_linear_map() -> None:
    method = small("prior", image="patches").eval()
    maps = [part for part in method.connector.modules() if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features) for part in maps] == [(3 * 8 * 8, 32)]
    assert not list(method.encoder.parameters())
    image = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    tokens = method.encoder(image).tokens
    pixels = method.encoder.pixels(image)
    assert torch.equal(tokens[1, 6], pixels[1, :, 8:16, 16:24].flatten())  # the second row of four, the third in it
    assert len(tokens[0]) == 16


def test_what_is_learned_of_patches_reaches_their_map() -> None:
    method = small("prior", image="patches")
    found = gradients(method.loss(judged_batch(method), Step()), method)
    assert {name.partition(".")[0] for name in found} == {"connector", "language"}
    assert all(value.abs().sum() > 0 for value in found.values())


# ---- parity


@pytest.mark.shows("P", "prior")
@pytest.mark.parametrize("weights", ["equal", "prior"])
def test_with_equal_weights_it_is_transformers_llava(weights: str, tmp_path) -> None:
    """Loss and gradients, with LLaVA's weights and on padded captions; with PRIOR's weights they differ."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    CLIPVisionModel(vision).save_pretrained(tmp_path)
    method = small("prior", image=f"hf:{tmp_path}", weights=weights, width=32, layers=2)
    tower = method.encoder.model
    getattr(tower, "vision_model", tower).post_layernorm = nn.Identity()  # which LLaVA leaves out
    language = method.language
    text = LlamaConfig(**{**language.model.config.to_dict(), "vocab_size": language.vocab_size})
    marker = 5000  # a word of which no caption is made
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=marker, vision_feature_layer=-1, tie_word_embeddings=True
    )
    llava = LlavaForConditionalGeneration(config).eval()
    parts = llava.model.vision_tower, llava.model.multi_modal_projector, llava.model.language_model
    parts[0].load_state_dict(method.encoder.model.state_dict(), strict=False)
    for theirs, ours in (
        (parts[1].linear_1, method.connector.layers[0]),
        (parts[1].linear_2, method.connector.layers[2]),
    ):
        theirs.load_state_dict(ours.state_dict())
    parts[2].load_state_dict(language.model.model.state_dict())
    llava.tie_weights()

    batch = judged_batch(method.eval())
    assert marker not in batch.ids
    real = torch.arange(batch.ids.shape[1]) < batch.length[:, None]
    theirs = llava(
        input_ids=batch.ids.masked_fill(batch.visual, marker),
        pixel_values=method.encoder.pixels(batch.image),
        attention_mask=real.long(),
        labels=learned_labels(batch),
    )
    terms = method.loss(batch, Step())
    if weights == "prior":
        assert not math.isclose(terms.total.item(), theirs.loss.item(), rel_tol=1e-3)
        return
    assert terms.total.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    theirs.loss.backward()
    found = gradients(terms, method)
    pairs = {
        "connector.layers.0.weight": parts[1].linear_1.weight,
        "connector.layers.2.bias": parts[1].linear_2.bias,
        "language.model.model.layers.0.self_attn.q_proj.weight": parts[2].layers[0].self_attn.q_proj.weight,
        "language.model.model.embed_tokens.weight": parts[2].embed_tokens.weight,
    }
    (patches,) = (name for name, _ in parts[0].named_parameters() if "patch_embedding" in name)
    pairs[f"encoder.model.{patches}"] = parts[0].get_parameter(patches)
    for name, value in pairs.items():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-4, atol=1e-6, msg=name)
