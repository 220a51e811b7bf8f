"""Hidden states that are recorded, and MoCa, in language models that see."""

from copy import deepcopy

import pytest
import torch
from test_generative import batch_of, small
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from diptych.batch import Step
from diptych.card import ShowsLayers
from diptych.encoders.hidden import recorded
from diptych.encoders.language import LanguageModel, own_chat_tokenizer
from diptych.evaluation.tasks import evaluate
from diptych.models.generation import answers_to
from diptych.recipe import Recipe
from diptych.world.data import World

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": 11}
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, **IDS}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(intermediate_size=32, **SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=32, **IDS)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=32, **SIZES)),
    "opt": lambda: OPTForCausalLM(OPTConfig(ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=32, **SIZES)),
}


@pytest.mark.parametrize("name", MODELS)
def test_states_are_those_that_transformers_gives(name) -> None:
    torch.manual_seed(0)
    language = LanguageModel(MODELS[name]().eval(), own_chat_tokenizer(), 32, name)
    embeds = torch.randn(2, 5, 16)
    with recorded(language.model.base_model, language.layers) as states:
        for _ in range(2):  # what was recorded before is forgotten
            last = language.hidden(embeds)
    expected = language.model.base_model(inputs_embeds=embeds, output_hidden_states=True).hidden_states[1:]
    assert len(states) == len(expected) == 3
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(states, expected, strict=True))
    assert torch.equal(states[-1], last)
    language.hidden(embeds + 1)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(states, expected, strict=True))


def test_masks_of_what_is_seen_and_what_is_read() -> None:
    method = small(template="vicuna")
    assert isinstance(method, ShowsLayers)
    image = method.encode_image(batch_of(method, 2))
    states, visual, text = method.hidden_states(image, ["a star", "two red stars and a circle"])
    lengths = [
        len(method.language.tokenizer.ids(one)) for one in (" a star", " two red stars and a circle", "ASSISTANT:")
    ]
    assert [state.shape for state in states] == [(2, visual.shape[1], 32)] * 2
    assert visual.sum(1).tolist() == [4, 4]
    assert text.sum(1).tolist() == [lengths[2] + length + 1 for length in lengths[:2]]  # and the end of the answer
    assert not (visual & text).any()
    assert not text[:, :5].any()  # the first token of all, and what is seen


def calibrated():
    """A model with MoCa that has learned something."""
    method = small(moca=True)
    torch.nn.init.normal_(method.moca.scale, 1, 0.5)
    torch.nn.init.normal_(method.moca.shift, 0, 0.5)
    return method


@pytest.mark.shows("F", "mir")
def test_moca_begins_as_the_model_without_it() -> None:
    plain, moca = small(), small(moca=True)
    with torch.no_grad():
        image = plain.encode_image(batch_of(plain))
        asked = (["what ?", "is it red ?", ""], ["a star", "no", "yes"])
        assert torch.equal(plain.likelihood(image, *asked)[0], moca.likelihood(image, *asked)[0])
        blind = calibrated()
        assert torch.equal(plain.likelihood(None, *asked)[0], blind.likelihood(None, *asked)[0])
        assert not torch.allclose(plain.likelihood(image, *asked)[0], blind.likelihood(image, *asked)[0])
    assert sum(parameter.numel() for parameter in moca.parameters()) == (
        sum(parameter.numel() for parameter in plain.parameters()) + 2 * 32 * 2
    )


def test_moca_writes_alike_with_and_without_cache_alone_and_together() -> None:
    method = calibrated()
    prompts = ["what is it ?", "why"]
    with torch.no_grad():
        image = method.encode_image(batch_of(method, 2))
        for beams in (1, 3):
            said = method.respond(image, prompts, longest=3, beams=beams)
            assert said == answers_to(method, image, prompts, 3, num_beams=beams, use_cache=False)
            alone = [
                method.respond(image.take(slice(row, row + 1)), prompts[row : row + 1], longest=3, beams=beams)
                for row in (0, 1)
            ]
            assert [said] == [[text for (text,) in alone]]


def test_moca_trains_in_every_stage() -> None:
    method = small(moca=True)
    method.loss(batch_of(method), Step()).total.backward()
    assert method.moca.scale.grad.abs().sum() > 0
    assert all(r"^moca\." in stage.train for stage in method.stages(Recipe()))


def test_moca_finds_what_is_seen_in_packed_rows() -> None:
    found = []
    for pack in (0, 64):
        method = small(moca=True, pack=pack)
        torch.manual_seed(1)
        torch.nn.init.normal_(method.moca.scale, 1, 0.5)
        loss = method.loss(batch_of(method), Step()).total
        loss.backward()
        found.append((loss.detach(), method.moca.scale.grad))
    torch.testing.assert_close(*found)


@pytest.mark.shows("F", "mir")
def test_pairing_counts_for_less_than_the_connector() -> None:
    method, data = small(), World(size=16)

    def measured() -> float:
        return evaluate(method, data, ["mir"])[0].value

    states, paired = method.hidden_states, measured()
    method.hidden_states = lambda image, texts: states(image, [*texts[1:], texts[0]])
    shuffled = measured()
    method.hidden_states = lambda image, texts: states(image.each(lambda part: part.flip(0)), texts[::-1])
    reordered = measured()
    method.hidden_states = states
    torch.nn.init.normal_(method.connector.proj.weight, std=1.0)
    other = measured()
    assert reordered == pytest.approx(paired, rel=1e-5)
    assert abs(shuffled - paired) < 0.1 * abs(other - paired)


@pytest.mark.shows("F", "mir")
def test_visual_tokens_that_are_too_long_raise_mir() -> None:
    method, data = small(), World(size=16)
    before = evaluate(method, data, ["mir"])[0].value
    encode = method.encode_image
    words = method.language.embed(torch.arange(10, 200)).norm(dim=-1).mean()
    scale = words / method.connect(encode(batch_of(method))).norm(dim=-1).mean()
    begun = deepcopy(method.connector.state_dict())
    found = []
    for factor in (1, 100):
        method.connector.load_state_dict({name: value * scale * factor for name, value in begun.items()})
        found.append(evaluate(method, data, ["mir"])[0].value)
    method.connector.load_state_dict(begun)
    assert found[1] > found[0] + 0.3
    assert evaluate(method, data, ["mir"])[0].value == pytest.approx(before, rel=1e-5)
