"""`diptych claim ID/NAME`: does a method do what its card claims, better than its baseline, on a small scale?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych import methods
from diptych.app import compare, wording
from diptych.app.comparison import Comparison, Difference, plain
from diptych.card import Claim
from diptych.config import nearest, to_dict
from diptych.evaluation.statistics import mean_over_seeds

RESULTS = Path("results/claims")
RUNS = Path("runs/claims")
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"


@dataclass(frozen=True)
class Verdict:
    """What came of a claim; `differences` are those of the deciding metric, method minus baseline and minus control."""

    id: str
    name: str
    verdict: str
    summary: str
    differences: tuple[Difference, ...]
    comparison: Comparison


def asked(text: str) -> list[tuple[str, str]]:
    """`filip/pointing` -> that claim; `filip` -> all claims on its card; each as (id, name).

    Raises:
        ValueError: its card claims nothing, or nothing of that name; the sentence names what there is.
    """
    id, _, name = text.partition("/")
    claims = methods.card(id).claims
    if not claims:
        others = [card.id for card in methods.cards() if card.claims]
        raise ValueError(
            f"the card of {id} claims nothing that could be measured; there are claims of {', '.join(others)}."
        )
    if name and name not in claims:
        raise ValueError(nearest(name, claims, f"claim of {id} called"))
    return [(id, one) for one in claims if name in ("", one)]


def measure(
    id: str, name: str, *, how: compare.How | None = None, results: Path = RESULTS, runs: Path = RUNS
) -> Verdict:
    """Runs a method, its baseline and its control over the claim's seeds, and writes `results/ID/NAME.json`.

    What was run before with the same options is not run again, also where it was another method's baseline.

    Raises:
        ValueError: there is no such method or claim, or the deciding metric was not measured.
    """
    how, claim = how or compare.How(), methods.card(id).claims[name]
    sides = tuple(filter(None, (id, claim.baseline, claim.control)))
    contest = compare.Contest(sides, claim.data, claim.val, _tasks(claim), claim.settings, claim.budget, claim.seeds)
    how = compare.How(how.device, how.at_a_time, how.allow_leaks, runs / "runs")
    comparison = compare.compare(contest, runs / id / name, how)
    verdict = decide(id, name, claim, comparison)
    (results / id).mkdir(parents=True, exist_ok=True)
    text = json.dumps(told(verdict, claim), indent=1, ensure_ascii=False) + "\n"
    (results / id / f"{name}.json").write_text(text, encoding="utf-8")
    return verdict


def decide(id: str, name: str, claim: Claim, comparison: Comparison) -> Verdict:
    """The verdict on a comparison whose first side is the method: every interval on the claimed side of zero."""
    task, _, metric = claim.metric.partition("/")
    deciding = [d for d in comparison.differences if (d.task, d.metric) == (task, metric)]
    data = next((score.data for score in comparison.scores if (score.task, score.metric) == (task, metric)), "")
    found = tuple(_to_share(_turned(d), claim, comparison) for d in deciding if d.data == data)
    if len(found) < len(comparison.contestants) - 1:
        raise ValueError(
            f"{claim.metric} was not measured sample by sample, so that the claim of {id} cannot be decided."
        )
    well = all(d.low > -claim.margin if claim.direction == "higher" else d.high < claim.margin for d in found)
    verdict = CONFIRMED if well else NOT_CONFIRMED
    return Verdict(id, name, verdict, _summary(id, verdict, claim, found, comparison), found, comparison)


def told(verdict: Verdict, claim: Claim) -> dict[str, Any]:
    """The content of `results/claims/ID/NAME.json`."""
    comparison: dict[str, Any] = plain(asdict(verdict.comparison))
    for side in comparison["contestants"]:
        side.pop("runs")  # folders of this machine
    return {
        "id": verdict.id,
        "name": verdict.name,
        "verdict": verdict.verdict,
        "summary": verdict.summary,
        "card": digest(claim),
        "claim": plain(asdict(claim)),
        "differences": plain([asdict(d) for d in verdict.differences]),
        "comparison": comparison,
    }


def digest(claim: Claim) -> str:
    """A short hash of a claim, by which a result knows whether the card has changed since."""
    return hashlib.sha256(json.dumps(to_dict(claim), sort_keys=True).encode()).hexdigest()[:12]


def _tasks(claim: Claim) -> tuple[str, ...]:
    """In one order, whichever of them decides, so that claims may share runs."""
    return tuple(sorted({metric.partition("/")[0] for metric in (claim.metric, *claim.also)}))


def _turned(d: Difference) -> Difference:
    """Other minus method -> method minus other."""
    return Difference(d.against, d.label, d.data, d.task, d.metric, -d.value, -d.high, -d.low, d.n, d.p, d.p_holm)


def _to_share(d: Difference, claim: Claim, comparison: Comparison) -> Difference:
    """Method minus the claimed share of the baseline's figure, over the seeds alone; as it is where all is meant."""
    if claim.share == 1 or d.against != claim.baseline:
        return d
    same = [s for s in comparison.scores if (s.data, s.task, s.metric) == (d.data, d.task, d.metric)]
    figures = {score.label: np.array(score.by_seed) for score in same}
    apart = figures[d.label] - claim.share * figures[d.against]
    value, low, high, _ = mean_over_seeds(apart[:, None])
    return replace(d, value=value, low=low, high=high)


def _summary(id: str, verdict: str, claim: Claim, found: Sequence[Difference], comparison: Comparison) -> str:
    scores = {(s.label, s.data, s.task, s.metric): s.value for s in comparison.scores}
    first = found[0]
    own = scores[id, first.data, first.task, first.metric]
    others = [
        f"{d.against} {100 * scores[d.against, d.data, d.task, d.metric]:.1f} %, "
        f"difference{_of(claim, d)} {100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        for d in found
    ]
    allowed = f", {100 * claim.margin:g} points behind count as no worse" if claim.margin else ""
    chance = next(s.chance for s in comparison.scores if (s.task, s.metric) == (first.task, first.metric))
    guessed = "" if math.isnan(chance) else f"chance {100 * chance:.1f} %, "
    return (
        f"{verdict}: {wording.metric_title(first.metric)}: {id} {100 * own:.1f} %, {'; '.join(others)} "
        f"({guessed}{claim.seeds} seeds, {first.n:,} judged{allowed}){_taken(comparison)}"
    )


def _of(claim: Claim, d: Difference) -> str:
    return "" if claim.share == 1 or d.against != claim.baseline else f" to {100 * claim.share:g} % of that"


def _taken(comparison: Comparison) -> str:
    """What a run of each side computed and held at once: a gain, or no loss, means little without its price."""
    sides = [
        f"{cost.label} {cost.flops / 1e12:.3g} TFLOP and {cost.memory_gb:.2f} GB"
        for cost in comparison.costs
        if not math.isnan(cost.flops + cost.memory_gb)
    ]
    return f"; a run took {'; '.join(sides)}" if sides else ""
