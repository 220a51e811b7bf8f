"""An `Inspection` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diptych.batch import FIELDS
from diptych.data.raw import list_words
from diptych.text import visible

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from diptych.data.duplicates import Duplicates
    from diptych.data.inspect import Inspection, Spread

_SHOWN = 8  # examples of anything that can be long


def tables(found: Inspection) -> Group:
    """Everything that was found, the important first; sections without content are left out."""
    from rich.console import Group

    parts = [
        _overview(found),
        _fields(found),
        _figures(found),
        _classes(found),
        _problems(found),
        _duplicates("pictures", found.pictures),
        _duplicates("captions", found.texts, [f"{text} ({count:,} times)" for text, count in found.common.items()]),
        _methods(found),
    ]
    return Group(*(part for part in parts if part is not None))


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for column in columns:
        number = column.startswith("#")
        table.add_column(column.removeprefix("#"), justify="right" if number else "left", overflow="fold")
    return table


def _rows(table: Table, rows: Iterable[Sequence[Any]]) -> Table:
    from rich.text import Text

    for row in rows:
        # keys and captions come from the data: as Text, so that nothing in them is read as markup
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    return table


def _overview(found: Inspection) -> RenderableType:
    from rich.text import Text

    counts = ", ".join(f"{count:,} {split}" for split, count in found.splits.items()) or "none"
    text = Text(visible(found.name), style="bold")
    return text.append(f"  {visible(found.about)}\n{found.samples:,} whole samples ({counts})", style="not bold")


def _fields(found: Inspection) -> Table:
    rows = [
        (name, f"{count:,}", f"{count / max(1, found.samples):.1%}", FIELDS[name].about)
        for name, count in found.coverage.items()
    ]
    return _rows(_table("Fields", "field", "#samples", "#share", "what it is"), rows)


def _figures(found: Inspection) -> Table | None:
    spreads = {
        "picture width, pixels": found.width,
        "picture height, pixels": found.height,
        "caption, words": found.words,
        "caption, characters": found.letters,
    }
    rows = [(name, *_spread(spread)) for name, spread in spreads.items() if spread.count]
    if not rows:
        return None
    table = _rows(_table("Sizes", "", "#least", "#5 %", "#middle", "#95 %", "#greatest"), rows)
    if found.captions:
        scripts = [f"{name} {share:.0%}" for name, share in found.scripts.items() if share >= 0.005]
        table.caption = (
            f"{found.captions:,} captions, {found.distinct:,} different; {found.vocabulary:,} different words; "
            f"letters: {list_words(scripts, 5)}"
        )
        table.caption_justify = "left"
    return table


def _spread(spread: Spread) -> tuple[str, ...]:
    return tuple(f"{x:,.0f}" for x in (spread.least, spread.low, spread.middle, spread.high, spread.greatest))


def _classes(found: Inspection) -> Table | None:
    if not found.classes:
        return None
    entries = list(found.classes.items())
    rows = [(name, f"{count:,}") for name, count in entries[:_SHOWN]]
    if len(entries) > _SHOWN:
        rest = entries[_SHOWN:]
        rows.append((f"and {len(rest):,} more, down to {rest[-1][0]}", f"{rest[-1][1]:,} to {rest[0][1]:,} each"))
    return _rows(_table(f"Classes: {len(entries):,}", "class", "#samples"), rows)


def _problems(found: Inspection) -> Table | None:
    if not found.broken and not found.notes:
        return None
    oversized = f", {len(found.oversized):,} of them over a limit" if found.oversized else ""
    table = _table(f"Broken samples: {len(found.broken):,}{oversized}", "sample", "reason")
    _rows(table, _first(found.broken))
    return _rows(table, ((f"note, {count:,} times", text) for text, count in sorted(found.notes.items())))


def _first(entries: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from list(entries.items())[:_SHOWN]
    if len(entries) > _SHOWN:
        yield f"and {len(entries) - _SHOWN:,} more", "listed by --json"


def _duplicates(what: str, found: Duplicates, examples: Sequence[str] = ()) -> Table | None:
    if not (found.exact or found.near or found.leaks):
        return None
    table = _table(f"Repeated {what}", "kind", "#number", "examples")
    kinds = (("the same", found.exact), ("nearly the same", found.near))
    rows = [
        (
            f"{name} (groups)",
            f"{len(groups):,}",
            "\n".join(examples[:5] or [list_words(group, 3) for group in groups[:5]]),
        )
        for name, groups in kinds
        if groups
    ]
    if found.leaks:
        pairs = [f"{' = '.join(leak.keys)} ({' and '.join(leak.splits)})" for leak in found.leaks[:5]]
        rows.append(("in two splits (leaks)", f"{len(found.leaks):,}", "\n".join(pairs)))
    return _rows(table, rows)


def _methods(found: Inspection) -> Table | None:
    if not found.can_run and not found.lacks:
        return None
    table = _table("Methods", "method", "runs", "lacks")
    _rows(table, [(name, "yes", "") for name in found.can_run])
    return _rows(table, [(name, "no", ", ".join(lacking)) for name, lacking in found.lacks.items()])
