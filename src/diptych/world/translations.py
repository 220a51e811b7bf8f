"""Captions in other languages, from the same plan as the English one.

A small grammar: a noun phrase is an indefinite article (or measure word), adjectives that agree with the noun in
gender and number, and the noun, in the order of the language. Everything stands in the nominative: lists need no other
case, and a relation is told from its second object, "a blue star, to its left a red circle".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from diptych.world.language import Phrase, Plan
from diptych.world.lexicon import LANGUAGES, Language
from diptych.world.scene import COLOURS, PLACES, PREDICATES, SHAPES, SIZES, TEXTURES


def translations(plan: Plan, names: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, str]:
    """The caption in every language that has all its words.

    Args:
        plan: what the caption says.
        names: category -> language -> name, for cut-outs. Their gender is not known, so a translation gives the bare
            name, without adjectives, and a caption that relates one is left out.
    """
    found = {}
    for code, language in LANGUAGES.items():
        try:
            found[code] = _caption(plan, language, names or {})
        except KeyError:  # a cut-out without a name in this language, or one in a relation
            continue
    return found


def _caption(plan: Plan, language: Language, names: Mapping[str, Mapping[str, str]]) -> str:
    phrases = [_phrase(phrase, language, names) for phrase in plan.phrases]
    if plan.style == "long":
        pairs = zip(phrases, plan.phrases, strict=True)
        return language.space.join(_sentence(text, phrase.place, language) for text, phrase in pairs)
    if plan.links:
        parts = list(_related(plan, phrases, language))
        return ("; " if language.space else "；").join(parts)
    *firsts, last = phrases
    return language.comma.join(firsts) + language.conjunction + last if firsts else last


def _related(plan: Plan, phrases: list[str], language: Language) -> Iterator[str]:
    """One part a relation, told from its object, and one for each phrase without a relation."""
    adverbs = _table(language.code, "relations")
    linked = {index for link in plan.links for index in (link.subject, link.object)}
    for a, predicate, b in plan.links:
        adverb = _form(adverbs[predicate], _gender(plan.phrases[b], language), language)
        _gender(plan.phrases[a], language)  # a cut-out cannot be related, on either side
        yield phrases[b] + language.clause + adverb + language.space + phrases[a]
    yield from (text for i, text in enumerate(phrases) if i not in linked)


def _sentence(text: str, place: str, language: Language) -> str:
    where = _table(language.code, "places")[place]
    parts = [where, text] if language.place_first else [text, where]
    sentence = language.space.join(parts)
    return _upper(sentence[0], language) + sentence[1:] + language.stop


def _upper(letter: str, language: Language) -> str:
    return "İ" if letter == "i" and language.code == "tr" else letter.upper()


def _phrase(phrase: Phrase, language: Language, names: Mapping[str, Mapping[str, str]]) -> str:
    if phrase.category in names:
        return names[phrase.category][language.code]
    noun, gender = _nouns(language.code)[phrase.category]
    colour = _table(language.code, "colours")[phrase.colour] if phrase.colour else ""
    texture = _table(language.code, "textures")[phrase.texture] if phrase.texture else ""
    size = _table(language.code, "sizes")[phrase.size] if phrase.size else ""
    early = texture.startswith("^")
    words = {
        "article": language.articles.get(gender, ""),
        "size": _form(size, gender, language),
        "early": _form(texture[1:], gender, language) if early else "",
        "colour": _form(colour, gender, language),
        "late": "" if early else _form(texture, gender, language),
        "noun": noun,
    }
    return language.space.join(words[part] for part in language.order.split() if words[part])


def _form(word: str, gender: str, language: Language) -> str:
    """The form of an adjective that agrees with a gender."""
    if word.endswith("-"):
        return word[:-1] + language.endings[gender]
    forms = word.split("/")
    return forms[0] if len(forms) == 1 else forms[list(language.endings).index(gender)]


def _gender(phrase: Phrase, language: Language) -> str:
    return _nouns(language.code)[phrase.category][1]


@cache
def _table(code: str, name: str) -> dict[str, str]:
    """English word -> word, for one of the lists of a language."""
    return dict(zip(_ENGLISH[name], getattr(LANGUAGES[code], name).split(", "), strict=True))


@cache
def _nouns(code: str) -> dict[str, tuple[str, str]]:
    """Shape -> noun and gender."""
    return {shape: (word[:-2], word[-1]) for shape, word in _table(code, "nouns").items()}


_ENGLISH = {
    "nouns": SHAPES,
    "colours": COLOURS,
    "textures": TEXTURES,
    "sizes": SIZES,
    "places": PLACES,
    "relations": PREDICATES,
}
