"""InstructBLIP as an `InstructBlipForConditionalGeneration` of transformers, whose Q-Former ours is."""

from __future__ import annotations

from typing import Any

from tokenizers.processors import TemplateProcessing

from diptych.app.export_generative import Whole, filled, language_of, tokenizer_of
from diptych.app.export_parts import ExportError
from diptych.app.export_transformers import image_processor
from diptych.views.conversations import MARKER

_SEEN = ("instructblip_vision_model", "blip_2_vision_model")


def instructblip(method: Any) -> Whole:
    """The model and its processor.

    Raises:
        ExportError: its Q-Former is not told what is asked, or its vision encoder is not InstructBLIP's.
    """
    from transformers import (
        CLIPImageProcessor,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )

    _fits(method)
    encoder, connector = method.encoder, method.connector
    tokenizer = tokenizer_of(method)
    marker, own = tokenizer.convert_tokens_to_ids(MARKER), method.language.tokenizer
    if own.begin is not None and method.template.begin:
        begin = own.word(own.begin)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[begin, "$A"], pair=[begin, "$A", "$B"], special_tokens=[(begin, own.begin)]
        )
    text, trunk, head = language_of(method.language, marker)
    config = InstructBlipConfig(
        vision_config=encoder.model.config.to_dict(),
        qformer_config=connector.qformer.model.config.to_dict(),
        text_config=text,
        num_query_tokens=connector.tokens,
        image_token_index=marker,
    )
    state = {f"vision_model.{name}": value for name, value in encoder.model.state_dict().items()}
    state |= {f"vision_model.post_layernorm.{name}": value for name, value in connector.norm.state_dict().items()}
    state |= {f"qformer.{name}": value for name, value in connector.qformer.model.state_dict().items()}
    state |= {f"language_projection.{name}": value for name, value in connector.project.state_dict().items()}
    state["query_tokens"] = connector.qformer.queries
    trunk_at = method.language.model.base_model_prefix
    state |= {f"language_model.{trunk_at}.{name}": value for name, value in trunk.items()}
    modules = method.language.model.named_modules()
    head_at = next(name for name, module in modules if module is method.language.model.get_output_embeddings())
    state[f"language_model.{head_at}.weight"] = head
    processor = InstructBlipProcessor(
        CLIPImageProcessor(**image_processor(encoder)), tokenizer, _reader(method), num_query_tokens=connector.tokens
    )
    return Whole(filled(InstructBlipForConditionalGeneration, config, state), processor)


def _fits(method: Any) -> None:
    kind, template = getattr(method.encoder, "kind", method.encoder.name), method.template
    if not method.reads:
        raise ExportError(
            "The Q-Former of InstructBlipForConditionalGeneration always reads what is asked: train with aware=true "
            "and the task instruct to export it."
        )
    if kind not in _SEEN:
        raise ExportError(
            f"InstructBlipForConditionalGeneration takes the vision encoder of InstructBLIP or BLIP-2, not {kind!r}: "
            "train with --image hf:FOLDER of one of these (hf:FOLDER#random makes one by its config alone)."
        )
    said = (template.user, template.pieces("assistant")[0], template.begin_each, template.medium)
    if said != ("{}", "", "", MARKER):
        raise ExportError(
            "The processor of InstructBlipForConditionalGeneration hands one text to the Q-Former and to the language "
            "model: train with template=plain to export it."
        )


def _reader(method: Any) -> Any:
    """The tokenizer of instructions for the Q-Former."""
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    own = method.instruction_reader
    backend = Backend.from_str(own.json)
    backend.no_padding()
    backend.no_truncation()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=own.context,
        pad_token=backend.id_to_token(own.pad),
        truncation_side="left" if own.keeps == "end" else "right",
        clean_up_tokenization_spaces=False,
    )
