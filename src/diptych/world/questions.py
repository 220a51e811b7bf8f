"""Questions about a scene with their answers, in English: exist, count, colour, relation, compare, cell and so on.

A type's options are all that could be asked, each with its form (a template), its answer and the words that fill the
form. What is asked is drawn by form first, then by answer, so that neither the type nor the form gives the answer away
where the scene allows more than one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from random import Random
from typing import Any, NamedTuple

from diptych.views.nouns import plural
from diptych.world.generate import Vocabulary, companion, vocabulary
from diptych.world.knobs import Knobs
from diptych.world.language import Phrase, article
from diptych.world.scene import DIRECTIONS, OPPOSITE, PLACES, SHAPES, Scene

_THAN = {"small": "smaller", "large": "larger"}


class Option(NamedTuple):
    """A question that could be asked: `form` with its places filled by `words`."""

    form: str
    answer: str
    words: tuple[str, ...] = ()


def questions(scene: Scene, words: Vocabulary, types: Sequence[str], most: int, rng: Random) -> list[dict[str, Any]]:
    """Up to `most` different questions of each of the types that the scene allows, as {question, answers, type}.

    An object is called by its category, with its colour if others share the category: nothing else is needed to single
    it out.
    """
    return [
        {"question": question, "answers": [answer], "type": kind}
        for kind in types
        for question, answer in draw_questions(OPTIONS[kind](scene, words, rng), most, rng)
    ]


def with_choices(
    asked: list[dict[str, Any]], possible: Mapping[str, Sequence[str]], count: int, rng: Random
) -> list[dict[str, Any]]:
    """The same questions with up to `count` `choices`, the answer among them; not those answered by yes or no.

    Wrong ones are possible answers of the type, near the right one where answers are numbers.
    """
    for one in asked if count else ():
        answer = one["answers"][0]
        if answer in ("yes", "no"):
            continue
        wrong = [other for other in possible[one["type"]] if other != answer and other not in ("yes", "no")]
        if answer.isdecimal():
            wrong = sorted(wrong, key=lambda other: abs(int(other) - int(answer)))[: 2 * count]
        choices = [answer, *rng.sample(wrong, min(len(wrong), count - 1))]
        one["choices"] = rng.sample(choices, len(choices))
    return asked


def draw_questions(options: Iterable[Option], most: int, rng: Random) -> Iterator[tuple[str, str]]:
    """Up to `most` of the options, none twice: all forms are equally likely, then all answers of the form."""
    forms: dict[str, dict[str, list[Option]]] = {}
    for option in options:
        forms.setdefault(option.form, {}).setdefault(option.answer, []).append(option)
    for _ in range(most):
        if not forms:
            return
        form = rng.choice(list(forms))
        answer = rng.choice(list(forms[form]))
        left = forms[form][answer]
        option = left.pop(rng.randrange(len(left)))
        yield form.format(*option.words), answer
        if not left:
            del forms[form][answer]
        if not forms[form]:
            del forms[form]


def answers_of(knobs: Knobs, cutouts: Sequence[str] = ()) -> tuple[str, ...]:
    """Every answer that a question of this world may have."""
    possible = possible_answers(knobs, vocabulary(knobs, cutouts))
    return tuple(dict.fromkeys(answer for answers in possible.values() for answer in answers))


def possible_answers(knobs: Knobs, words: Vocabulary) -> dict[str, Sequence[str]]:
    """Type of question -> every answer that one of this type may have; for the types that are asked."""
    possible: dict[str, Sequence[str]] = {
        "count": [str(number) for number in range(knobs.objects[1] + 1)],
        "colour": words.colours,
        "cell": words.colours,
        "place": PLACES,
        "order": ("yes", "no", *words.categories),
        "direction": DIRECTIONS,
        "speed": ("fast", "slowly"),
    }
    return {kind: possible.get(kind, ("yes", "no")) for kind in knobs.asked}


def name(scene: Scene, index: int) -> str:
    """The shortest name that only this object of the scene has: `star`, or `red star` among stars."""
    thing = scene.objects[index]
    alone = sum(other.category == thing.category for other in scene.objects) == 1
    return thing.category if alone or not thing.colour else f"{thing.colour} {thing.category}"


def singled(scene: Scene) -> dict[int, str]:
    """Object -> name, for those that `name` singles out: all but cut-outs without a colour that occur twice."""
    names = [name(scene, i) for i in range(len(scene.objects))]
    times = Counter(names)
    return {i: own for i, own in enumerate(names) if times[own] == 1}


def _exist(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    """The objects, and what differs from one of them in its colour or category, where there is none such."""
    there = {(thing.category, thing.colour) for thing in scene.objects}
    thing = rng.choice(scene.objects)
    changed = [(thing.category, colour) for colour in words.colours]
    changed += [(category, thing.colour) for category in words.categories]
    absent = [pair for pair in changed if pair not in there and pair not in words.held_out]
    for answer, pairs in (("yes", there), ("no", absent)):
        for pair in sorted(pairs):
            article, text, _ = Phrase(0, *pair).english
            yield Option("Is there {} {}?", answer, (article, text))


def _count(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    yield Option("How many objects are there?", str(len(scene.objects)))
    colours = Counter(thing.colour for thing in scene.objects)
    kinds = Counter(thing.category for thing in scene.objects)
    for colour in words.colours:
        yield Option("How many {} objects are there?", str(colours[colour]), (colour,))
    for kind in words.categories:
        if kind in SHAPES:  # names of cut-outs come in no form that says their plural
            yield Option("How many {} are there?", str(kinds[kind]), (plural(kind),))


def _colour(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    kinds = Counter(thing.category for thing in scene.objects)
    for thing in scene.objects:
        if kinds[thing.category] == 1 and thing.colour:
            yield Option("What colour is the {}?", thing.colour, (thing.category,))


def _relation(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    names = singled(scene)
    for a, predicate, b in scene.relations:
        if a in names and b in names:
            yield Option("Is the {} {} the {}?", "yes", (names[a], predicate, names[b]))
            yield Option("Is the {} {} the {}?", "no", (names[a], OPPOSITE[predicate], names[b]))


def _compare(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    for (a, one), (b, other) in permutations(singled(scene).items(), 2):
        first, second = scene.objects[a], scene.objects[b]
        if first.size != second.size:
            for size, than in _THAN.items():
                yield Option("Is the {} {} than the {}?", "yes" if size == first.size else "no", (one, than, other))
        if first.colour and second.colour:
            same = "yes" if first.colour == second.colour else "no"
            yield Option("Do the {} and the {} have the same colour?", same, (one, other))


def _cell(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    """What stands alone in a cell of three rows and three columns; with `grid=3` that is all there is."""
    cells = Counter(thing.place for thing in scene.objects)
    for thing in scene.objects:
        if cells[thing.place] == 1 and thing.colour:
            row, column = divmod(PLACES.index(thing.place), 3)
            yield Option("What colour is row {}, column {}?", thing.colour, (str(row + 1), str(column + 1)))


def _place(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    for index, name in singled(scene).items():
        yield Option("Where is the {}?", scene.objects[index].place, (name,))


def _presence(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    """Whether there is something of a category; where not, of any other one (POPE's random setting)."""
    return _there(scene, words.categories, rng)


def _company(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[Option]:
    """As `_presence`, of companions of what is there: expected, and not always there (POPE's adversarial setting)."""
    companions = {companion(thing.category, words.categories) for thing in scene.objects}
    return _there(scene, sorted(companions - {""}), rng)


def _there(scene: Scene, categories: Sequence[str], rng: Random) -> Iterator[Option]:
    """As many that are there as are not, so that the answers are equally frequent however many are asked for."""
    there = {thing.category for thing in scene.objects}
    yes, no = ([one for one in categories if (one in there) == is_there] for is_there in (True, False))
    for answer, some in (("yes", yes), ("no", no)):
        for category in rng.sample(some, min(len(yes), len(no))):
            yield Option("Is there {} {} in it?", answer, (article(category), category))


OPTIONS: dict[str, Callable[[Scene, Vocabulary, Random], Iterable[Option]]] = {
    "exist": _exist,
    "count": _count,
    "colour": _colour,
    "relation": _relation,
    "compare": _compare,
    "cell": _cell,
    "place": _place,
    "presence": _presence,
    "company": _company,
}
