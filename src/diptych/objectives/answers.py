"""Answers as classes: the head that scores them, and the losses against one answer or many.

Letters: B batch, A answers, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.objectives.contrastive import exact
from diptych.objectives.masked import IGNORE, labelled_cross_entropy


class AnswerHead(nn.Module):
    """Dense, GELU and LayerNorm, then a linear map to the answers.

    Args:
        width: D.
        answers: A.
        hidden: width inside; 0 means 2 D (UNITER, LXMERT). FIBER, METER and M3AE keep D.
        norm_first: LayerNorm ahead of the GELU (FIBER, METER, M3AE), and not behind it (UNITER, LXMERT).
        eps: of the LayerNorm.
    """

    def __init__(self, width: int, answers: int, hidden: int = 0, norm_first: bool = False, eps: float = 1e-12) -> None:
        super().__init__()
        hidden = hidden or 2 * width
        norm, bend = nn.LayerNorm(hidden, eps=eps), nn.GELU()
        middle = (norm, bend) if norm_first else (bend, norm)
        self.transform = nn.Sequential(nn.Linear(width, hidden), *middle)
        self.answers = nn.Linear(hidden, answers)

    def forward(self, joint: Tensor) -> Tensor:
        """The joint vector of a question and its image (B, D) -> logits (B, A)."""
        return self.answers(self.transform(joint))

    @torch.no_grad()
    def load_answers(self, other: AnswerHead, names: Sequence[str], other_names: Sequence[str]) -> int:
        """Takes over what another head has learnt, row by row for the answers that both know (LXMERT).

        Rows of answers that the other does not know stay as they are.

        Args:
            other: a head of the same widths.
            names: A strings, the answers of this head in order.
            other_names: those of the other.

        Returns:
            How many answers both know.
        """
        where = {name: index for index, name in enumerate(other_names)}
        mine = [index for index, name in enumerate(names) if name in where]
        theirs = [where[names[index]] for index in mine]
        self.transform.load_state_dict(other.transform.state_dict())
        self.answers.weight[mine] = other.answers.weight[theirs]
        self.answers.bias[mine] = other.answers.bias[theirs]
        return len(mine)


def soft_answer_loss(logits: Tensor, scores: Tensor, labelled: Tensor | None = None) -> Tensor:
    """Binary cross-entropy against soft scores, summed over answers, mean over the questions that have any label.

    Args:
        logits: (B, A).
        scores: (B, A) in [0, 1], see `diptych.views.answers.soft_scores`.
        labelled: (B,) bool, True for samples that have a question and an answer; None is all.

    Returns:
        Scalar, 0 with zero gradients where no sample is labelled.
    """
    error = F.binary_cross_entropy_with_logits(exact(logits), exact(scores), reduction="none").sum(1)  # (B,)
    if labelled is None:
        return error.mean()
    return (error * labelled).sum() / labelled.sum().clamp(min=1)


def sample_answers(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One answer a question, drawn in proportion to its score (LXMERT); IGNORE where no answer has any.

    Args:
        scores: (B, A), not negative.
        generator: of random numbers; None takes torch's own, which the trainer seeds for each step.

    Returns:
        (B,) int64.
    """
    some = scores.sum(1) > 0
    weights = torch.where(some[:, None], scores, 1.0)
    return torch.multinomial(weights, 1, generator=generator)[:, 0].masked_fill(~some, IGNORE)


def answer_loss(logits: Tensor, answers: Tensor, asked: Tensor | None = None) -> Tensor:
    """Cross-entropy of one answer a question, mean over those that have one.

    Args:
        logits: (B, A).
        answers: (B,) int64, IGNORE where there is none.
        asked: (B,) bool, False where the answer does not count because the pair is unmatched (LXMERT); None is all.

    Returns:
        Scalar in nats, 0 with zero gradients where no answer counts.
    """
    return labelled_cross_entropy(logits, answers if asked is None else answers.masked_fill(~asked, IGNORE))
