"""How a run is trained: the recipe and its stages. Plain data, shared by methods (presets) and the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diptych.config import IF_USED


@dataclass(frozen=True)
class Recipe:
    """Everything about training that is not the method. The defaults suit a laptop."""

    samples: int = 60_000
    """length of the run in samples seen; divided by `batch` it gives the steps"""
    batch: int = 64
    """samples a step, over all processes and accumulated parts"""
    accumulate: int = 1
    """split each batch into this many parts (contrastive negatives then come from a part)"""
    grad_cache: bool = False
    """compute features in those parts, but one loss over the whole batch and all its negatives (GradCache): the memory
    of a part for about a third more time"""
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    """`lamb` comes from timm"""
    lr: float = 1e-3
    """peak learning rate"""
    weight_decay: float = 0.1
    """not applied to biases, norms, embeddings of position and temperatures"""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW and LAMB moments; sgd takes the first as momentum"""
    eps: float = 1e-6
    """added to the root of the second moment"""
    warmup: float = 0.05
    """share of the run with linearly rising learning rate; a value above 1 counts steps"""
    warmup_lr: float = 0.0
    """constant learning rate in place of the rising one, as a share of the peak; 0 lets it rise"""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """how the learning rate falls after the warm-up, to `final_lr`"""
    final_lr: float = 0.0
    """learning rate at the end, as a share of the peak"""
    cycles: int = 1
    """how often the learning rate begins at its peak again and falls, each time in an equal part of what follows the
    warm-up (SGDR's warm restarts)"""
    epochs: int = 0
    """set the learning rate only once in each of so many equal parts, as schedulers do that count epochs: behind the
    warm-up it falls as if the whole run still lay ahead, so that `final_lr` is not reached; 0 sets it at every step"""
    clip: float = 1.0
    """largest norm of the gradient; 0 switches clipping off"""
    ema: float = 0.0
    """decay of an averaged copy of the weights, kept beside them and used for evaluation; 0 switches it off"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` takes bf16 autocast where the device computes it natively"""
    compile: bool = False
    """run the method through torch.compile"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """with several processes: `ddp` keeps all weights in each, `fsdp` shares weights, gradients and moments out among
    them, for what would not fit; the result is the same but for rounding"""
    seed: int = 0
    """initial weights, order of the data and augmentation"""
    workers: int = 2
    """processes that read and decode; 0 reads in the training process. The result does not depend on it"""
    evaluations: int = 4
    """how often the run is evaluated on the way, the end included; 0 never"""
    checkpoints: int = 10
    """how often the run is saved on the way, the end included"""
    max_broken: float = 0.05
    """largest share of samples that may be broken before the run stops"""
    max_nonfinite: int = 5
    """steps in a row that are skipped because their loss or gradient is not finite; one more stops the run"""
    patience: float = 1800.0
    """seconds without any progress after which a run that hangs is ended, with all stacks in its folder; 0 never"""
    stream: bool = field(default=False, metadata=IF_USED)
    """learn the parts of the data one after the other, each stage on each of them, as tasks of which the earlier ones
    are gone; the weight of a part is its share of the run, and optimiser and schedule begin anew with each"""
    buffer: int = field(default=0, metadata=IF_USED)
    """samples of the earlier tasks of a stream that are kept, equally many of each, and come as often as the task's"""


@dataclass(frozen=True)
class Stage:
    """A named part of a run: what trains, how fast, for which share of the samples.

    Patterns are regular expressions searched in parameter names. `train` lists what trains (default: everything);
    `lr` multiplies the learning rate of matching parameters (first match wins; 0 freezes).
    `data` picks a named part of a mixture, if the stage does not train on all of it.
    """

    name: str = "train"
    share: float = 1.0
    train: tuple[str, ...] = (".*",)
    freeze: tuple[str, ...] = ()
    lr: tuple[tuple[str, float], ...] = ()
    data: str | None = None
    needs: tuple[str, ...] | None = None
    """fields that it reads of each sample; None: those of the method's card. Of alternatives such as
    `texts|questions` each sample has one or more, and all that it has are read"""
    uses: tuple[str, ...] = ()
    """fields that it reads too where the data have them; of alternatives a sample may have any, or none"""
    task: int | None = None
    """which task of a stream it learns, from 0; the trainer says so, no method does"""


@dataclass(frozen=True)
class Preset:
    """A named configuration of a method with the recipe that goes with it."""

    config: object
    recipe: Recipe = field(default_factory=Recipe)
    about: str = ""
