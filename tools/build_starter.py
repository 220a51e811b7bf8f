"""Builds src/diptych/starter/: a small data set of public-domain drawings and free emoji pictures, with captions.

    python tools/build_starter.py --work SCRATCH [--out src/diptych/starter]

It reads Debian's `openclipart-png` (pictures) and `openclipart-svg` (each picture's own licence statement and
keywords), and from npm `@lobehub/fluent-emoji-3d` (pictures), `cldr-annotations-full` and
`cldr-annotations-derived-full` (names in many languages) and `emoji-datasource` (groups). They are fetched by name with
`apt-get download` and `npm pack`, once, below SCRATCH, so that both clients must be there; nothing else is downloaded.

Which drawings are taken, their class and their caption stand in `starter_captions.tsv` beside this file: the titles
that came with the drawings are in many languages, often wrong and seldom unique, so captions were written anew while
looking at the pictures. A drawing that does not say of itself that it is in the public domain stops the build.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from diptych.data.duplicates import fingerprint, groups, near_pairs
from diptych.data.shards import ShardWriter, split_of, write_dataset_json

SIDE = 112  # pixels of the longer side
QUALITY = 60
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "ru", "zh", "ja")
DEBIAN = ("openclipart-png", "openclipart-svg")
NPM = {
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "cldr-annotations-full": "48.2.0",
    "cldr-annotations-derived-full": "48.2.0",
    "emoji-datasource": "16.0.0",
}
CAPTIONS = Path(__file__).with_name("starter_captions.tsv")
NO_KEYWORD = re.compile(
    r"hash\(|[^a-z -]|^.?$|.{21}|clip ?art|unsorted|externalsource|public domain|^(image|media|png|svg)$"
)

# emoji-datasource's subgroups -> our classes; what is not named here is left out: flags of countries (nearly alike),
# letters, digits, arrows, buttons and signs (captions that say little), families (one silhouette)
EMOJI_CLASSES = {
    "celebration": "award-medal event",
    "toy": "game",
    "sport": "sport",
    "animal": "animal-amphibian animal-bird animal-bug animal-mammal animal-marine animal-reptile",
    "plant": "plant-flower plant-other",
    "food": "food-asian food-fruit food-prepared food-sweet food-vegetable",
    "drink": "drink",
    "stationery": "book-paper writing office mail",
    "clothing": "clothing",
    "electronics": "computer phone light_video sound",
    "household item": "dishware household lock other-object arts_crafts hotel",
    "science": "medical science",
    "money": "money",
    "music": "music musical-instrument",
    "tool": "tool",
    "body part": "body-parts hand-fingers-closed hand-fingers-open hand-fingers-partial hand-prop "
    "hand-single-finger hands",
    "person": "person person-activity person-fantasy person-gesture person-resting person-role person-sport "
    "person-symbol",
    "face": "cat-face monkey-face face-affection face-concerned face-costume face-glasses face-hand face-hat "
    "face-negative face-neutral-skeptical face-sleepy face-smiling face-tongue face-unwell",
    "symbol": "emotion heart warning religion geometric flag",
    "building": "place-building place-religious",
    "place": "place-geographic place-map place-other",
    "sky": "sky_weather",
    "clock": "time",
    "vehicle": "transport-air transport-ground transport-water",
}
EMOJI_CLASS_BY_NAME = (
    (re.compile(r"magnifying"), "stationery"),
    (re.compile(r"candle|lamp|lantern|umbrella"), "household item"),
    (re.compile(r"snowman|cyclone"), "sky"),
    (re.compile(r"traffic light|stop sign|construction$"), "symbol"),
)
NO_EMOJI = re.compile(
    r"middle finger|love hotel|bunny ears|wrestling"  # not for everybody
    r"|-thirty|o.clock|^(black|white) .*(square|circle)|^(small|medium)"  # nearly alike
    r"|framed picture"  # without a transparent pixel
)
NO_TAG = re.compile(r"^[^a-zA-Z]|^(sexy|drunk|ass)$")
SKIN = range(0x1F3FB, 0x1F400)


@dataclass
class Picture:
    """A sample to be: `image` is RGBA, `about` the content of its `.json` member."""

    key: str
    image: Image.Image
    about: dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder for the packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src" / "diptych" / "starter")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pictures = without_duplicates([*drawings(args.work), *emoji(args.work)])
    write(sorted(pictures, key=lambda picture: picture.key), args.out)


# --- packages ---------------------------------------------------------------------------------------------------------


def debian(name: str, work: Path) -> Path:
    """The unpacked root of a Debian package."""
    root = work / name
    if not root.exists():
        subprocess.run(["apt-get", "download", name], cwd=work, check=True)
        subprocess.run(["dpkg-deb", "-x", str(next(work.glob(f"{name}_*.deb"))), str(root)], check=True)
    return root


def npm(name: str, work: Path) -> Path:
    """The unpacked root of an npm package, in the version of `NPM`."""
    flat = f"{name.removeprefix('@').replace('/', '-')}-{NPM[name]}"
    root = work / flat
    if not root.exists():
        subprocess.run(["npm", "pack", "--silent", f"{name}@{NPM[name]}"], cwd=work, check=True)
        with tarfile.open(work / f"{flat}.tgz") as archive:
            archive.extractall(root, filter="data")
    return root / "package"


# --- openclipart ------------------------------------------------------------------------------------------------------


def drawings(work: Path) -> Iterator[Picture]:
    """The drawings that `starter_captions.tsv` names."""
    png, svg = (debian(name, work) / "usr/share/openclipart" / name.removeprefix("openclipart-") for name in DEBIAN)
    with CAPTIONS.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            licence, keywords = metadata(svg / f"{row['path']}.svg")
            if "publicdomain" not in licence.lower():
                raise SystemExit(f"{row['path']} does not say that it is in the public domain: {licence!r}.")
            about: dict[str, object] = {
                "texts": [row["caption"]],
                "tags": list(dict.fromkeys([row["category"], *keywords]))[:6],
                "category": row["category"],
                "source": f"openclipart-png:{row['path']}.png",
                "license": "public domain",
            }
            key = "openclipart_" + re.sub(r"[^a-z0-9]+", "_", row["path"].lower()).strip("_")
            yield Picture(key, sprite(png / f"{row['path']}.png"), about)


def metadata(svg: Path) -> tuple[str, list[str]]:
    """The licence that a drawing states, and its usable keywords."""
    licence, keywords = "", []
    for element in ElementTree.parse(svg).iter():
        name = element.tag.rsplit("}", 1)[-1]
        if name == "license" and element.attrib and not licence:
            licence = next(iter(element.attrib.values()))
        elif name == "subject":
            words = ((item.text or "").lower().replace("_", " ").strip() for item in element.iter())
            keywords += [word for word in words if not NO_KEYWORD.search(word)]
    return licence, keywords


# --- emoji ------------------------------------------------------------------------------------------------------------


def emoji(work: Path) -> Iterator[Picture]:
    """Emoji pictures whose name says what is to be seen, named in ten languages."""
    names, keywords = unicode_names(work)
    classes = {group: name for name, members in EMOJI_CLASSES.items() for group in members.split()}
    group = emoji_groups(work)
    taken: set[str] = set()
    for file in sorted((npm("@lobehub/fluent-emoji-3d", work) / "assets").glob("*.webp")):
        points = [int(part, 16) for part in file.stem.split("-") if re.fullmatch(r"[0-9a-f]{1,5}", part)]
        sign = "".join(map(chr, points)).replace("\ufe0f", "")
        captions, category = names.get(sign, {}), classes.get(group.get(sign, ""))
        plain = not any(point in SKIN for point in points) and sign not in taken
        if not (plain and category and all(captions.get(language) for language in LANGUAGES)):
            continue
        taken.add(sign)
        name = captions["en"] = english(captions["en"])
        if NO_EMOJI.search(name) or repeats_a_man_and_a_woman(sign, names):
            continue
        category = next((other for pattern, other in EMOJI_CLASS_BY_NAME if pattern.search(name)), category)
        about: dict[str, object] = {
            "texts": [name],
            "captions": captions,
            "tags": list(dict.fromkeys([category, *(word for word in keywords.get(sign, ()) if word != name)]))[:6],
            "category": category,
            "source": f"@lobehub/fluent-emoji-3d:assets/{file.name}",
            "license": "MIT (picture), Unicode-3.0 (names)",
        }
        yield Picture("emoji_" + "_".join(f"{ord(letter):x}" for letter in sign), sprite(file), about)


def unicode_names(work: Path) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Emoji -> {language: name}, and emoji -> English keywords, from Unicode's CLDR."""
    names: dict[str, dict[str, str]] = {}
    keywords: dict[str, list[str]] = {}
    for package, folder in (("full", "annotations"), ("derived-full", "annotationsDerived")):
        for language in LANGUAGES:
            file = npm(f"cldr-annotations-{package}", work) / folder / language / "annotations.json"
            for sign, entry in json.loads(file.read_text(encoding="utf-8"))[folder]["annotations"].items():
                sign = sign.replace("\ufe0f", "")
                if entry.get("tts"):
                    names.setdefault(sign, {})[language] = entry["tts"][0]
                if language == "en":
                    keywords[sign] = [word for word in entry.get("default", []) if not NO_TAG.search(word)]
    return names, keywords


def emoji_groups(work: Path) -> dict[str, str]:
    """Emoji -> the subgroup that it stands in."""
    entries = json.loads((npm("emoji-datasource", work) / "emoji.json").read_text(encoding="utf-8"))
    signs = ("".join(chr(int(point, 16)) for point in entry["unified"].split("-")) for entry in entries)
    subgroups = (re.sub(r"\W*&\W*", "_", entry["subcategory"]) for entry in entries)
    return {
        sign.replace("\ufe0f", ""): subgroup
        for sign, subgroup, entry in zip(signs, subgroups, entries, strict=True)
        if not (subgroup == "flag" and entry["category"] != "Flags")
    }


def english(name: str) -> str:
    """CLDR's English name as a caption: `man: red hair` -> `man with red hair`."""
    name = name.replace("\u2019", "'")
    name = re.sub(r"^(\w+): (bald|old)$", r"\2 \1", name)
    return re.sub(r"^(man|woman|person): beard$", r"\1 with a beard", name).replace(": ", " with ")


def repeats_a_man_and_a_woman(sign: str, names: dict[str, dict[str, str]]) -> bool:
    """Whether there is the same with a man and with a woman, of which the neutral picture is nearly a copy."""
    neutral = sign.replace("\u200d\u2642", "").replace("\u200d\u2640", "")
    if sign != neutral:
        return False
    if sign.startswith("\U0001f9d1"):  # person
        return all(other + sign[1:] in names for other in "\U0001f468\U0001f469")  # man, woman
    return all(f"{sign}\u200d{gender}" in names for gender in "\u2642\u2640")


# --- pictures ---------------------------------------------------------------------------------------------------------


def sprite(file: Path) -> Image.Image:
    """A picture cut to what is visible and reduced to `SIDE`, with its alpha."""
    with Image.open(file) as opened:
        image = opened.convert("RGBA")
    visible = image.getchannel("A").point(lambda value: 255 if value > 12 else 0).getbbox()
    image = image.crop(visible)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def on_white(image: Image.Image) -> Image.Image:
    """The picture in the middle of a white square, as a viewer sees it."""
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2), image)
    return square


def without_duplicates(pictures: list[Picture]) -> list[Picture]:
    """Keeps the first of each group of pictures that look alike, and the first of each caption."""
    prints = [fingerprint(on_white(picture.image)) for picture in pictures]
    thumbnails = np.stack([entry.thumbnail for entry in prints]).astype(np.float64)
    pairs = near_pairs(np.array([entry.perceptual for entry in prints], dtype=np.uint64))
    distance = np.sqrt(((thumbnails[pairs[:, 0]] - thumbnails[pairs[:, 1]]) ** 2).mean((1, 2, 3)))
    alike = pairs[distance < 12]  # grey levels; looser than `find_duplicates`: here a picture too few does no harm
    dropped = {index for group in groups(alike, len(pictures)) for index in group[1:]}
    seen: set[str] = set()
    kept = []
    for index, picture in enumerate(pictures):
        caption = picture.about["texts"][0]  # type: ignore[index]
        if index not in dropped and caption not in seen:
            kept.append(picture)
        seen.add(caption)
    print(f"{len(pictures)} pictures, {len(pictures) - len(kept)} look or are named like another")
    return kept


def write(pictures: list[Picture], out: Path) -> None:
    """Writes both splits, their description and prints how large they are."""
    for file in (*out.glob("*.tar"), *out.glob("*.parquet")):
        file.unlink()
    splits = {}
    for split in ("train", "val"):
        with ShardWriter(out, split) as writer:
            for picture in pictures:
                if split_of(picture.key) == split:
                    writer.add(picture.key, {"webp": encode(picture.image), "json": compact(picture.about)})
        splits[split] = {"samples": writer.samples, "shards": writer.shards}
    write_dataset_json(out, {
        "name": "starter",
        "licence": "public domain (openclipart), MIT (Fluent Emoji pictures), Unicode-3.0 (emoji names); see README.md",
        "source": ", ".join([*(f"Debian {name}" for name in DEBIAN), *(f"npm {k} {v}" for k, v in NPM.items())]),
        "classes": sorted({str(picture.about["category"]) for picture in pictures}),
        "has": ["image", "text", "texts", "tags", "category", "label"],
        "splits": splits,
    })  # fmt: skip
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    print(splits, f"{size / 1e6:.2f} MB")


def encode(image: Image.Image) -> bytes:
    """WebP with alpha."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, alpha_quality=QUALITY, method=6)
    return buffer.getvalue()


def compact(about: dict[str, object]) -> bytes:
    """JSON without spaces."""
    return json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


if __name__ == "__main__":
    main()
