"""Captions, answers and conversations of a trained run about pictures, in Python: `caption`, `ask`, `Chat`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diptych.app import api
from diptych.batch import Features, Sample
from diptych.card import AnswersQuestions, Captions, Generates, TooLong
from diptych.data.decode import NORMAL, BrokenSample, decode_image
from diptych.data.loader import collate
from diptych.evaluation.embed import blocks, judging, moved
from diptych.evaluation.generation import own_prompt
from diptych.evaluation.reading import own_fields
from diptych.training.precision import choose_device
from diptych.views.conversations import MARKER, Turn

_BATCH = 16  # pictures that are captioned at a time


def caption(
    run: str | Path | Any,
    pictures: Sequence[Any],
    *,
    checkpoint: str = "last",
    device: str = "auto",
    longest: int = 32,
    beams: int = 1,
) -> list[str]:
    """What a trained method says of each picture.

    Args:
        run: folder of a run, of a saved method, OWNER/NAME on the hub, or a method that `load` gave.
        pictures: paths or PIL images.
        checkpoint: of a run: `last`, or `best`.
        device: auto, cpu, cuda or cuda:N.
        longest: tokens of a caption at most, for methods that write after a prompt.
        beams: sequences that are followed at a time, for the same.

    Raises:
        FileNotFoundError: there is no such run or picture.
        ValueError: a file is no picture, or the run cannot write captions.
    """
    if not pictures:
        raise ValueError("there is nothing to caption: name at least one picture.")
    shown = [opened(picture) for picture in pictures]
    method = _able(run, checkpoint, (Generates, Captions), "captions")
    said: list[str] = []
    with _ready(method, device) as place:
        for some in blocks(len(shown), _BATCH):
            image = _seen(method, shown[some], place)
            if isinstance(method, Generates):
                prompts = [own_prompt(method.prompts, "caption")] * len(shown[some])
                said += method.respond(image, prompts, longest, beams)
            else:
                said += method.caption(image)
    return said


def ask(
    run: str | Path | Any,
    picture: Any,
    question: str,
    *,
    checkpoint: str = "last",
    device: str = "auto",
    longest: int = 32,
    beams: int = 1,
) -> str:
    """A trained method's answer to a question about a picture: written, or the best of its list.

    Args and errors are those of `caption`.
    """
    if not question.strip():
        raise ValueError("the question is empty: ask something about the picture.")
    shown = opened(picture)
    method = _able(run, checkpoint, (Generates, AnswersQuestions), "answers")
    with _ready(method, device) as place:
        image = _seen(method, [shown], place)
        if isinstance(method, Generates):
            prompt = own_prompt(method.prompts, "question").format(question)
            return str(method.respond(image, [prompt], longest, beams)[0])
        texts = method.encode_text(method.tokenize([question]).to(place))
        return str(method.answers[int(method.answer(image, texts).argmax())])


class Chat:
    """A conversation with a trained method about pictures, which may come at any turn.

    Args:
        run: as in `caption`.
        checkpoint: of a run: `last`, or `best`.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: the run cannot write.
    """

    def __init__(self, run: str | Path | Any, *, checkpoint: str = "last", device: str = "auto") -> None:
        self.method = _able(run, checkpoint, (Generates,), "answers of its own")
        self.device = device
        self.turns: list[Turn] = []
        self.features: list[Features] = []
        self._new = 0

    def look(self, picture: Any) -> None:
        """Shows a picture, a path or a PIL image; the next thing that is said is about it."""
        shown = opened(picture)
        with _ready(self.method, self.device) as place:
            self.features.append(_seen(self.method, [shown], place))
        self._new += 1

    def say(self, text: str, tell: Callable[[str], None] | None = None, longest: int = 128) -> str:
        """What the method answers.

        Args:
            text: what the user says.
            tell: gets the answer piece by piece, while it is written.
            longest: tokens of the answer at most.

        Raises:
            ValueError: the text is empty, or the conversation is longer than the method's language model can read.
        """
        if not text.strip():
            raise ValueError("nothing is said: write something.")
        turns = [*self.turns, Turn("user", MARKER * self._new + text.replace(MARKER, " "))]
        with _ready(self.method, self.device) as place:
            image = self._image(place)
            stream = {} if tell is None else {"streamer": _Stream(self.method.language.tokenizer, tell)}
            try:
                answer = str(self.method.respond(image, [turns], longest, **stream)[0])
            except TooLong as error:
                raise ValueError(f"the conversation has become too long, begin a new one ({error}).") from None
        self.turns, self._new = [*turns, Turn("assistant", answer)], 0
        return answer

    def _image(self, device: str) -> Features | None:
        from diptych.models.generation import beside

        return moved(beside(*self.features), device) if self.features else None

    def forget(self) -> None:
        """Begins a new conversation, without pictures."""
        self.turns, self.features, self._new = [], [], 0


class _Stream:
    """Tells what is written as it comes; transformers' `generate` puts each token here."""

    def __init__(self, tokenizer: Any, tell: Callable[[str], None]) -> None:
        self.tokenizer, self.tell = tokenizer, tell
        self.ids: list[int] = []
        self.told = ""

    def put(self, ids: Any) -> None:
        """Takes the next tokens; half a letter at the end waits for its other half."""
        self.ids += ids.flatten().tolist()
        text = self.tokenizer.text(self.ids)
        if text.startswith(self.told) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self.tell(text[len(self.told) :])
            self.told = text

    def end(self) -> None:
        """All has been told."""


def opened(picture: Any) -> Any:
    """A picture by its path, in RGB; a PIL image as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, or larger than the limits.
    """
    if not isinstance(picture, str | Path):
        return picture.convert("RGB")
    path = Path(picture)
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}: check its path.")
    if path.stat().st_size > NORMAL.bytes:
        raise ValueError(f"{path} has more than {NORMAL.bytes:,} bytes, too many for a picture.")
    try:
        return decode_image(path.read_bytes())
    except BrokenSample as broken:
        raise ValueError(f"{path} cannot be shown: {broken.reason}.") from None


def _able(run: Any, checkpoint: str, protocols: tuple[type, ...], what: str) -> Any:
    """The method of a run, which can do what is asked by one of the protocols."""
    method: Any = api.load(run, checkpoint) if isinstance(run, str | Path) else run
    lacks = getattr(method, "lacks", {})
    able = [one for one in protocols if isinstance(method, one)]
    if not able:
        raise ValueError(f"{method.card.id} writes no {what}: take a run of a generative method (`diptych methods`).")
    if all(one.__name__ in lacks for one in able):
        raise ValueError(f"this run of {method.card.id} writes no {what}: {lacks[able[0].__name__]}.")
    if "image" not in own_fields(method.card.needs):
        raise ValueError(f"{method.card.id} does not look at pictures but at {', '.join(method.card.needs)}.")
    return method


@contextmanager
def _ready(method: Any, device: str) -> Iterator[str]:
    place = str(choose_device(device))
    with judging(method, place):
        yield place


def _seen(method: Any, pictures: Sequence[Any], device: str) -> Features:
    """Pictures -> what the method sees of them, on the device."""
    blank = {"text": "a picture", "texts": ["a picture"]}
    views = [method.views(Sample(str(i), {"image": one, **blank}), None) for i, one in enumerate(pictures)]
    features: Features = method.encode_image(collate(views).to(device))
    return features
