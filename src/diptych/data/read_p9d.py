"""P9D, the products of nine industries that CTP learns one after the other (Zhu et al., 2023, arXiv 2308.07146).

As its authors lay it out (KevinLight831/P9D, and `data/pretrain_product_dataset.py` of KevinLight831/CTP): `train.json`
has, for each industry, the products by their id; `test.json`, `query.json` and `gallery.json` have products by their
id, each with its `industry_name`. Of a product there are a `title` and a `cate_name`; its picture is
`train_images/ID.jpg`, or `gallery_images/ID.jpg` for the other three files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample
from diptych.data.kinds import marked
from diptych.data.raw import Reading, Source, SourceError, list_words, read_json
from diptych.data.read_pictures import Picture, Where, source, words

INDUSTRIES = ("家居用品", "家装家饰", "食品/保健", "美容护理", "服饰鞋包", "车品配件", "母婴", "运动/户外", "3C数码")
"""The nine tasks in the order of the paper: household, furnishings, food, beauty, clothing, cars, parenting, outdoor
and electronics. Its second protocol has them in the opposite order."""
_FOLDERS = {"train": "train_images", "test": "gallery_images", "query": "gallery_images", "gallery": "gallery_images"}


def is_here(folder: Path) -> bool:
    """Whether a folder holds P9D."""
    return any(marked(file) == "p9d" for file in _files(folder).values())


def p9d(path: Path, reading: Reading) -> Source:
    """The folder of P9D, or one of its files, which are then all read.

    A category is INDUSTRY/CATEGORY, so that `SPEC#tasks` has a task for each industry, in the order of the paper.

    Raises:
        SourceError: none of its files, not valid JSON, or no folder with the pictures.
    """
    folder = path if path.is_dir() else path.parent
    root = folder.parent if folder.name == "json" else folder
    files = _files(root)
    if not files:
        raise SourceError(f"{path} holds none of {list_words(f'{split}.json' for split in _FOLDERS)}.")
    pictures: list[Picture] = []
    broken: list[BrokenSample] = []
    for split, file in files.items():
        for industry, id, product in _products(read_json(file)):
            title, category = (words(product.get(name)) for name in ("title", "cate_name"))
            if not title or not category or not industry:
                broken.append(BrokenSample(f"{file.name}: {id}", "it has no title, cate_name or industry"))
                continue
            more = {"category": f"{_part(industry)}/{_part(category)}"}
            pictures.append(
                Picture(f"{id}.jpg", split, _FOLDERS[split], captions=[title], more=more, key=f"{split}/{id}")
            )
    about = f"P9D ({list_words(file.name for file in files.values())}): {len(pictures):,} products"
    classes = sorted({picture.more["category"] for picture in pictures}, key=_order)
    return replace(
        source("p9d", about, pictures, broken, Where(root, reading, with_captions=True)), classes=tuple(classes)
    )


def _files(root: Path) -> dict[str, Path]:
    """Split -> file."""
    places = [folder for folder in (root / "json", root) if folder.is_dir()]
    found = {split: folder / f"{split}.json" for folder in places[::-1] for split in _FOLDERS}
    return {split: found[split] for split in _FOLDERS if split in found and found[split].is_file()}


def _products(content: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Industry, id and description of each product, by either of the two forms."""
    for name, value in content.items() if isinstance(content, dict) else ():
        described = value if isinstance(value, dict) else {}
        if any(isinstance(inner, dict) for inner in described.values()):
            yield from ((words(name), id, one if isinstance(one, dict) else {}) for id, one in described.items())
        else:
            yield words(described.get("industry_name")), name, described


def _part(name: str) -> str:
    """A name as one part of a category."""
    return name.replace("/", "／")


def _order(category: str) -> tuple[int, str]:
    known = [_part(industry) for industry in INDUSTRIES]
    industry = category.partition("/")[0]
    return known.index(industry) if industry in known else len(known), category
