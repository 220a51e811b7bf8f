from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diptych.encoders import EncoderError, text_encoder
from diptych.encoders.halves import TextHalves, own_bert
from diptych.fusion import GatedCross

pytest.importorskip("transformers")

IDS = torch.tensor([[5, 9, 11, 7, 3], [6, 2, 8, 0, 0]])
MASK = IDS != 0


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["bert", "roberta"])
def halves(request: pytest.FixtureRequest, hf_folders: dict[str, str]) -> TextHalves:
    return TextHalves(text_encoder(f"hf:{hf_folders[request.param]}", context=16), 1).eval()


def test_one_half_after_the_other_is_the_whole_encoder_bit_for_bit(halves: TextHalves) -> None:
    for ids, mask in ((IDS, MASK), (IDS[:1], MASK[:1]), (IDS, None)):
        first = halves.text(ids, mask)
        whole = halves.encoder(ids, mask)
        found = halves.fuse(first.tokens, first.mask)
        real = whole.mask
        assert torch.equal(found.tokens[real], whole.tokens[real])
        assert torch.equal(found.pooled, whole.pooled)
        assert torch.equal(found.mask, real)


def test_text_and_vision_side_by_side_attend_to_each_other_but_not_to_padding(halves: TextHalves) -> None:
    text, vision = halves.text(IDS, MASK), draw(2, 3, 32)
    tokens = torch.cat([text.tokens, vision], 1)
    mask = torch.cat([MASK, torch.ones(2, 3, dtype=torch.bool)], 1)
    found = halves.fuse(tokens, mask)
    assert found.tokens.shape == (2, 8, 32)
    tokens[1, 3:5] = 9.0
    assert torch.equal(halves.fuse(tokens, mask).tokens[mask], found.tokens[mask])
    alone = halves.fuse(text.tokens, text.mask)
    assert (found.pooled - alone.pooled).abs().max() > 1e-3
    moved = halves.fuse(torch.cat([text.tokens, vision[:, [2, 0, 1]]], 1), mask)  # no positions but the text's own
    assert_close(moved.pooled, found.pooled)


def test_cross_attention_at_a_shut_gate_is_the_text_encoder_and_at_an_open_one_sees_the_context(halves) -> None:
    torch.manual_seed(0)
    crosses = [GatedCross(32, 2, 12)]
    text, context = halves.text(IDS, MASK), draw(2, 4, 12)
    seen = torch.tensor([[True] * 4, [True, True, False, False]])
    shut = halves.fuse(text.tokens, text.mask, crosses, context, seen)
    assert torch.equal(shut.tokens, halves.fuse(text.tokens, text.mask).tokens)
    crosses[0].gate.data.fill_(20.0)
    fused = halves.fuse(text.tokens, text.mask, crosses, context, seen)
    assert (fused.tokens - shut.tokens).abs().max() > 1e-2
    context[1, 2:] += 5
    assert torch.equal(halves.fuse(text.tokens, text.mask, crosses, context, seen).tokens, fused.tokens)


def test_layers_run_one_by_one_are_the_whole(halves: TextHalves) -> None:
    text = halves.text(IDS, MASK)
    x = halves.encoder.model.embeddings(input_ids=IDS)
    for index in range(2):
        x = halves.run(x, MASK, index, index + 1)
    assert torch.equal(x, halves.fuse(text.tokens, MASK).tokens)


def test_a_causal_mask_hides_what_comes_later() -> None:
    torch.manual_seed(0)
    halves = TextHalves(own_bert(16, 32, 2, 2), 0).eval()
    causal = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    tokens = draw(2, 5, 32)
    found = halves.fuse(tokens, causal).tokens
    tokens[:, 3:] += 1
    assert_close(halves.fuse(tokens, causal).tokens[:, :3], found[:, :3])


def test_our_own_small_bert_has_an_id_for_the_mask() -> None:
    encoder = own_bert(16, 32, 2, 2)
    ids, mask = encoder.tokenizer.encode(["a red circle", "two dogs on a beach"])
    assert int(ids.max()) < encoder.vocab_size - 1
    halves = TextHalves(encoder, 1)
    ids[0, 1] = encoder.vocab_size - 1
    assert halves.text(ids, mask).tokens.shape == (2, ids.shape[1], 32)
    assert len(halves.fusion_layers) == 1


def test_what_cannot_be_cut_says_so(hf_folders: dict[str, str]) -> None:
    with pytest.raises(EncoderError, match="those cut in halves are bert"):
        TextHalves(text_encoder("transformer", width=32, layers=2, heads=2), 1)
    with pytest.raises(EncoderError, match="cannot have 3"):
        TextHalves(own_bert(16, 32, 2, 2), 3)
    halves = TextHalves(own_bert(16, 32, 2, 2), 1)
    with pytest.raises(ValueError, match="need a context"):
        halves.fuse(draw(2, 5, 32), None, [GatedCross(32, 2, 12)])
