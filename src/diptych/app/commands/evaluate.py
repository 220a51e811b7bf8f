"""`diptych evaluate RUN`: measures a trained run on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Measure a trained run: every figure with its 95 % interval and what guessing would give."""

    run: options.RunOrModel
    """folder of a run, or a model on the hub (OWNER/NAME)"""
    data: options.Several = ()
    """data to measure on: starter, world, a folder or a URL of shards; default: what the run was trained on"""
    task: options.Several = ()
    """task, may be given several times; default: every task that method and data allow"""
    split: str = "val"
    """split of the data"""
    out: Path | None = None
    """folder for results, per-sample results and pictures; default: RUN/evaluations/DATA-SPLIT"""
    checkpoint: str = "last"
    """which weights: last, or best (by the evaluations during training)"""
    limit: int | None = None
    """measure on about so many samples only, spread over the data"""
    batch: int = 64
    """samples at once"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    rerank: int | None = None
    """candidates of each query that pair_retrieval fuses with it, the most similar ones; 0: all pairs; default: all up
    to 50,000, and 32 of each query beyond"""
    json: bool = False
    """print the results as JSON"""


def run(args: Sequence[str]) -> int:
    """Prints the figures, and writes them beside the run."""
    chosen = options.parse(Options, args, "evaluate")
    from diptych.app import api, terminal
    from diptych.evaluation.tasks import TASKS
    from diptych.results import to_json

    rows = api.evaluate(
        chosen.run,
        chosen.data or None,
        chosen.task,
        split=chosen.split,
        out=chosen.out,
        checkpoint=chosen.checkpoint,
        how=api.Measuring(chosen.limit, chosen.batch, chosen.device, chosen.rerank),
    )
    if chosen.json:
        print(to_json(rows), end="")
    else:
        terminal.results(rows, title=f"{chosen.run} on {', '.join(chosen.data) or 'its own data'}, {chosen.split}")
        left_out = [] if chosen.task else [name for name in TASKS if name not in {row.task for row in rows}]
        if left_out:
            terminal.say(f"Left out: {', '.join(left_out)} (--task NAME says what is missing)")
    return 0
