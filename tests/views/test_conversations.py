from functools import partial

import pytest
import torch

from diptych.views.conversations import IGNORE, TEMPLATES, Template, Turn, own_template, sequence

PLAIN, VICUNA, CHATML = (TEMPLATES[name] for name in ("plain", "vicuna", "chatml"))
PAD, BEGIN, END, SPECIAL = 0, 1, 2, 1000


class Letters:
    """A token a character, its code; but <|name|> of a template is one token, by the letters of its name."""

    begin, end, pad = BEGIN, END, PAD

    def __init__(self):
        self.asked = []

    def ids(self, text, special=False):
        self.asked.append(text)
        found = []
        while text:
            if special and text.startswith("<|"):
                name, text = text[2:].split("|>", 1)
                found.append(SPECIAL + len(name))
            else:
                found.append(ord(text[0]))
                text = text[1:]
        return found


NAMES = {BEGIN: "^", END: "$", PAD: "*", IGNORE: ".", **{SPECIAL + n: f"<{n}>" for n in range(20)}}


def shown(turns, template, *args, tokenizer=None, **options):
    """Ids and labels as text: ^ begin, $ end, * something seen, . not learnt, <8> a special token of eight letters."""
    row = sequence(turns, tokenizer or Letters(), template, *args, **options)
    assert row["ids"].dtype == row["labels"].dtype == torch.int64
    assert row["visual"].dtype == torch.bool
    assert row["length"] == len(row["ids"]) == len(row["labels"]) == len(row["visual"])
    assert torch.equal(row["visual"], row["ids"] == PAD)
    learnt = row["labels"] != IGNORE
    assert torch.equal(row["labels"][learnt], row["ids"][learnt])
    return ["".join(NAMES.get(one) or chr(one) for one in row[name].tolist()) for name in ("ids", "labels")]


def test_a_caption_follows_what_is_seen_and_is_learnt_with_its_end():
    caption = [Turn("assistant", "a cat")]
    assert shown(caption, PLAIN, [3]) == ["^*** a cat$", ".... a cat$"]
    assert shown(caption, PLAIN, [1, 2]) == ["^*** a cat$", ".... a cat$"]
    assert shown(caption, PLAIN) == ["^ a cat$", ". a cat$"]


def test_answers_are_learnt_and_nothing_else():
    turns = [Turn("user", "what?"), Turn("assistant", "cat"), Turn("user", "no"), Turn("assistant", "ok")]
    ids, labels = shown(turns, VICUNA, [2])
    assert ids == "^USER: **\nwhat? ASSISTANT: cat$USER: no ASSISTANT: ok$"
    assert labels == "." * 26 + " cat$" + "." * 19 + " ok$"
    system = [Turn("system", "Hi."), *turns[:2]]
    assert shown(system, VICUNA)[0] == "^Hi. USER: what? ASSISTANT: cat$"


def test_what_stands_behind_the_end_of_an_answer_is_not_learnt():
    ids, labels = shown([Turn("user", "hi"), Turn("assistant", "yo")], CHATML, [1])
    assert ids == "^<8>user\n*\nhi$\n<8>assistant\nyo$\n"
    assert labels == "." * 24 + "yo$."
    no_end = Template(assistant="A: {};\n")
    assert shown([Turn("assistant", "yo")], no_end) == ["^A: yo;\n", "... yo;\n"]


def test_a_marker_is_the_place_of_one_medium_wherever_it_stands():
    turns = [
        Turn("user", "<image> or <image>?"),
        Turn("assistant", "b"),
        Turn("user", "<image>"),
        Turn("assistant", "c"),
    ]
    ids, labels = shown(turns, PLAIN, [1, 2, 3])
    assert ids == "^* or **? b$*** c$"
    assert labels == "." * 9 + " b$" + "..." + " c$"


def test_media_of_a_turn_without_markers_stand_ahead_of_its_text():
    turns = [Turn("user", "one"), Turn("assistant", "a"), Turn("user", "two", ("x", "y")), Turn("assistant", "b")]
    assert shown(turns, PLAIN, [1, 2])[0] == "^one a$***two b$"
    half = [Turn("user", "see <image>", ("x", "y"))]
    assert shown(half, PLAIN, [1, 2])[0] == "^*see **"


def test_a_document_is_learnt_as_a_whole_but_for_its_pictures():
    assert shown([Turn("text", "ab<image>cd")], PLAIN, [2]) == ["^ab**cd$", ".ab..cd$"]
    assert shown([Turn("text", "<image>\ncd")], PLAIN, [2]) == ["^**cd$", "...cd$"]


def test_who_sees_nothing_reads_no_markers():
    turns = [Turn("user", "<image>\nwhat <image>?"), Turn("assistant", "cat")]
    assert shown(turns, PLAIN)[0] == "^what ? cat$"
    assert shown(turns, PLAIN) == shown([Turn("user", "what ?"), turns[1]], PLAIN)


@pytest.mark.parametrize("markers", [1, 3])
def test_as_many_markers_as_media(markers):
    with pytest.raises(ValueError, match=f"{markers} markers <image> for 2 pictures or clips"):
        shown([Turn("user", "<image>" * markers)], PLAIN, [4, 4])


def test_an_open_sequence_ends_where_the_answer_would_begin():
    asked, answer = [Turn("user", "what?")], [Turn("assistant", "cat")]
    for template in (PLAIN, VICUNA, CHATML):
        for turns in (asked, []):
            prompt = sequence(turns, Letters(), template, [2], open=True)
            whole = sequence(turns + answer, Letters(), template, [2])
            first = int((whole["labels"] != IGNORE).nonzero()[0])
            assert torch.equal(prompt["ids"], whole["ids"][:first])
            assert (prompt["labels"] == IGNORE).all()


def test_a_cut_never_leaves_half_of_a_medium():
    turns = [Turn("user", "ab <image> cd <image> ef")]
    cut = {longest: shown(turns, PLAIN, [3, 3], longest)[0] for longest in range(18)}
    assert [cut[n] for n in (0, 1, 4)] == ["", "^", "^ab "]
    assert cut[5] == cut[6] == "^ab "
    assert cut[7] == "^ab ***"
    assert cut[11] == cut[12] == cut[13] == "^ab *** cd "
    assert cut[14] == "^ab *** cd ***"
    assert cut[17] == "^ab *** cd *** ef"
    assert shown([Turn("assistant", "a cat")], PLAIN, [3], 7) == ["^*** a ", ".... a "]


def test_what_a_sample_says_is_never_a_special_token():
    ids, _ = shown([Turn("user", "<|im_end|>$"), Turn("assistant", "<|im_start|>")], CHATML)
    assert ids == "^<8>user\n<|im_end|>$$\n<8>assistant\n<|im_start|>$\n"


def test_words_are_cut_as_in_the_whole_text():
    reader = Letters()
    turns = [Turn("system", "Hi."), Turn("user", " what? "), Turn("assistant", "cat"), Turn("user", "no")]
    shown(turns, VICUNA, [2], tokenizer=reader)
    assert reader.asked == ["Hi.", " USER:", " ", "\nwhat?", " ASSISTANT:", " cat", "USER:", " no"]


def test_a_tokenizer_without_a_begin_token_has_none():
    reader = Letters()
    reader.begin = None
    assert shown([Turn("assistant", "a")], PLAIN, [1], tokenizer=reader)[0] == "* a$"


@pytest.mark.parametrize("words", ["", "{} {}", "answer"])
def test_a_template_has_one_place_for_a_text(words):
    with pytest.raises(ValueError, match=r"the user's text goes, by \{\} once"):
        Template(user=words)


# --- a tokenizer's own template ---------------------------------------------------------------------------------------


def chat(messages, opening="<|s|>", default=""):
    """As SmolLM2 and others: a default system message, and turns between special tokens."""
    if default and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default}, *messages]
    return opening + "".join(f"<|start|>{one['role']}\n{one['content']}<|end|>\n" for one in messages)


def vicuna(messages):
    words = {"user": "USER: {} ", "assistant": "ASSISTANT: {}<|end|>", "system": "{} "}
    return "<|s|>" + "".join(words[one["role"]].format(one["content"]) for one in messages)


@pytest.mark.parametrize("write", [chat, partial(chat, opening=""), partial(chat, default="Be kind."), vicuna])
@pytest.mark.parametrize("roles", ["u", "ua", "uaua", "su", "sua"])
def test_the_own_template_writes_what_the_tokenizer_writes(write, roles):
    names = {"u": "user", "a": "assistant", "s": "system"}
    said = [(names[role], f"text {number}") for number, role in enumerate(roles)]
    template = own_template(write, "<|end|>")
    ids, labels = shown([Turn(*turn) for turn in said], template)
    written = Letters().ids(write([{"role": role, "content": words} for role, words in said]), special=True)
    assert ids.replace("$", "<3>") == "".join(NAMES.get(one) or chr(one) for one in written)
    answers = [words for role, words in said if role == "assistant"]
    assert labels.replace(".", "").replace(" t", "t") == "".join(f"{words}$" for words in answers)


def test_a_template_that_rewrites_what_is_said_is_refused():
    with pytest.raises(ValueError, match="does not write turns as they are"):
        own_template(lambda messages: messages[-1]["content"].lower(), "<|end|>")
