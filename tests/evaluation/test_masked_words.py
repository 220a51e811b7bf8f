"""Masked words by a method that is told what it sees."""

import pytest
import torch
from evaluation_fakes import MemoryData
from torch import nn

from diptych.batch import Batch, Features
from diptych.card import Card, FillsWords
from diptych.evaluation.embed import CannotEvaluate
from diptych.evaluation.tasks import evaluate

WORDS = ["<mask>", *["a", "red", "star", "and", "blue", "boat"]]
BOATS = {"category": "boat", "colour": "blue"}
STARS = {"category": "star", "colour": "red"}


class Reader(nn.Module):
    """Says red wherever something is masked, and keeps what it was shown."""

    card = Card(id="clip", title="", year=2021, arxiv="", family="fusion", needs=("image",))
    mask_id = 0

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[list[int]] = []

    def views(self, sample, rng):
        return {"image": torch.zeros(1)}

    def tokenize(self, texts):
        rows = [[WORDS.index(word) for word in text.split()] for text in texts]
        length = max(map(len, rows))
        ids = torch.tensor([row + [1] * (length - len(row)) for row in rows])
        mask = torch.tensor([[index < len(row) for index in range(length)] for row in rows])
        return Batch({"text": ids, "text_mask": mask})

    def token_offsets(self, texts):
        found = []
        for text in texts:
            starts = [sum(len(word) + 1 for word in text.split()[:index]) for index in range(len(text.split()))]
            found.append([(at, at + len(word)) for at, word in zip(starts, text.split(), strict=True)])
        return found

    def encode_image(self, batch):
        return Features(torch.zeros(batch.size, 1, 1), torch.zeros(batch.size, 1), torch.ones(batch.size, 1).bool())

    def encode_text(self, batch):
        return Features(batch.text[..., None].float(), torch.zeros(batch.size, 1), batch.text_mask)

    def fill(self, image, text):
        ids = text.tokens[..., 0].long()
        self.shown += ids.tolist()
        guess = ids.masked_fill(ids == 0, WORDS.index("red"))
        return nn.functional.one_hot(guess, len(WORDS)).float()


def data(*texts: str) -> MemoryData:
    """Captions that say `red star` or `blue boat`."""
    samples = []
    for text in texts:
        named = {name: box for box, name in enumerate(("red star", "blue boat")) if name in text}
        spans = [(text.index(name), text.index(name) + len(name), box) for name, box in named.items()]
        samples.append({"text": text, "spans": spans, "attributes": [STARS, BOATS]})
    return MemoryData(samples)


def test_one_word_is_masked_at_a_time_and_right_where_it_is_guessed() -> None:
    method = Reader()
    assert isinstance(method, FillsWords)
    found = evaluate(method, data("a red star and a blue boat", "a red star"), ["masked_words"])
    rows = {row.metric: row for row in found}
    assert set(rows) == {"category", "colour"}
    assert rows["colour"].value == pytest.approx(2 / 3)  # red, blue, red; it always says red
    assert rows["colour"].chance == pytest.approx(2 / 3)
    assert rows["category"].value == 0
    assert rows["category"].n == 3
    assert all(row.count(0) == 1 for row in method.shown)


def test_a_caption_without_words_of_attributes_cannot_be_judged() -> None:
    with pytest.raises(CannotEvaluate, match="masked_words needs captions"):
        evaluate(Reader(), MemoryData([{"text": "a", "spans": [], "attributes": [STARS]}]), ["masked_words"])
