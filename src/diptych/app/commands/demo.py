"""`diptych demo`: the tour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Train CLIP and FILIP on the starter set with one budget, evaluate both, and write a page of what they learned."""

    out: Path = Path("runs/demo")
    """folder of the demo; the same command goes on where it stopped"""
    json: bool = False
    """print the results as JSON"""


def run(args: Sequence[str]) -> int:
    """Trains, evaluates, writes `index.html` and `results.json`, and says what to type next."""
    chosen = options.parse(Options, args, "demo")
    from diptych.app import demo, terminal
    from diptych.results import to_json

    rows = demo.demo(chosen.out)
    if chosen.json:
        print(to_json(rows), end="")
    else:
        terminal.side_by_side(rows, ("retrieval", "zero_shot"))
        terminal.say(demo.next_steps(chosen.out))
    return 0
