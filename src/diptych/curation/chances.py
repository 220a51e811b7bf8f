"""How likely each token of a caption is by the text before it alone, scored once by a trained model and written down.

What text does not tell needs the picture: the weights of PRIOR (arXiv 2505.08971) are made of this. The ids of the
tokens stand beside the probabilities, and a digest of the model, so that whoever reads them notices another tokenizer,
another caption or another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.card import PredictsTexts
from diptych.curation.captions import with_record
from diptych.curation.embed import digest
from diptych.curation.verdicts import Example, Findings, Group, Histogram, Verdicts
from diptych.data.fields import decode_sample

if TYPE_CHECKING:
    from diptych.curation.blocks import Part
    from diptych.curation.measure import Facts

FIELD = "chances"
_SHOWN = 12
_DIGITS = 6  # finer than half precision


class Reader:
    """A method in evaluation mode on a device, which reads texts. It can be sent to other processes.

    Raises:
        ValueError: the method does not do that.
    """

    def __init__(self, method: Any, name: str, device: str = "cpu") -> None:
        method.eval()
        if not isinstance(method, PredictsTexts):
            raise ValueError(f"{method.card.id} is no reference: it does not say how likely the words of a text are.")
        self.method: Any = method
        self.name, self.device = name, device
        self.digest = digest(self.method)[:16]

    def read(self, texts: Sequence[str]) -> list[tuple[list[int], list[float]]]:
        """For each text the ids of its tokens and their probabilities."""
        import torch

        with torch.no_grad():
            found: list[tuple[list[int], list[float]]] = self.method.to(self.device).text_chances(texts)
        return found


@dataclass(frozen=True)
class Read:
    """The tokens of every caption of a sample, one caption after the other, and their probabilities."""

    reader: Reader
    fields = ("texts",)
    columns = MappingProxyType({"ids": "list<int32>", FIELD: "list<float>", "lengths": "list<int32>"})

    @property
    def identity(self) -> str:
        """The model."""
        return f"chances 1 {self.reader.method.card.id} {self.reader.digest}"

    def see(self, key: str, members: Mapping[str, bytes]) -> list[str]:
        """The captions."""
        return list(decode_sample(key, members, self.fields).texts)

    def tell(self, seen: Sequence[list[str]]) -> Iterator[dict[str, Any]]:
        """The columns of some samples."""
        found = iter(self.reader.read([text for texts in seen for text in texts]))
        for texts in seen:
            rows = [next(found) for _ in texts]
            yield {
                "ids": [one for ids, _ in rows for one in ids],
                FIELD: [one for _, chances in rows for one in chances],
                "lengths": [len(ids) for ids, _ in rows],
            }


@dataclass(frozen=True)
class ChanceTask:
    """Adds the field `chances` to every sample. Nothing is dropped but what has no caption."""

    look: Read
    name = "chances"
    drops = True  # shards are written always

    @property
    def settings(self) -> dict[str, Any]:
        """The model."""
        return {"reference": self.look.reader.name, "digest": self.look.reader.digest}

    @property
    def adds(self) -> dict[str, tuple[str, ...]]:
        """The field that is new."""
        return {FIELD: ()}

    def decide(self, facts: Facts, parts: Sequence[Part], verdicts: Verdicts, work: Path) -> Findings:
        """Drops nothing; shows what text alone tells, and the captions of which it tells least and most."""
        rows = np.flatnonzero(facts.whole)
        several = [np.array(facts.table[FIELD][row].as_py(), dtype=np.float64) for row in rows.tolist()]
        every = np.concatenate([*several, np.zeros(0)])
        found = Findings([Histogram.of("probability of a token by the text before it", every)])
        found.told.append(f"{len(every):,} tokens in the captions of {len(rows):,} samples.")
        means = np.array([one.mean() if len(one) else 1.0 for one in several])
        order = np.argsort(means, kind="stable").tolist()
        for title, chosen in (("Text tells least", order[:_SHOWN]), ("Text tells most", order[::-1][:_SHOWN])):
            shown = tuple(Example(int(rows[one]), f"{means[one]:.2f} a token") for one in chosen)
            about = "The mean probability of a token of the captions, by the text before it."
            found.groups += [Group(title, about, shown)] if shown else []
        return found

    def edit(self, facts: Facts, row: int, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The members with the field in their json, which replaces an older one."""
        ids, chances, lengths = (facts.table[name][row].as_py() for name in ("ids", FIELD, "lengths"))
        ends = np.cumsum(lengths)[:-1]
        scored = {
            "by": self.look.reader.digest,
            "ids": [part.tolist() for part in np.split(np.array(ids, np.int64), ends)],
            FIELD: [[round(one, _DIGITS) for one in part.tolist()] for part in np.split(np.array(chances), ends)],
        }
        return with_record(members, {FIELD: scored})
