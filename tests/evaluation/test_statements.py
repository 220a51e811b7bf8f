from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import MemoryData
from fusion_fakes import Judges, numbered, sides
from PIL import Image

from diptych.batch import Sample
from diptych.evaluation.embed import CannotEvaluate
from diptych.evaluation.tasks import evaluate

STATEMENT = "both are red"


def judged(table, *records, **how):
    data = MemoryData(records)
    data.has = data.has - {"image"}
    return {row.metric: row for row in evaluate(Judges(table), data, ["statements"], **how)}, data


def record(first: int, second: int, category: str, **more) -> dict:
    return {"sides": sides(first, second), "text": STATEMENT, "category": category, **more}


def test_accuracy_and_consistency_by_hand() -> None:
    table = {(0, 1, STATEMENT): 2.0, (2, 3, STATEMENT): -1.0, (4, 5, STATEMENT): 0.5, (1, 0, STATEMENT): 0.0}
    rows, data = judged(
        table,
        record(0, 1, "True", group="a"),
        record(2, 3, "False", group="a"),
        record(4, 5, "False", group="b"),  # judged true
        record(1, 0, "False", group="b"),  # the order of the sides counts; even odds are no yes
    )
    assert (rows["accuracy"].value, rows["accuracy"].n, rows["accuracy"].chance) == (3 / 4, 4, 0.5)
    assert (rows["consistency"].value, rows["consistency"].n) == (1 / 2, 2)
    assert rows["consistency"].chance == 0.25
    assert data.reads["sides"] == 5  # each once, and the first to see what sides have


def test_without_groups_the_statement_makes_them_and_odds_that_are_no_number_are_wrong() -> None:
    other = {**record(4, 5, "true"), "text": "one is blue"}
    table = {(0, 1, STATEMENT): 1.0, (2, 3, STATEMENT): np.nan, (4, 5, "one is blue"): 1.0}
    rows, _ = judged(table, record(0, 1, "true"), record(2, 3, "True"), other)
    assert rows["accuracy"].value == pytest.approx(2 / 3)
    assert (rows["consistency"].value, rows["consistency"].n) == (1 / 2, 2)
    assert rows["consistency"].chance == pytest.approx((1 / 4 + 1 / 2) / 2)
    rows, _ = judged({(2, 3, STATEMENT): np.nan}, record(2, 3, "false"))
    assert rows["accuracy"].value == 0


def test_samples_are_encoded_for_themselves_and_for_their_sides_in_one_reading(tmp_path) -> None:
    records = [{**record(2 * i, 2 * i + 1, "True"), "regions": numbered(i)} for i in range(6)]
    for one in records:
        one["sides"] = [Sample(side.key, {**side, "image": Image.new("RGB", (8, 6), "red")}) for side in one["sides"]]
    method = Judges({(2 * i, 2 * i + 1, STATEMENT): 1.0 for i in range(6)})
    data = MemoryData(records)
    rows = evaluate(method, data, ["statements", "pair_retrieval"][:1], out=tmp_path)
    assert method.encoded_images == 12  # sides alone
    assert method.encoded_texts == [STATEMENT]
    assert rows[0].value == 1
    table = pq.read_table(tmp_path / "samples" / "statements.parquet").to_pydict()
    assert table["consistency"] == [1.0] + [None] * 5
    assert (tmp_path / "pictures" / "statements.png").stat().st_size > 1000


def test_sides_that_lack_what_the_method_sees_with() -> None:
    blind = {"sides": [Sample("a", {"image": None}), Sample("b", {"image": None})], "text": "a", "category": "True"}
    with pytest.raises(CannotEvaluate, match="task statements needs regions, which a side does not have"):
        judged({}, blind)
    with pytest.raises(CannotEvaluate, match="no sample of memory has"):
        judged({}, {**record(0, 1, "maybe")})
