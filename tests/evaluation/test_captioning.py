from __future__ import annotations

import pytest
from evaluation_fakes import MemoryData
from fusion_fakes import Places, numbered

from diptych.evaluation.embed import CannotEvaluate
from diptych.evaluation.tasks import evaluate

TEXTS = ["a red star left of two trees", "the blue ball under an old tree", "a dog and a cat on the green grass"]


def judged(written: list[str], texts: list[list[str]], **how):
    data = MemoryData(
        [
            {"regions": numbered(i), "region_boxes": [[0.0, 0.0, 1.0, 1.0]], "text": own[0], "texts": own}
            for i, own in enumerate(texts)
        ]
    )
    return {row.metric: row for row in evaluate(Places(dict.fromkeys(enumerate(written))), data, ["captioning"], **how)}


def test_the_captions_of_people_are_the_best(tmp_path) -> None:
    rows = judged(TEXTS, [[text] for text in TEXTS], out=tmp_path)
    assert rows["cider_d"].value == pytest.approx(10)
    assert [rows[f"bleu_{order}"].value for order in (1, 2, 3, 4)] == pytest.approx([1] * 4)
    assert rows["rouge_l"].value == pytest.approx(1)
    assert rows["bleu_4"].chance == 0  # no four words of another picture
    assert rows["cider_d"].chance < 1
    assert (tmp_path / "pictures" / "captions.png").stat().st_size > 1000


def test_figures_of_a_set_by_hand() -> None:
    rows = judged(["a red ball", "an old tree"], [["a red star", "one star"], ["an old tree"]])
    # words: 2 of 3 and 3 of 3; pairs: 1 of 2 and 2 of 2; triples: none and 1 of 1
    assert rows["bleu_1"].value == pytest.approx(5 / 6)
    assert rows["bleu_2"].value == pytest.approx((5 / 6 * 3 / 4) ** 0.5)
    assert rows["bleu_3"].value == pytest.approx((5 / 6 * 3 / 4 * 1 / 2) ** (1 / 3))
    assert rows["bleu_4"].value == 0
    assert rows["rouge_l"].value == pytest.approx((2 / 3 + 1) / 2)
    assert rows["bleu_1"].low <= rows["bleu_1"].value <= rows["bleu_1"].high


def test_one_captioned_sample_is_too_few() -> None:
    with pytest.raises(CannotEvaluate, match="at least two samples with captions; memory has 1"):
        judged(TEXTS[:2], [TEXTS[:1], [" "]])
