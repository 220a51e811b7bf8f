"""Data sets by name: the starter set, the world, a folder or URL of shards, and weighted mixtures of them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.config import nearest
from diptych.text import visible

if TYPE_CHECKING:
    from diptych.data.dataset import Dataset

STARTER, WORLD = "starter", "world"
JOIN = " + "
"""between the data sets of one specification"""
_WEIGHT = re.compile(r"^(?P<spec>.+)@(?P<weight>\d+(?:\.\d+)?|size|sqrt)$")
_BY_SIZE: dict[str, Callable[[int], float]] = {"size": float, "sqrt": math.sqrt}
_SPLIT = re.compile(r"^(?P<spec>.+)@(?P<split>[A-Za-z][\w-]*)$")
_PART = re.compile(r"^(?P<spec>.+)#(?P<count>\d+)(?P<each>each)?(?:\.(?P<draw>\d+))?$")
_HALF = re.compile(r"^(?P<spec>.+)#(?P<half>base|new)$")
_TASKS = re.compile(r"^(?P<spec>.+)#tasks(?P<count>\d+)?(?P<turned>\.reversed)?$")
_SPLITS = ("train", "val", "test")


class UnknownSource(ValueError):
    """No data set goes by that name; the sentence says what there is."""


def open_sources(specs: str | Sequence[str], split: str = "train") -> Dataset:
    """One data set from one or several specifications, `SPEC[@weight]` each; several are mixed by weight.

    A weight is a number, 1 where none is given; `size`, so that all samples come equally often; or `sqrt`, the root of
    the number of samples, as InstructBLIP mixes its data sets (arXiv 2305.06500, section 2.4).
    """
    parts = [weighted(spec) for spec in ([specs] if isinstance(specs, str) else specs)]
    if not parts:
        raise UnknownSource(f"No data set was named: use --data {STARTER}, --data {WORLD} or --data FOLDER.")
    opened = [(open_source(spec, split), weight) for spec, weight in parts]
    if len(opened) == 1:
        return opened[0][0]
    from diptych.data.mixture import Mixture

    return Mixture(
        [(dataset, _BY_SIZE[weight](len(dataset)) if isinstance(weight, str) else weight) for dataset, weight in opened]
    )


def weighted(spec: str) -> tuple[str, float | str]:
    """`FOLDER@2` -> `("FOLDER", 2.0)`, `FOLDER@sqrt` -> `("FOLDER", "sqrt")`; the weight is 1 where none is given."""
    found = _WEIGHT.match(spec)
    if found is None or JOIN in spec or _is_there(spec):
        return spec, 1.0
    weight = found["weight"]
    return found["spec"], weight if weight in _BY_SIZE else float(weight)


def _is_there(spec: str) -> bool:
    """Whether it is a path; a specification may be longer than the name of any file."""
    try:
        return Path(spec).exists()
    except OSError:
        return False


def with_split(spec: str, split: str) -> tuple[str, str]:
    """`world@gallery` -> `("world", "gallery")`; the given split where the specification names none."""
    found = _SPLIT.match(spec)
    if found is None or found["split"] in _BY_SIZE or "://" in spec or JOIN in spec or _is_there(spec):
        return weighted(spec)[0], split
    return found["spec"], found["split"]


def open_source(spec: str, split: str = "train") -> Dataset:
    """Opens one data set.

    Args:
        spec: `starter`, `world`, `world:objects=4,seed=1`, `world:sprites=starter` (its objects are the cut-outs of a
            data set), a folder or a URL of shards. `SPEC#1000` has a thousand samples of `train`, drawn by lot, and
            `SPEC#1000.1`, `SPEC#1000.2` are other draws; a larger number of the same draw has the smaller one's too.
            `SPEC#16each` has sixteen samples of each class, `SPEC#base` and `SPEC#new` the samples of the first and of
            the second half of the classes in any split, and `SPEC#base#16each.1` both. `SPEC#tasks5` is a mixture of
            five tasks, groups of classes with about equally many samples of `train`, `SPEC#tasks` of one for each GROUP
            of classes named GROUP/CLASS, and `SPEC#tasks5.reversed` has them in the opposite order. `SPEC + SPEC` is
            one data set of several, mixed by weight, and judged as one.
        split: `train`, `val` or `test`. A data set that was never split gives every tenth sample, chosen by the hash
            of its key, as `val`, and the others as `train`.

    Raises:
        UnknownSource: nothing goes by that name, or it has no such split.
    """
    if JOIN in spec and not _is_there(spec):
        return open_sources([one.strip() for one in spec.split(JOIN)], split)
    part, of_classes, in_tasks = _PART.match(spec), _HALF.match(spec), _TASKS.match(spec)
    if part and not _is_there(spec):
        whole = open_source(part["spec"], split)
        drawn = _few if part["each"] else _drawn
        return drawn(whole, int(part["count"]), int(part["draw"] or 0)) if split == "train" else whole
    if of_classes and not _is_there(spec):
        from diptych.data.classes import half

        return half(open_source(of_classes["spec"], split), of_classes["half"])  # type: ignore[arg-type]
    if in_tasks and not _is_there(spec):
        return _in_tasks(in_tasks["spec"], int(in_tasks["count"] or 0), bool(in_tasks["turned"]), split)
    name, _, options = spec.partition(":")
    if name == WORLD:
        return _world(options, split)
    return _shards(place(spec), split)


def _drawn(whole: Dataset, count: int, draw: int) -> Dataset:
    """So many samples of a data set, drawn by lot."""
    from diptych.data.dataset import Subset, permutation

    if not 0 < count <= len(whole):
        raise UnknownSource(
            f"{whole.name} ({whole.split}) has {len(whole):,} samples, of which #{count} cannot be drawn."
        )
    return Subset(whole, sorted(permutation(len(whole), 0, draw, True)[:count]))


def _few(whole: Dataset, shots: int, draw: int) -> Dataset:
    """So many samples of each class of a data set, drawn by lot."""
    from diptych.data.classes import few_shot

    return few_shot(whole, shots, draw)


def _in_tasks(spec: str, count: int, turned: bool, split: str) -> Dataset:
    """A data set as a mixture of tasks, which are the same in every split."""
    from diptych.data.classes import groups_by_name, groups_of_equal_size, tasks

    learn = open_source(spec, "train")
    groups = groups_of_equal_size(learn, count) if count else groups_by_name(learn)
    if turned:
        groups = dict(reversed(groups.items()))
    whole = learn if split == "train" else open_source(spec, split)
    mixed = tasks(whole, groups)
    mixed.name = f"{whole.name} in {len(groups)} tasks{' reversed' * turned}"
    return mixed


def place(spec: str) -> str:
    """The folder or URL of a data set that is files."""
    if spec == STARTER:
        return str(Path(__file__).parents[1] / STARTER)
    path = Path(spec).expanduser()
    if "://" in spec or path.is_dir():
        return spec if "://" in spec else str(path)
    if path.exists():
        raise UnknownSource(f"{spec} is a file, not a folder of shards: make one with `diptych pack {spec} DST`.")
    near = [STARTER, WORLD, *(_folders(path.parent) if path.parent.is_dir() else [])]
    raise UnknownSource(nearest(spec, near, "data set, neither a name nor a folder,"))


def is_named(spec: str) -> bool:
    """Whether it is one of our own data sets (`starter`, `world...`) rather than a path that happens to exist."""
    return spec == STARTER or spec.partition(":")[0] == WORLD


def open_splits(spec: str) -> list[Dataset]:
    """The train and val splits of one of our own data sets."""
    return [open_source(spec, split) for split in ("train", "val")]


def _shards(path: str, split: str) -> Dataset:
    """A folder or URL of shards; where it has `train` and no `val`, one key in ten of `train` is held out."""
    from diptych.data.dataset import ShardedData, Subset, splits
    from diptych.data.shards import split_of

    there = splits(path)
    has = {wanted: any(s == wanted or s.replace("_", "-").endswith(f"-{wanted}") for s in there) for wanted in _SPLITS}
    if has["train"] and not has["val"] and split in ("train", "val"):
        whole = ShardedData(path, "train")
        held_out = Subset(whole, [i for i in range(len(whole)) if split_of(whole.key(i)) == split])
        held_out.split = split
        if split == "val":
            kept = f"{len(held_out):,} of its {len(whole):,} samples"
            _notice(f"{whole.name} has no val split: {kept} are held out of train, by the hash of their keys.")
        return held_out
    return ShardedData(path, split)


def _world(options: str, split: str) -> Dataset:
    from diptych.app.sprites import cutouts
    from diptych.data.dataset import ShardedData
    from diptych.world import open_world

    parts = [part for part in options.split(",") if part.strip()]
    chosen = [part.partition("=")[2].strip() for part in parts if part.partition("=")[0].strip() == "sprites"]
    sprites = cutouts(ShardedData(place(chosen[0]), "train")) if chosen else []
    knobs = ",".join(part for part in parts if part.partition("=")[0].strip() != "sprites")
    return open_world(knobs, split, sprites)


def _folders(parent: Path) -> list[str]:
    """Folders that hold shards, as names beside a mistyped one."""
    return [str(path) for path in sorted(parent.iterdir()) if path.is_dir() and any(path.glob("*.tar"))][:1000]


def _notice(text: str) -> None:
    print(f"note: {visible(text)}", file=sys.stderr)
