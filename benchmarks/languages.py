"""How well `diptych curate filter --languages` tells the language of captions whose language is known.

    python benchmarks/languages.py FOLDER...     # writes results/languages.json, for docs/curation.md

Each folder has shards whose json holds `captions`, a caption for each of several languages. Long captions are those of
at least five words (Chinese, Japanese and Thai, which write no spaces: ten characters).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from diptych.app.runs import commit
from diptych.curation import languages
from diptych.data.dataset import ShardedData, splits

RESULTS = Path(__file__).resolve().parent.parent / "results" / "languages.json"
ASKED = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ru", "zh")
EACH, SURE = 300, 0.1


def captions_of(folder: Path) -> dict[str, list[str]]:
    """Language -> at most EACH different captions, drawn with a fixed seed."""
    found: dict[str, set[str]] = {code: set() for code in ASKED}
    for split in splits(folder):
        data = ShardedData(folder, split)
        for index in range(len(data)):
            told = json.loads(data.raw(index)["json"])["captions"]
            for code in ASKED:
                if told.get(code):
                    found[code].add(told[code])
    rng = np.random.default_rng(0)
    return {code: list(rng.permutation(sorted(there))[:EACH]) for code, there in found.items() if there}


def is_long(caption: str, code: str) -> bool:
    """Whether a caption has at least five words."""
    return len(caption) >= 10 if code in ("zh", "ja", "th") else len(caption.split()) >= 5


def measured(folder: Path) -> list[dict[str, object]]:
    """Shares of captions: the right language first, kept when theirs is asked for, kept when another is."""
    rows = []
    for code, captions in captions_of(folder).items():
        for caption in captions:
            likely = languages.probabilities(str(caption), languages.COMMON)
            by_code = dict(zip(languages.COMMON, likely, strict=True))
            kept = [by_code[asked] >= SURE for asked in ASKED if asked != code]
            rows.append(
                (
                    is_long(caption, code),
                    max(by_code, key=by_code.__getitem__) == code,
                    by_code[code] >= SURE,
                    np.mean(kept),
                )
            )
    table = np.array(rows, dtype=float)
    found = []
    for which, chosen in (("all", table), ("five words or more", table[table[:, 0] == 1])):
        first, own, others = chosen[:, 1:].mean(0)
        found.append(
            {"data": folder.name, "captions": which, "n": len(chosen), "first": first, "own": own, "others": others}
        )
    return found


def main() -> None:
    rows = [row for folder in sys.argv[1:] for row in measured(Path(folder))]
    facts = {"detector": languages.version(), "told_apart": len(languages.COMMON), "asked": ASKED, "sure": SURE}
    RESULTS.write_text(json.dumps({**facts, "commit": commit(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
