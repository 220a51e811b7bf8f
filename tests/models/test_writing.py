"""Writing token by token, with a model that is a table."""

from __future__ import annotations

import itertools
import math

import torch

from diptych.models.writing import beam_search, draw, until

END = 3


def table(seed: int = 0):
    """Logits of the next token by the last two, of five tokens, another for each of two texts."""
    logits = 2 * torch.randn(2, 5, 5, 5, generator=torch.Generator().manual_seed(seed))

    def next_word(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        before = ids[:, -2] if ids.shape[1] > 1 else ids[:, -1]
        return logits[rows, before, ids[:, -1]]

    return next_word


def value(next_word, text: list[int], row: int) -> float:
    """The mean log probability of what follows the first token."""
    total = 0.0
    for stop in range(1, len(text)):
        chances = next_word(torch.tensor([text[:stop]]), torch.tensor([row])).log_softmax(-1)[0]
        total += chances[text[stop]].item()
    return total / (len(text) - 1)


def test_with_as_many_beams_as_there_are_texts_it_finds_the_best_of_all() -> None:
    next_word = table()
    found = beam_search(next_word, torch.tensor([0, 0]), END, beams=400, longest=4)
    for row in range(2):
        texts = []
        for words in itertools.product(range(5), repeat=3):
            length = words.index(END) + 1 if END in words else 3
            texts.append([0, *words[:length]])
        best = max(texts, key=lambda text: value(next_word, text, row))
        assert found[row].tolist() == best + [END] * (4 - len(best))


def test_one_beam_takes_the_likeliest_token_each_time() -> None:
    next_word = table(1)
    found = beam_search(next_word, torch.tensor([0, 1]), END, beams=1, longest=5)
    for row, start in enumerate((0, 1)):
        text = [start]
        while len(text) < 5:
            chosen = int(next_word(torch.tensor([text]), torch.tensor([row])).argmax())
            text.append(END if END in text[1:] else chosen)
        assert found[row].tolist() == text


def test_tokens_are_drawn_by_their_probability_and_end_with_the_text() -> None:
    torch.manual_seed(0)

    def next_word(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, math.log(3), -torch.inf, 0.0]).expand(len(ids), 4)  # 1/5, 3/5, none, 1/5

    found = draw(next_word, torch.tensor([2, 2]), END, count=2000, longest=3)
    assert found.shape == (4000, 3)
    shares = torch.bincount(found[:, 1], minlength=4) / 4000
    assert (shares - torch.tensor([0.2, 0.6, 0.0, 0.2])).abs().max() < 0.03
    assert (found[found[:, 1] == END][:, 2] == END).all()


def test_a_text_reaches_to_its_first_end_behind_the_start() -> None:
    ids = torch.tensor([[3, 1, 3, 3], [0, 1, 2, 1]])
    assert until(ids, 3).tolist() == [[True, True, True, False], [True] * 4]
