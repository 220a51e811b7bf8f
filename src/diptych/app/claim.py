"""`diptych claim ID`: does a method do what its card claims, better than its baseline, on a small scale?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych import methods
from diptych.app import compare, wording
from diptych.app.comparison import Comparison, Difference, plain
from diptych.card import Claim

RESULTS = Path("results/claims")
RUNS = Path("runs/claims")
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"


@dataclass(frozen=True)
class Verdict:
    """What came of a claim; `differences` are those of the deciding metric, method minus baseline and minus control."""

    id: str
    verdict: str
    summary: str
    differences: tuple[Difference, ...]
    comparison: Comparison


def claimed(id: str) -> Claim:
    """The claim on a method's card.

    Raises:
        ValueError: its card claims nothing; the sentence names the methods that do.
    """
    claim = methods.card(id).claim
    if claim is None:
        others = [card.id for card in methods.cards() if card.claim]
        raise ValueError(
            f"the card of {id} claims nothing that could be measured; there are claims of {', '.join(others)}."
        )
    return claim


def measure(id: str, *, how: compare.How | None = None, results: Path = RESULTS, runs: Path = RUNS) -> Verdict:
    """Runs a method, its baseline and its control over the claim's seeds, and writes `results/ID.json`.

    What was run before with the same options is not run again, also where it was another method's baseline.

    Raises:
        ValueError: there is no such method or claim, or the deciding metric was not measured.
    """
    how, claim = how or compare.How(), claimed(id)
    sides = tuple(filter(None, (id, claim.baseline, claim.control)))
    contest = compare.Contest(sides, claim.data, claim.val, _tasks(claim), claim.settings, claim.budget, claim.seeds)
    how = compare.How(how.device, how.at_a_time, how.allow_leaks, runs / "runs")
    comparison = compare.compare(contest, runs / id, how)
    verdict = decide(id, claim, comparison)
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(told(verdict, claim), indent=1, ensure_ascii=False) + "\n"
    (results / f"{id}.json").write_text(text, encoding="utf-8")
    return verdict


def decide(id: str, claim: Claim, comparison: Comparison) -> Verdict:
    """The verdict on a comparison whose first side is the method: every interval on the claimed side of zero."""
    task, _, metric = claim.metric.partition("/")
    deciding = [d for d in comparison.differences if (d.task, d.metric) == (task, metric)]
    data = next((score.data for score in comparison.scores if (score.task, score.metric) == (task, metric)), "")
    found = tuple(_turned(d) for d in deciding if d.data == data)
    if len(found) < len(comparison.contestants) - 1:
        raise ValueError(
            f"{claim.metric} was not measured sample by sample, so that the claim of {id} cannot be decided."
        )
    well = all(d.low > 0 if claim.direction == "higher" else d.high < 0 for d in found)
    verdict = CONFIRMED if well else NOT_CONFIRMED
    return Verdict(id, verdict, _summary(id, verdict, claim, found, comparison), found, comparison)


def told(verdict: Verdict, claim: Claim) -> dict[str, Any]:
    """The content of `results/claims/ID.json`."""
    comparison: dict[str, Any] = plain(asdict(verdict.comparison))
    for side in comparison["contestants"]:
        side.pop("runs")  # folders of this machine
    return {
        "id": verdict.id,
        "verdict": verdict.verdict,
        "summary": verdict.summary,
        "card": digest(claim),
        "claim": plain(asdict(claim)),
        "differences": plain([asdict(d) for d in verdict.differences]),
        "comparison": comparison,
    }


def digest(claim: Claim) -> str:
    """A short hash of a claim, by which a result knows whether the card has changed since."""
    return hashlib.sha256(json.dumps(asdict(claim), sort_keys=True).encode()).hexdigest()[:12]


def _tasks(claim: Claim) -> tuple[str, ...]:
    return tuple(dict.fromkeys(metric.partition("/")[0] for metric in (claim.metric, *claim.also)))


def _turned(d: Difference) -> Difference:
    """Other minus method -> method minus other."""
    return Difference(d.against, d.label, d.data, d.task, d.metric, -d.value, -d.high, -d.low, d.n, d.p, d.p_holm)


def _summary(id: str, verdict: str, claim: Claim, found: Sequence[Difference], comparison: Comparison) -> str:
    scores = {(s.label, s.data, s.task, s.metric): s.value for s in comparison.scores}
    first = found[0]
    own = scores[id, first.data, first.task, first.metric]
    others = [
        f"{d.against} {100 * scores[d.against, d.data, d.task, d.metric]:.1f} %, "
        f"difference {100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        for d in found
    ]
    chance = next(s.chance for s in comparison.scores if (s.task, s.metric) == (first.task, first.metric))
    return (
        f"{verdict}: {wording.metric_title(first.metric)}: {id} {100 * own:.1f} %, {'; '.join(others)} "
        f"(chance {100 * chance:.1f} %, {claim.seeds} seeds, {first.n:,} judged)"
    )
