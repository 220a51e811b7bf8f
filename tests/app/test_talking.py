"""Captions, answers and conversations of a run, in Python and on the command line."""

from __future__ import annotations

import io
import json

import pytest
import torch
from app_helpers import png, tiny
from PIL import Image

import diptych
from diptych import methods
from diptych.app import talking
from diptych.app.main import main
from diptych.app.talking import Chat, ask, caption, opened
from diptych.batch import Batch, Features
from diptych.card import Card
from diptych.fusion.connectors import Projector
from diptych.models.generative import GenerativeConfig, GenerativeVLM
from diptych.views.conversations import MARKER, Turn

RUN = "runs/small"
SMALL = {
    "image_size": 16,
    "image_width": 16,
    "image_layers": 1,
    "image_heads": 2,
    "patch": 8,
    "width": 16,
    "layers": 1,
    "heads": 2,
}


class Small(GenerativeVLM):
    """Was never trained, and writes something all the same."""

    card = Card("small", "Small", 2026, "-", "generative", needs=("image", "texts"))

    def __init__(self) -> None:
        super().__init__(GenerativeConfig(**SMALL))
        self.connector = Projector(self.encoder.width, self.language.width, 4)
        self.begin(True)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What the run `RUN` holds."""
    torch.manual_seed(0)
    method, load = Small(), talking.api.load
    monkeypatch.setattr(talking.api, "load", lambda run, checkpoint: method if run == RUN else load(run, checkpoint))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    path.write_bytes(png((200, 20, 30), (20, 30)))
    return str(path)


class Told:
    """Stands for a method that writes, and remembers what it was asked."""

    card = Card("told", "Told", 2026, "-", "generative", needs=("image", "texts"))
    prompts = {"caption": "Say:", "question": "Q: {} A:"}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list = []

    def modules(self):
        return []

    def to(self, device):
        return self

    def eval(self):
        return self

    def views(self, sample, rng):
        return {"image": torch.tensor(sample.image.getpixel((0, 0))).float()}

    def encode_image(self, batch):
        return Features(batch.image[:, None], batch.image, torch.ones(batch.size, 1).bool())

    def respond(self, image, prompts, longest=32, beams=1):
        self.asked += [(image.tokens[i, 0, 0].item(), prompt, longest, beams) for i, prompt in enumerate(prompts)]
        return [f"{value:.0f}" for value in image.tokens[:, 0, 0].tolist()]

    def likelihood(self, image, prompts, answers): ...

    def token_likelihood(self, image, prompts, answers): ...


def test_each_picture_gets_its_own_caption_by_the_methods_prompt() -> None:
    shown = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in range(20)]
    method = Told()
    assert caption(method, shown, device="cpu", beams=2) == [str(value) for value in range(20)]
    assert method.asked[19] == (19.0, "Say:", 32, 2)


def test_a_question_is_put_by_the_methods_prompt() -> None:
    method = Told()
    assert ask(method, Image.new("L", (4, 4), 7), "what?", device="cpu", longest=5) == "7"
    assert method.asked == [(7.0, "Q: what? A:", 5, 1)]


class Chooses(Told):
    """Has a list of answers and writes nothing: the second for short questions, else the first."""

    answers = ("red", "blue")
    respond = None  # type: ignore[assignment]

    def tokenize(self, texts):
        return Batch({"text": torch.tensor([[len(text)] for text in texts])})

    def encode_text(self, batch):
        return Features(batch.text[..., None], batch.text, batch.text > 0)

    def answer(self, image, question):
        return torch.cat([question.pooled, 10 * torch.ones_like(question.pooled)], 1)


def test_a_method_with_a_list_of_answers_chooses() -> None:
    shown = Image.new("RGB", (4, 4))
    assert [ask(Chooses(), shown, text, device="cpu") for text in ("what?", "what colour?")] == ["blue", "red"]


def test_what_is_wrong_is_said_in_a_sentence(tmp_path, picture) -> None:
    text = tmp_path / "note.png"
    text.write_text("no picture")
    clip = methods.build("clip", tiny("clip"))
    for call, error, why in [
        (lambda: opened(tmp_path / "none.png"), FileNotFoundError, r"there is no picture .*none.png"),
        (lambda: opened(str(text)), ValueError, r"note.png cannot be shown: "),
        (lambda: caption(clip, [picture]), ValueError, "clip writes no captions: take a run of a generative method"),
        (lambda: Chat(clip), ValueError, "clip writes no answers of its own"),
        (lambda: caption(Told(), []), ValueError, "name at least one picture"),
        (lambda: ask(Told(), picture, " "), ValueError, "the question is empty"),
        (lambda: caption("no/such/run", [picture]), FileNotFoundError, "is not the folder of a run"),
    ]:
        with pytest.raises(error, match=why):
            call()


def test_a_conversation_remembers_what_was_said_and_shown(picture) -> None:
    chat = diptych.Chat(RUN, device="cpu")
    chat.method.language.context = 100
    pieces: list[str] = []
    chat.look(picture)
    first = chat.say("what is it?", pieces.append, longest=4)
    assert "".join(pieces).strip() == first
    chat.say("and now?", longest=4)
    assert [turn.role for turn in chat.turns] == ["user", "assistant", "user", "assistant"]
    assert [turn.text.count(MARKER) for turn in chat.turns] == [1, 0, 0, 0]
    seen = chat.features[0]
    assert chat.turns[1] == Turn("assistant", chat.method.respond(seen, [chat.turns[:1]], 4)[0])
    assert chat.turns[3] == Turn("assistant", chat.method.respond(seen, [chat.turns[:3]], 4)[0])
    before = list(chat.turns)
    with pytest.raises(ValueError, match=r"begin a new one \(a prompt has no room in the 100 tokens"):
        chat.say("a " * 100)
    assert chat.turns == before
    chat.forget()
    assert (chat.turns, chat.features) == ([], [])
    assert isinstance(chat.say("hello", longest=2), str)  # nothing is seen


def test_captions_and_answers_on_the_command_line(picture, capsys) -> None:
    assert main(["caption", RUN, picture, picture, "--longest", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["picture"] for one in told] == [picture, picture]
    assert told[0]["caption"] == caption(RUN, [picture], longest=4)[0]
    assert main(["ask", RUN, picture, "what is it?", "--longest", "4"]) == 0
    assert capsys.readouterr().out.strip() == ask(RUN, picture, "what is it?", longest=4).strip()
    assert main(["caption", RUN, picture + "x"]) == 1
    assert "there is no picture" in capsys.readouterr().err


def test_a_conversation_on_the_command_line_goes_on_after_a_mistake(picture, capsys, monkeypatch) -> None:
    lines = ["/look none.png", f"/look {picture}", "what is it?", "", "/what", "/new", "hello", "/quit", "never read"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", RUN, "--longest", "4"]) == 0
    out, err = capsys.readouterr()
    chat = Chat(RUN)
    chat.look(picture)
    said = [chat.say("what is it?", longest=4)]
    chat.forget()
    said.append(chat.say("hello", longest=4))
    assert [line.strip() for line in out.splitlines()] == said
    assert "there is no picture none.png" in err
    assert err.count("/look PATH") == 2
