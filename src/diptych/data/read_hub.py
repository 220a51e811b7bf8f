"""Data sets of the Hugging Face library: saved to disk, or of the hub (`hf:OWNER/NAME` or `hf:OWNER/NAME/CONFIG`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample
from diptych.data.raw import (
    Item,
    RawSample,
    Reading,
    Source,
    SourceError,
    confined,
    key_of,
    list_words,
    members_of,
    read_file,
    split_name,
)
from diptych.data.read_tables import Columns, guess, metadata, texts_in


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or all(
        (path / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def saved(path: Path, reading: Reading) -> Source:
    """A folder written by `save_to_disk`.

    Raises:
        SourceError: `datasets` is not installed, the folder is no such data set, or it has no pictures.
    """
    library = _library()
    try:
        parts = library.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, TypeError, KeyError, OSError) as error:
        raise SourceError(f"{path} cannot be read as a saved Hugging Face data set ({error}).") from None
    return _source(parts, f"a Hugging Face data set saved in {path.name}", path, reading)


def by_name(name: str, reading: Reading) -> Source:
    """A data set of the hub, fetched by `datasets` into its own cache. Code of the data set is never run.

    Raises:
        SourceError: `datasets` is not installed, or there is no such data set.
    """
    library = _library()
    owner, _, rest = name.partition("/")
    dataset, _, config = rest.partition("/")
    try:
        parts = library.load_dataset(f"{owner}/{dataset}" if dataset else owner, config or None)
    except Exception as error:  # anything from a refused connection to a data set that asks to run code
        raise SourceError(
            f"The Hugging Face data set {name} cannot be loaded ({type(error).__name__}: {error})."
        ) from None
    return _source(parts, f"the Hugging Face data set {name}", Path(library.config.HF_DATASETS_CACHE), reading)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise SourceError(
            "Hugging Face data sets need the package datasets: pip install 'diptych[datasets]'."
        ) from None
    return datasets


def _source(parts: Any, what: str, root: Path, reading: Reading) -> Source:
    splits = dict(parts) if isinstance(parts, Mapping) else {str(parts.split or ""): parts}
    first = next(iter(splits.values()))
    columns = _columns(first.features, reading)
    classes = tuple(getattr(first.features.get(columns.label), "names", None) or ())
    root = Path(reading.images).expanduser() if reading.images else root

    def samples() -> Iterator[Item]:
        for name, part in splits.items():
            rows = part.cast_column(columns.image, _undecoded(part.features[columns.image]))
            for index, row in enumerate(rows):
                yield _sample(f"{name or 'all'}/{index:08d}", split_name(name), row, (columns, classes, root, reading))

    taken = [f"{role} from {name!r}" for role, name in vars(columns).items() if name]
    about = f"{what} ({list_words(name or 'one part' for name in splits)}) with {', '.join(taken)}"
    return Source("huggingface", about, samples, sum(len(part) for part in splits.values()), classes)


def _columns(features: Mapping[str, Any], reading: Reading) -> Columns:
    """The columns as asked for, else by the type of the feature, else by its name."""
    types = {name: type(feature).__name__ for name, feature in features.items()}
    asked = Columns(*(getattr(reading, f"{role}_column") for role in ("image", "text", "label", "split", "key")))
    unknown = [name for name in vars(asked).values() if name and name not in features]
    if unknown:
        raise SourceError(f"The data set has no feature {unknown[0]!r}; it has {list_words(features, 30)}.")
    pictures = [name for name, kind in types.items() if kind == "Image"]
    labels = [name for name, kind in types.items() if kind == "ClassLabel"]
    columns = replace(
        asked,
        image=asked.image or (pictures[0] if pictures else ""),
        label=asked.label or (labels[0] if labels else ""),
    )
    if types.get(columns.image) != "Image":
        raise SourceError(f"The data set has the features {list_words(features, 30)}, and none is a picture.")
    return guess(list(features), columns, ("text", "label", "key"))


def _undecoded(feature: Any) -> Any:
    return type(feature)(decode=False)


def _sample(
    place: str, split: str, row: Mapping[str, Any], how: tuple[Columns, tuple[str, ...], Path, Reading]
) -> Item:
    columns, classes, root, reading = how
    named = str(row.get(columns.key) or "") if columns.key else ""
    key = key_of(named + ".x") if named else place
    try:
        picture = row.get(columns.image) or {}
        data, name = picture.get("bytes"), str(picture.get("path") or "")
        if data is None:
            data = read_file(confined(root, name, key), key, reading.limits.bytes)
        elif len(data) > reading.limits.bytes:
            raise BrokenSample(key, f"the picture has {len(data):,} bytes; the limit is {reading.limits.bytes:,}")
        texts = [text for text in texts_in(row.get(columns.text)) if text.strip()] if columns.text else []
        if columns.text and not texts:
            raise BrokenSample(key, "the caption is empty")
        label = row.get(columns.label)
        if classes and isinstance(label, int):
            if not 0 <= label < len(classes):  # -1 is the library's "unknown", as in the test splits of benchmarks
                row = {name: value for name, value in row.items() if name != columns.label}
            else:
                row = {**row, columns.label: classes[label]}
        members = members_of(data, name, texts, metadata(row, columns, key), key)
    except BrokenSample as broken:
        return broken
    own = split_name(str(row.get(columns.split) or "")) if columns.split else ""
    return RawSample(key, own or split, members)
