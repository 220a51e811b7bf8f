"""`diptych claim ID` or `ID/NAME`: measures what a method's card claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych import methods
from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Decide what a method claims: train it, its baseline and its control with several seeds, and compare."""

    method: options.Id
    """id of the method, for all that its card claims, or ID/NAME for one of these; `diptych show ID` tells them"""
    out: Path = Path("results/claims")
    """folder that gets ID/NAME.json"""
    runs: Path = Path("runs/claims")
    """folder of the runs, which claims share; the same command goes on where an interrupted one stopped"""
    at_a_time: int = 0
    """trainings beside each other; 0: one a GPU, or one for every four cores"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    json: bool = False
    """print the result as JSON"""


def run(args: Sequence[str]) -> int:
    """Measures the claims and says whether they are confirmed."""
    chosen = options.parse(Options, args, "claim")
    methods.card(chosen.method.partition("/")[0])
    from diptych.app import claim, terminal
    from diptych.app.commands.compare import show
    from diptych.app.compare import How

    how = How(device=chosen.device, at_a_time=chosen.at_a_time)
    for id, name in claim.asked(chosen.method):
        found = claim.measure(id, name, how=how, results=chosen.out, runs=chosen.runs)
        path = chosen.out / id / f"{name}.json"
        if chosen.json:
            print(path.read_text(encoding="utf-8"), end="")
            continue
        show(found.comparison)
        terminal.say(f"Claim:   {methods.card(id).claims[name].about}")
        terminal.say(f"Result:  {found.summary}")
        terminal.say(f"Figures: {path}; page: {chosen.runs / id / name / 'index.html'}")
    return 0
