"""What can be said and asked of a clip: captions, captions that are almost right, and questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from diptych.world.knobs import BRIEF, Style
from diptych.world.language import Foil, Phrase, spoken
from diptych.world.motion import KINDS, STILL, TURNED, Clip, Event
from diptych.world.questions import Option, singled
from diptych.world.scene import DIRECTIONS

_SIDES = {"left": "left", "right": "right", "up": "top", "down": "bottom"}


class Told(NamedTuple):
    """A caption of a clip, and (start, end, object) of the phrases that name what moves."""

    text: str
    spans: list[tuple[int, int, int]]


def verb(event: Event) -> str:
    """What the object of an event does: `moves left`, `enters from the top`, ..."""
    if event.kind in KINDS["enter"]:
        side = _SIDES[TURNED[event.direction] if event.kind == "enter" else event.direction]
        return f"enters from the {side}" if event.kind == "enter" else f"leaves at the {side}"
    if event.kind in BRIEF:
        does = "hops" if event.kind == "hop" else f"{event.kind}es"
        return f"{does} {event.direction}".strip()
    if not event.direction:
        return f"{event.kind}s"
    return f"moves {event.direction}{' and back' if event.kind == 'bounce' else ''}"


def verbs(motions: Sequence[str]) -> tuple[str, ...]:
    """All that `verb` may say where these motions are allowed."""
    events = [
        Event(0, kind, direction, 0.0, 1.0)
        for motion in motions
        for kind in KINDS[motion]
        for direction in ([""] if kind in STILL else DIRECTIONS)
    ]
    return tuple(map(verb, events))


def named(clip: Clip, style: Style, say: Sequence[str]) -> dict[int, str]:
    """Object -> how captions in a style call it, without its article; for what moves."""
    attributes = [name for name in spoken(style, say) if name != "place"]
    things = {event.object: clip.middle.objects[event.object] for event in clip.events}
    return {
        i: str(Phrase(i, thing.category, **{name: getattr(thing, name) for name in attributes}))
        for i, thing in things.items()
    }


def tell(events: Sequence[Event], names: dict[int, str]) -> Told:
    """`first the red star moves left, then the blue ring appears`."""
    text, spans = "", []
    for i, event in enumerate(events):
        text += f"{', then ' if i else 'first ' if len(events) > 1 else ''}the "
        name = names[event.object]
        spans.append((len(text), len(text) + len(name), event.object))
        text += f"{name} {verb(event)}"
    return Told(text, spans)


def retell(events: Sequence[Event], names: dict[int, str]) -> str:
    """The same with the last event first: `the blue ring appears after the red star moves left`."""
    return " after ".join(f"the {names[event.object]} {verb(event)}" for event in reversed(events))


def sentences(clip: Clip, names: dict[int, str]) -> list[str]:
    """A sentence for each event, with what its object passes on the way."""
    known = singled(clip.middle)
    found = []
    for event in clip.events:
        passed = [f", passing {where} the {known[other]}" for where, other in clip.passed(event) if other in known]
        found.append(f"The {names[event.object]} {verb(event)}{''.join(passed[:1])}.")
    return found


def foils(clip: Clip, names: dict[int, str]) -> list[Foil]:
    """Captions that are false of the clip by one change, at most one of each kind.

    Kinds: `direction` (of the first event that has one), `order` (of the first two events), `objects` (the first two
    exchange what they do) and `reversed` (what happens backwards). Only the last is as true as the caption where the
    frames have lost their order.
    """
    events = list(clip.events)
    changed: dict[str, list[Event]] = {"reversed": list(clip.backwards.events)}
    for i, event in reversed(list(enumerate(events))):
        if event.direction:
            changed["direction"] = [*events[:i], replace(event, direction=TURNED[event.direction]), *events[i + 1 :]]
    if len(events) > 1:
        first, second, *rest = events
        changed["order"] = [second, first, *rest]
        changed["objects"] = [replace(first, object=second.object), replace(second, object=first.object), *rest]
    true = tell(events, names).text
    texts = {tell(told, names).text: kind for kind, told in sorted(changed.items())}
    return [Foil(text, kind) for text, kind in texts.items() if text != true]


def _direction(clip: Clip) -> Iterator[Option]:
    """Not of what bounces: its frames show where, in any order. Few frames may have nothing of a hop."""
    names = singled(clip.middle)
    for event in clip.events:
        if event.object in names and event.direction and event.kind != "bounce":
            yield Option("In which direction does the {} move?", event.direction, (names[event.object],))


def _order(clip: Clip) -> Iterator[Option]:
    """In words that hold for the events backwards, too: none says whether something appears or disappears."""
    names = singled(clip.middle)
    for first, second in combinations(clip.events, 2):
        if first.object not in names or second.object not in names:
            continue
        does = "move" if first.direction and second.direction else "change"
        one, other = names[first.object], names[second.object]
        category, another = (clip.middle.objects[event.object].category for event in (first, second))
        for a, b in ((one, other), (other, one)):
            yield Option("Does the {} {} before the {}?", "yes" if a == one else "no", (a, does, b))
            if category != another:
                yield Option("Which {}s first, the {} or the {}?", category, (does, a, b))


def _speed(clip: Clip) -> Iterator[Option]:
    names = singled(clip.middle)
    for event in clip.events:
        if event.object in names and event.kind in ("move", "dash"):
            speed = "fast" if event.kind == "dash" else "slowly"
            yield Option("Does the {} move fast or slowly?", speed, (names[event.object],))


OPTIONS: dict[str, Callable[[Clip], Iterable[Option]]] = {"order": _order, "direction": _direction, "speed": _speed}
