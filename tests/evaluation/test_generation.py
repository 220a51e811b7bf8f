"""How models that write are asked, how what they write is read, and each task that asks them, by hand."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest
from evaluation_fakes import MemoryData
from fusion_fakes import Answers, numbered
from generation_fakes import HALF, Writer

from diptych.card import TooLong
from diptych.evaluation import generation
from diptych.evaluation.embed import Bench, CannotEvaluate, judging
from diptych.evaluation.generation import Ask
from diptych.evaluation.multiple_choice import with_options
from diptych.evaluation.tasks import How, evaluate


def data(*samples: dict) -> MemoryData:
    return MemoryData([{"regions": numbered(i), "text": "a", **sample} for i, sample in enumerate(samples)])


def judged(method: Writer, of: MemoryData, task: str, **how) -> dict[str, object]:
    return {row.metric: row for row in evaluate(method, of, [task], **how)}


def question(text: str, *answers: str, type: str = "", **more) -> dict:
    return {"question": text, "answers": list(answers), "type": type, **more}


def test_asks_go_in_batches_of_equal_media_sorted_by_length_and_each_goes_once() -> None:
    method = Writer(lambda seen, prompt: f"{seen} {prompt}")
    bench = Bench(method, data({}, {}, {}), (), batch=2, spaces={"fusion"})
    asks = [Ask((0,), "b"), Ask((1,), "four"), Ask((2, 0), "c"), Ask((0,), "b"), Ask((2,), "to"), Ask((), "b")]
    with judging(method, "cpu"):
        said = generation.written(bench, asks)
    assert said == ["(0,) b", "(1,) four", "(2, 0) c", "(0,) b", "(2,) to", "() b"]
    assert method.asked == [[((2, 0), "c")], [((1,), "four"), ((2,), "to")], [((0,), "b")], [((), "b")]]
    assert method.encoded == 3


def test_an_answer_whose_chance_is_no_number_is_the_last() -> None:
    method = Writer(holds=lambda seen, prompt, answer, word: math.nan if word == "red" else -9.0)
    bench = Bench(method, data({}), (), spaces={"fusion"})
    with judging(method, "cpu"):
        assert generation.likeliest(bench, [[Ask((0,), "", "red"), Ask((0,), "", "blue")], [Ask((0,), "", "red")]]) == [
            1,
            0,
        ]


@pytest.mark.parametrize(
    ("text", "read"),
    [("red.", "red"), (" 2.5 m\nQ: next", "2.5 m"), ("yes Question: what", "yes"), ("<image>", ""), ("a dog", "a dog")],
)
def test_short_answers_end_with_the_sentence_or_before_the_next_question(text: str, read: str) -> None:
    assert generation.short(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes, there is.", "yes"),
        ("There is not a dog", "no"),
        ("It isn't there", "no"),
        ("No.", "no"),
        ("a dog. no cat", "yes"),
        ("  ", ""),
        ("nothing", "yes"),
    ],
)
def test_yes_and_no_are_read_as_pope_reads_them(text: str, read: str) -> None:
    assert generation.yes_no(text) == read


def test_written_answers_are_judged_as_chosen_ones_and_say_how_they_were_asked(tmp_path) -> None:
    of = data(
        {"questions": [question("what colour?", *["red"] * 7, *["dark red"] * 3)]}, {"questions": [question("n?", "2")]}
    )
    table = {((0,), "Q: what colour? A:"): "The red.\nQ: and", ((1,), "Q: n? A:"): "three"}
    rows = judged(Writer(lambda *pair: table[pair]), of, "vqa", out=tmp_path)
    assert rows["accuracy"].value == rows["exact"].value == 0.5
    assert rows["accuracy"].how == "question='Q: {} A:' read by short/1"
    assert pq.read_table(tmp_path / "samples" / "vqa.parquet")["answer"].to_pylist() == ["The red", "three"]
    chosen = evaluate(Answers({}), MemoryData([{"regions": numbered(0), "questions": [question("n?", "2")]}]), ["vqa"])
    assert chosen[0].how == ""


def test_questions_about_clips_count_by_type() -> None:
    of = [question(f"{kind} {i}?", "yes", type=kind) for kind, n in (("order", 1), ("count", 3)) for i in range(n)]
    clips = MemoryData([{"regions": numbered(0), "text": "a", "video": [], "questions": of}])
    rows = judged(Writer(lambda seen, prompt: "yes" if "order" in prompt else "no"), clips, "video_qa")
    assert rows["accuracy"].value == 0.25
    assert rows["balanced"].value == rows["balanced"].chance / 2 == 0.5
    assert (rows["accuracy_order"].value, rows["accuracy_count"].value) == (1, 0)


def test_a_model_that_learns_from_solved_questions() -> None:
    """Its answer is right from two shots on; it sees as many samples as questions, its own last."""
    of = data(*[{"questions": [question(f"what is {i}?", str(i))]} for i in range(6)])

    def says(seen: tuple[int, ...], prompt: str) -> str:
        *solved, own = prompt.split("\n")
        assert len(seen) == len(solved) + 1
        for row, text in zip(seen, solved, strict=False):
            assert text == f"<image>Q: what is {row}? A: {row}"
        assert own.removeprefix("<image>") == f"Q: what is {seen[-1]}? A:"
        assert len(set(seen)) == len(seen)
        return str(seen[-1]) if len(solved) > 1 else "?"

    def brief(seen: tuple[int, ...], prompt: str) -> str:
        if len(seen) > 3:
            raise TooLong("a prompt has no room.")
        return says(seen, prompt)

    few = judged(Writer(brief), of, "vqa_shots")
    assert {name: row.value for name, row in few.items()} == {
        "accuracy_0_shots": 0,
        "accuracy_1_shots": 0,
        "accuracy_2_shots": 1,
    }
    rows = judged(Writer(says), of, "vqa_shots")
    assert [rows[f"accuracy_{n}_shots"].value for n in (0, 1, 2, 4)] == [0, 0, 1, 1]
    assert rows["accuracy_4_shots"].chance == pytest.approx(1 / 6)
    with pytest.raises(CannotEvaluate, match="more than 4 samples with questions; memory has 2"):
        judged(Writer(), data(*[{"questions": [question("is it?", "no")]}] * 2), "vqa_shots")


def test_options_by_likelihood_by_letter_and_blind() -> None:
    own = question("which?", "two words", choices=["red", "two words"])
    drawn = [question("a?", "red", type="colour"), question("b?", "blue", type="colour")]

    def holds(seen, prompt, answer, word) -> float:
        if "Options" in prompt:
            return 0.0 if answer == "a" else -1.0
        if not seen:
            return 0.0 if word == "red" else -1.0
        return 0.0 if word in ("two", "words", "blue") else -1.0  # a sum over tokens, no mean

    method = Writer(holds=holds)
    rows = judged(method, data({"questions": [own]}, {"questions": drawn}), "multiple_choice")
    assert rows["accuracy_likelihood"].value == pytest.approx(2 / 3)  # a? is red
    assert rows["accuracy_blind"].value == pytest.approx(1 / 3)
    assert all(row.chance == 0.5 for row in rows.values())
    lettered = [prompt for batch in method.asked for _, prompt in batch if "Letter" in prompt]
    assert "which? Options: (a) red (b) two words Letter:" in lettered
    truths = [prompt.split("(a) ")[1].split(" (b)")[0] for prompt in sorted(set(lettered))]
    right = sum(first == truth for first, truth in zip(truths, ("red", "blue", "two words"), strict=True))
    assert rows["accuracy_letter"].value == pytest.approx(right / 3)
    with pytest.raises(CannotEvaluate, match="of types with several answers; memory has none"):
        judged(Writer(), data({"questions": [question("is it?", "yes")]}), "multiple_choice")


def test_what_nobody_asked_for_by_name_asks_less(monkeypatch) -> None:
    monkeypatch.setattr(generation, "UNASKED", 3)
    of = data(*[{"text": " ", "questions": [question("is it?", "yes" if i < 4 else "no")]} for i in range(8)])
    counts = {
        (row.task, bool(tasks)): row.n
        for tasks in ([], ["vqa", "multiple_choice"])
        for row in evaluate(Writer(), of, tasks)
    }
    assert counts["vqa", False] == counts["multiple_choice", False] == 3
    assert counts["vqa", True] == counts["multiple_choice", True] == 8


def test_letters_in_front_of_options() -> None:
    assert with_options("Which?", ["red", "blue"]) == "Which? Options: (a) red (b) blue"


def test_a_word_of_an_attribute_is_foreseen_where_each_of_its_tokens_is_the_likeliest() -> None:
    stars, boats = {"category": "red star", "colour": "red"}, {"category": "boat", "colour": "blue"}
    of = data(
        {"text": "a red star", "spans": [(2, 10, 0)], "attributes": [stars]},
        {"text": "a blue boat", "spans": [(2, 11, 0)], "attributes": [boats]},
    )
    chances = {"a": 0.0, "red": 0.0, "star": HALF, "blue": -2.0, "boat": 0.0}
    rows = judged(Writer(holds=lambda seen, prompt, answer, word: chances[word]), of, "attribute_tokens")
    assert rows["accuracy_colour"].value == 0.5  # red, not blue
    assert rows["accuracy_category"].value == 0.5  # boat; of "red star" the second token was not the likeliest
    assert rows["accuracy"].value == 0.5
    assert rows["accuracy"].chance == 0.5
    assert rows["accuracy_rest"].value == rows["accuracy_rest"].chance == 1  # "a"
    assert rows["nats"].value == pytest.approx((0 - HALF + 2.0 + 0 + 0) / 4, abs=1e-6)  # red star, red, blue, boat
    assert rows["nats_rest"].value == 0
    assert rows["accuracy"].how == "caption='Say:'"


def test_a_caption_that_is_cut_off_does_not_foresee_what_is_missing() -> None:
    class Cut(Writer):
        def token_likelihood(self, image, prompts, answers):
            return [row[:1] for row in super().token_likelihood(image, prompts, answers)]

    of = data({"text": "red star", "spans": [(0, 8, 0)], "attributes": [{"category": "star", "colour": "red"}]})
    rows = judged(Cut(holds=lambda *what: 0.0), of, "attribute_tokens")
    assert (rows["accuracy_colour"].value, rows["accuracy_category"].value, rows["nats"].n) == (1, 0, 1)


def test_the_likeliest_noun_stands_behind_its_own_article() -> None:
    things = [("a star and", "star"), ("an arrow", "arrow"), ("A star", "star"), ("the big star", "star")]
    of = data(
        *[
            {
                "text": text,
                "spans": [(text.index(name), text.index(name) + len(name), 0)],
                "attributes": [{"category": name}],
            }
            for text, name in things
        ]
    )

    def holds(seen, prompt, answer, word) -> float:
        assert answer in (
            "a star and",
            "an arrow and",
            "an arrow",
            "a star",
            "A star",
            "An arrow",
            "the big star",
            "the big arrow",
        )
        return 0.0 if word in ("arrow" if seen and seen[0] < 2 else "star", "and") else -1.0

    rows = judged(Writer(holds=holds), of, "naming")
    assert rows["accuracy"].value == 0.75  # the first is taken for an arrow
    assert rows["accuracy_blind"].value == rows["accuracy"].chance == 0.75


def test_classes_are_named_where_captions_name_nothing() -> None:
    of = MemoryData([{"regions": numbered(i), "category": name} for i, name in enumerate(["owl", "red_fox"])])
    rows = judged(Writer(holds=lambda seen, prompt, answer, word: -1.0 if answer == "an owl" else -0.4), of, "naming")
    assert rows["accuracy"].value == 0.5  # the name that is likelier as a whole: -2 against -1.2
    with pytest.raises(CannotEvaluate, match=r"at least two different names.*memory has 0"):
        judged(Writer(), data({}), "naming")


def test_what_a_picture_is_worth() -> None:
    of = data({"text": "two words"}, {"text": "one"}, {"text": " "})
    nats = {(0,): 1.0, (1,): 2.0, (): 3.0}
    rows = judged(Writer(holds=lambda seen, prompt, answer, word: -nats[seen]), of, "picture_use")
    # own: 2 x 1 + 2, none: 9, wrong: 2 x 2 + 1, of three tokens
    assert rows["perplexity"].value == pytest.approx(math.exp(4 / 3))
    assert rows["perplexity_blind"].value == pytest.approx(math.exp(3))
    assert rows["perplexity_wrong"].value == pytest.approx(math.exp(5 / 3))
    assert rows["gain"].value == pytest.approx(5 / 3)
    assert rows["gain_over_wrong"].value == pytest.approx(1 / 3)
    assert rows["own_first"].value == 0.5
    assert rows["gain"].low <= rows["gain"].value <= rows["gain"].high
    blind = judged(Writer(), of, "picture_use")
    assert (blind["gain"].value, blind["gain_over_wrong"].value, blind["own_first"].value) == (0, 0, 0.5)


def test_what_cannot_be_asked_is_said_in_a_sentence() -> None:
    class Blind(Writer):
        card = Writer.card.__class__(id="blind", title="", year=2026, arxiv="", family="generative", needs=("text",))

    for method, of, task, why in [
        (Blind(), data({}), "picture_use", "method blind sees nothing: it is made of text alone"),
        (Writer(), data({}), "video_qa", "task video_qa needs video, questions"),
        (Writer(), data({}), "picture_use", "at least two samples with captions; memory has 1"),
        (Writer(holds=lambda *what: math.nan), data({}, {}), "picture_use", "likelihoods that are no numbers"),
        (Answers({}), data({}), "yes_no", "method fused does not implement Generates"),
        (Writer(), data({}), "vqa", "task vqa needs questions"),
    ]:
        with pytest.raises(CannotEvaluate, match=why):
            evaluate(method, of, [task])


def test_all_that_can_be_asked_is_asked_and_drawn(tmp_path) -> None:
    """A sample is encoded once for all tasks, and its caption is written once."""
    of = [
        {
            "regions": numbered(i),
            "text": f"a {name}",
            "spans": [(2, 2 + len(name), 0)],
            "attributes": [{"category": name}],
            "tags": [name],
            "questions": [question("what is it?", name)],
        }
        for i, name in enumerate(["star", "boat", "ring", "star", "boat"])
    ]
    method = Writer(lambda seen, prompt: "a star")
    rows = evaluate(method, MemoryData(of), out=tmp_path, how=How(batch=2))
    assert {row.task for row in rows} == {
        "vqa",
        "vqa_shots",
        "multiple_choice",
        "yes_no",
        "captioning",
        "hallucination",
        "attribute_tokens",
        "naming",
        "picture_use",
    }
    assert method.encoded == 5
    assert len([pair for batch in method.asked for pair in batch if pair == ((0,), "Say:")]) <= 16
    drawn = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert drawn == {
        "answers",
        "shots",
        "choices",
        "yes_no",
        "captions",
        "hallucination",
        "attribute_tokens",
        "names",
        "picture_use",
    }
    assert all(path.stat().st_size > 1000 for path in (tmp_path / "pictures").iterdir())
    for task in ("multiple_choice", "yes_no", "hallucination", "picture_use", "vqa_shots"):
        assert "right" in pq.read_schema(tmp_path / "samples" / f"{task}.parquet").names  # by which panels are coloured


def test_what_is_said_of_no_picture_is_judged_as_the_caption_of_each() -> None:
    texts = ["a red star on a hill", "a blue boat at sea", "a red star on a hill"]
    method = Writer(lambda seen, prompt: texts[seen[0]] if seen else "a blue boat at sea")
    rows = judged(method, data(*({"text": text, "texts": [text]} for text in texts)), "captioning")
    assert rows["cider_d"].value == pytest.approx(10)
    of_others = rows["cider_d_blind"].value * 3 - 10  # ten of the boat; "a" alone is common to the rest
    assert 0 <= of_others < 1
    assert rows["cider_d_blind"].n == 3
