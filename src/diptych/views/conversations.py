"""Conversations about pictures -> one sequence of tokens, with places for what is seen and labels on the answers.

Letters: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from typing import Protocol

    class Words(Protocol):
        """What a tokenizer must do (`encoders.chat.ChatTokenizer`)."""

        begin: int | None
        end: int
        pad: int

        def ids(self, text: str, special: bool = False) -> list[int]:
            """The tokens of a text."""


IGNORE = -100
"""the label of a token that is not learned"""
MARKER = "<image>"
"""where in a text something is seen"""


@dataclass(frozen=True)
class Turn:
    """What somebody says; `text` is said by nobody: it is learned as answers are."""

    role: Literal["user", "assistant", "system", "text"]
    text: str


@dataclass(frozen=True)
class Template:
    """How turns are written, `{}` being the text; what stands behind an answer is not learned but for its end token."""

    user: str = "{}"
    assistant: str = "{}"
    system: str = "{}"
    begin: bool = False
    """whether the tokenizer's first token opens the sequence, where it has one"""


TEMPLATES = {
    "plain": Template(),
    "vicuna": Template("USER: {} ", "ASSISTANT: {}", "{} ", begin=True),
    "chatml": Template(*(f"<|im_start|>{role}\n{{}}<|im_end|>\n" for role in ("user", "assistant", "system"))),
}


@dataclass(frozen=True)
class Piece:
    """Tokens that are learned, or not; none of them stand for something seen (`medium`) or for the end of an answer."""

    text: str = ""
    learned: bool = False
    special: bool = False
    kind: Literal["text", "medium", "end"] = "text"


def sequence(
    turns: Sequence[Turn], tokenizer: Words, template: Template, visual: Sequence[int] = (), *, open: bool = False
) -> dict[str, Any]:
    """Turns -> `ids` (T,) int64, `labels` (T,) int64, `visual` (T,) bool, `length`.

    Args:
        turns: what is said, in order; `<image>` in a text is a place for something seen.
        tokenizer: of the language model.
        template: how turns are written.
        visual: how many tokens each medium makes, in order. Those without a place stand ahead of the first user turn.
        open: ends where an answer would begin.

    Returns:
        The label of a token is its id where it is learned, else IGNORE; where something is seen, ids are `pad`.
    """
    media, ids, labels, seen = iter(visual), [], [], []
    for piece in _pieces(turns, template, len(visual), open):
        if piece.kind == "medium":
            some = [tokenizer.pad] * next(media, 0)
        else:
            some = [tokenizer.end] if piece.kind == "end" else tokenizer.ids(piece.text, piece.special)
        ids += some
        labels += some if piece.learned else [IGNORE] * len(some)
        seen += [piece.kind == "medium"] * len(some)
    if template.begin and tokenizer.begin is not None:
        ids, labels, seen = [tokenizer.begin, *ids], [IGNORE, *labels], [False, *seen]
    return {
        "ids": torch.tensor(ids, dtype=torch.int64),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "visual": torch.tensor(seen, dtype=torch.bool),
        "length": len(ids),
    }


def _pieces(turns: Sequence[Turn], template: Template, media: int, open: bool) -> Iterator[Piece]:
    missing = media - sum(turn.text.count(MARKER) for turn in turns)
    for turn in turns:
        before, after = ("", "") if turn.role == "text" else getattr(template, turn.role).split("{}")
        if turn.role != "system":
            yield from [Piece(kind="medium")] * max(0, missing)
            missing = 0
        learned = turn.role in ("assistant", "text")
        gap = " " if before.endswith(" ") and learned else ""  # a space goes with the word behind it
        yield Piece(before.removesuffix(" ") if learned else before, special=True)
        for index, text in enumerate(turn.text.split(MARKER)):
            yield from [Piece(kind="medium")] * (index > 0)
            yield Piece(gap * (index == 0) + text, learned)
        if learned:
            yield Piece(learned=True, kind="end")
            after = after.removeprefix("<|im_end|>")
        yield Piece(after, special=True)
    if open:
        yield from [Piece(kind="medium")] * max(0, missing)
        yield Piece(template.assistant.split("{}")[0].removesuffix(" "), special=True)
