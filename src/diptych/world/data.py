"""The world as a data set of pictures."""

from __future__ import annotations

from typing import ClassVar

from diptych.world.fields import FIELDS, Draft
from diptych.world.generate import changed, scene, stream
from diptych.world.knobs import Style
from diptych.world.language import Plan, spoken, true
from diptych.world.made import Made
from diptych.world.questions import answers_of
from diptych.world.scene import Scene


class World(Made[Scene]):
    """A data set without files: sample `index` of a split is drawn and described when it is read.

    The split `gallery` comes in consecutive groups of `knobs.gallery` scenes that differ from the first in one
    attribute of one named object, so that a caption is true of its own scene alone (`sample.scene["group"]` numbers
    the groups). With `knobs.hard`, `train` does so too. Arguments and errors are those of `Made`.
    """

    fields: ClassVar = FIELDS

    @property
    def group_size(self) -> int:
        """How many consecutive samples belong together."""
        return {"train": self.knobs.hard, "gallery": self.knobs.gallery}.get(self.split, 1)

    @property
    def classes(self) -> tuple[str, ...]:
        """The categories."""
        return self.words.categories

    @property
    def has(self) -> frozenset[str]:
        """The fields that every sample has; a class, where each scene holds a single object."""
        return frozenset(FIELDS) - (frozenset() if self.knobs.objects == (1, 1) else {"category", "label"})

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that its questions may have."""
        return answers_of(self.knobs, tuple(self.sprites))

    def scene(self, index: int) -> Scene:
        """The scene behind a sample.

        Raises:
            IndexError: there is no such sample.
        """
        return self.item(index)

    def draft(self, index: int) -> Draft:
        """What the fields of a sample are computed from."""
        return Draft(self, index, self.scene(index))

    def members(self, base: int) -> list[Scene]:
        """A group of scenes: the base and changed ones, such that the plan of each is false of every other."""
        first = scene(self.seed, base, self.knobs, self.split, self.words)
        if self.group_size == 1:
            return [first]
        found, plans = [first], [self.plan(first, base, self.knobs.caption)]
        said = [name for name in spoken(self.knobs.caption, self.knobs.say) if name != "place"]
        changes = [
            (index, name, word) for index in first.focus for name in ("category", *said) for word in self.words.of(name)
        ]
        stream("group", self.seed, self.split, base).shuffle(changes)
        for index, name, word in changes:
            fresh = self._change(first, index, name, word)
            if len(found) < self.group_size and fresh is not None:
                own = self.plan(fresh, base, self.knobs.caption)
                if not any(true(own, other) for other in found) and not any(true(other, fresh) for other in plans):
                    found.append(fresh)
                    plans.append(own)
        if len(found) < self.group_size:
            raise ValueError(
                f"a scene has only {len(found)} different variants for a group of {self.group_size}: lower gallery or "
                "hard, or raise shapes, colours, textures or named."
            )
        return found

    def _change(self, base: Scene, index: int, name: str, word: str) -> Scene | None:
        """A changed scene that keeps the rules of the world: known pairs only, and none of them twice."""
        thing = base.objects[index]
        if not getattr(thing, name) or getattr(thing, name) == word:
            return None
        if name == "category" and not self.knobs.repeats and any(word == other.category for other in base.objects):
            return None
        fresh = changed(base, index, name, word, self.knobs)
        if fresh is None:
            return None
        pair = fresh.objects[index].category, fresh.objects[index].colour
        taken = [(other.category, other.colour) for i, other in enumerate(base.objects) if i != index]
        return None if pair in self.words.held_out or pair in taken else fresh

    def plan(self, scene: Scene, index: int, style: Style) -> Plan:
        """What a caption in this style says of the scene of a sample; see `Draft.plan`."""
        return Draft(self, index, scene).plan(style)
