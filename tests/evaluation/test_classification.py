from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_fakes import MemoryData, TableMethod, TokenMethod
from torch.testing import assert_close

from diptych.evaluation.embed import Bench, CannotEvaluate, judging
from diptych.evaluation.probe import fit_linear, knn, linear_probe, logistic_regression, neighbour_votes
from diptych.evaluation.zero_shot import (
    TEMPLATES,
    class_features,
    class_scores,
    confusion,
    rank_of_class,
    zero_shot,
)
from diptych.text import readable


def values(result) -> dict[str, float]:
    return {measure.metric: measure.estimate.value for measure in result.measures}


def run(task, method, data, train=None):
    bench = Bench(method, data, ("category",))
    bench.train = None if train is None else Bench(train[0], train[1], ("category",), keep_tokens=False)
    with judging(method, "cpu"):
        return task(bench)


def prompts(table: dict[str, list[float]]) -> dict[str, list[float]]:
    return {template.format(name): row for name, row in table.items() for template in TEMPLATES}


# -- zero-shot ---------------------------------------------------------------------------------------------------------


def test_zero_shot_by_hand() -> None:
    classes = ["dog", "house_cat", "bird"]
    table = prompts({"dog": [1.0, 0, 0], "house cat": [0, 1.0, 0], "bird": [0, 0, 1.0]})
    truth = ["dog", "dog", "dog", "house_cat", "bird"]
    images = [[1, 0.1, 0], [0.9, 0, 0.2], [0, 1, 0.5], [0, 1, 0], [0.4, 0.2, 0.1]]  # dog, dog, cat, cat, dog
    data = MemoryData([{"category": name} for name in truth], classes=classes)
    result = run(zero_shot, TableMethod(images, table), data)
    assert list(result.samples["predicted"]) == ["dog", "dog", "house_cat", "house_cat", "dog"]
    assert values(result) == {"top1": pytest.approx(3 / 5), "mean_per_class": pytest.approx((2 / 3 + 1 + 0) / 3)}
    assert [measure.chance for measure in result.measures] == pytest.approx([1 / 3, 1 / 3])
    assert confusion(result, classes).tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_top5_and_its_chance_where_there_are_more_than_five_classes() -> None:
    names = [f"class {i}" for i in range(8)]
    table = prompts({name: torch.eye(8)[i].tolist() for i, name in enumerate(names)})
    ramp = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]  # ranks the classes in their order
    data = MemoryData([{"category": name} for name in names], classes=names)
    result = run(zero_shot, TableMethod([ramp] * 8, table), data)
    assert values(result) == {"top1": 1 / 8, "top5": 5 / 8, "mean_per_class": 1 / 8}
    assert [measure.chance for measure in result.measures] == [1 / 8, 5 / 8, 1 / 8]


def test_ties_lose_and_a_broken_method_is_never_right() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.4, 0.1], [torch.nan, 0.1, 0.2], [0.3, torch.nan, 0.1]])
    assert rank_of_class(scores, torch.tensor([0, 0, 0, 0])).tolist() == [2, 1, 3, 2]


def test_features_of_prompts_are_averaged_where_the_method_says_so() -> None:
    table = {"a dog": [1.0, 0.0], "the dog": [0.0, 1.0], "a cat": [1.0, 0.0], "the cat": [1.0, 0.0]}
    method = TableMethod([[1.0, 1.0]], table)
    with judging(method, "cpu"):
        bench = Bench(method, MemoryData([{"category": "dog"}]), ("category",))
        found = class_features(bench, ["dog", "cat"], ["a {}", "the {}"])
        scores = class_scores(bench, bench.images, found, 2)
    assert_close(found.pooled, torch.tensor([[0.5**0.5, 0.5**0.5], [1.0, 0.0]]))
    assert_close(scores, torch.tensor([[1.0, 0.5**0.5]]))


def test_similarities_of_prompts_are_averaged_where_the_method_says_so() -> None:
    words = {"a": [0.0, 0.0], "the": [0.0, 0.0], "dog": [1.0, 0.0], "cat": [0.0, 1.0], "pup": [0.2, 0.0]}
    method = TokenMethod([[1.0, 0.0]], words)
    with judging(method, "cpu"):
        bench = Bench(method, MemoryData([{"category": "dog"}]), ("category",))
        found = class_features(bench, ["dog", "pup"], ["a {}", "the {}", "{} cat"])
        scores = class_scores(bench, bench.images, found, 2)
        one_by_one = method.similarity(bench.images, found)[0]
    assert len(found.pooled) == 6
    assert_close(scores, torch.stack([one_by_one[:, :3].mean(1), one_by_one[:, 3:].mean(1)], dim=1))
    assert_close(scores, torch.tensor([[1.0, 0.2]]))  # each picture patch takes its best word


def test_samples_of_no_known_class_are_left_out_and_counted_out() -> None:
    table = prompts({"a": [1.0, 0.0], "b": [0.0, 1.0]})
    data = MemoryData([{"category": "a"}, {"category": "b"}, {"category": None}, {"label": 1}], classes=["a", "b"])
    result = run(zero_shot, TableMethod([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], table), data)
    assert result.measures[0].estimate.n == 3
    assert values(result)["top1"] == 1


def test_one_class_is_no_classification() -> None:
    with pytest.raises(CannotEvaluate, match="at least two classes; memory has 1 classes"):
        run(zero_shot, TableMethod([[1.0]]), MemoryData([{"category": "a"}]))


def test_names_of_classes_are_read_as_words() -> None:
    assert readable("traffic_signs/stop__sign") == "traffic signs stop sign"


# -- probes ------------------------------------------------------------------------------------------------------------


def blobs(n: int, classes: int, seed: int, spread: float = 0.3) -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return torch.eye(classes)[labels] + spread * torch.randn(n, classes, generator=generator), labels.tolist()


def test_neighbour_votes_by_hand() -> None:
    train = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]]), dim=-1)
    labels = torch.tensor([0, 1, 1])
    one = neighbour_votes(torch.tensor([[1.0, 0.0]]), train, labels, 3, k=1)
    assert_close(one, torch.tensor([[1.0, 0.0, 0.0]]))
    two = neighbour_votes(torch.tensor([[2.0, 0.0]]), train, labels, 3, k=2)
    assert_close(two, torch.tensor([[1.0, float(np.exp((train[1, 0] - 1) / 0.07)), 0.0]]))


def test_logistic_regression_finds_the_minimum() -> None:
    """The penalised loss is convex: where its gradient is zero is the one minimum."""
    features, labels = blobs(300, 4, seed=0, spread=0.6)
    features, target = features.double() * torch.tensor([1.0, 5.0, 0.1, 1.0]) + 3, torch.tensor(labels)
    fitted, offset = logistic_regression(features, target, 4, 0.01)
    spread, centre = features.std(0, correction=0), features.mean(0)
    weight = (fitted * spread).requires_grad_()  # for standardised features, on which the penalty acts
    bias = (offset + fitted @ centre).requires_grad_()
    loss = F.cross_entropy((features - centre) / spread @ weight.T + bias, target) + 0.005 * weight.square().sum()
    loss.backward()
    assert_close(weight.grad, torch.zeros_like(weight), atol=1e-5, rtol=0)
    assert_close(bias.grad, torch.zeros_like(bias), atol=1e-5, rtol=0)
    assert float(weight.detach().norm()) > 1


def test_a_constant_feature_does_no_harm() -> None:
    features, labels = blobs(60, 3, seed=5)
    plain = logistic_regression(features, torch.tensor(labels), 3, 0.01)[0]
    constant = torch.cat([features, torch.full((60, 1), 7.0)], dim=1)
    weight = logistic_regression(constant, torch.tensor(labels), 3, 0.01)[0]
    assert_close(weight[:, :3], plain, atol=1e-4, rtol=0)
    assert_close(weight[:, 3], torch.zeros(3, dtype=torch.float64))


def test_the_strength_is_chosen_without_the_evaluated_set_and_helps() -> None:
    generator = torch.Generator().manual_seed(3)
    features, labels = torch.randn(200, 60, generator=generator), torch.randint(2, (200,), generator=generator)
    features[:, 0] += 2.0 * labels  # one telling feature among sixty
    fresh, fresh_labels = torch.randn(4000, 60, generator=generator), torch.randint(2, (4000,), generator=generator)
    fresh[:, 0] += 2.0 * fresh_labels

    def accuracy(fitted) -> float:
        weight, bias = fitted
        return float(((fresh.double() @ weight.T + bias).argmax(1) == fresh_labels).double().mean())

    assert accuracy(fit_linear(features, labels, 2)) > accuracy(logistic_regression(features, labels, 2, 1e-5)) + 0.02


@pytest.mark.parametrize("probe", [knn, linear_probe])
def test_probes_of_separable_and_of_shuffled_features(probe) -> None:
    names = ["red", "green", "blue"]
    features, labels = blobs(90, 3, seed=1)
    train_features, train_labels = blobs(150, 3, seed=2)
    data = MemoryData([{"category": names[label]} for label in labels], classes=names)
    turned = ["blue", "red", "green"]  # the training set numbers its classes in another order
    train = MemoryData([{"category": names[label]} for label in train_labels], classes=turned)
    good = run(probe, TableMethod(features), data, (TableMethod(train_features).eval(), train))
    assert values(good)["top1"] > 0.85
    shuffled = train_features[torch.randperm(150, generator=torch.Generator().manual_seed(4))]
    bad = run(probe, TableMethod(features), data, (TableMethod(shuffled).eval(), train))
    assert bad.measures[0].chance == pytest.approx(1 / 3)
    assert bad.measures[0].estimate.low < 0.45


def test_probes_need_classes_in_common() -> None:
    data = MemoryData([{"category": "a"}, {"category": "b"}])
    train = MemoryData([{"category": "x"}, {"category": "y"}], name="elsewhere")
    with pytest.raises(CannotEvaluate, match="no class of memory occurs in the training set elsewhere"):
        run(knn, TableMethod(torch.eye(2)), data, (TableMethod(torch.eye(2)).eval(), train))
