"""Which language a caption is in, by lingua, whose models come inside its package: nothing is downloaded.

Telling 30 languages apart is better, and takes less time and memory, than telling all 75 that lingua knows: captions
are short, and each further language is one more to take them for. A caption stays where one of the wanted languages has
a probability of at least 0.1; what that keeps is measured in docs/curation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

from diptych.config import nearest

PACKAGE = "lingua-language-detector"
_CODES = "ar bn cs da de el en es fa fi fr he hi hu id it ja ko nl pl pt ro ru sv th tr uk ur vi zh"
COMMON = tuple(_CODES.split())
"""Languages that are told apart from those that are asked for."""


def version() -> str:
    """The version of the detector, on which its answers depend.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return f"{PACKAGE} {metadata.version(PACKAGE)}"
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError("languages are told by lingua: pip install 'diptych[curation]'.") from None


def known() -> list[str]:
    """The languages that can be told, as ISO 639-1 codes."""
    return sorted(_by_code())


def check(codes: Sequence[str]) -> None:
    """Checks that languages can be told.

    Raises:
        ValueError: one of them cannot; the sentence names the nearest that can.
    """
    for code in codes:
        if code not in _by_code():
            raise ValueError(nearest(code, known(), "language (by its ISO 639-1 code)"))


def probabilities(text: str, codes: Sequence[str]) -> list[float]:
    """How likely a text is in each of some languages, against each other and all of `COMMON`."""
    found = _detector(frozenset((*codes, *COMMON))).compute_language_confidence_values(text)
    likely = {value.language.iso_code_639_1.name.lower(): float(value.value) for value in found}
    return [likely[code] for code in codes]


@cache
def _by_code() -> dict[str, Any]:
    from lingua import Language

    return {language.iso_code_639_1.name.lower(): language for language in Language.all()}


@cache
def _detector(codes: frozenset[str]) -> Any:
    from lingua import LanguageDetectorBuilder

    known_here = [_by_code()[code] for code in sorted(codes) if code in _by_code()]
    return LanguageDetectorBuilder.from_languages(*known_here).build()
