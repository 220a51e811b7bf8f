"""A language model that sees as a folder of transformers, with all that makes its inputs, checked before it is kept.

`LlavaForConditionalGeneration` (`export_llava`) or `InstructBlipForConditionalGeneration` (`export_instructblip`), for
`AutoModelForImageTextToText` and `AutoProcessor`. The folder is loaded once as anybody would load it, asked about a
picture, and kept only where ids, logits and what is written are ours.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.app.export_parts import ExportError
from diptych.batch import Sample
from diptych.data.loader import collate
from diptych.encoders.adapt import has_lora, merged
from diptych.encoders.from_hf import quiet
from diptych.encoders.language import LanguageModel
from diptych.evaluation.generation import own_prompt
from diptych.models.generation import embedded, turns
from diptych.models.generative import GenerativeVLM
from diptych.text import one_line
from diptych.views.conversations import END, MARKER, Template

LONGEST = 8
"""tokens that are written for the check"""
FAR = 1e-3
"""of the spread of all logits: by more than this, rounding alone does not make two logits differ"""

_LOAD = """import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # where this file is
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)
"""
_WRITE = """inputs = processor(images=picture, text=text, return_tensors="pt")
written = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(written, skip_special_tokens=True))
"""
_CHAT = """asked = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": {prompt!r}}}]}}]
text = processor.apply_chat_template(asked, add_generation_prompt=True)
"""


@dataclass
class Whole:
    """A model of transformers that has our weights, its processor, and what a reader should know."""

    model: Any
    processor: Any
    notes: list[str] = field(default_factory=list)


def export_generative(method: GenerativeVLM, out: Path) -> Path:
    """Writes `method` into the folder `out`, which it returns; see `export`.

    Raises:
        ExportError: no class of transformers says the same.
    """
    from diptych.app.export_instructblip import instructblip
    from diptych.app.export_llava import llava
    from diptych.fusion.qformer import QFormerConnector

    if method.moca is not None:
        raise ExportError("No class of transformers has MoCa's scales and shifts: train with moca=false to export.")
    method.eval()
    wanted = _ours(method)
    plain: Any = merged(method) if has_lora(method) else method  # after `_ours`: updates have the weight of their use
    made = (instructblip if isinstance(plain.connector, QFormerConnector) else llava)(plain)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".export-") as place, quiet():
        made.model.save_pretrained(place)
        made.processor.save_pretrained(place)
        _check(Path(place), method, wanted)
        (Path(place) / "README.md").write_text(_readme(method, made), encoding="utf-8")
        out.mkdir(exist_ok=True)
        for file in Path(place).iterdir():
            os.replace(file, out / file.name)
    return out


# -- the parts of a model ----------------------------------------------------------------------------------------------


def filled(kind: Any, config: Any, weights: dict[str, Tensor]) -> Any:
    """A model of transformers by its config, with weights that it shares with ours.

    Raises:
        ExportError: it wants others.
    """
    from transformers import GenerationConfig

    with torch.device("meta"):
        model = kind(config)
    try:
        model.load_state_dict({name: value.detach() for name, value in weights.items()}, assign=True)
    except RuntimeError as error:
        raise ExportError(
            f"{kind.__name__} wants other weights than this run has ({one_line(str(error), 300)})."
        ) from None
    model.tie_weights()
    text = config.text_config
    special = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id, "pad_token_id": text.pad_token_id}
    model.generation_config = GenerationConfig(**special)
    return model


def tokenizer_of(method: GenerativeVLM, **options: Any) -> Any:
    """The tokenizer of the language model for transformers, with a token for what is seen; it adds nothing.

    Args:
        method: whose.
        options: as of `PreTrainedTokenizerFast`.
    """
    from tokenizers import AddedToken, Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    own = method.language.tokenizer
    plain = {**json.loads(own.json), "post_processor": None, "truncation": None, "padding": None}
    backend = Backend.from_str(json.dumps(plain))
    backend.add_special_tokens([AddedToken(MARKER, normalized=False)])
    names = {"bos_token": own.begin, "eos_token": own.end, "pad_token": own.pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=method.language.context,
        padding_side="left",  # the first word that is written follows the last that is read
        clean_up_tokenization_spaces=False,
        **{name: own.word(id) for name, id in names.items() if id is not None},
        **options,
    )


def language_of(language: LanguageModel, marker: int) -> tuple[Any, dict[str, Tensor], Tensor]:
    """The language model with a row for what is seen: its config, the weights of its trunk, and its head (V, D).

    The row is the mean of all others, so that its logit is their mean: never the largest, and never likelier than 1/V.

    Raises:
        ExportError: its head has a bias.
    """
    config = type(language.model.config)(**language.model.config.to_dict())
    words, head = language.model.get_input_embeddings(), language.model.get_output_embeddings()
    if head.bias is not None:
        raise ExportError(
            f"The head of {language.name!r} has a bias, which the class of transformers has not: use a language model "
            "without one, such as a Llama."
        )
    trunk = language.model.base_model
    name = next(name for name, module in trunk.named_modules() if module is words)
    trunk_weights = {**trunk.state_dict(), f"{name}.weight": _with_row(words.weight, marker)}
    own = language.tokenizer
    config.vocab_size = len(trunk_weights[f"{name}.weight"])
    config.bos_token_id, config.eos_token_id, config.pad_token_id = own.begin, own.end, own.pad
    return config, trunk_weights, _with_row(head.weight, marker)


def _with_row(weight: Tensor, row: int) -> Tensor:
    mean = weight.detach().mean(0, keepdim=True)
    if row < len(weight):  # there are more rows than words
        return torch.cat([weight.detach()[:row], mean, weight.detach()[row + 1 :]])
    return torch.cat([weight.detach(), mean.expand(row + 1 - len(weight), -1)])


def chat_template(template: Template, begin: str, end: str) -> str:
    """A template of ours in Jinja, as transformers has it.

    Pictures stand ahead of the words of their turn, and alone where a user says nothing, as when a caption is not asked
    for.
    """
    lines = [
        f"{{{{- {begin if template.begin else ''!r} -}}}}",
        "{%- if not messages or messages[0]['role'] != 'system' -%}",
        f"{{{{- {template.begin_each!r} -}}}}{{%- endif -%}}",
        "{%- for message in messages -%}",
        "{%- set said = namespace(media='', marks='', text='') -%}",
        "{%- if message['content'] is string -%}{%- set said.text = message['content'] -%}{%- else -%}",
        "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}",
        "{%- set said.text = said.text + part['text'] -%}{%- else -%}",
        f"{{%- set said.media = said.media + {template.medium!r} -%}}",
        f"{{%- set said.marks = said.marks + {MARKER!r} -%}}",
        "{%- endif -%}{%- endfor -%}{%- endif -%}",
        "{%- set text = said.text | trim -%}",
        "{%- if message['role'] == 'user' and not text -%}{{- said.marks -}}",
    ]
    for role in ("system", "user", "assistant"):
        before, blank, behind = template.pieces(role)
        written = f"{before + blank!r} + said.media + text + {behind.replace(END, end)!r}"
        lines.append(f"{{%- elif message['role'] == {role!r} -%}}{{{{- {written} -}}}}")
    opened = template.pieces("assistant")[0]
    lines += ["{%- endif -%}{%- endfor -%}", f"{{%- if add_generation_prompt -%}}{{{{- {opened!r} -}}}}{{%- endif -%}}"]
    return "".join(lines)


# -- the check ---------------------------------------------------------------------------------------------------------


@dataclass
class _Asked:
    """A picture, what is asked, and what a model makes of it: ids (T,), visual (T,), logits (T, V), its answer."""

    picture: Image.Image
    prompt: str
    ids: Tensor
    visual: Tensor
    logits: Tensor
    answer: str


@torch.no_grad()
def _ours(method: GenerativeVLM) -> _Asked:
    """A picture of the size that is seen, so that nobody resizes it, and the method's own prompt for questions."""
    size = method.config.image_size
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))
    prompt = own_prompt(method.prompts, "question").format("what is there?")
    seen, visual = method.view_media(Sample("", {"image": picture}), None)
    device = next(method.parameters()).device
    image = method.encode_image(collate([seen]).to(device))
    embeds, batch = embedded(method, image, [method.read(turns(prompt), visual, open=True)])
    logits = method.language.logits(method.language.hidden(embeds))
    answer = method.respond(image, [prompt], longest=LONGEST)[0]
    return _Asked(picture, prompt, batch.ids[0].cpu(), batch.visual[0].cpu(), logits[0].float().cpu(), answer)


@torch.no_grad()
def _check(folder: Path, method: GenerativeVLM, wanted: _Asked) -> None:
    """Loads the folder as anybody would.

    Raises:
        ExportError: ids, logits or answer are not ours.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    text = wanted.prompt
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": wanted.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=wanted.picture, text=text, return_tensors="pt")
    ids = inputs["input_ids"][0]
    marked = wanted.ids.masked_fill(wanted.visual, model.config.image_token_id)
    if not ids.equal(marked):
        raise ExportError(
            f"The tokenizer of {method.language.name!r} cuts a conversation into other tokens in transformers "
            f"({ids.tolist()[-8:]} at its end, not {marked.tolist()[-8:]}): train with another template."
        )
    logits = model(**inputs).logits[0][:, : wanted.logits.shape[1]].float()
    real = [word for word in range(wanted.logits.shape[1]) if word != model.config.image_token_id]
    far = float((logits - wanted.logits)[:, real].abs().max() / wanted.logits[:, real].std())
    if not far < FAR:
        raise ExportError(
            f"{type(model).__name__} gives other logits than this run (by {far:.1g} of their spread): it has no "
            "language model of this kind; train with another, such as a Llama, to export it."
        )
    written = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)[0, len(ids) :]
    answer = processor.decode(written, skip_special_tokens=True).strip()
    if answer != wanted.answer:
        raise ExportError(
            f"{type(model).__name__} writes {answer!r} where this run writes {wanted.answer!r}, with equal logits: "
            "please report it with the options of the run."
        )


def _readme(method: GenerativeVLM, made: Whole) -> str:
    prompt = own_prompt(method.prompts, "question").format("What is this?")
    text = _CHAT.format(prompt=prompt) if made.processor.chat_template else f"text = {prompt!r}\n"
    notes = "".join(f"\n- {note}" for note in made.notes)
    title = f"{method.card.title}, trained with diptych, for transformers: {type(made.model).__name__}."
    return f"{title}\n\n```python\n{_LOAD}{text}{_WRITE}```\n{notes}" + ("\n" if notes else "")
