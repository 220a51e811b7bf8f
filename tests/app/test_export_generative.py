"""A language model that sees, exported to transformers, reads, gives and writes the same there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from diptych import methods
from diptych.app.export import ExportError, export
from diptych.app.export_generative import chat_template
from diptych.app.main import main
from diptych.batch import Batch, Sample
from diptych.encoders.language import own_chat_tokenizer
from diptych.models.generation import embedded
from diptych.views.conversations import TEMPLATES, Turn

SMALL: dict[str, Any] = {
    "image_size": 32,
    "image_width": 32,
    "image_layers": 2,
    "image_heads": 2,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "tasks": ("pretrain",),
}
DEEP = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
QUESTION = "what is left of the red disc?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of transformers with random weights."""
    home = tmp_path_factory.mktemp("folders")
    torch.manual_seed(0)
    see = {**DEEP, "image_size": 32, "patch_size": 8}
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**see)).save_pretrained(home / "clip")
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**see)).save_pretrained(home / "siglip")
    transformers.InstructBlipConfig(vision_config=see).save_pretrained(home / "blip")
    own = own_chat_tokenizer()
    words = {"vocab_size": 8200, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": own.end}
    grown = transformers.GraniteConfig(**DEEP, **words, num_key_value_heads=2, logits_scaling=4.0)
    gptj = transformers.GPTJConfig(vocab_size=8200, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=128)
    llama = transformers.LlamaConfig(**DEEP, **words)
    for name, config in (("granite", grown), ("gptj", gptj), ("llama", llama)):
        config.save_pretrained(home / name)
        (home / name / "tokenizer.json").write_text(own.json, encoding="utf-8")
        told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "pad_token": "<pad>"}
        (home / name / "tokenizer_config.json").write_text(json.dumps(told))
    return home


def made(id: str, folders: Path, **options: Any) -> Any:
    """A method with every weight away from the zeros and ones of a fresh one; `@NAME` is one of `folders`."""
    options = {k: f"hf:{folders}/{v[1:]}#random" if str(v).startswith("@") else v for k, v in options.items()}
    torch.manual_seed(0)
    method = methods.build(id, {**SMALL, **options})
    with torch.no_grad():
        for value in method.parameters():
            value += 0.1 * torch.randn_like(value)
    return method.eval()


def pictures(size: int = 32) -> list[Image.Image]:
    generator = np.random.default_rng(1)
    return [Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(2)]


def seen(method: Any) -> Any:
    shown = [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in pictures()]
    return method.encode_image(Batch({"image": torch.stack(shown)}))


@torch.no_grad()
def logits_of(method: Any, turns: list[Turn]) -> torch.Tensor:
    """(2, T, V) about two pictures, up to where an answer begins."""
    read = method.read(turns, [method.connector.tokens], open=True)
    embeds, _ = embedded(method, seen(method), [read] * 2)
    logits: torch.Tensor = method.language.logits(method.language.hidden(embeds))
    return logits


def theirs(folder: Path) -> tuple[Any, Any]:
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval(), transformers.AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def same(method: Any, folder: Path, turns: list[Turn], text: str) -> None:
    """Logits about two pictures in one batch, and what is written after them."""
    model, processor = theirs(folder)
    inputs = processor(images=pictures(), text=[text, text], return_tensors="pt", padding=True)
    found = model(**inputs).logits
    expected = logits_of(method, turns)
    torch.testing.assert_close(found[..., :8192], expected[..., :8192], atol=2e-5, rtol=2e-5)
    marker = model.config.image_token_id
    assert (found[..., marker] <= found[..., :marker].amax(-1)).all()  # nobody ever writes a picture
    written = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    answers = [one.strip() for one in processor.batch_decode(written, skip_special_tokens=True)]
    assert answers == method.respond(seen(method), [turns] * 2, longest=6)


LLAVAS = [
    ("limber", {"language": "@llama"}),
    ("prior", {"image": "@clip", "template": "vicuna"}),
    ("prior", {"image": "@siglip", "template": "chatml"}),
    ("pllava", {"frames": 1, "pool": (1, 4, 4), "image_layer": -2, "lora_rank": 2, "alpha_test": 4.0}),
    ("pllava", {"frames": 1, "way": "grid", "image_layer": 0, "image": "@clip"}),
]


@pytest.mark.shows("P")
@pytest.mark.parametrize(("id", "options"), LLAVAS)
def test_llava(id: str, options: dict[str, Any], folders: Path, tmp_path: Path) -> None:
    method = made(id, folders, **options)
    names = [name for name, _ in method.named_parameters()]
    folder = export(method, "transformers", tmp_path / "out")
    assert [name for name, _ in method.named_parameters()] == names  # merging is for the copy alone
    _, processor = theirs(folder)
    said = [
        ("user", [{"type": "image"}, {"type": "text", "text": QUESTION}]),
        ("assistant", "a star"),
        ("user", "why?"),
    ]
    text = processor.apply_chat_template(
        [{"role": role, "content": content} for role, content in said], add_generation_prompt=True
    )
    same(method, folder, [Turn("user", QUESTION), Turn("assistant", "a star"), Turn("user", "why?")], text)


def test_a_caption_that_is_not_asked_for(folders: Path, tmp_path: Path) -> None:
    method = made("prior", folders, template="vicuna")
    folder = export(method, "transformers", tmp_path / "out")
    said = [{"role": "user", "content": [{"type": "image"}]}]
    text = theirs(folder)[1].apply_chat_template(said, add_generation_prompt=True)
    same(method, folder, [], text)


def test_pictures_of_other_sizes_are_squeezed_as_here(folders: Path, tmp_path: Path) -> None:
    method = made("prior", folders)
    _, processor = theirs(export(method, "transformers", tmp_path / "out"))
    picture = Image.fromarray(np.tile(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    pixels = processor.image_processor(images=picture, return_tensors="pt")["pixel_values"]
    view = method.view_media(Sample("", {"image": picture}), None)[0]["image"][None]
    torch.testing.assert_close(pixels, method.encoder.pixels(view), atol=0.05, rtol=0)


@pytest.mark.shows("P", "instructblip")
@pytest.mark.parametrize("language", ["own", "@llama"])
def test_instructblip(language: str, folders: Path, tmp_path: Path) -> None:
    own = {"image": "@blip", "language": language, "tasks": ("instruct",), "queries": 3, "norm_eps": 1e-6}
    sizes = {"qformer_width": 16, "qformer_layers": 2, "qformer_heads": 2}
    method = made("instructblip", folders, **own, **sizes)
    same(method, export(method, "transformers", tmp_path / "out"), [Turn("user", QUESTION)], QUESTION)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_write_what_ours_write(name: str) -> None:
    """A system's turn included, and what stands ahead where there is none."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template, own = TEMPLATES[name], own_chat_tokenizer()
    written = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        chat_template(template, own.word(own.begin), own.word(own.end))
    )
    told = [
        {"role": role, "content": text} for role, text in (("system", "be brief"), ("user", " a? "), ("assistant", "b"))
    ]
    expected = {
        "plain": "<start>be brief\na? b<end>",
        "vicuna": "<start>be brief USER: a? ASSISTANT: b<end>",
        "chatml": "<start><|im_start|>system\nbe brief<end>\n<|im_start|>user\na?<end>\n"
        "<|im_start|>assistant\nb<end>\n",
    }
    assert written.render(messages=told) == expected[name]


UNFIT = [
    ("limber", {"prefix": 2}, r"maps each patch.*prefix=0"),
    ("limber", {"prefix": 1}, r"maps each patch.*prefix=0"),
    ("pllava", {"frames": 2, "pool": (2, 4, 4)}, "frames=1"),
    ("pllava", {"frames": 1, "way": "chatgpt"}, "frames=1"),
    ("prior", {"image": "patches"}, "not 'patches': train with --image vit"),
    ("prior", {"image": "@clip", "image_size": 64}, "places for pictures of 32 pixels and was trained on 64"),
    ("prior", {"moca": True}, "train with moca=false"),
    ("limber", {"language": "@gptj"}, "has a bias"),
    ("limber", {"language": "@granite"}, "gives other logits than this run"),
    ("instructblip", {"tasks": ("instruct",)}, "vision encoder of InstructBLIP or BLIP-2, not 'vit'"),
    ("instructblip", {"tasks": ("instruct",), "image": "@blip", "aware": False}, "train with aware=true"),
    ("instructblip", {"tasks": ("instruct",), "image": "@blip", "template": "vicuna"}, "train with template=plain"),
]


@pytest.mark.parametrize(("id", "options", "message"), UNFIT)
def test_what_the_classes_cannot_hold_is_said(
    id: str, options: dict[str, Any], message: str, folders: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(made(id, folders, **options), "transformers", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_open_clip_has_none_such(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="language models that see, to transformers"):
        export(made("prior", folders), "open_clip", tmp_path)


def test_from_the_command_line(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The folder's README runs as it is."""
    method = made("prior", folders)
    method.save_pretrained(tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), "--to", "transformers"]) == 0
    folder = tmp_path / "saved" / "export-transformers"
    assert "export-transformers" in capsys.readouterr().out
    monkeypatch.chdir(folder)
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code, {"picture": pictures()[0]})
    image = method.encode_image(Batch({"image": torch.from_numpy(np.array(pictures()[0])).permute(2, 0, 1)[None]}))
    assert capsys.readouterr().out.strip() == method.respond(image, ["What is this?"])[0]
