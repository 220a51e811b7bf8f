from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from evaluation_fakes import MemoryData
from fusion_fakes import Answers, numbered

from diptych.evaluation.embed import CannotEvaluate
from diptych.evaluation.tasks import evaluate


def question(text: str, *answers: str, type: str = "") -> dict:
    return {"question": text, "answers": list(answers), "type": type}


def asked(*samples: list[dict]) -> MemoryData:
    return MemoryData([{"regions": numbered(i), "questions": one} for i, one in enumerate(samples)])


TEN = ["red"] * 7 + ["dark red"] * 2 + ["blue"]


def judged(data: MemoryData, table, **how) -> dict[str, tuple[float, float]]:
    return {row.metric: (row.value, row.chance) for row in evaluate(Answers(table), data, ["vqa"], **how)}


def test_soft_and_exact_accuracy_by_hand() -> None:
    data = asked(
        [question("what colour?", *TEN, type="other"), question("is it?", "yes", type="yes/no")],
        [question("how many?", *["Two"] * 2, *["three"] * 8, type="other"), question("is it?", "no", type="yes/no")],
    )
    table = {(0, "what colour?"): "red", (0, "is it?"): "yes", (1, "how many?"): "2", (1, "is it?"): "yes"}
    figures = judged(data, table)
    # "2" is said by 2 of 10: leaving one out, (2 x 1/3 + 8 x 2/3) / 10 = 0.6; the usual answer is "3"
    assert figures["accuracy"][0] == pytest.approx((1 + 0.6 + 1 + 0) / 4)
    assert figures["exact"][0] == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert figures["accuracy_other"][0] == pytest.approx(0.8)
    assert figures["accuracy_yes_no"][0] == 0.5
    # the most frequent answers: "red" of other (before "3"), "yes" of yes/no (before "no")
    assert figures["accuracy"][1] == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert figures["accuracy_other"][1] == 0.5
    assert figures["exact"][1] == 0.5


def test_one_type_has_no_figure_of_its_own() -> None:
    figures = judged(asked([question("is it?", "yes")], [question("is it?", "no")]), {(0, "is it?"): "yes"})
    assert set(figures) == {"accuracy", "exact"}


def test_questions_of_one_sample_are_no_independent_trials() -> None:
    many = [[question(f"is {place}?", "yes") for place in range(40)] for _ in range(8)]
    table = {(row, f"is {place}?"): "yes" if row % 2 else "no" for row in range(8) for place in range(40)}
    alike = next(row for row in evaluate(Answers(table), asked(*many), ["vqa"]) if row.metric == "accuracy")
    table = {(row, f"is {place}?"): "yes" if place % 2 else "no" for row in range(8) for place in range(40)}
    apart = next(row for row in evaluate(Answers(table), asked(*many), ["vqa"]) if row.metric == "accuracy")
    assert (alike.value, alike.n) == (apart.value, apart.n) == (0.5, 320)
    assert alike.high - alike.low > 4 * (apart.high - apart.low)


def test_an_answer_that_is_not_a_number_is_wrong() -> None:
    assert judged(asked([question("is it?", "yes")]), {})["accuracy"][0] == 0


def test_each_question_is_encoded_once_and_each_pair_answered_once(tmp_path) -> None:
    data = asked(*[[question("is it?", "yes", type="exist"), question("how many?", "2", type="count")]] * 5)
    method = Answers({(i, text): said for i in range(5) for text, said in (("is it?", "yes"), ("how many?", "red"))})
    evaluate(method, data, ["vqa"], out=tmp_path)
    assert (method.encoded_images, sorted(method.encoded_texts), method.fused) == (5, ["how many?", "is it?"], 10)
    assert set(data.reads) == {"regions", "questions", "image"}  # pictures for the panel alone
    table = pq.read_table(tmp_path / "samples" / "vqa.parquet").to_pydict()
    assert table["answer"] == ["yes", "red"] * 5
    assert table["accuracy_exist"] == [1.0, None] * 5
    assert (tmp_path / "pictures" / "answers.png").stat().st_size > 1000


def test_without_questions_or_without_answers() -> None:
    with pytest.raises(CannotEvaluate, match="no sample of memory has one"):
        evaluate(Answers({}), asked([question("is it?")], [question(" ", "yes")]), ["vqa"])
    untrained = Answers({})
    untrained.lacks = {"AnswersQuestions": "it was not trained in the task vqa"}
    with pytest.raises(CannotEvaluate, match="method fused cannot do it, it was not trained in the task vqa"):
        evaluate(untrained, asked([question("is it?", "yes")]), ["vqa"])
