"""What trains at which rate: parameters by stage, weight decay, the optimisers, the averaged copy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diptych.recipe import Recipe, Stage
from diptych.training.distributed import like, whole

# Names that say "no weight decay" (timm, open_clip, transformers, ours): positions, class tokens, temperatures. Biases
# and norms have one dimension and need no name. BERT's `cls.predictions` and a `class_head` are matrices that decay.
_UNDECAYED = re.compile(
    r"(^|[._])(pos|position|positions|positional|wpe|(cls|class|dist)_(token|embed|embedding)"
    r"|temperature|tau|logit_scale|log_scale|logit_bias)($|[._])"
)


def trainable(method: nn.Module, stage: Stage) -> dict[str, tuple[nn.Parameter, float]]:
    """The parameters that train in a stage, by name, each with the multiplier of its learning rate.

    A parameter that the method itself made with `requires_grad=False` (a momentum teacher) never trains.

    Raises:
        ValueError: a pattern that matches no parameter, or nothing is left to train.
    """
    candidates = {name: value for name, value in method.named_parameters() if value.requires_grad}
    names = [name for name, _ in method.named_parameters()]
    for pattern in (*stage.train, *stage.freeze, *(pattern for pattern, _ in stage.lr)):
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"stage {stage.name!r}: the pattern {pattern!r} matches no parameter, such as {names[0]!r}."
            )
    chosen = {
        name: (value, multiplier(name, stage))
        for name, value in candidates.items()
        if _matches(name, stage.train) and not _matches(name, stage.freeze)
    }
    chosen = {name: (value, factor) for name, (value, factor) in chosen.items() if factor != 0}
    if not chosen:
        raise ValueError(f"stage {stage.name!r} trains nothing: every parameter is frozen.")
    return chosen


def multiplier(name: str, stage: Stage) -> float:
    """The factor of a parameter's learning rate: that of the first matching pattern, else 1."""
    return next((factor for pattern, factor in stage.lr if re.search(pattern, name)), 1.0)


def decays(name: str, value: Tensor) -> bool:
    """Whether weight decay applies: to matrices, but not to biases, norms, positions, class tokens, temperatures."""
    return value.ndim > 1 and not _UNDECAYED.search(name)


def make(recipe: Recipe, chosen: Mapping[str, tuple[nn.Parameter, float]]) -> torch.optim.Optimizer:
    """The optimiser of a stage. Its groups carry `names` (of their parameters) and `multiplier`."""
    grouped: dict[tuple[bool, float], dict[str, nn.Parameter]] = {}
    for name, (value, factor) in chosen.items():
        grouped.setdefault((decays(name, value), factor), {})[name] = value
    groups = [
        {
            "params": list(members.values()),
            "names": list(members),
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "multiplier": factor,
        }
        for (decayed, factor), members in grouped.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.betas[0])
    if recipe.optimizer == "lamb":
        return _lamb(recipe, groups)
    # the fused kernel has one pass over memory in place of ten; it exists for floats on CUDA and on the CPU
    fused = all(value.is_floating_point() and value.device.type in ("cuda", "cpu") for value, _ in chosen.values())
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=fused)


def _lamb(recipe: Recipe, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    try:
        from timm.optim import Lamb
    except ImportError as error:
        raise ImportError("optimizer 'lamb' comes from timm: pip install 'diptych[timm]'.") from error
    # max_grad_norm: gradients are clipped by the loop, once
    lamb: torch.optim.Optimizer = Lamb(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, max_grad_norm=None)
    return lamb


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group to `lr` times the group's multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["multiplier"]


def parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters that it updates."""
    return [value for group in optimiser.param_groups for value in group["params"]]


class Average:
    """A copy of weights in fp32 that follows them: copy <- decay * copy + (1 - decay) * weight (EMA).

    The decay starts low and rises as (1 + n) / (10 + n) with the number n of updates, up to `decay`, so that a short
    run does not keep its initial weights (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.updates = 0
        self.copies = {name: value.detach().float().clone() for name, value in parameters.items()}

    def follow(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Follows other parameters of the same names from now on, such as those of a copy that is shared out."""
        self.parameters = {name: parameters[name] for name in self.copies}
        self.copies = {name: like(whole(copy), self.parameters[name]) for name, copy in self.copies.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Follows the weights after an optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, copy in self.copies.items():
            copy.lerp_(self.parameters[name].detach().float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the method holds the averaged weights; afterwards its own again, bit for bit."""
        own = {name: value.data for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            value.data = self.copies[name].to(value.dtype)
        try:
            yield
        finally:
            for name, value in self.parameters.items():
                value.data = own[name]

    @torch.no_grad()
    def keep(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Gives parameters of these names the averaged weights for good; every process must call it."""
        for name, copy in self.copies.items():
            parameters[name].copy_(whole(copy))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
