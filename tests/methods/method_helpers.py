"""Methods small enough to learn something in seconds, the data that they need, and their losses."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from diptych import methods
from diptych.app.fitting import fitted
from diptych.batch import Batch, Step, Terms
from diptych.data.dataset import Dataset
from diptych.data.loader import collate
from diptych.encoders import own_tokenizer
from diptych.evaluation.tasks import evaluate
from diptych.recipe import Recipe, Stage
from diptych.results import Row
from diptych.training.loop import fields_of
from diptych.world.clips import Clips
from diptych.world.data import World
from diptych.world.knobs import Knobs
from diptych.world.rooms import Solids

SMALL = {
    "image_size": 32,
    "image_width": 32,
    "image_layers": 1,
    "image_heads": 2,
    "text_width": 32,
    "text_layers": 1,
    "text_heads": 2,
    "embed": 16,
    "width": 32,
    "heads": 2,
    "cross_layers": 1,
}
OWN = {
    "alpro": {"tasks": ("pretrain",), "sure": 0.0, "pem": 0.05, "text_layers": 2},
    "fiber": {"hidden": 32, "queue": 0},
    "limber": {"tasks": ("pretrain",), "layers": 1, "dropout": 0.0},
    "instructblip": {
        "tasks": ("instruct", "represent"),
        "layers": 1,
        "queries": 4,
        "qformer_width": 32,
        "qformer_layers": 2,
        "qformer_heads": 2,
    },
    "pllava": {"frames": 4, "pool": (4, 2, 2), "layers": 1},
    "prior": {"tasks": ("pretrain",), "layers": 1},
    "ctp": {"queue": 16, "contrast": 0.05, "distill": 0.02},
    "coop": {"vectors": 4, "embed": 32, "freeze": ()},
    "maple": {"embed": 32, "freeze": ()},
    "clip2point": {"cloud": 64},
}
"""What a method is told to learn, where its first task is not its main one; the labels of `pem` are never certain, and
towers of random weights say too little for prompts alone to learn by heart. The keys of a momentum model that does not
move, and of a queue that holds the same eight samples again, cannot all be told apart."""
DRAWS = 4
"""Steps in which a loss is looked at that draws tasks, masks or negatives; each has random numbers of its own."""


def small(id: str, **options):
    """A small method, the same at every call; options that it does not have are left out."""
    config_class = methods.config_class(id)
    names = {field.name for field in fields(config_class)}
    config = config_class(**{k: v for k, v in {**SMALL, **OWN.get(id, {}), **options}.items() if k in names})
    torch.manual_seed(0)
    return methods.build(id, fitted(id, config, world_of(id)))


def world_of(id: str, size: int = 64, **knobs) -> Dataset:
    """Scenes, clips for a method that sees clips, single things for one that sees point clouds."""
    if "points" in methods.card(id).needs:
        return Solids(size=size, knobs=Knobs(**{"objects": (1, 1), "cloud": 64, "pixels": 32, **knobs}))
    if "category" in methods.card(id).needs:
        knobs = {"objects": (1, 1), "shapes": 4, **knobs}
    if "video" not in methods.card(id).needs:
        return World(size=size, knobs=Knobs(**knobs))
    return Clips(size=size, knobs=Knobs(**{"video": True, "frames": 4, "events": 1, "pixels": 32, **knobs}))


def first_stage(method) -> Stage:
    """What a run begins with."""
    return method.stages(Recipe())[0]


def trains(stage: Stage, name: str) -> bool:
    """Whether a stage trains the parameter of that name."""
    return any(re.search(p, name) for p in stage.train) and not any(re.search(p, name) for p in stage.freeze)


def samples_of(method, data: Dataset, size: int = 8, stage: Stage | None = None) -> Iterator:
    """The first samples of a data set, with the fields that a stage (the first) reads."""
    names = fields_of(method, stage or first_stage(method), data)
    return (data.read(index, names) for index in range(size))


def batch_of(method, data: Dataset, size: int = 8, stage: Stage | None = None) -> Batch:
    """The first samples of a data set as the method sees them in a stage, the first."""
    return collate([method.views(sample, None) for sample in samples_of(method, data, size, stage)])


def loss_of(method, batch: Batch, index: int = 0, stage: Stage | None = None, **step) -> Terms:
    """The loss in a step, with the random numbers that are this step's, whenever it is computed."""
    torch.manual_seed(index)
    return method.loss(batch, Step(stage=(stage or first_stage(method)).name, index=index, **step))


def mean_loss(method, batch: Batch) -> float:
    """The mean over what the loss can draw."""
    with torch.no_grad():
        return sum(loss_of(method, batch, index).total.item() for index in range(DRAWS)) / DRAWS


def learn(method, batch: Batch, steps: int = 150, goal: float = 0.0) -> None:
    """Learns a batch by heart, with all that the loss draws of it, or until the mean loss is below the goal."""
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(steps):
        if goal and step % 15 == 0 and mean_loss(method, batch) < goal:
            return
        optimiser.zero_grad()
        loss_of(method, batch, step % DRAWS).total.backward()
        optimiser.step()


def figures(id: str, judged: Sequence[str], /, **options) -> dict[str, Row]:
    """'task metric' -> figure, on eight scenes of one object that the method has learned by heart."""
    method, scenes = small(id, **options), world_of(id, 8, objects=(1, 1))
    learn(method, batch_of(method, scenes))
    rows = evaluate(method, scenes, judged, train_data=world_of(id, 64, objects=(1, 1)))
    return {f"{row.task} {row.metric}": row for row in rows}


PUBLIC = {  # sizes that differ from BertConfig's and RobertaConfig's own
    "bert-base-uncased": {},
    "bert-base-chinese": {"vocab_size": 21128},
    "bert-base-cased": {"vocab_size": 28996},
    "bert-large-cased": {
        "vocab_size": 28996,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "roberta-base": {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
}


def public_folders(folder: Path) -> None:
    """Folders by the names of public models: their configs, and tokenizers of as many entries, no weights."""
    from transformers import (
        BeitConfig,
        BertConfig,
        CLIPVisionConfig,
        GPTJConfig,
        InstructBlipConfig,
        LlamaConfig,
        RobertaConfig,
    )

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    for name in ("microsoft/beit-large-patch16-224-pt22k", "microsoft/beit-large-patch16-224-pt22k-ft22k"):
        BeitConfig(**large).save_pretrained(folder / name)
    language_folder(folder / "EleutherAI/gpt-j-6b", GPTJConfig())  # its own sizes are those of the 6B model
    CLIPVisionConfig(image_size=336, patch_size=14, **large).save_pretrained(
        folder / "openai/clip-vit-large-patch14-336"
    )
    language_folder(folder / "lmsys/vicuna-7b-v1.5", LlamaConfig(max_position_embeddings=4096))
    for name, sizes in PUBLIC.items():
        config = RobertaConfig(**sizes) if name.startswith("roberta") else BertConfig(**sizes)
        config.save_pretrained(folder / name)
        write_tokenizer(folder / name, config.vocab_size)
    InstructBlipConfig().save_pretrained(folder / "Salesforce/instructblip-vicuna-7b")  # ViT-g is the default
    language_folder(folder / "lmsys/vicuna-7b-v1.1", LlamaConfig())  # its own sizes are those of the 7B model


def clip_folder(place: Path):
    """A small random CLIPModel of transformers with our tokenizer, in a folder; the model."""
    from transformers import CLIPConfig, CLIPModel

    deep = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    words = {"vocab_size": 8192, "max_position_embeddings": 24, "bos_token_id": 8190, "eos_token_id": 8191}
    vision = {**deep, "hidden_size": 48, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config={**deep, **words}, vision_config=vision, projection_dim=24)).eval()
    for parameter in model.parameters():  # away from the zeros and ones of fresh biases and norms
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(place)
    (place / "tokenizer.json").write_text(own_tokenizer(24).json, encoding="utf-8")
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return model


def language_folder(place: Path, config, words: Sequence[str] = ("a",)) -> None:
    """A config of a language model and a tokenizer of a few words, whose last is `<end>`; no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", *words, "<end>"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(place)
    config.save_pretrained(place)


def write_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of so many entries, with the special tokens of BERT and RoBERTa."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    special += ["##ing", "\u0120a"]
    words = special + [f"w{number}" for number in range(len(special), size)]
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
