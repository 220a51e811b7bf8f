"""Language models that see: a vision encoder, a connector, a causal language model; what all of them share.

What is seen becomes tokens in the sequence of words, at any place of it. A method says which connector there is, what
its tasks learn (`losses`) and which parts train in them (`stage`). The skeleton makes conversations, captions and texts
of samples into sequences, trains one task after the other as the stages of one run, and is what evaluations meet.

A medium is a picture or a frame. Features of what a sample shows are those of its media, one after the other: M media
of P' tokens each are (B, M * P', C); a connector that takes a whole clip at a time takes P' of all its frames.

Letters: B samples, M media of a sample, P tokens of a medium for the language model, T tokens of a sequence, D width of
the language model, C width of the encoder, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card
from diptych.config import nearest
from diptych.encoders import adapt, image_encoder
from diptych.encoders.language import LanguageModel, language_model
from diptych.encoders.memory import FeatureMemory
from diptych.encoders.own import VisionTransformer
from diptych.fusion.moca import MoCa
from diptych.models.generation import Prompt, answers_to, chances, states, there
from diptych.models.generative_config import GenerativeConfig
from diptych.models.packing import mask_for, pack
from diptych.models.pretrained import Pretrained
from diptych.models.start import State, start_from
from diptych.objectives.weighted import weighted_cross_entropy
from diptych.recipe import Recipe, Stage
from diptych.views import image as picture, text as words, video as clip
from diptych.views.conversations import IGNORE, TEMPLATES, Turn, own_template, sequence, unmarked
from diptych.views.instructions import instructed

NEEDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "instruct": ("conversation|questions|texts",),
    "video": ("video", "conversation|questions|texts"),
}
"""What the usual tasks read of a sample; others read what the card says."""
USES: dict[str, tuple[str, ...]] = {"instruct": ("image|images|video",)}
"""What they read too where it is there."""
MEDIA = ("video", "images", "image")

PROMPTS = {"caption": "", "question": "{}", "choice": "{}", "yes_no": "{}"}

Loss = Callable[[Batch, Step], Terms]


class GenerativeVLM(nn.Module, Pretrained):
    """A method calls `begin` last in its `__init__`, when its connector is made."""

    card: ClassVar[Card]
    prompts: Mapping[str, str] = PROMPTS
    connector: Any

    def __init__(self, config: GenerativeConfig, *, weights: bool = True) -> None:
        super().__init__()
        self.config: Any = config
        if config.template not in (*TEMPLATES, "own"):
            raise ValueError(nearest(config.template, (*TEMPLATES, "own"), "template called"))
        for name in config.tasks:
            if name not in self.losses:
                raise ValueError(nearest(name, self.losses, f"task of {self.card.id} called"))
        if not config.tasks:
            raise ValueError(f"tasks is empty: name one of {', '.join(self.losses)}.")
        self.encoder = image_encoder(
            config.image,
            size=config.image_size,
            width=config.image_width,
            layers=config.image_layers,
            heads=config.image_heads,
            patch=config.patch,
            pretrained=weights,
        )
        if config.positions and isinstance(self.encoder, VisionTransformer):
            nn.init.normal_(self.encoder.positions, std=config.positions)
        self.language: LanguageModel = language_model(
            config.language,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            context=config.context,
            weights=weights,
        )
        self.language.model.set_attn_implementation(config.attention)
        own, end = self.language.tokenizer.written, self.language.tokenizer.word(self.language.tokenizer.end)
        self.template = own_template(own, end) if config.template == "own" else TEMPLATES[config.template]
        if config.checkpointing:
            self.language.recompute()
        self.image_memory = FeatureMemory(config.remember)
        self.moca = MoCa(self.language.layers, self.language.width) if config.moca else None

    def begin(self, weights: bool) -> None:
        """Adds low-rank updates, and takes the weights that `start` names, unless a checkpoint is loaded next."""
        config = self.config
        if config.lora_rank:
            adapt.lora(self.language, config.lora_targets, config.lora_rank, config.lora_alpha)
            self.language.requires_grad_(True)  # what trains is said stage by stage
        if weights and config.start:
            start_from(self, config.start, self.from_official, {"image.": "encoder."})

    @staticmethod
    def from_official(state: State) -> State:
        """From the names of the paper's own checkpoints to ours; without such a table as they are."""
        return state

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """What the sample shows, its class, and its conversation, caption or text as `ids`, `labels`, `visual`."""
        seen, visual = self.view_media(sample, rng)
        if "label" in sample:
            seen["label"] = int(sample.label)
        said = {"conversation", "questions", "texts", "text"} & {*sample, *sample.lacks}
        return {**seen, **self.read(self.turns(sample, rng), visual)} if said else seen

    def view_media(self, sample: Sample, rng: np.random.Generator | None) -> tuple[dict[str, Any], list[int]]:
        """What the sample shows, by the names of `batch`, and the tokens of the language model for each marker.

        Where other samples of the data show something and this one does not, it gets what is black and has no tokens;
        where others show several pictures, one is several, too.
        """
        size, tokens = self.config.image_size, self.connector.tokens
        kinds = [name for name in MEDIA if name in sample or name in sample.lacks]
        if kinds[:1] == ["video"]:
            if "video" not in sample:
                return {"video": torch.zeros(self.config.frames, 3, size, size, dtype=torch.uint8)}, []
            frames = clip.view(sample.video, size, self.config.frames, rng=rng, crop=self.cut(rng))
            return {"video": frames}, [tokens * len(frames) // self.frames_together]
        shown = sample.images if "images" in sample else [sample.image] if "image" in sample else []
        cut = self.cut(rng)
        seen = [picture.resampled(one, cut(one.width, one.height, rng), size) for one in shown]
        several = torch.stack(seen or [torch.zeros(3, size, size, dtype=torch.uint8)])
        if "images" in kinds:
            mask = torch.full((len(several),), bool(shown))
            return {"images": several, "images_mask": mask}, [tokens] * len(seen)
        return ({"image": several[0]} if kinds else {}), [tokens] * len(seen)

    def cut(self, rng: np.random.Generator | None) -> picture.Crop:
        """Which part of a picture is seen: all of it, or in training what `crop` keeps."""
        whole = rng is None or self.config.crop == (1.0, 1.0)
        return picture.whole if whole else partial(picture.area, scale=self.config.crop)

    @property
    def frames_together(self) -> int:
        """How many frames of a clip the connector takes at a time."""
        height, width = self.encoder.grid
        return max(1, int(self.connector.of) // (height * width))

    def turns(self, sample: Sample, rng: np.random.Generator | None) -> list[Turn]:
        """What is said: a caption of what it shows, or its text; asked for, where conversations or questions may be."""
        if {"conversation", "questions"} & {*sample, *sample.lacks}:
            return instructed(sample, rng)
        caption = words.choose(sample.texts, rng) if "texts" in sample else sample.text
        shows = any(name in sample for name in ("image", "images", "video"))
        return [Turn("assistant" if shows else "text", unmarked(caption))]

    def read(self, turns: Sequence[Turn], visual: Sequence[int], *, open: bool = False) -> dict[str, Any]:
        """Turns -> `ids`, `labels`, `visual` (T,), `length`, cut at the context."""
        made = sequence(turns, self.language.tokenizer, self.template, visual, self.language.context, open=open)
        return {name: torch.as_tensor(value) for name, value in made.items()}

    # -- from a batch to a loss ----------------------------------------------------------------------------------

    def see(self, batch: Batch) -> Features | None:
        """What the encoder makes of all media of each sample: tokens (B, M * P', C); None where nothing is seen."""
        media = next((batch[name] for name in ("video", "images", "image") if name in batch), None)
        if media is None:
            return None
        features = self.look(media.flatten(0, -4))
        if media.ndim == 4:
            return features
        size = len(media)
        tokens, mask = (part.unflatten(0, (size, -1)).flatten(1, 2) for part in (features.tokens, features.mask))
        return Features(tokens, features.pooled.unflatten(0, (size, -1)).mean(1), mask)

    def look(self, media: Tensor) -> Features:
        """(N, 3, H, W) media -> tokens (N, P', C), pooled (N, C), mask (N, P')."""
        return self.image_memory(self.encoder, media)

    def connect(self, image: Features, instruction: Features | None = None) -> Tensor:
        """(B, M * P', C) -> (B, M * P, D) tokens for the language model."""
        tokens: Tensor = self.connector(image, instruction)
        return tokens

    def splice(self, ids: Tensor, visual: Tensor, tokens: Tensor | None) -> Tensor:
        """(B, T) ids -> (B, T, D), with `tokens` (B, N, D) where `visual` (B, T) is, in order, row by row."""
        embeds = self.language.embed(ids)
        self.mark(visual)
        if tokens is None:
            return embeds
        order = (visual.long().cumsum(1) - 1).clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.where(visual[..., None], tokens.to(embeds.dtype).gather(1, order), embeds)

    def mark(self, visual: Tensor) -> None:
        """Says which tokens (B, T) are visual of the sequences that the language model runs next."""
        if self.moca is not None:
            self.moca.visual = visual

    def told(self, batch: Batch) -> Features | None:
        """What a connector that reads instructions is told, from what `read` made of each sample's."""
        return None

    def loss(self, batch: Batch, step: Step) -> Terms:
        """The loss of the task whose stage this is; outside of a run, of the first."""
        task = step.stage if step.stage in self.config.tasks else self.config.tasks[0]
        return self.losses[task](batch, step)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Task -> its loss. A method adds its own, and replaces what it does otherwise."""
        return {"pretrain": self.tell, "instruct": self.tell, "video": self.tell, "text": self.tell}

    def tell(self, batch: Batch, step: Step) -> Terms:
        """Cross-entropy of each learned token, given all before it and what is seen; weighed by `weights`, if any.

        With `pack`, sequences lie side by side in rows (`models.packing`), which changes the loss by rounding alone.
        """
        image = self.see(batch)
        tokens = None if image is None else self.connect(image, self.told(batch))
        embeds, size = self.splice(batch.ids, batch.visual, tokens), batch.ids.shape[1]
        real = there(batch.length, size)
        labels = following(batch.labels.masked_fill(~real, IGNORE), IGNORE)
        weights = following(batch.weights, 0) if "weights" in batch else None
        padding = 1 - real.float().mean()
        if self.config.pack:
            packed = pack(batch.length.tolist(), size, self.config.pack, embeds.device)
            embeds, labels, padding = packed.take(embeds), packed.take(labels, IGNORE), packed.padding
            weights = None if weights is None else packed.take(weights, 0)
            self.mark(packed.take(batch.visual))
            hidden = self.language.hidden(embeds, mask_for(packed, self.language.attention), packed.positions)
        else:
            hidden = self.language.hidden(embeds, real)
        learned = labels != IGNORE
        logits = self.language.logits(hidden[learned])
        loss = weighted_cross_entropy(logits, labels[learned], None if weights is None else weights[learned])
        return Terms({"padding": padding}, text=loss)

    def needs(self, task: str) -> tuple[str, ...] | None:
        """The fields that a task reads; None: those of the card."""
        return NEEDS.get(task)

    def stages(self, recipe: Recipe) -> list[Stage]:
        """One stage a task."""
        tasks, shares, data = self.config.tasks, self.config.task_shares, self.config.task_data
        for name, values in (("task_shares", shares), ("task_data", data), ("train", self.config.train)):
            if values and len(values) != len(tasks):
                raise ValueError(f"{name} has {len(values)} values for {len(tasks)} tasks: give one for each.")
        shares = shares or (1,) * len(tasks)
        parts = [None if part == "all" else part for part in data or ("all",) * len(tasks)]
        stages = [
            self.stage(Stage(task, share / sum(shares), data=part, needs=self.needs(task), uses=USES.get(task, ())))
            for task, share, part in zip(tasks, shares, parts, strict=True)
        ]
        if self.config.train:
            stages = [replace(stage, train=(one,)) for stage, one in zip(stages, self.config.train, strict=True)]
        if self.moca is not None:
            stages = [s if s.name == "text" else replace(s, train=(*s.train, r"^moca\.")) for s in stages]
        return [replace(stage, freeze=(*stage.freeze, *self.config.freeze)) for stage in stages]

    def stage(self, stage: Stage) -> Stage:
        """The stage of a task, with what a method wants otherwise: what trains, and how fast."""
        if stage.name == "text":
            lora = ("lora_",) if self.config.lora_rank else ()
            return replace(stage, train=(r"^language\.",), freeze=lora)
        return replace(stage, freeze=(r"^language\.(?!.*lora_)",)) if self.config.lora_rank else stage

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but a part of which nothing trains stays as it is used: no dropout, no batch norm."""
        super().train(mode)
        for part in self.children():
            part.train(mode and any(parameter.requires_grad for parameter in part.parameters()))
        return self

    def whole(self) -> list[nn.Module]:
        """The encoder, where its features are remembered: each process calls it for what is new to it."""
        trains = any(parameter.requires_grad for parameter in self.encoder.parameters())
        return [self.encoder] if self.config.remember and not trains else []

    # -- what evaluations ask ------------------------------------------------------------------------------------

    def encode_image(self, batch: Batch) -> Features:
        """What is seen -> tokens (B, M * P', C), pooled (B, C), mask (B, M * P')."""
        image = self.see(batch)
        if image is None:
            raise ValueError(f"{self.card.id} sees pictures or clips, and there is none in the batch.")
        return image

    def caption(self, image: Features) -> list[str]:
        """Encoded images -> what the model says when it is asked for a caption."""
        return self.respond(image, [self.prompts["caption"]] * len(image.tokens))

    def respond(
        self, image: Features | None, prompts: Sequence[Prompt], longest: int = 32, beams: int = 1, **sampling: Any
    ) -> list[str]:
        """As in `card.Generates`; a prompt may be a conversation, and `sampling` is as in `generation.answers_to`."""
        return answers_to(self, image, prompts, longest, num_beams=beams, **sampling)

    def likelihood(
        self, image: Features | None, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """As in `card.Generates`; the token that ends an answer counts."""
        logs, learned, _ = chances(self, image, prompts, answers)
        return logs.sum(1), learned.sum(1)

    def token_likelihood(
        self, image: Features | None, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> list[list[tuple[int, int, float, bool]]]:
        """As in `card.Generates`; the token that ends an answer is not among them."""
        found, blank = [], self.template.pieces("assistant")[1]
        for answer, logs, learned, best in zip(answers, *chances(self, image, prompts, answers), strict=True):
            places = self.language.tokenizer.offsets(f"{blank}{answer.strip()}")
            values = zip(places, logs[learned].tolist(), best[learned].tolist(), strict=False)
            found.append([(max(0, a - len(blank)), b - len(blank), value, first) for (a, b), value, first in values])
        return found

    def hidden_states(self, image: Features, texts: Sequence[str]) -> tuple[Sequence[Tensor], Tensor, Tensor]:
        """As in `card.ShowsLayers`."""
        return states(self, image, texts)

    # -- saving --------------------------------------------------------------------------------------------------

    def save_assets(self, folder: Path) -> None:
        """Keeps the tokenizer with the weights that were trained on it."""
        (folder / "tokenizer.json").write_text(self.language.tokenizer.json, encoding="utf-8")

    def load_assets(self, folder: Path) -> None:
        """Takes the tokenizer that was saved with the weights."""
        self.language.load_tokenizer(folder / "tokenizer.json")


def following(values: Tensor, last: float) -> Tensor:
    """(B, T) -> (B, T): at each position what stands at the next one, and `last` behind the last."""
    return F.pad(values[:, 1:], (0, 1), value=last)
