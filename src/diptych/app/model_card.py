"""The model card of a run: what it learned from, with which budget, what it measures, how to load it, where it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diptych import methods
from diptych.app import report, wording
from diptych.app.runs import Run
from diptych.results import Row
from diptych.text import one_line


def write(run: Run) -> Path:
    """Writes README.md into the run's folder."""
    path = run.folder / "README.md"
    path.write_text(card(run), encoding="utf-8")
    return path


def card(run: Run) -> str:
    """The model card as Markdown, with the head that the Hugging Face hub reads."""
    about, done = methods.card(run.method), dict(run.finished)
    done |= {part: _told(done[part]) for part in ("train", "val")} | {"device": _plain(done["device"])}
    return "\n".join(
        [
            *_head(run),
            f"# {about.title}, trained on {wording.joined([one['name'] for one in done['train']])}",
            "",
            f"{about.title} ({about.year}, [arXiv:{about.arxiv}](https://arxiv.org/abs/{about.arxiv})): {about.idea}.",
            "",
            "## Data and budget",
            "",
            f"- Learned from {wording.data(done['train'])}.",
            *(f"- Licence of {one['name']}: {one['licence']}." for one in done["train"] if one["licence"]),
            f"- {done['steps']:,} steps of {run.info['recipe']['batch']:,} samples, "
            f"{wording.duration(done['seconds'])} on {done['device']}.",
            f"- {done['parameters']:,} parameters, of which {done['trained_parameters']:,} were trained.",
            f"- {len(run.quarantine):,} broken samples were skipped.",
            "",
            "## Figures",
            "",
            f"On {wording.data(done['val'])}, which were held out. Intervals are bootstrap intervals at 95 %.",
            "",
            *_table(run.rows),
            "",
            "## Use",
            "",
            "```python",
            "import diptych",
            "",
            *_use(about.family),
            "```",
            "",
            "Trained with:",
            "",
            "```sh",
            one_line(report.command(run), 4000),
            "```",
            "",
            "## Limits",
            "",
            *_limits(run),
            "",
        ]
    )


def _plain(text: str) -> str:
    """A name from data on one line, in which Markdown and HTML have no meaning."""
    return re.sub(r"[\\`\[\]<>|]", lambda found: f"&#{ord(found[0])};", one_line(text))


def _told(sets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "name": _plain(one["name"]), "licence": _plain(one["licence"])} for one in sets]


def _head(run: Run) -> list[str]:
    """YAML for the hub. JSON strings are YAML strings, so that no name from data can break out of its line."""
    about = methods.card(run.method)
    tags = ["diptych", about.family, about.id, *about.modalities]
    lines = ["---", "library_name: diptych", "tags:", *(f"- {tag}" for tag in tags)]
    licences = "; ".join(dict.fromkeys(one["licence"] for one in run.finished["train"] if one["licence"]))
    lines += ["license: other", f"license_name: {json.dumps('as the training data: ' + licences)}"] if licences else []
    return [*lines, "---", ""]


def _table(rows: Iterable[Row]) -> list[str]:
    lines = ["| data | task | metric | value | 95 % interval | chance | n |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = [
            _plain(row.data),
            _plain(row.task),
            _plain(wording.metric_title(row.metric)),
            wording.figure(row, row.value),
            wording.interval(row),
            wording.figure(row, row.chance),
            f"{row.n:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _use(family: str) -> list[str]:
    """A first thing to do with a model, in Python."""
    if family == "generative":
        return [
            'model = "PATH_OR_HUB_ID"  # this folder, or OWNER/NAME on the hub',
            '(caption,) = diptych.caption(model, ["picture.png"])',
            'answer = diptych.ask(model, "picture.png", "what is it?")',
        ]
    if family not in ("contrastive", "adaptation"):
        return ['rows = diptych.evaluate("PATH")  # of this folder']
    return [
        'model = diptych.load("PATH_OR_HUB_ID")  # this folder, or OWNER/NAME on the hub',
        'texts = model.embed_text(model.tokenize(["a red bicycle"])).pooled',
    ]


def _limits(run: Run) -> list[str]:
    there = sum(one["samples"] for one in run.finished["train"])
    seen = run.finished["steps"] * run.info["recipe"]["batch"]
    frozen = run.finished["trained_parameters"] < run.finished["parameters"]
    return [
        f"- It saw {seen:,} samples, {seen / max(there, 1):,.1f} times the training set, and knows little "
        "of pictures and words that are not like those of it.",
        "- The interval covers the draw of the evaluated samples, not that of the seed of training.",
        *(["- Part of its weights were not trained here: their limits are its limits."] if frozen else []),
        "- It was not examined for harmful associations, and must not decide about people.",
    ]
