"""Names of things in English: their article, their plural, and where a text speaks of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_AN = ("a", "e", "i", "o", "u", "hour", "heir", "honest")
_NOT_AN = ("uni", "use", "eu", "uk", "ufo", "one", "once")  # a unicorn: written with a vowel, not spoken with one
_IRREGULAR = {"fish": "fish"}

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "circle": ("disc", "disk"),
    "square": ("box",),
    "cross": ("plus sign",),
    "ring": ("hoop",),
    "crescent": ("moon", "half moon"),
    "diamond": ("rhombus", "lozenge"),
    "boat": ("ship", "sailboat", "sailing boat"),
    "drop": ("droplet", "raindrop", "teardrop"),
    "flower": ("blossom", "bloom"),
    "hourglass": ("sandglass",),
    "lightning bolt": ("lightning", "bolt", "flash"),
    "house": ("home", "cottage"),
    "mushroom": ("toadstool",),
}
"""Other words for the shapes of the world."""


def article(noun: str) -> str:
    """`a` or `an`, by the sound of the next word."""
    return "an" if noun.lower().startswith(_AN) and not noun.lower().startswith(_NOT_AN) else "a"


def plural(noun: str) -> str:
    """The plural of a name."""
    return _IRREGULAR.get(noun) or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


class Mentions:
    """Finds which of some names a text speaks of, in the singular or the plural, also by their synonyms.

    The longest name counts where several begin (`lightning bolt` is not `bolt`); a synonym that is a name itself is
    that name alone.

    Args:
        names: what can be named.
        synonyms: name -> other words for it.
    """

    def __init__(self, names: Iterable[str], synonyms: Mapping[str, Sequence[str]] = SYNONYMS) -> None:
        spelled = [
            (word == name, form, name)
            for name in sorted(names)
            for word in (name, *synonyms.get(name, ()))
            for form in (word.lower(), plural(word.lower()))
        ]
        self._names = {form: name for _, form, name in sorted(spelled)}  # names after synonyms, which they replace
        longest = sorted(map(re.escape, self._names), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(longest)})(?!\w)") if longest else None

    def __call__(self, text: str) -> list[str]:
        """The names that the text speaks of, in its order; one that it names twice is there twice."""
        return [self._names[found] for found in self._pattern.findall(text.lower())] if self._pattern else []
