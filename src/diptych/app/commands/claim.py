"""`diptych claim ID`: measures what a method's card claims."""

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
    """id of the method; `diptych show ID` tells its claim"""
    out: Path = Path("results/claims")
    """folder that gets ID.json"""
    runs: Path = Path("runs/claims")
    """folder of the runs, which claims share; the same command goes on where an interrupted one stopped"""
    at_a_time: int = 0
    """trainings beside each other; 0: one a GPU, or one for every four cores"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    json: bool = False
    """print the result as JSON"""


def run(args: Sequence[str]) -> int:
    """Measures the claim and says whether it is confirmed."""
    chosen = options.parse(Options, args, "claim")
    card = methods.card(chosen.method)
    from diptych.app import claim, terminal
    from diptych.app.commands.compare import show
    from diptych.app.compare import How

    how = How(device=chosen.device, at_a_time=chosen.at_a_time)
    found = claim.measure(card.id, how=how, results=chosen.out, runs=chosen.runs)
    path = chosen.out / f"{card.id}.json"
    if chosen.json:
        print(path.read_text(encoding="utf-8"), end="")
        return 0
    show(found.comparison)
    terminal.say(f"Claim:   {claim.claimed(card.id).about}")
    terminal.say(f"Result:  {found.summary}")
    terminal.say(f"Figures: {path}; page: {chosen.runs / card.id / 'index.html'}")
    return 0
