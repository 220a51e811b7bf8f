"""The reward of captions that a model draws, with models that are tables."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diptych.batch import Batch
from diptych.models.captioner import cider_rewards, rewarded_loss
from diptych.models.writing import WritingConfig
from diptych.views.captions import CiderD

START, END = 0, 1
FIRST, SECOND = "red big square box", "blue tiny round ball"


class Table(nn.Module):
    """Logits (B, T, V) of each word by picture and place alone. Image tokens are the number of the picture."""

    def __init__(self, words: list[str], logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.config = WritingConfig(longest=logits.shape[1] + 1)
        says = ["", "", *words]
        self.tokenizer = SimpleNamespace(
            encode=lambda texts: (torch.tensor([[START, END]] * len(texts)), torch.ones(len(texts), 2).bool()),
            backend=SimpleNamespace(decode=lambda ids: " ".join(says[index] for index in ids if says[index])),
            context=77,
        )

    def write(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        logits = self.logits[seen[:, 0, 0].long()]
        return torch.cat([logits, logits[:, -1:]], dim=1)[:, : ids.shape[1]]


def seen(count: int = 2) -> Tensor:
    return torch.arange(float(count))[:, None, None]


def test_the_loss_of_the_cider_stage_by_hand() -> None:
    # Every word has two ids, each of probability 1/2: whatever is drawn reads `red big square box` and then ends
    logits = torch.full((2, 5, 10), -torch.inf)
    for place in range(4):
        logits[:, place, 2 + 2 * place : 4 + 2 * place] = 0
    logits[:, 4, END] = 0
    table = Table([word for word in FIRST.split() for _ in range(2)], logits)
    text = torch.tensor([[START, 2, 5, 6, 9, END], [START, 3, 5, 7, 9, END]])
    batch = Batch({"text": text, "text_mask": torch.ones_like(text).bool(), "references": [[FIRST], [SECOND]]})
    terms = rewarded_loss(table, seen(), batch)
    word = -4 / 5 * math.log(2)  # mean log probability of four words and the end
    assert_close(terms["caption"], torch.tensor(0.3 * -word))
    # CIDEr-D is 10 for the very caption, and 0 where only the end, which all have, is shared
    assert_close(terms["cider"], torch.tensor(0.7 * 5 * word * 100 * ((1 - 10) + (1 - 0)) / 2))
    assert terms.watch["reward"] == 5


def test_rewards_are_of_the_captions_of_the_same_picture_and_the_end_is_a_word() -> None:
    people = [[FIRST, "a red box"], [SECOND]]
    rewards = cider_rewards([FIRST, SECOND, SECOND, "blue tiny round"], people)
    cider = CiderD([[caption + " eos" for caption in own] for own in people])
    assert_close(rewards[0, 0].item(), cider(FIRST + " eos", [caption + " eos" for caption in people[0]]))
    assert 0 == rewards[0, 1] < rewards[0, 0] < rewards[1, 0] == 10
    without = CiderD(people)("blue tiny round", people[1])
    assert rewards[1, 1] < without < 10
    with pytest.raises(ValueError, match="take more"):
        cider_rewards([FIRST], [[FIRST]])


def test_captions_that_are_rewarded_are_drawn_more_often() -> None:
    torch.manual_seed(0)
    words = (FIRST + " " + SECOND).split()
    right = torch.tensor([[2, 3, 4, 5, END], [6, 7, 8, 9, END]])
    table = Table(words, 2.5 * nn.functional.one_hot(right, 10).float())  # about 4 of 7 words are right
    text = torch.cat([torch.full((2, 1), START), right], dim=1)
    batch = Batch({"text": text, "text_mask": torch.ones_like(text).bool(), "references": [[FIRST], [SECOND]]})

    def mean_reward() -> float:
        with torch.no_grad():
            return sum(rewarded_loss(table, seen(), batch).watch["reward"].item() for _ in range(10)) / 10

    before = mean_reward()
    optimiser = torch.optim.Adam(table.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        rewarded_loss(table, seen(), batch)["cider"].backward()  # the captions of people teach it nothing
        optimiser.step()
    assert before < 5
    assert mean_reward() > before + 3
