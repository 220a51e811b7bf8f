"""What is said about media -> one sequence of tokens, with places for what is seen and labels on the answers.

A medium is a picture or a clip. The marker `<image>` in a text is a place for one; the k-th marker of a conversation
stands for the k-th medium. Whatever a sample says is text: only templates may hold special tokens.

Letters: T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, NamedTuple, Protocol

import torch

IGNORE = -100
"""the label of a token that is not learnt, as torch's cross-entropy has it"""
MARKER = "<image>"
"""where in a text something is seen, picture or clip"""
END = "{end}"
"""in a template: the tokenizer's end token"""

Role = Literal["user", "assistant", "system", "text"]


class Words(Protocol):
    """What a tokenizer must do, such as `encoders.chat.ChatTokenizer`."""

    begin: int | None
    end: int
    pad: int

    def ids(self, text: str, special: bool = False) -> list[int]:
        """The tokens of a text, nothing added; what looks like a special token is one only if `special`."""
        ...


@dataclass(frozen=True)
class Turn:
    """What somebody says. `assistant` is learnt; so is `text`, which nobody says, such as a document."""

    role: Role
    text: str
    images: tuple[Any, ...] = ()
    """the media of this turn; those for which its text has no marker stand in front of the text"""


@dataclass(frozen=True)
class Template:
    """How turns are written: `{}` is the text, `{end}` the end token, all else is read with its special tokens.

    A blank before `{}` becomes part of the text, as tokenizers of the GPT kind have it. Of what follows an answer,
    that is learnt which goes up to `{end}`, or all where there is none.
    """

    system: str = "{}\n"
    user: str = "{}"
    assistant: str = " {}{end}"
    text: str = "{}{end}"
    begin_each: str = ""
    """ahead of a conversation that has no system turn of its own"""
    medium: str = MARKER
    """how a medium is written for which a text has no marker"""
    begin: bool = True
    """whether the tokenizer's begin token, where it has one, opens the sequence"""

    def __post_init__(self) -> None:
        for role in ("system", "user", "assistant", "text"):
            if getattr(self, role).count("{}") != 1:
                raise ValueError(
                    f"a template says where the {role}'s text goes, by {{}} once, not {getattr(self, role)!r}."
                )

    def pieces(self, role: Role) -> tuple[str, str, str]:
        """What stands before a text, the blank that goes with the text, and what stands behind it."""
        before, behind = getattr(self, role).split("{}")
        blank = " " if before.endswith(" ") else ""
        return before.removesuffix(blank), blank, behind


TEMPLATES: dict[str, Template] = {
    "plain": Template(),
    "vicuna": Template("{} ", "USER: {}", " ASSISTANT: {}{end}", medium=f"{MARKER}\n"),
    "chatml": Template(
        "<|im_start|>system\n{}{end}\n",
        "<|im_start|>user\n{}{end}\n",
        "<|im_start|>assistant\n{}{end}\n",
        medium=f"{MARKER}\n",
    ),
}
"""Templates by name: `plain` adds nothing (LiMBeR: what is seen, then its caption); `vicuna` is LLaVA 1.5's."""


def own_template(write: Callable[[list[dict[str, str]]], str], end: str) -> Template:
    """The template that a model's own chat template amounts to, found by writing a few probes with it.

    Args:
        write: messages of {role, content} -> the conversation as text, as `apply_chat_template(..., tokenize=False)` of
            transformers gives it.
        end: the end token as text.

    Raises:
        ValueError: the conversation that it writes is not one turn after the other.
    """
    asked, said, again, system = ({"role": role, "content": text} for role, text in zip(_ROLES, _PROBES, strict=True))
    try:
        lead, behind_user = write([asked]).split(_PROBES[0])
        before_answer, rest = write([asked, said, again]).split(_PROBES[0])[1].split(_PROBES[1])
        behind_answer = write([asked, said]).split(_PROBES[1])[1]
        before_user = rest.split(_PROBES[2])[0].removeprefix(behind_answer)
        before_system, behind_system = write([system, asked]).split(_PROBES[0])[0].split(_PROBES[3])
    except (ValueError, IndexError):
        raise ValueError(
            "the chat template of this tokenizer does not write turns as they are; name another."
        ) from None
    return Template(
        system=f"{before_system}{{}}{behind_system.removesuffix(before_user)}",
        user=f"{before_user}{{}}{behind_user}",
        assistant=f"{before_answer.removeprefix(behind_user)}{{}}{behind_answer.replace(end, END, 1)}",
        begin_each=lead.removesuffix(before_user),
        medium=f"{MARKER}\n",
        begin=False,  # where there is such a token, it has been written
    )


_ROLES = ("user", "assistant", "user", "system")
_PROBES = ("Xqa", "Xqb", "Xqc", "Xqd")


class _Piece(NamedTuple):
    """A stretch of a sequence: `ours` is text of the template, `theirs` of the sample."""

    kind: Literal["ours", "theirs", "end", "medium"]
    learnt: bool
    text: str = ""


def unmarked(text: str) -> str:
    """The text without markers: those of a caption or a question that somebody wrote are no places for anything."""
    return text.replace(f"{MARKER}\n", "").replace(MARKER, "")


def sequence(
    turns: Sequence[Turn],
    tokenizer: Words,
    template: Template,
    visual: Sequence[int] = (),
    longest: int | None = None,
    *,
    open: bool = False,
) -> dict[str, Any]:
    """Turns -> one sequence. Where no turn has a marker, all media stand ahead of the first user's words.

    Args:
        turns: what is said, in order.
        tokenizer: of the language model.
        template: how turns are written, of `TEMPLATES` or another.
        visual: how many tokens each medium makes, in the order of markers; none: nothing is seen, markers are left out.
        longest: tokens that are kept. A medium that would be cut goes whole, with all behind it.
        open: ends where an answer would begin, for a model to write it.

    Returns:
        `ids` (T,) int64, `pad` where something is seen; `labels` (T,) int64, the token itself where it is learnt, its
        end token included, else IGNORE; `visual` (T,) bool, True where something is seen; `length`, T.

    Raises:
        ValueError: there are markers, but not as many as media.
    """
    opens = [tokenizer.begin] if template.begin and tokenizer.begin is not None else []
    ids, labels, seen = opens, [IGNORE] * len(opens), [False] * len(opens)
    said = [*turns, Turn("assistant", "")] if open else turns
    media = iter(visual)
    for piece in _joined(_pieces(_placed(said, template, len(visual)), template, open)):
        some = _tokens(piece, tokenizer, media)
        if piece.kind == "medium" and longest is not None and len(ids) + len(some) > longest:
            break
        ids = ids + some
        labels += some if piece.learnt else [IGNORE] * len(some)
        seen += [piece.kind == "medium"] * len(some)
    return {
        "ids": torch.tensor(ids[:longest], dtype=torch.int64),
        "labels": torch.tensor(labels[:longest], dtype=torch.int64),
        "visual": torch.tensor(seen[:longest], dtype=torch.bool),
        "length": len(ids[:longest]),
    }


def _placed(turns: Sequence[Turn], template: Template, media: int) -> list[Turn]:
    """The same turns, with a marker for each medium, or with none at all where nothing is seen."""
    if not media:
        return [replace(turn, text=unmarked(turn.text)) for turn in turns]
    placed = [_led(turn, template, len(turn.images) - turn.text.count(MARKER)) for turn in turns]
    markers = sum(turn.text.count(MARKER) for turn in placed)
    if placed and not markers:
        first = next((place for place, turn in enumerate(placed) if turn.role == "user"), 0)
        placed[first] = _led(placed[first], template, media)
    elif markers != media:
        raise ValueError(f"a conversation has {markers} markers {MARKER} for {media} pictures or clips.")
    return placed


def _led(turn: Turn, template: Template, media: int) -> Turn:
    """The turn with `media` markers ahead of its text."""
    return replace(turn, text=template.medium * media + turn.text.strip()) if media > 0 else turn


def _pieces(turns: Sequence[Turn], template: Template, open: bool) -> Iterator[_Piece]:
    if all(turn.role != "system" for turn in turns):
        yield _Piece("ours", False, template.begin_each)
    for number, turn in enumerate(turns, start=1):
        learnt = turn.role in ("assistant", "text")
        before, blank, behind = template.pieces(turn.role)
        text = turn.text.strip()
        while learnt and text.startswith(MARKER):  # what an answer is about stands ahead of its turn
            yield _Piece("medium", False)
            text = text.removeprefix(MARKER).lstrip()
        yield _Piece("ours", False, before)
        if open and number == len(turns):
            return
        for place, part in enumerate(f"{blank}{text}".split(MARKER)):
            if place:
                yield _Piece("medium", False)
            yield _Piece("theirs", learnt, part)
        behind, end, rest = behind.partition(END)
        yield _Piece("ours", learnt, behind)
        if end:
            yield _Piece("end", learnt)
            yield _Piece("ours", False, rest)


def _joined(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """The same pieces, neighbouring texts of one kind as one, so that words are cut as in the whole."""
    for (kind, learnt), group in groupby(
        (p for p in pieces if p.text or p.kind in ("end", "medium")), itemgetter(0, 1)
    ):
        if kind in ("ours", "theirs"):
            yield _Piece(kind, learnt, "".join(piece.text for piece in group))
        else:
            yield from group


def _tokens(piece: _Piece, tokenizer: Words, media: Iterator[int]) -> list[int]:
    if piece.kind == "medium":
        return [tokenizer.pad] * next(media)
    return [tokenizer.end] if piece.kind == "end" else tokenizer.ids(piece.text, piece.kind == "ours")
