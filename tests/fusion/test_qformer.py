"""The Q-Former against transformers' models on copied weights, and what its masks let through."""

import pytest
import torch
from torch import nn

from diptych.batch import Features
from diptych.fusion.qformer import QFormer, QFormerConnector, QFormerSizes

SIZES = QFormerSizes(queries=3, vocab=20, width=16, layers=3, heads=2, hidden=64, positions=8, spread=0.3)
CONTEXT, PATCHES = 12, 5


@pytest.fixture
def qformer() -> QFormer:
    torch.manual_seed(0)
    return QFormer(SIZES, CONTEXT).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, PATCHES, CONTEXT, generator=torch.Generator().manual_seed(1))


IDS = torch.tensor([[5, 6, 7, 8], [9, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()


@pytest.mark.shows("P", "instructblip")
def test_equals_transformers_with_an_instruction(qformer: QFormer, image: torch.Tensor) -> None:
    queries = qformer.queries.expand(2, -1, -1)
    seen = torch.cat([torch.ones(2, 3), MASK], 1).long()
    theirs = qformer.model(
        input_ids=IDS, attention_mask=seen, query_embeds=queries, encoder_hidden_states=image
    ).last_hidden_state
    found, text = qformer.look(image, None, qformer.words(IDS), MASK)
    torch.testing.assert_close(found, theirs[:, :3])
    torch.testing.assert_close(text[MASK], theirs[:, 3:][MASK])


@pytest.mark.shows("F", "instructblip")
@pytest.mark.shows("P", "instructblip")
def test_without_text_it_is_blip2s(qformer: QFormer, image: torch.Tensor) -> None:
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    told = qformer.model.config
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "encoder_hidden_size")
    config = Blip2QFormerConfig(**{name: getattr(told, name) for name in same}, use_qformer_text_input=False)
    blip2 = Blip2QFormerModel(config).eval()
    own = {name.replace("embeddings.layernorm", "layernorm"): v for name, v in qformer.model.state_dict().items()}
    blip2.load_state_dict({name: own[name] for name in blip2.state_dict()})
    theirs = blip2(query_embeds=qformer.queries.expand(2, -1, -1), encoder_hidden_states=image).last_hidden_state
    found, text = qformer.look(image)
    torch.testing.assert_close(found, theirs)
    assert text.shape == (2, 0, SIZES.width)


@pytest.mark.shows("F", "instructblip")
def test_what_is_padded_changes_nothing(qformer: QFormer, image: torch.Tensor) -> None:
    words = qformer.words(IDS)
    found, _ = qformer.look(image, None, words, MASK)
    alone, _ = qformer.look(image[1:], None, words[1:, :2], MASK[1:, :2])
    torch.testing.assert_close(found[1:], alone)
    torch.testing.assert_close(qformer.read(words, MASK)[1:, :2], qformer.read(words[1:, :2], MASK[1:, :2]))
    longer = torch.cat([image, torch.randn(2, 2, CONTEXT)], 1)
    kept = torch.tensor([[True] * PATCHES + [False] * 2] * 2)
    torch.testing.assert_close(qformer.look(longer, kept)[0], qformer.look(image)[0])


@pytest.mark.shows("F", "instructblip")
def test_queries_depend_on_the_instruction_and_on_the_image_through_cross_attention_alone(
    qformer: QFormer, image: torch.Tensor
) -> None:
    one, other = (
        qformer.look(image, None, qformer.words(ids), torch.ones_like(ids).bool())[0] for ids in (IDS, IDS + 1)
    )
    assert not torch.allclose(one, other, atol=1e-3)
    for name, part in qformer.named_modules():
        if isinstance(part, nn.Linear) and "crossattention.output" in name:
            nn.init.zeros_(part.weight)
    blind = [qformer.look(x, None, qformer.words(IDS), MASK)[0] for x in (image, torch.randn_like(image))]
    assert torch.equal(*blind)


def dependence(qformer: QFormer, image: torch.Tensor, **options) -> torch.Tensor:
    """(7, 7) bool: does output row (3 queries, 4 words) depend on input column?"""
    words = qformer.words(IDS[:1]).detach().requires_grad_()
    found, text = qformer.look(image[:1], None, words, MASK[:1], **options)
    rows = []
    for output in torch.cat([found, text], 1)[0]:
        target = output.pow(2).sum()
        grads = torch.autograd.grad(target, [qformer.queries, words], retain_graph=True)
        rows.append(torch.cat(grads, 1)[0].abs().sum(-1) > 0)
    return torch.stack(rows)


@pytest.mark.shows("F", "instructblip")
def test_which_of_queries_and_words_see_each_other(qformer: QFormer, image: torch.Tensor) -> None:
    assert dependence(qformer, image).all()
    expected = torch.ones(7, 7).tril().bool()
    expected[:3, :3] = True
    assert torch.equal(dependence(qformer, image, written=True), expected)


def test_a_caption_that_is_written_leaves_the_queries_as_they_are_alone(qformer: QFormer, image: torch.Tensor) -> None:
    beside, _ = qformer.look(image, None, qformer.words(IDS), MASK, written=True)
    torch.testing.assert_close(beside, qformer.look(image)[0])


def test_text_alone_needs_neither_queries_nor_cross_attention(qformer: QFormer) -> None:
    qformer.read(qformer.words(IDS), MASK).sum().backward()
    reached = {name for name, value in qformer.named_parameters() if value.grad is not None}
    assert any("intermediate.dense" in name for name in reached)
    assert not any("crossattention" in name or "intermediate_query" in name or name == "queries" for name in reached)


@pytest.mark.shows("F", "instructblip")
@pytest.mark.parametrize("frames", [1, 4])
def test_as_many_tokens_as_queries_for_each_frame_whatever_the_instruction(qformer: QFormer, frames: int) -> None:
    connector = QFormerConnector(qformer, PATCHES, CONTEXT, 10)
    assert (connector.tokens, connector.of) == (3, PATCHES)
    tokens = torch.randn(2, frames * PATCHES, CONTEXT)
    image = Features(tokens, tokens[:, 0], torch.ones(tokens.shape[:2]).bool())
    instruction = connector.instruction(IDS, MASK)
    for told in (None, instruction, connector.instruction(IDS[:, :1], MASK[:, :1])):
        assert connector(image, told).shape == (2, 3 * frames, 10)
    last = connector(tokens[:, -PATCHES:], instruction)
    torch.testing.assert_close(connector(image, instruction)[:, -3:], last)
    queries, _ = qformer.look(connector.norm(tokens[:, -PATCHES:]), None, qformer.words(IDS), MASK)
    torch.testing.assert_close(last, connector.project(queries))


@pytest.mark.shows("R", "instructblip")
def test_the_papers_sizes() -> None:
    with torch.device("meta"):
        connector = QFormerConnector(QFormer(QFormerSizes(), 1408), 257, 1408, 2048)
    count = {name: sum(value.numel() for value in part.parameters()) for name, part in connector.named_children()}
    assert count["norm"] == 2_816
    assert connector.qformer.queries.numel() == 24_576
    assert sum(count.values()) == 187_262_464  # with the words of FlanT5-XL
    assert count["qformer"] - 24_576 == 185_660_160
    assert count["project"] == 769 * 2048
    assert sum(count.values()) - count["project"] + 769 * 4096 == 188_837_376  # Vicuna-7B
