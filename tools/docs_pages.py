"""What the docs site makes from the code, so that nothing of it is typed by hand. A hook of mkdocs (see mkdocs.yml).

It adds a page a method with an overview of them, and the options of every command; it takes in pages that lie elsewhere
in the checkout; and it fills the places that a hand-written page marks with `<!-- table: NAME -->`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import tyro
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from diptych import methods
from diptych.app import curves, options, status, wording
from diptych.app.main import COMMANDS
from diptych.batch import FIELDS
from diptych.card import Card, Claim
from diptych.evaluation.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "results" / "claims"
PLANTED = ROOT / "results" / "planted_duplicates.json"
LANGUAGES = ROOT / "results" / "languages.json"
ELSEWHERE = {
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "reference/starter.md": ROOT / "src" / "diptych" / "starter" / "README.md",
}


# -- what mkdocs calls -------------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the methods into the menu, and takes out of it the pages that no command has written yet."""
    docs = Path(config.docs_dir)
    there = {*generated(), *ELSEWHERE, *(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))}
    for section in config.nav or []:
        for title, pages in section.items():
            if title == "Methods":
                for family, cards in groupby(methods.cards(), key=lambda card: card.family):
                    pages.append({family.capitalize(): [{card.title: f"methods/{card.id}.md"} for card in cards]})
            if isinstance(pages, list):
                pages[:] = [page for page in pages if not isinstance(page, str) or page in there]
    config.nav = [section for section in config.nav or [] if all(section.values())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    for uri, make in generated().items():
        files.append(File.generated(config, uri, content=make()))
    for uri, path in ELSEWHERE.items():
        text = path.read_text(encoding="utf-8").replace("](docs/", "](")  # its links start at the checkout
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fills in the tables that a page asks for; a page without sections needs no list of them beside it."""
    if not re.search(r"^(##|:::) ", markdown, re.MULTILINE):
        page.meta.setdefault("hide", []).append("toc")
    return re.sub(r"<!-- table: (\w+) -->", lambda found: TABLES[found[1]](), markdown)


def generated() -> dict[str, Callable[[], str]]:
    """Path of a page in the site -> the function that writes it."""
    pages: dict[str, Callable[[], str]] = {"methods/index.md": overview, "reference/command-line.md": command_line}
    return pages | {f"methods/{card.id}.md": lambda card=card: method_page(card) for card in methods.cards()}


# -- methods -----------------------------------------------------------------------------------------------------------


def overview() -> str:
    """All methods, a row each."""
    return f"# Methods\n\nEach is one file. `diptych show ID` tells the same on the terminal.\n\n{method_table()}\n"


def method_table(folder: str = "") -> str:
    """Name, year, idea, baseline and verdict of every method."""
    rows = [
        (f"[{card.title}]({folder}{card.id}.md)", card.year, card.idea, _title(card.baseline), _verdict(card.id))
        for card in methods.cards()
    ]
    return table(("method", "year", "idea", "baseline", "claim"), rows)


def method_page(card: Card) -> str:
    """All that the code and the result files say of a method."""
    module = methods.module(card.id)
    first, _, rest = inspect.cleandoc(module.__doc__ or card.idea).partition("\n\n")
    file = Path(inspect.getfile(module))
    code = file.read_text(encoding="utf-8")
    parts = [
        f"# {card.title}",
        f'<p class="lede" markdown>{sentence(first.partition(": ")[2] or first)}</p>',
        facts(card, f"`{file.relative_to(ROOT).as_posix()}`, {len(code.splitlines())} lines"),
        rest,
        "## What is measured",
        measured(card),
        "## The method",
        fenced(inspect.getsource(methods.method_class(card.id))),
        folded("The whole file, as it runs", fenced(code)),
        "## Options",
        own_options(card),
        "## Presets",
        *(preset(card, name) for name in methods.presets(card.id)),
        "## Train it",
        fenced(
            f"diptych train {card.id} --data starter --out runs/{card.id}\n"
            f"diptych evaluate runs/{card.id} --data starter",
            "bash",
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(card: Card, file: str) -> str:
    """Who a method is, without headings."""
    rows = [
        ("paper", f"[arXiv {card.arxiv}](https://arxiv.org/abs/{card.arxiv}), {card.year}"),
        ("family", card.family),
        ("baseline", f"[{_title(card.baseline)}]({card.baseline}.md)" if card.baseline else "none: it is one itself"),
        ("needs", ", ".join(f"[{name}](../reference/fields.md)" for name in card.needs)),
        ("idea", card.idea),
        ("shown", f"{shown(card.id)} ([what this says](../status.md))"),
        ("file", file),
    ]
    return f'<div class="facts" markdown>\n\n{table(("", ""), rows)}\n\n</div>'


def shown(id: str) -> str:
    """The row of the matrix of all systems: each column with its symbol."""
    line = next(line for line in status.read(ROOT).lines if line.system.id == id)
    return ", ".join(f"{letter} {cell.state.value or '–'}" for letter, cell in line.cells.items())


def measured(card: Card) -> str:
    """The claims on the card, and what `results/claims/ID/NAME.json` says came of each."""
    found = [_measured(card.id, name, claim) for name, claim in card.claims.items()]
    return "\n\n".join(found) or "Its card claims nothing."


def _measured(id: str, name: str, claim: Claim) -> str:
    path = CLAIMS / id / f"{name}.json"
    parts = [f"It claims: {claim.about or claim.metric} (`diptych claim {id}/{name}`)."]
    if not path.is_file():
        return parts[0] + " It has not been measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    kind = "yes" if found["verdict"] == status.CONFIRMED else "no"
    parts.append(f'<div class="verdict {kind}" markdown>\n\n{sentence(found["summary"])}\n\n</div>')
    if not status.unchanged(found, claim):
        parts.append("The card has changed since, and the claim is to be measured again.")
    parts += [deciding(found), folded("Everything that was measured beside it", everything(found["comparison"]))]
    return "\n\n".join([*parts, costs(found["comparison"])])


def deciding(found: dict[str, Any]) -> str:
    """The metric that decides a claim: every side with its interval, drawn, and what the method is ahead of it."""
    comparison, against = found["comparison"], {d["against"]: d for d in found["differences"]}
    sides = [side["label"] for side in comparison["contestants"]]
    where = {key: found["differences"][0][key] for key in ("data", "task", "metric")}
    scores = [s for s in comparison["scores"] if where.items() <= s.items()]
    top = max(s["high"] or s["value"] for s in scores)
    rows = []
    for score in sorted(scores, key=lambda s: sides.index(s["label"])):
        low, high, chance = (math.nan if score[key] is None else score[key] for key in ("low", "high", "chance"))
        drawn = curves.interval(score["value"], low, high, chance, sides.index(score["label"]), top)
        ahead = against.get(score["label"])
        by = f"{100 * ahead['value']:+.1f} ({100 * ahead['low']:+.1f} to {100 * ahead['high']:+.1f})" if ahead else ""
        rows.append((score["label"], percent(score), drawn, by))
    head = ("", f"{wording.metric_title(where['metric'])}, {where['data']}", "", f"{sides[0]} is ahead by")
    about = f"Means of {len(comparison['seeds'])} seeds, 95 % intervals over seeds and samples; dashed: guessing."
    return f'<div class="figures" markdown>\n\n{table(head, rows)}\n\n</div>\n\n{about}'


def everything(comparison: dict[str, Any]) -> str:
    """All shares that were measured, a column a side."""
    sides = [side["label"] for side in comparison["contestants"]]
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for score in comparison["scores"]:
        if score["chance"] is not None and 0 <= score["chance"] <= 1:
            asked = (
                score["data"],
                score["task"],
                wording.metric_title(score["metric"]),
                f"{100 * score['chance']:.1f} %",
            )
            cells.setdefault(asked, {})[score["label"]] = percent(score)
    rows = [(*asked, *(told.get(side, "") for side in sides)) for asked, told in cells.items()]
    return table(("data", "task", "metric", "chance", *sides), rows)


def percent(score: dict[str, Any]) -> str:
    """A share with its interval, in per cent."""
    bounds = "" if score["low"] is None else f" ({100 * score['low']:.1f} to {100 * score['high']:.1f})"
    return f"{100 * score['value']:.1f} %{bounds}"


def costs(comparison: dict[str, Any]) -> str:
    """What a run of each side took."""
    rows = [
        (cost["label"], f"{cost['samples']:,}", wording.duration(cost["seconds"]), f"{cost['parameters']:,}")
        for cost in comparison["costs"]
    ]
    return table(("a run of", "samples", "training took", "parameters"), rows)


def own_options(card: Card) -> str:
    """The options of a method's own, and those that it shares."""
    config = methods.config_class(card.id)
    own = [f.name for f in dataclasses.fields(config) if f.name in inspect.get_annotations(config)]
    shared = [f.name for f in dataclasses.fields(config) if f.name not in own]
    parts = [option_table(config, own) if own else f"{card.title} has no options of its own."]
    parts.append(folded("Options that it shares with its kind", option_table(config, shared)))
    return "\n\n".join(parts)


def option_table(config: type, names: Sequence[str]) -> str:
    """Fields of a configuration with default and meaning."""
    about, usual = options.docstrings(config), config()
    rows = [(_code(_flag(name)), _code(_short(getattr(usual, name))), about.get(name, "")) for name in names]
    return f'<div class="options" markdown>\n\n{table(("option", "default", "meaning"), rows)}\n\n</div>'


def preset(card: Card, name: str) -> str:
    """What a preset changes."""
    found = methods.presets(card.id)[name]
    changed = [
        (_code(_flag(field.name)), _code(_short(getattr(ours, field.name))))
        for ours in (found.config, found.recipe)
        for field in dataclasses.fields(ours)  # type: ignore[arg-type]
        if getattr(ours, field.name) != getattr(type(ours)(), field.name)
    ]
    return f"`--preset {name}`: {found.about}\n\n{table(('option', 'value'), changed)}"


# -- the command line --------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Every command with its options."""
    parts = [
        "# Command line",
        "`diptych COMMAND --help` tells the same.",
        table(("command", ""), [(f"[`diptych {name}`](#diptych-{name})", about) for name, about in COMMANDS.items()]),
    ]
    for name in COMMANDS:
        module = importlib.import_module(f"diptych.app.commands.{name}")
        parts.append(f"## diptych {name}")
        parts.append(" ".join((inspect.getdoc(module.Options) or "").split()))
        rows = [(_code(flag), _code(default), about) for flag, default, about in flags(module.Options)]
        parts.append(f'<div class="options" markdown>\n\n{table(("option", "default", "meaning"), rows)}\n\n</div>')
    return "\n\n".join(parts) + "\n"


def flags(cls: type) -> Iterator[tuple[str, str, str]]:
    """(option, default, meaning) of every field of an options dataclass, those of dataclasses inside it included."""
    about, kinds = options.docstrings(cls), typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from flags(typing.cast(type, kind))
            continue
        marks = getattr(kind, "__metadata__", ())
        named = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), field.name.upper())
        flag = str(named) if tyro.conf.Positional in marks else _flag(field.name)
        yield flag, "" if field.default is dataclasses.MISSING else _short(field.default), about.get(field.name, "")


# -- tables ------------------------------------------------------------------------------------------------------------


def fields() -> str:
    """The fields of a sample."""
    rows = [(f"`{f.name}`", f.kind, f"`{f.shape}`", f.about) for f in FIELDS.values()]
    return table(("field", "in a sample", "in a batch", "what it is"), rows)


def tasks() -> str:
    """The evaluation tasks."""
    rows = [(f"`{name}`", task.about, ", ".join(task.asks), ", ".join(task.needs)) for name, task in TASKS.items()]
    return table(("task", "asks", "of a method", "of the data"), rows)


def count() -> str:
    """How many of the systems that the library is to hold have code."""
    there, all_of_them = len(status.read(ROOT).with_code), len(status.systems())
    peers = wording.joined([system.name for system in status.peers()])
    said = f"{there} of the {all_of_them} systems {'has' if there == 1 else 'have'} code so far"
    return f"{said}, beside {peers}, which they are measured against."


def planted() -> str:
    """How many planted duplicates are found; the file is written by benchmarks/planted_duplicates.py."""
    if not PLANTED.is_file():
        return ""
    found = json.loads(PLANTED.read_text(encoding="utf-8"))
    ways = list(dict.fromkeys(row["by"] for row in found["rows"]))
    cells = {(row["data"], row["change"], row["by"]): row for row in found["rows"]}
    lines = list(dict.fromkeys((row["data"], row["change"]) for row in found["rows"]))

    def cell(row: dict[str, Any]) -> str:
        return f"{row['recall']:.0%}" + ("" if row["precision"] is None else f" ({row['precision']:.0%})")

    rows = [(*line, *(cell(cells[(*line, way)]) for way in ways)) for line in lines]
    about = (
        f"Of {found['planted']} pictures that were changed and planted among {found['pictures']} of the starter set "
        f"and of the world: how many are found and, in brackets, how many of the pairs found are such (features: "
        f"`{found['model']}`, through a linear map that was never trained; a trained run does better)."
    )
    return about + "\n\n" + table(("data", "planted", *ways), rows)


def told_languages() -> str:
    """How well languages of captions are told; the file is written by benchmarks/languages.py."""
    found = json.loads(LANGUAGES.read_text(encoding="utf-8"))
    rows = [
        (row["data"], row["captions"], f"{row['n']:,}", *(f"{row[name]:.1%}" for name in ("first", "own", "others")))
        for row in found["rows"]
    ]
    about = (
        f"Captions in {len(found['asked'])} languages ({', '.join(found['asked'])}), told apart from "
        f"{found['told_apart']} by {found['detector']}: how often the right language is the likeliest, and how many "
        f"captions stay at {found['sure']} if their own language is asked for, and if another one is."
    )
    head = ("data", "captions", "n", "right one first", "stay, own asked for", "stay, another asked for")
    return about + "\n\n" + table(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "languages": told_languages,
    "fields": fields,
    "tasks": tasks,
    "count": count,
    "planted": planted,
    "methods": lambda: method_table("methods/"),
}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def fenced(code: str, language: str = "python") -> str:
    """A code block."""
    return f"```{language}\n{code.rstrip()}\n```"


def folded(title: str, text: str) -> str:
    """A block that opens when it is asked to."""
    inside = "\n".join(f"    {line}" if line else "" for line in text.splitlines())
    return f'??? note "{title}"\n\n{inside}'


def sentence(text: str) -> str:
    """The text with a capital at its start."""
    return text[:1].upper() + text[1:]


def _title(id: str | None) -> str:
    return methods.card(id).title if id else "none"


def _verdict(id: str) -> str:
    names = methods.card(id).claims
    files = [CLAIMS / id / f"{name}.json" for name in names]
    verdicts = [json.loads(file.read_text(encoding="utf-8"))["verdict"] for file in files if file.is_file()]
    verdicts += ["not measured"] * (len(names) - len(verdicts))
    return (
        ", ".join(f"{verdicts.count(one)} {one}" if len(names) > 1 else one for one in dict.fromkeys(verdicts))
        or "none"
    )


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value in ("", None) else "" if value is False else str(value)
