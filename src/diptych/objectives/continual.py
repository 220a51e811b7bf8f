"""What keeps the past while a model learns one task after another (CTP, Zhu et al., ICCV 2023; its baselines).

Compatible momentum contrast is `queue.queue_info_nce` with the keys of a momentum model and no soft targets; what makes
that model compatible is `move`, by which it also follows the frozen model of the task before.

Letters: B pairs of this process, C = world * B, D width, N masked words, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from diptych.batch import Gather
from diptych.objectives.contrastive import ALONE, exact, precise

ITSELF = -1000.0
"""In place of the similarity of a sample to itself: finite, since of -inf 0 * inf would be NaN"""


@torch.no_grad()
def move(momentum: Tensor, live: Tensor, past: Tensor, m: float, alpha: float = 0.0) -> None:
    """Moves a weight of the momentum model, in place: m theta_c + (1 - m) (alpha theta_{t-1} + (1 - alpha) theta).

    With alpha = 0, or while the live weight is that of the task before, this is the plain average of momentum m.

    Args:
        momentum: theta_c.
        live: theta.
        past: theta_{t-1}, of the model as it was when the task began.
        m: what stays, 0.9 in CTP.
        alpha: the share of the past in what comes, 0.5 in CTP.
    """
    momentum.mul_(m).add_(live, alpha=(1 - m) * (1 - alpha)).add_(past, alpha=(1 - m) * alpha)


def topology_loss(
    now: tuple[Tensor, Tensor],
    past: tuple[Tensor, Tensor],
    scale: Tensor,
    gather: Gather = ALONE,
    same_modal: bool = True,
) -> Tensor:
    """How far similarities within the batch are from what they were: KL(p^r || p) over the rows (CTP's L_tp).

    The mean of image to text and text to image, and, where wanted, that of image to image and text to text besides,
    in which nothing is compared with itself.

    Args:
        now: features of the images and texts (B, D), L2-normalised.
        past: those of the previous task's model, no gradient flows into them.
        scale: 1 / tau, by which cosines are multiplied.
        gather: brings the features of all processes.
        same_modal: count the second mean too.

    Returns:
        Scalar, in nats; 0 where nothing has changed.
    """
    with precise(now[0]):
        rows, old_rows = [exact(x) for x in now], [exact(x).detach() for x in past]
        columns, old_columns = [gather(x) for x in rows], [gather(x) for x in old_rows]
        own = torch.arange(len(rows[0]), device=rows[0].device)
        itself = own, own + gather.rank * len(own)
        loss = rows[0].new_zeros(())
        for a, b in ((0, 1), (1, 0), (0, 0), (1, 1)) if same_modal else ((0, 1), (1, 0)):
            here, there = rows[a] @ columns[b].T, old_rows[a] @ old_columns[b].T  # (B, C)
            if a == b:
                here, there = (x.index_put(itself, x.new_tensor(ITSELF)) for x in (here, there))
            loss = loss + divergence(scale * here, scale * there) / 2
        return loss


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)), the mean over rows (N, C), in nats; exactly 0 where both are equal."""
    log_p, log_r = exact(logits).log_softmax(-1), exact(reference).detach().log_softmax(-1)
    return (log_r.exp() * (log_r - log_p)).sum(-1).mean()


def word_distillation(logits: Tensor, reference: Tensor) -> Tensor:
    """Cross-entropy of masked words against what another model says of them, at temperature 1 (CTP's L_mlmd).

    Where both agree it is the entropy of what they say.

    Args:
        logits: (N, V), of the masked words.
        reference: (N, V), of the other model; no gradient flows into it.

    Returns:
        Scalar, in nats: the mean over the words; 0, with zero gradients, where none is masked.
    """
    with precise(logits):
        soft = exact(reference).detach().softmax(-1)
        return -(soft * exact(logits).log_softmax(-1)).sum() / max(1, len(logits))


def feature_distillation(now: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], scale: Tensor) -> Tensor:
    """Learning without forgetting (Li and Hoiem, 2016), as CTP's code has it for two towers without classes.

    The D channels of a feature, ahead of its normalisation, stand in for the classes of the old task: KL between the
    softmax of the previous model's channels and of the live one's, the mean of images and texts (`LWF_forward`).

    Args:
        now: features of images and texts (B, D), as they leave the map into the joint space.
        past: those of the previous task's model.
        scale: 1 / tau.

    Returns:
        Scalar, in nats.
    """
    with precise(now[0]):
        image, text = (divergence(scale * x, scale * old) for x, old in zip(now, past, strict=True))
        return (image + text) / 2


class Elastic(nn.Module):
    """Elastic weight consolidation (Kirkpatrick et al., 2017, Eq. 3): weights that earlier tasks depend on move little.

    How much they do, F, is the mean square of a weight's gradient on those tasks. CTP's code takes it in one more pass
    over a task's data when the task is learned, and averages over tasks. Here it comes from the steps of the second
    half of the task, in which the learning rate falls: there is no pass more, but the gradients are those of the steps,
    clipped if so, and with that of the penalty.

    Args:
        model: whose weights these are, as they are before the first task.
    """

    steps: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.past, self.importance, self.squares = (deepcopy(model).requires_grad_(False) for _ in range(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for value in (*self.importance.parameters(), *self.squares.parameters()):
            value.data.zero_()

    def penalty(self, live: nn.Module) -> Tensor:
        """Sum of F (theta - theta_{t-1})^2 / 2 over the weights of the live model.

        Raises:
            ValueError: the weights are shared out among processes.
        """
        found = []
        for (value, old), (_, weight) in zip(beside(live, self.past), beside(live, self.importance), strict=True):
            if hasattr(value, "full_tensor"):
                raise ValueError("ewc looks at all weights at once, and fsdp shares them out: train with parallel=ddp.")
            found.append((weight * (value - old).square()).sum())
        return torch.stack(found).sum() / 2

    def add(self, live: nn.Module, progress: float) -> None:
        """Takes in the gradients of a step, `progress` of the task having gone before it, from 0 to 1."""
        if progress < 0.5:
            return
        self.steps += 1
        for value, squares in beside(live, self.squares):
            if value.grad is not None:
                squares.add_(value.grad.square())

    def settle(self, live: nn.Module, tasks: int) -> None:
        """When so many tasks have been learned: F becomes the mean over all of them, and the past the live model."""
        for (_, weight), (_, squares) in zip(beside(live, self.importance), beside(live, self.squares), strict=True):
            weight.lerp_(squares / self.steps.clamp(min=1), 1 / tasks)
            squares.zero_()
        self.steps.zero_()
        become(self.past, live)


def beside(live: nn.Module, copy: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Each weight of a copy behind that of the live model, which may have more."""
    own = dict(live.named_parameters())
    return ((own[name], value) for name, value in copy.named_parameters())


def become(copy: nn.Module, live: nn.Module) -> None:
    """A copy takes the weights and buffers of the live model, which may have more."""
    own = live.state_dict()
    copy.load_state_dict({name: own[name] for name in copy.state_dict()})
