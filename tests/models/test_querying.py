"""BLIP-2's first stage: its three losses by hand, against transformers' retrieval model, and which way they reach."""

import math

import pytest
import torch
from torch.nn import functional as F

from diptych.batch import Features, Step
from diptych.fusion.qformer import QFormer, QFormerSizes
from diptych.models.official.instructblip import from_official
from diptych.models.querying import SMOOTHING, Querying, best_query, smoothed

pytestmark = pytest.mark.shows("F", "instructblip")
SIZES = QFormerSizes(queries=3, vocab=20, width=16, layers=2, heads=2, hidden=32, positions=8, dropout=0.0, spread=0.3)
IDS = torch.tensor([[1, 6, 7, 2], [1, 3, 2, 0], [1, 9, 8, 2]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()


@pytest.fixture
def parts() -> tuple[Querying, QFormer, Features]:
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 12)
    image = Features(tokens, tokens[:, 0], torch.ones(3, 5).bool())
    return Querying(16, 20, 6), QFormer(SIZES, 12), image


def test_a_pair_is_as_similar_as_its_closest_query() -> None:
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [-1.0, 0.0]]])
    text = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    forth, back = best_query(image, text, image, text)
    torch.testing.assert_close(forth, torch.tensor([[1.0, 0.0], [0.6, 0.0]]))
    assert torch.equal(back, forth.T)


def test_smoothed_labels_are_those_of_torch() -> None:
    logits = torch.randn(2, 6)
    targets = smoothed(logits, offset=4)
    assert targets[0].tolist() == pytest.approx([0.1 / 6] * 4 + [0.9 + 0.1 / 6, 0.1 / 6])
    expected = F.cross_entropy(logits, torch.tensor([4, 5]), label_smoothing=SMOOTHING)
    torch.testing.assert_close(-(targets * logits.log_softmax(1)).sum(1).mean(), expected)


def test_contrast_and_matching_and_captions_by_hand(parts) -> None:
    querying, qformer, image = parts
    terms = querying(qformer, image, IDS, MASK, Step())
    assert set(terms) == {"itc", "itm", "itg"}
    queries, _ = qformer.look(image.tokens)
    first = qformer.read(qformer.words(IDS), MASK)[:, 0]
    seen, said = (F.normalize(x, dim=-1) for x in (querying.image_map(queries), querying.text_map(first)))
    logits = torch.stack([torch.stack([(one @ text).max() for text in said]) for one in seen]) / 0.07
    label = torch.arange(3)
    itc = sum(F.cross_entropy(side, label, label_smoothing=0.1) for side in (logits, logits.T)) / 2
    torch.testing.assert_close(terms["itc"], itc)
    written = IDS.clone()
    written[:, 0] = 19
    _, hidden = qformer.look(image.tokens, None, qformer.words(written), MASK, written=True)
    scores = querying.word_head(hidden, qformer.model.embeddings.word_embeddings.weight)[:, :-1][MASK[:, 1:]]
    itg = F.cross_entropy(scores, IDS[:, 1:][MASK[:, 1:]], label_smoothing=0.1)
    torch.testing.assert_close(terms["itg"], itg)


def test_matching_learns_of_pairs_and_of_hard_negatives(parts) -> None:
    """With a head that always says "matched", one of three pairs is right: the mean over 3 B pairs."""
    querying, qformer, image = parts
    torch.nn.init.zeros_(querying.match_head.weight)
    querying.match_head.bias.data = torch.tensor([0.0, 2.0])
    yes, no = math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(2.0))
    terms = querying(qformer, image, IDS, MASK, Step())
    assert terms["itm"].item() == pytest.approx((yes + 2 * no) / 3, rel=1e-5)


def test_one_pair_alone_has_no_negatives_and_a_caption_without_words_no_loss(parts) -> None:
    querying, qformer, image = parts
    terms = querying(qformer, image.take(slice(1)), IDS[:1, :1], MASK[:1, :1], Step())
    assert all(value.isfinite() for value in terms.values())
    assert terms["itg"] == 0


def test_a_caption_is_written_without_its_first_token(parts) -> None:
    querying, qformer, image = parts
    other = torch.cat([IDS[:, :1] + 3, IDS[:, 1:]], 1)
    logits = querying.write_logits(qformer, image, IDS, MASK)
    torch.testing.assert_close(querying.write_logits(qformer, image, other, MASK), logits)
    later = IDS.clone()
    later[:, 2] = 5
    assert torch.equal(querying.write_logits(qformer, image, later, MASK)[:, :2], logits[:, :2])


@pytest.mark.shows("P", "instructblip")
def test_equals_transformers_model_of_retrieval_on_copied_weights() -> None:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = Blip2Config(
        vision_config={**sizes, "image_size": 28, "patch_size": 14, "initializer_range": 0.2},
        qformer_config={**sizes, "vocab_size": 20, "initializer_range": 0.2, "use_qformer_text_input": True},
        num_query_tokens=3,
        image_text_hidden_size=6,
    )
    torch.manual_seed(0)
    theirs = Blip2ForImageTextRetrieval(config).eval()
    torch.nn.init.normal_(theirs.query_tokens)
    found = from_official(theirs.state_dict())
    positions = config.qformer_config.max_position_embeddings
    qformer = QFormer(QFormerSizes(3, 20, 16, 2, 2, 32, positions), 16).eval()
    querying, norm = Querying(16, 20, 6), torch.nn.LayerNorm(16, eps=1e-6)
    for prefix, part in (("connector.qformer.", qformer), ("querying.", querying), ("connector.norm.", norm)):
        own = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        missing, unexpected = part.load_state_dict(own, strict=False)
        assert not unexpected
        assert all("word_head" in name or name == "tau" for name in missing)
    pixels = torch.randn(3, 3, 28, 28)
    tokens = theirs.vision_model(pixels).last_hidden_state  # its last norm is ours
    image = Features(tokens, tokens[:, 0], torch.ones(tokens.shape[:2]).bool())
    words = qformer.words(IDS)
    text = Features(words, words[:, 0], MASK)
    options = {"pixel_values": pixels, "input_ids": IDS, "attention_mask": MASK.long()}
    contrast = theirs(**options).logits_per_image
    seen, said = querying.image(qformer, image), querying.text(qformer, text).pooled
    torch.testing.assert_close(best_query(seen, said, seen, said)[0], contrast)
    matching = theirs(**options, use_image_text_matching_head=True).logits_per_image
    torch.testing.assert_close(querying.match_logits(qformer, image, text), matching)
