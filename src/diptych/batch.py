"""What flows through the house: the fields of a sample and of a batch, with their shapes.

Letters used everywhere: B batch, T text tokens, P patches (image tokens), F frames, N points, R regions,
K captions, views or classes, D width, H height, W width in pixels, S sound samples.

A `Sample` is one decoded record of a data set: pictures are PIL images, text is `str`, numbers are numpy arrays.
A `Batch` is what a method computes on: tensors, stacked over B by `data.loader`. Between the two stand the
method's own `views`, which turn a sample into the tensors that the method wants to see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """One named field of a sample.

    `kind` is the type of the decoded value, `shape` its shape in a batch, `files` the extensions (or the keys of
    the `.json` member) under which a shard holds it, `remedy` what a user can do who lacks it.
    """

    name: str
    kind: str
    shape: str
    about: str
    files: tuple[str, ...] = ()
    remedy: str = "add it to the source and pack again (`diptych pack --help`)"


_REGIONS = (".regions.npz",)
_FILMS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".video.gif")
_DETECT = "run a detector over the pictures (`diptych annotate --help`)"
_FIELDS = (
    Field("image", "PIL.Image, RGB", "(B, 3, H, W)", "a picture", (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")),
    Field("images", "list of PIL.Image", "(B, K, 3, H, W)", "several pictures of one sample, in order", (".0.jpg",)),
    Field("text", "str", "(B, T)", "the caption, or the first of several", (".txt",)),
    Field("texts", "list of str", "(B, K, T)", "all captions of the sample", ("texts",)),
    Field("sentences", "list of str", "(B, K, T)", "sub-captions of a long description", ("sentences",)),
    Field("translations", "dict language -> str", "(B, T)", "the caption in other languages", ("captions",)),
    Field("tags", "list of str", "(B, K)", "words that hold for the whole sample", ("tags", "keywords")),
    Field("category", "str", "(B,)", "the name of the one class of the sample", ("category",)),
    Field("label", "int", "(B,)", "index of the category in the data set's `classes`", ("label", ".cls")),
    Field("labels", "float array (K,)", "(B, K)", "multi-hot classes; -1 is unknown", ("labels",)),
    Field(
        "boxes",
        "float array (R, 4)",
        "(B, R, 4)",
        "regions as x0, y0, x1, y1 in [0, 1] of the picture",
        ("boxes",),
    ),
    Field("tracks", "float array (F, R, 4)", "(B, F, R, 4)", "the boxes in every frame of a clip", ("tracks",)),
    Field("phrases", "list of str", "(B, R, T)", "a name or phrase for each box", ("phrases",)),
    Field("spans", "list of (start, end, box index)", "(B, R, 2)", "characters of `text` that name a box", ("spans",)),
    Field(
        "expressions",
        "list of (text, box index)",
        "(B, K, T)",
        "phrases, each of which means one box",
        ("expressions",),
    ),
    Field("regions", "float array (R, D)", "(B, R, D)", "a detector's features", (".regions.npz",), _DETECT),
    Field("region_boxes", "float array (R, 4)", "(B, R, 4)", "where the regions are, as boxes", _REGIONS, _DETECT),
    Field("region_labels", "int array (R,)", "(B, R)", "the likeliest class of each region", _REGIONS, _DETECT),
    Field("region_scores", "float array (R,)", "(B, R)", "how sure that class is", _REGIONS, _DETECT),
    Field("region_attributes", "int array (R,)", "(B, R)", "the likeliest attribute; -1 is none", _REGIONS, _DETECT),
    Field("region_attribute_scores", "float array (R,)", "(B, R)", "how sure that is", _REGIONS, _DETECT),
    Field(
        "region_classes",
        "float array (R, C)",
        "(B, R, C)",
        "shares of all classes, background first",
        _REGIONS,
        _DETECT,
    ),
    Field("masks", "bool array (R, H, W)", "(B, R, H, W)", "a segmentation mask a box", (".masks.npz",)),
    Field("attributes", "list of dict", "(B, R)", "attributes of each box, by name", ("attributes",)),
    Field("relations", "list of (subject, predicate, object)", "(B, K, 3)", "scene-graph triples", ("relations",)),
    Field("questions", "list of {question, answers, type}", "(B, K, T)", "questions with answers", ("questions",)),
    Field("conversation", "list of {role, text}", "(B, T)", "a dialogue about the sample", ("conversation",)),
    Field("sides", "list of Sample", "(B, 2, ...)", "the pictures of a statement about two", (".0.jpg",)),
    Field(
        "chances",
        "dict {by, ids, chances}",
        "(B, T)",
        "how likely each token of each caption is by the text before it, and by which model",
        ("chances",),
        "score the captions (`diptych annotate SRC --reference RUN --out DST`)",
    ),
    Field("group", "str", "-", "samples that are judged together have the same", ("group",)),
    Field("negatives", "list of str", "(B, K, T)", "captions that are almost right", ("negatives",)),
    Field("moments", "list of (start, end, text)", "-", "what happens from when to when, in seconds", ("moments",)),
    Field("video", "sequence of PIL.Image", "(B, F, 3, H, W)", "frames in order of time", _FILMS),
    Field("audio", "float array (S,)", "(B, S)", "mono sound", (".flac", ".wav", ".ogg", ".mp3")),
    Field("depth", "float array (H, W)", "(B, 1, H, W)", "distance of each pixel", (".depth.npz",)),
    Field(
        "points",
        "float array (N, 3+)",
        "(B, N, 3+)",
        "a point cloud, xyz first, then such as red, green and blue in [0, 1]",
        (".points.npz", ".ply", ".off", ".obj"),
    ),
    Field("point_labels", "int array (N,)", "(B, N)", "the class of each point; -1 is unknown", (".points.npz",)),
    Field("point_objects", "int array (N,)", "(B, N)", "which object it is of; -1 is none", (".points.npz",)),
    Field("object_names", "list of str", "(B, R, T)", "what these objects are", ("object_names",)),
    Field("mesh", "Mesh", "-", "a surface of triangles", (".off", ".obj")),
    Field(
        "view",
        "float array (3,)",
        "(B, 3)",
        "azimuth and elevation of the camera in degrees (y is up, 0 looks along -z), and its distance",
        ("view",),
    ),
    Field("camera", "float array (4, 4)", "(B, 4, 4)", "pose of the view", ("camera",)),
    Field("scene", "dict", "-", "the scene that the world drew the sample from", ("scene",)),
)
FIELDS: dict[str, Field] = {f.name: f for f in _FIELDS}


class MissingField(KeyError):
    """A field was asked for that is not there; the message is one sentence with the remedy."""

    def __str__(self) -> str:
        return str(self.args[0])


def alternatives(need: str) -> list[str]:
    """The fields of which one will do: `texts|questions` is either."""
    return need.split("|")


def missing(has: Iterable[str], needs: Iterable[str]) -> list[str]:
    """The fields of `needs` that are not in `has`, in the order of `needs`; of alternatives, where none is there."""
    have = set(has)
    return [need for need in needs if have.isdisjoint(alternatives(need))]


def require(has: Iterable[str], needs: Iterable[str], *, who: str, source: str) -> None:
    """Checks that a data set has what somebody needs.

    Raises:
        MissingField: one sentence that names who asks, what is missing, what is there, and what to do.
    """
    lacking = missing(has, needs)
    if lacking:
        remedies = "; ".join(dict.fromkeys(_remedy(alternatives(need)[0]) for need in lacking))
        wanted = _words(" or ".join(alternatives(need)) for need in lacking)
        raise MissingField(
            f"{who} needs {wanted}, which {source} does not have (it has {_words(sorted(has))}): {remedies}."
        )


def _remedy(name: str) -> str:
    return FIELDS[name].remedy if name in FIELDS else ""


def _words(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names) if names else "nothing"


class _Record(Mapping[str, Any]):
    """Named values, by attribute or by key; asking for an absent one says which are there."""

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        self._values = dict(values)
        self._what = what

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise MissingField(f"{self._what} has no {name!r}; it has {_words(sorted(self._values))}.") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pickling and copying probe for these before __init__ has run
            raise AttributeError(name)
        try:
            return self[name]
        except MissingField as error:
            raise AttributeError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Sample(_Record):
    """One decoded record: `sample.key` names it, its fields are attributes (`sample.image`, `sample.text`).

    `sample.lacks` are fields that were read of other samples of its data set and that it does not have itself: only
    where alternatives were asked for.
    """

    def __init__(self, key: str, values: Mapping[str, Any], lacks: Iterable[str] = ()) -> None:
        super().__init__(values, f"sample {key!r}")
        self.key = key
        self.lacks = frozenset(lacks)

    def __repr__(self) -> str:
        return f"Sample({self.key!r}, {_words(self)})"


class Batch(_Record):
    """Named tensors that share their first dimension B; `batch.sample_keys` names the samples, in order."""

    def __init__(self, values: Mapping[str, Any], sample_keys: Iterable[str] = ()) -> None:
        super().__init__(values, "the batch")
        self.sample_keys = tuple(sample_keys)

    @property
    def size(self) -> int:
        """B, the number of samples."""
        return len(next(iter(self._values.values()))) if self._values else 0

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`; the copy overlaps with compute where memory is pinned."""
        moved = {
            name: value.to(device, non_blocking=True) if hasattr(value, "to") else value
            for name, value in self._values.items()
        }
        return Batch(moved, self.sample_keys)


class Features(NamedTuple):
    """What a tower makes of a batch: every token, one pooled vector, and which tokens count.

    tokens: (B, T, D); pooled: (B, D); mask: (B, T) bool, True where a token is real (not padding, not a class token);
    boxes: (B, T, 4), where each token is in the picture, for tokens that are regions.
    """

    tokens: Tensor
    pooled: Tensor
    mask: Tensor
    boxes: Tensor | None = None

    def take(self, rows: Any) -> Features:
        """The features of some rows: a slice or an index tensor over B."""
        return self.each(lambda value: value[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> Features:
        """The same change in all of its tensors, such as moving them to a device."""
        boxes = None if self.boxes is None else change(self.boxes)
        return Features(change(self.tokens), change(self.pooled), change(self.mask), boxes)


class Gather:
    """Rows of all processes; this one, for a single process, is the identity.

    A loss that wants global negatives calls `gather(x)` on (B, ...) and gets (world * B, ...) with exact gradients;
    its own rows begin at `rank * B`. The trainer hands in the distributed one.
    """

    rank: int = 0
    world: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """(B, ...) -> (world * B, ...), in the order of the ranks."""
        return x

    def shown(self, x: Tensor, rank: int) -> Tensor:
        """What process `rank` has as `x`, in all processes; without gradients. All call it, with one shape."""
        return x

    def handed(self, x: Tensor, rank: int) -> Tensor:
        """The sum of `x` over all processes, in process `rank`, and nothing of use in the others; without gradients."""
        return x


class Embed:
    """How features of a batch are computed; this one does so at once.

    A loss that meets its samples only in what `features(batch)` returns (a tensor of B rows, or tuples of such) calls
    `step.embed(features, batch)`. Where memory does not hold the batch, the trainer hands in one that computes the
    features in parts, with the gradients of the whole.
    """

    def __call__(self, features: Callable[[Batch], T], batch: Batch) -> T:
        """`features(batch)`."""
        return features(batch)


@dataclass(frozen=True)
class Step:
    """What a loss may know of the run: how to gather, which stage it is in, and how far the stage has gone (0 to 1).

    `task` counts the tasks of a stream from 0, and is 0 outside of one.
    """

    gather: Gather = field(default_factory=Gather)
    stage: str = "train"
    index: int = 0
    progress: float = 0.0
    embed: Embed = field(default_factory=Embed)
    task: int = 0


class Terms(dict[str, "Tensor"]):
    """Named scalar loss terms, already weighted: their sum is what is minimised.

    `watch` holds values to be logged that are not part of the sum, such as a temperature.
    """

    def __init__(self, watch: Mapping[str, Any] | None = None, **terms: Tensor) -> None:
        super().__init__(terms)
        self.watch = dict(watch or {})

    @property
    def total(self) -> Tensor:
        """The sum of the terms, a scalar."""
        values = iter(self.values())
        total = next(values)
        for value in values:
            total = total + value
        return total
