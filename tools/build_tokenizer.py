"""Builds src/diptych/encoders/assets/tokenizer.json: a byte-level BPE of CLIP's form with 8,192 entries.

    python tools/build_tokenizer.py SOURCE ... [--out FILE] [--size 8192]

A SOURCE is a folder or file: WebDataset tars (members `.txt` and `.json` with `caption`, `captions` {language: text},
`keywords`), `.jsonl.gz` with `words`, `definition`, `examples`, or `.txt` with one text a line. Only files whose name
does not begin with `val` or `test` are read. The committed file was made from openclipart, emoji_multilingual,
tuxpaint_stamps and wordnet_glosses. Ids: 0 is <pad>, then the 256 bytes, the 256 bytes that end a word, the merges in
the order in which they were learnt, <start> and, as the largest id, <end> (CLIP implementations find the end token by
its being the largest). Captions in many languages count four times, as they are outnumbered by English.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "ru", "tr", "zh", "ja")
SUFFIX = "</w>"
# Words that captions, prompts and drawn scenes are made of: each shall be one token, however rare in the sources.
WORDS = """
a an the of in on at and or with without is are to from for by as it this that these those there no not
one two three four five six seven eight nine ten many few some several empty full same different
red orange yellow green blue purple violet pink brown black white grey gray cyan magenta turquoise gold silver beige
dark light bright pale colourful colorful small tiny little large big huge medium tall short long wide narrow round
circle square triangle rectangle star heart diamond cross ring pentagon hexagon ellipse oval arrow crescent cube ball
sphere cylinder cone pyramid line dot stripe spot striped dotted spotted checked solid plain outlined filled wooden
metal metallic rubber glass plastic shiny matte smooth rough soft hard
left right top bottom above below under over behind front beside between near far next inside outside around against
centre center middle corner edge background foreground upper lower touching holding wearing riding standing sitting
lying flying running walking looking eating drinking playing moving turning falling jumping
photo picture image drawing painting sketch cartoon icon sign symbol logo flag clip art clipart stamp emoji sticker
photograph illustration rendering silhouette scene view close cropped blurry
man woman boy girl person people child children baby face hand eye head hair body animal dog cat horse cow sheep pig
bird fish duck chicken goose bear lion tiger elephant monkey mouse rabbit fox wolf deer frog snake turtle spider bee
butterfly ant whale dolphin shark penguin owl eagle parrot flower tree leaf rose grass plant forest mountain river sea
ocean lake beach sky sun moon cloud rain snow fire water earth house home building castle church bridge road street
city car truck bus train plane airplane boat ship bicycle bike motorcycle rocket wheel door window table chair bed
lamp clock book pen pencil paper phone computer keyboard screen camera television radio music guitar piano drum violin
trumpet apple banana pear cherry strawberry grape lemon tomato potato carrot onion bread cake cheese egg milk coffee
tea cup glass bottle plate bowl spoon fork knife hat shirt shoe dress trousers coat bag box key money coin hammer
saw scissors tool ball toy doll game sport football food fruit vegetable drink letter number map globe medal crown
what which who where when how why yes does do has have can
"""
# CLIP's pattern: special words, English contractions, runs of letters, single digits, runs of other signs.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}\p{M}]+|\p{N}|[^\s\p{L}\p{M}\p{N}]+"


def blank(vocab: dict[str, int] | None = None, merges: list[tuple[str, str]] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocab or {}, merges=merges or [], end_of_word_suffix=SUFFIX))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(SUFFIX, " ")])
    return tokenizer


def files(sources: list[Path]) -> Iterator[Path]:
    for source in sources:
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.name.endswith((".tar", ".jsonl.gz", ".txt")) and not path.name.startswith(("val", "test")):
                yield path


def texts(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        yield from path.read_text(encoding="utf-8").splitlines()
    elif path.name.endswith(".jsonl.gz"):
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines():
            record = json.loads(line)
            yield from record.get("words", [])
            yield from [record.get("definition", ""), *record.get("examples", [])]
    else:
        yield from texts_of_tar(path)


def texts_of_tar(path: Path) -> Iterator[str]:
    with tarfile.open(path) as tar:
        for member in tar:
            handle = tar.extractfile(member) if member.name.endswith((".txt", ".json")) else None
            if handle is None:
                continue
            value = handle.read().decode("utf-8")
            if member.name.endswith(".txt"):
                yield value
                continue
            record = json.loads(value)
            keywords = record.get("keywords", [])
            yield from keywords if isinstance(keywords, list) else [w for k in LANGUAGES for w in keywords.get(k, [])]
            yield from 4 * [record["captions"][k] for k in LANGUAGES if k in record.get("captions", {})]


def build(corpus: Iterator[str], size: int) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=letters, end_of_word_suffix=SUFFIX, show_progress=False, special_tokens=[]
    )
    learnt = blank()
    learnt.train_from_iterator(corpus, trainer)
    tokens = ["<pad>", *letters, *(letter + SUFFIX for letter in letters)]
    known, merges = set(tokens), []
    for left, right in json.loads(learnt.to_str())["model"]["merges"]:
        if len(tokens) == size - 2:
            break
        merges.append((left, right))
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
    tokens += ["<start>", "<end>"]
    if len(tokens) != size:
        raise SystemExit(f"The sources hold only enough for {len(tokens)} tokens, not {size}: add text.")
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = blank(ids, merges)
    tokenizer.add_special_tokens(["<pad>", "<start>", "<end>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<start> $A <end>",
                special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])],
            ),
        ]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    home = Path(__file__).parents[1] / "src/diptych/encoders/assets/tokenizer.json"
    parser.add_argument("--out", type=Path, default=home)
    parser.add_argument("--size", type=int, default=8192)
    arguments = parser.parse_args()
    corpus = [text for path in files(arguments.sources) for text in texts(path)]
    corpus += [" ".join(WORDS.split())] * 2000
    tokenizer = build(iter(corpus), arguments.size)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    print(f"{len(corpus):,} texts -> {tokenizer.get_vocab_size():,} tokens -> {arguments.out}")


if __name__ == "__main__":
    main()
