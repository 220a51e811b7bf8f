"""Text <-> tokens for language models: pieces of a conversation, which templates join, without anything added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diptych.encoders.tokenizer import Tokenizer, saved_tokenizer
from diptych.text import one_line

LONGEST = 1 << 20
"""characters of a text that are read"""


@dataclass
class ChatTokenizer:
    """Wraps a `tokenizers.Tokenizer`, given as its JSON, so that it can be pickled, compared and saved.

    Attributes:
        json: the tokenizer in the format of the `tokenizers` library.
        end: the id of the token that ends an answer.
        pad: an id for places that no model looks at.
        begin: the id of the token that begins every text, or None.
        chat_template: how the model's own conversations are written (Jinja, as in transformers), or "".
    """

    json: str = field(repr=False)
    end: int
    pad: int = 0
    begin: int | None = None
    chat_template: str = field(default="", repr=False)

    @cached_property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`, which neither cuts nor pads."""
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_str(self.json)
        backend.no_padding()
        backend.no_truncation()
        return backend

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "backend"}

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.backend.get_vocab().values()) + 1

    def ids(self, text: str, special: bool = False) -> list[int]:
        """The tokens of a text. What looks like a special token in it is text, unless `special` (in templates)."""
        return list(self._encoded(text, special).ids)

    def offsets(self, text: str, special: bool = False) -> list[tuple[int, int]]:
        """For each of `ids` the characters (start, end) that it covers."""
        return list(self._encoded(text, special).offsets)

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say; special ones say nothing."""
        said: str = self.backend.decode([int(one) for one in ids], skip_special_tokens=True)
        return said.strip()

    def written(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages of {role, content} as the model's own template writes them, in a sandbox.

        Raises:
            ValueError: it has none, or one that fails.
        """
        from jinja2.exceptions import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if not self.chat_template:
            raise ValueError("this language model has no chat template of its own: name another.")
        names = {"bos_token": self.word(self.begin), "eos_token": self.word(self.end)}
        try:
            template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
                self.chat_template
            )
            return template.render(messages=list(messages), add_generation_prompt=False, **names)
        except TemplateError as error:
            raise ValueError(f"the chat template of this language model fails ({one_line(str(error), 120)}).") from None

    def word(self, id: int | None) -> str:
        """How the token of an id is written; the empty string for none."""
        return "" if id is None else str(self.backend.id_to_token(id))

    def _encoded(self, text: str, special: bool) -> Any:
        self.backend.encode_special_tokens = not special
        return self.backend.encode(text[:LONGEST], add_special_tokens=False)


def saved_chat_tokenizer(like: ChatTokenizer, path: Path, words: int) -> ChatTokenizer:
    """The tokenizer in a file, with the settings of `like`, for a language model with embeddings of `words` ids.

    Raises:
        ValueError: the file is no tokenizer, or one with ids that the model does not have.
    """
    return replace(like, json=saved_tokenizer(Tokenizer(like.json, 1), path, words).json)
