"""What `inspect` says of sources made by hand, packed and not packed, and what its contact sheet shows."""

from __future__ import annotations

import csv
import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from diptych.card import Card
from diptych.data.dataset import ShardedData
from diptych.data.decode import Limits
from diptych.data.inspect import Inspection, Spread, contact_sheet, inspect
from diptych.data.pack import Packing, pack
from diptych.data.raw import Reading, SourceError
from diptych.data.sheet import Shown, draw_sheet

CLIP = Card("clip", "CLIP", 2021, "2103.00020", "contrastive")
BOXED = Card("boxed", "Boxed", 2022, "0000.00000", "contrastive", needs=("image", "text", "boxes", "phrases"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def noise(seed: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def table(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A CSV of picture, caption and split; each new name becomes a picture, `copy-N.png` one of picture N."""
    folder.mkdir(parents=True)
    for number, (name, _, _) in enumerate(rows):
        seed = int(name.removeprefix("copy-").removesuffix(".png")) if name.startswith("copy-") else number
        noise(seed).save(folder / name)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    return folder / "captions.csv"


ROWS = [
    ("0.png", "a red fox in the snow", "train"),
    ("1.png", "a dog", "train"),
    ("2.png", "собака", "train"),
    ("3.png", "a dog", "val"),
    ("copy-0.png", "the same fox again", "val"),
]


def shown(found: Inspection, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


def test_an_unpacked_table(tmp_path: Path) -> None:
    path = table(tmp_path / "in", ROWS)
    calls: list[tuple[int, int | None]] = []
    found = inspect(path, [CLIP, BOXED], progress=lambda done, total: calls.append((done, total)))
    assert found.splits == {"train": 3, "val": 2}
    assert found.samples == 5
    assert found.coverage == {"image": 5, "text": 5, "texts": 5}
    assert found.width == Spread(5, 32, 32, 32, 32, 32)
    assert found.height.middle == 24
    assert (found.captions, found.distinct) == (5, 4)
    assert found.words.greatest == 6
    assert found.words.least == 1
    assert found.vocabulary == len(["a", "red", "fox", "in", "the", "snow", "dog", "собака", "same", "again"])
    letters = [c for _, text, _ in ROWS for c in text if c.isalpha()]
    assert found.scripts["cyrillic"] == pytest.approx(6 / len(letters))
    assert found.pictures.exact == [["0", "copy-0"]]
    assert [(leak.keys, leak.splits) for leak in found.pictures.leaks] == [(("0", "copy-0"), ("train", "val"))]
    assert found.texts.exact == [["1", "3"]]
    assert len(found.texts.leaks) == 1
    assert found.common == {"a dog": 2}
    assert found.can_run == ["clip"]
    assert found.lacks == {"boxed": ["boxes", "phrases"]}
    assert [done for done, _ in calls] == [1, 2, 3, 4, 5]


def test_packed_shards_give_the_same_figures(tmp_path: Path) -> None:
    path = table(tmp_path / "in", ROWS)
    pack(path, tmp_path / "out")
    before = inspect(path).to_dict()
    for data in (tmp_path / "out", [ShardedData(tmp_path / "out", split) for split in ("train", "val")]):
        after = inspect(data).to_dict()
        same = [name for name in before if name not in ("name", "about")]
        assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_a_folder_by_class_says_what_pack_would_do(tmp_path: Path) -> None:
    for number, label in enumerate(["ant", "bee", "bee"]):
        (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
        noise(number).save(tmp_path / "in" / label / f"{number}.png")
    found = inspect(tmp_path / "in", [CLIP])
    assert found.classes == {"bee": 2, "ant": 1}
    assert found.notes == {"a caption was made from the class": 3}
    assert found.can_run == ["clip"]
    assert "2 classes" in found.about


def test_broken_and_oversized(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    noise(0).save(folder / "good.png")
    noise(1, (100, 90)).save(folder / "wide.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    found = inspect(folder, reading=Reading(limits=Limits(pixels=5000)))
    assert found.samples == 1
    assert set(found.broken) == {"cut", "wide"}
    assert set(found.oversized) == {"wide"}
    text = shown(found)
    assert "Broken samples: 2, 1 of them over a limit" in text
    assert "cut" in text


def test_hostile_tar_is_reported_and_harmless(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = BytesIO()
    noise(0).save(out, "PNG")
    with tarfile.open(tmp_path / "in" / "train-0.tar", "w") as tar:
        for name, data in {"a.png": out.getvalue(), "../../b.png": out.getvalue(), "a.pkl": b"cos\nsystem\n"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    for data in (tmp_path / "in", ShardedData(tmp_path / "in")):
        found = inspect(data)
        assert found.samples == 1
        assert sum("left out" in note for note in found.notes) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_tables_show_no_control_characters_and_no_markup(tmp_path: Path) -> None:
    rows = [("0.png", "[red]x[/red] \x1b[31mred", "train"), ("1.png", "[red]x[/red] \x1b[31mred", "train")]
    text = shown(inspect(table(tmp_path / "in", rows)))
    assert "\x1b" not in text
    assert "[red]x[/red] \\x1b[31mred (2 times)" in text


def test_tables_name_everything(tmp_path: Path) -> None:
    text = shown(inspect(table(tmp_path / "in", ROWS), [CLIP, BOXED]))
    for part in ("5 whole samples (3 train, 2 val)", "cyrillic", "0 = copy-0 (train and val)", "a dog (2 times)"):
        assert part in text
    assert "boxes, phrases" in text


def test_json_is_complete_and_plain(tmp_path: Path) -> None:
    found = inspect(table(tmp_path / "in", ROWS), [BOXED])
    values = json.loads(found.to_json())
    assert values["splits"] == {"train": 3, "val": 2}
    assert values["has"] == ["image", "text", "texts"]
    assert values["pictures"]["leaks"] == [{"keys": ["0", "copy-0"], "splits": ["train", "val"]}]
    assert values["lacks"] == {"boxed": ["boxes", "phrases"]}
    assert "shown" not in values


def test_limit_looks_at_some_samples_only(tmp_path: Path) -> None:
    path = table(tmp_path / "in", ROWS)
    assert inspect(path, limit=2).splits == {"train": 2}
    pack(path, tmp_path / "out")
    data = [ShardedData(tmp_path / "out", split) for split in ("train", "val")]
    assert inspect(data, limit=3).splits == {"train": 2, "val": 1}


def test_a_source_that_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is no"):
        inspect(tmp_path / "absent")


def test_spread_by_hand() -> None:
    assert Spread.of([1, 2, 3, 4, 5]) == Spread(5, 1.0, 1.2, 3.0, 4.8, 5.0)
    assert Spread.of([]) == Spread()


# --------------------------------------------------------------------------------------------------- contact sheet


def test_the_sheet_shows_each_picture_and_repeats(tmp_path: Path) -> None:
    report = pack(table(tmp_path / "in", ROWS), tmp_path / "out", packing=Packing(split="train"))
    data = ShardedData(report.folder)
    first, second = contact_sheet(data, 5, columns=3), contact_sheet(data, 5, columns=3)
    assert first.tobytes() == second.tobytes()
    assert first.size[0] > 3 * 220
    assert first.size[1] > 2 * 220
    assert contact_sheet(data, 2).size[1] < first.size[1]


def test_the_pixels_of_a_picture_are_on_the_sheet() -> None:
    page = np.asarray(draw_sheet([Shown("k", "train", Image.new("RGB", (220, 220), (1, 200, 3)), ("green",))], "one"))
    assert (page == (1, 200, 3)).all(axis=2).sum() == 220 * 220


def test_boxes_are_drawn_where_they_are() -> None:
    blank = Image.new("RGB", (220, 220), "white")
    plain = np.asarray(draw_sheet([Shown("k", "", blank)], "x")).astype(int)
    boxed = np.asarray(draw_sheet([Shown("k", "", blank, boxes=((0.5, 0.5, 1, 1),))], "x")).astype(int)
    rows, columns = np.nonzero(np.abs(plain - boxed).sum(axis=2))
    assert (rows.max() - rows.min(), columns.max() - columns.min()) == (pytest.approx(110, abs=1),) * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "word",
        "w" * 500,
        "many words " * 200,
        "漢字とかな 한국어 العربية हिन्दी",
        "😀 \ud83d \x00\n\t",
        "e\u0301\u202e",
    ],
)
def test_no_caption_breaks_the_sheet(text: str) -> None:
    samples = [Shown(text or "k", "train", noise(0), (text, "b"), text), Shown("none", "", None)]
    assert draw_sheet(samples, text).size[0] >= 2 * 220


def test_letters_without_a_glyph_are_visible() -> None:
    from diptych.data.sheet import _drawable

    assert _drawable("a 漢 b") in ("a □ b", "a 漢 b")
    assert _drawable("x\x00\n y") == "x y"


def test_an_empty_sheet_is_a_page() -> None:
    assert draw_sheet([], "nothing").size[0] > 0
