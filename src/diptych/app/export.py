"""A trained method as a model of another library, which then gives the same outputs.

`export(method, "transformers", folder)` writes a folder for `CLIPModel.from_pretrained(folder)`, with its tokenizer
and image processor; `export(method, "open_clip", folder)` one for
`open_clip.create_model_and_transforms("local-dir:folder")`. The weights are safetensors. A README.md in the folder
shows how to load it, how a method that compares tokens is scored there, and what is not carried over. Language models
that see become LLaVA's or InstructBLIP's class of transformers (`export_generative`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from diptych.app.export_generative import export_generative
from diptych.app.export_open_clip import open_clip_files
from diptych.app.export_parts import ExportError
from diptych.app.export_transformers import transformers_files
from diptych.encoders.adapt import has_lora, merged
from diptych.models.dual_encoder import DualEncoder
from diptych.models.generative import GenerativeVLM

__all__ = ["FORMATS", "ExportError", "export"]
FORMATS = ("transformers", "open_clip")
_TRANSFORMERS = """import torch
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

folder = "."  # where this file is
model = CLIPModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
processor = CLIPImageProcessor.from_pretrained(folder)
inputs = tokenizer(["a cat", "a dog"], padding=True, truncation=True, return_tensors="pt")
inputs |= processor(images=[picture], return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits_per_image.softmax(-1))
"""
_TOKENS = """import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

folder = "."  # where this file is
model = CLIPModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
processor = CLIPImageProcessor.from_pretrained(folder)
words = tokenizer(["a cat", "a dog"], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    patches = model.vision_model(**processor(images=[picture], return_tensors="pt")).last_hidden_state
    patches = model.vision_model.post_layernorm(patches)[:, 1:]  # without the class token
    image = F.normalize(model.visual_projection(patches), dim=-1)
    text = F.normalize(model.text_projection(model.text_model(**words).last_hidden_state), dim=-1)
mask = words.attention_mask.bool()
cosine = torch.einsum("ipd,jtd->ijpt", image, text)
image_to_text = cosine.masked_fill(~mask[None, :, None], -torch.inf).amax(3).mean(2)
text_to_image = (cosine.amax(2) * mask).sum(2) / mask.sum(1)
"""
_OPEN_CLIP = """import open_clip
import torch

folder = "."  # where this file is
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
tokenizer = open_clip.get_tokenizer("local-dir:" + folder)
model.eval()
with torch.no_grad():
    image = model.encode_image(preprocess(picture)[None], normalize=True)
    text = model.encode_text(tokenizer(["a cat", "a dog"]), normalize=True)
print((model.logit_scale.exp() * image @ text.T).softmax(-1))
"""


def export(method: Any, to: str, out: Path) -> Path:
    """Writes `method` for the library `to` (`transformers` or `open_clip`) into the folder `out`, which it returns.

    Raises:
        ExportError: the method is no dual encoder and no language model that sees, or the other library has no model
            with such parts, or none that returns what the method compares; the message names what there is.
    """
    if to not in FORMATS:
        raise ExportError(f"There is no format {to!r}: choose {' or '.join(FORMATS)}.")
    if isinstance(method, GenerativeVLM) and to == "transformers":
        return export_generative(method, Path(out))
    method, out = _dual_encoder(method, to), Path(out)
    if to == "transformers":
        files, name = transformers_files(method), "model.safetensors"
    else:
        files, name = open_clip_files(method, out), "open_clip_model.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in files.tensors.items()}
    save_file(tensors, out / name, metadata={"format": "pt"})
    files.others["README.md"] = _readme(method, to, files.notes)
    for path, value in files.others.items():
        (out / path).parent.mkdir(exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (out / path).write_text(text, encoding="utf-8")
    return out


def _dual_encoder(method: Any, to: str) -> DualEncoder:
    """`method` as a dual encoder that `to` can hold, with LoRA merged into its weights."""
    if not isinstance(method, DualEncoder):
        raise ExportError(
            f"{type(method).__name__} is no dual encoder, an image and a text tower: only those can be exported, and "
            "language models that see, to transformers."
        )
    if method.config.pool != "tower":
        raise ExportError(f"Neither format can say pool={method.config.pool!r}: only pool='tower' can be exported.")
    if _compares_tokens(method) and to != "transformers":
        raise ExportError(
            f"{method.card.title} compares tokens, while open_clip returns one vector a side, which "
            f"{method.card.title} does not train: export it to transformers, whose CLIPModel returns every token."
        )
    if has_lora(method):
        method = merged(method)  # type: ignore[assignment]
    return method


def _compares_tokens(method: DualEncoder) -> bool:
    return type(method).similarity is not DualEncoder.similarity


def _readme(method: DualEncoder, to: str, notes: list[str]) -> str:
    code = {"transformers": _TOKENS if _compares_tokens(method) else _TRANSFORMERS, "open_clip": _OPEN_CLIP}[to]
    text = f"{method.card.title}, trained with diptych, for {to}.\n\n```python\n{code}```\n"
    return text + "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")
