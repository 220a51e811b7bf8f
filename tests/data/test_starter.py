"""The data set that ships with the package: small, free, readable, without leaks, with pictures fit to be cut out."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych
from diptych.data.dataset import ShardedData
from diptych.data.duplicates import find_duplicates, fingerprint, repeated_captions
from diptych.data.shards import split_of

FOLDER = Path(diptych.__file__).parent / "starter"
LANGUAGES = {"en", "de", "fr", "es", "it", "pt", "nl", "ru", "zh", "ja"}
SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def samples() -> list[tuple[str, str, Image.Image, dict[str, Any]]]:
    """(split, key, picture as stored, content of the json), read without the library."""
    found = []
    for split in SPLITS:
        members: dict[str, dict[str, bytes]] = {}
        for file in sorted(FOLDER.glob(f"{split}-*.tar")):
            with tarfile.open(file) as archive:
                for member in archive:
                    key, extension = member.name.split(".", 1)
                    content = archive.extractfile(member)
                    assert content is not None
                    members.setdefault(key, {})[extension] = content.read()
        for key, files in members.items():
            assert set(files) == {"webp", "json"}
            found.append((split, key, Image.open(io.BytesIO(files["webp"])), json.loads(files["json"])))
    return found


def test_fits_the_size_budget() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 11_500_000


def test_counts_are_those_that_its_description_and_readme_state(samples: list[Any]) -> None:
    told = json.loads((FOLDER / "dataset.json").read_text(encoding="utf-8"))["splits"]
    counts = Counter(split for split, *_ in samples)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert 2_500 <= len(samples) <= 3_500
    for split in SPLITS:
        assert told[split]["samples"] == counts[split]
        assert f"{counts[split]:,} " in readme
    for source in ("openclipart", "emoji"):
        assert f"{sum(key.startswith(source) for _, key, *_ in samples):,} " in readme


def test_every_sample_names_source_licence_class_tags_and_one_caption(samples: list[Any]) -> None:
    classes = json.loads((FOLDER / "dataset.json").read_text(encoding="utf-8"))["classes"]
    licences = {"openclipart": "public domain", "emoji": "MIT (picture), Unicode-3.0 (names)"}
    sources = {"openclipart": "openclipart-png:", "emoji": "@lobehub/fluent-emoji-3d:"}
    for _, key, _, about in samples:
        part = key.split("_")[0]
        assert about["license"] == licences[part]
        assert about["source"].startswith(sources[part])
        assert about["category"] in classes
        assert about["tags"][0] == about["category"]
        assert len(about["texts"]) == 1
        assert 2 <= len(about["texts"][0]) <= 80
    assert min(Counter(about["category"] for *_, about in samples).values()) >= 15


def test_emoji_and_only_they_are_named_in_ten_languages(samples: list[Any]) -> None:
    for _, key, _, about in samples:
        if key.startswith("emoji"):
            assert set(about["captions"]) == LANGUAGES
            assert all(about["captions"].values())
            assert about["captions"]["en"] == about["texts"][0]
        else:
            assert "captions" not in about


def test_no_two_samples_share_a_caption(samples: list[Any]) -> None:
    texts = [about["texts"][0] for *_, about in samples]
    assert not repeated_captions([key for _, key, *_ in samples], [split for split, *_ in samples], texts).exact


def test_captions_are_clean(samples: list[Any]) -> None:
    odd = re.compile(r"http|@|[<>{}\\\[\]|]|\s{2}|^\s|\s$|\.(png|svg)")
    rude = re.compile(r"\b(nude|naked|sexy?|porn|nazi|swastika|suicide|stripper|middle finger)\b", re.I)
    for *_, about in samples:
        for text in (*about["texts"], *about["tags"]):
            assert not odd.search(text), text
            assert not rude.search(text), text


def test_splits_follow_the_keys_and_nothing_leaks(samples: list[Any]) -> None:
    assert all(split_of(key) == split for split, key, *_ in samples)
    keys, splits = [key for _, key, *_ in samples], [split for split, *_ in samples]
    assert len(set(keys)) == len(keys)
    pictures = []
    for split in SPLITS:
        data = ShardedData(FOLDER, split)
        pictures += [data.read(i, ("image",)).image for i in range(len(data))]
    assert find_duplicates(keys, splits, [fingerprint(picture) for picture in pictures]).leaks == []


def test_pictures_are_small_cut_outs_with_alpha(samples: list[Any]) -> None:
    sides, visible = [], []
    for _, key, picture, _ in samples:
        assert picture.mode == "RGBA", key
        alpha = np.asarray(picture.getchannel("A"))
        sides.append(max(picture.size))
        visible.append((alpha > 127).mean())
        assert (alpha < 128).any(), f"{key} has no transparent background"
        assert alpha.max() > 200, f"{key} is hardly visible"
    assert max(sides) <= 128
    assert np.mean(np.array(sides) >= 96) > 0.98
    assert 0.3 < np.mean(visible) < 0.7
    assert np.mean(np.array(visible) < 0.95) > 0.9  # the outline is the object's, not the frame's


@pytest.mark.parametrize("split", SPLITS)
def test_the_library_reads_it_with_its_sidecar(split: str, cache: Path) -> None:
    data = ShardedData(FOLDER, split)
    assert data.has >= {"image", "text", "texts", "tags", "category", "label"}
    assert len(data.classes) == 24
    sample = data.read(len(data) // 2, ("image", "text", "texts", "category", "label", "tags"))
    assert sample.image.mode == "RGB"
    assert sample.text == sample.texts[0]
    assert data.classes[sample.label] == sample.category
    assert not list(cache.rglob("*.parquet"))  # no tar was scanned
