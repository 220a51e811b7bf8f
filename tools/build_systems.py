"""Builds src/diptych/app/assets/systems.json: the systems that this library is to hold, in the order of their families.

    python tools/build_systems.py SHEETS [--out src/diptych/app/assets/systems.json]

SHEETS is a folder with a sheet a system, ID.md. Its first line is `# TITLE (YEAR...)`, and `arXiv NUMBER` stands below
it. README.md holds a table `| family | systems |`, with the ids parted by commas; remarks in brackets are left out.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

OUT = Path("src/diptych/app/assets/systems.json")


def systems(sheets: Path) -> list[dict[str, Any]]:
    """Id, title, year, family and arXiv number of every system.

    Raises:
        ValueError: a sheet lacks one of them, or sheets and families do not name the same systems.
    """
    by_family = families((sheets / "README.md").read_text(encoding="utf-8"))
    found = {path.stem for path in sheets.glob("*.md")} - {"README"}
    if found != set(by_family):
        raise ValueError(
            f"sheets and families differ in {', '.join(sorted(found ^ set(by_family)))}: name them in both."
        )
    return [
        {"id": id, **facts(id, (sheets / f"{id}.md").read_text(encoding="utf-8")), "family": family}
        for id, family in by_family.items()
    ]


def facts(id: str, sheet: str) -> dict[str, Any]:
    """Title, year and arXiv number from the head of a sheet."""
    heading = re.match(r"# (?P<title>.+?) \((?P<year>\d{4})\b", sheet)
    arxiv = re.search(r"\barXiv (\d{4}\.\d{5})\b", sheet)
    if heading is None or arxiv is None:
        raise ValueError(f"{id}.md must begin with '# TITLE (YEAR)' and hold 'arXiv NUMBER'.")
    return {"title": heading["title"], "year": int(heading["year"]), "arxiv": arxiv[1]}


def families(readme: str) -> dict[str, str]:
    """Id -> family, in the order of the table."""
    table = readme.partition("| family | systems |\n|---|---|\n")[2].partition("\n\n")[0]
    plain = re.sub(r" *\([^)]*\)", "", table)  # remarks in brackets may hold commas
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in plain.splitlines()]
    return {id.strip(): family for family, ids in rows for id in ids.split(",")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the list of systems from a folder of sheets.")
    parser.add_argument("sheets", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    lines = [json.dumps(system, ensure_ascii=False) for system in systems(args.sheets)]
    args.out.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{len(lines)} systems: {args.out}")


if __name__ == "__main__":
    main()
