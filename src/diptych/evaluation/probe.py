"""How much of a picture's class its features hold: nearest neighbours, and a linear classifier on frozen features.

Both learn from the pooled image features of a training set and are judged on the evaluated set. kNN is the weighted
vote of Wu et al., Unsupervised Feature Learning via Non-parametric Instance Discrimination, 2018 (k = 20 here, weight
exp(cosine / 0.07)). The linear probe is multinomial logistic regression by L-BFGS (as in Radford et al., 2021,
appendix A.3); its strength of regularisation is chosen on a fifth of the training set, never on the evaluated one.

`token_probe` asks the same of the tokens of an image after fusion, object by object (as Li et al., Align and Prompt,
2022, motivate their regional entity prompts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.batch import Features
from diptych.evaluation.embed import Bench, CannotEvaluate, paired
from diptych.evaluation.measures import Result
from diptych.evaluation.pointing import category, covered
from diptych.evaluation.zero_shot import classification, classified, labelled, rank_of_class
from diptych.neighbours import top_k
from diptych.views.regions import overlap

NEIGHBOURS = 20
TEMPERATURE = 0.07
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the penalty on standardised features


def knn(bench: Bench) -> Result:
    """Top-1 and top-5 accuracy and mean per class of a vote of the nearest training pictures, in [0, 1]."""
    rows, images, (train, train_labels) = _sets(bench)
    scores = neighbour_votes(images, train, train_labels, len(bench.classes))
    return _judged(bench, rows, scores)


def linear_probe(bench: Bench) -> Result:
    """Top-1 and top-5 accuracy and mean per class of a linear classifier on the pooled features, in [0, 1]."""
    rows, images, (train, train_labels) = _sets(bench)
    weight, bias = fit_linear(train, train_labels, len(bench.classes))
    return _judged(bench, rows, (images.double() @ weight.T + bias).float())


def token_probe(bench: Bench) -> Result:
    """Top-1 and top-5 accuracy and mean per class of a linear classifier of single objects, in [0, 1].

    An object is a box whose category is known (`pointing.category`). It is seen as the mean of the image's tokens at
    its place, after fusion with the caption: regions that overlap it by half (IoU), or patches whose centre it covers.

    Raises:
        CannotEvaluate: there is no training set, no object of a known category, or tokens are of no place.
    """
    if bench.train is None:
        raise CannotEvaluate("probes need a training set beside the evaluated one: none was given (train_data).")
    (rows, tokens, names), (_, train, train_names) = objects(bench), objects(bench.train)
    classes = sorted(set(train_names))
    index = {name: place for place, name in enumerate(classes)}
    known = [place for place, name in enumerate(names) if name in index]
    if len(classes) < 2 or not known:
        raise CannotEvaluate(
            f"token_probe needs objects of at least two categories that both sets have; {bench.train.data.name} has "
            f"{len(classes)}, and {len(known)} objects of {bench.data.name} are of these."
        )
    weight, bias = fit_linear(train, torch.tensor([index[name] for name in train_names]), len(classes))
    scores = (tokens[known].double() @ weight.T + bias).float()
    labels = np.array([index[names[place]] for place in known])
    found = rank_of_class(scores, torch.from_numpy(labels)), scores.argmax(1).numpy()
    return classified(bench, rows[known], classes, labels, found)


def objects(bench: Bench) -> tuple[np.ndarray, Tensor, list[str]]:
    """The rows of the samples that n objects are in, the mean fused token of each (n, D), and their categories."""
    boxes: dict[int, list[tuple[int, str]]] = {}
    for row, sample in enumerate(bench.samples):
        for box in range(len(sample.get("boxes", ())) if bench.captions[row] else 0):
            if name := category(sample, box):
                boxes.setdefault(row, []).append((box, name))
    if not boxes:
        raise CannotEvaluate(
            f"token_probe needs boxes with a category; no captioned sample of {bench.data.name} has one."
        )
    texts = list(dict.fromkeys(bench.captions[row][0] for row in boxes))
    place = {text: column for column, text in enumerate(texts)}
    pairs, means = np.array([(row, place[bench.captions[row][0]]) for row in boxes]), []
    for some, image, text in paired(bench.encoded_images, bench.encoded_texts(texts), pairs, bench.device):
        fused = bench.method.probe(image, text).float().cpu()  # (B, P, D)
        for at, tokens in enumerate(fused):
            row = int(pairs[some][at, 0])
            own = image.take(slice(at, at + 1)).each(lambda part: part.cpu())
            means += [
                tokens[at_place(own, len(tokens), bench.samples[row]["boxes"][box])].mean(0) for box, _ in boxes[row]
            ]
    named = [(row, name) for row, of in boxes.items() for _, name in of]
    return np.array([row for row, _ in named]), torch.stack(means), [name for _, name in named]


def at_place(image: Features, tokens: int, box: Sequence[float]) -> Tensor:
    """Which of the tokens of one image (1, P, ...) lie at a box, (P,) bool; at least one.

    Raises:
        CannotEvaluate: the tokens have no boxes and are not as many as a square grid of patches has.
    """
    if image.boxes is not None:
        shares = overlap(torch.as_tensor(np.asarray(box, np.float32))[None], image.boxes[0])[0]
        shares = shares.masked_fill(~image.mask[0], -1)
        return shares >= min(0.5, float(shares.max()))
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise CannotEvaluate(
            f"token_probe needs tokens that are regions with boxes or a square grid; there are {tokens}."
        )
    return torch.from_numpy(covered(box, (side, side))).flatten()


def neighbour_votes(images: Tensor, train: Tensor, labels: Tensor, classes: int, k: int = NEIGHBOURS) -> Tensor:
    """Votes (N, C) of the k nearest of M training rows: images (N, D), train (M, D), both normalised here."""
    images, train = F.normalize(images, dim=-1), F.normalize(train, dim=-1)
    votes = torch.zeros(len(images), classes)
    cosine, nearest = top_k(images, train, k)  # (N, k)
    # the largest weight is 1: exp(1 / 0.07) is far out, and only ratios count
    weights = ((cosine - cosine[:, :1]) / TEMPERATURE).exp()
    return votes.scatter_add_(1, labels[nearest], weights)


def fit_linear(features: Tensor, labels: Tensor, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logistic regression with the penalty that does best on a held-out fifth, then fitted to all of (M, D).

    Returns:
        weight (C, D) and bias (C,) in float64, for features as they came in.
    """
    features = features.double()
    shuffled = torch.from_numpy(np.random.default_rng(seed).permutation(len(features)))
    held, rest = shuffled[: len(shuffled) // 5], shuffled[len(shuffled) // 5 :]
    losses = []
    for strength in STRENGTHS if len(held) else ():
        weight, bias = logistic_regression(features[rest], labels[rest], classes, strength)
        losses.append(float(F.cross_entropy(features[held] @ weight.T + bias, labels[held])))
    best = STRENGTHS[int(np.argmin(losses))] if losses else STRENGTHS[len(STRENGTHS) // 2]
    return logistic_regression(features, labels, classes, best)


def logistic_regression(features: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Minimises mean cross-entropy + strength / 2 x |weight|^2 on standardised features (M, D), by L-BFGS.

    The bias is not penalised. Returns weight (C, D) and bias (C,) for features that are not standardised.
    """
    features = features.double()
    centre, spread = features.mean(0), features.std(0, correction=0)
    spread = torch.where(spread > 1e-8, spread, torch.ones_like(spread))  # a constant feature says nothing
    standard = (features - centre) / spread
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(standard @ weight.T + bias, labels) + strength / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    scaled = weight.detach() / spread
    return scaled, bias.detach() - scaled @ centre


def _sets(bench: Bench) -> tuple[np.ndarray, Tensor, tuple[Tensor, Tensor]]:
    """Rows and features (N, D) of the judged pictures; features (M, D) and labels (M,) of the training ones."""
    train = bench.train
    if train is None:
        raise CannotEvaluate("probes need a training set beside the evaluated one: none was given (train_data).")
    index = {name: position for position, name in enumerate(bench.classes)}
    own = np.array([index.get(name, -1) for name in train.classes], dtype=np.int64)
    known = np.flatnonzero((train.labels >= 0) & (train.labels < len(own)))
    known = known[own[train.labels[known]] >= 0]  # classes that the evaluated set does not know cannot be answers
    if len(known) == 0:
        raise CannotEvaluate(f"no class of {bench.data.name} occurs in the training set {train.data.name}.")
    rows = labelled(bench)
    labels = torch.from_numpy(own[train.labels[known]])
    return rows, bench.images.pooled[torch.from_numpy(rows)], (train.images.pooled[torch.from_numpy(known)], labels)


def _judged(bench: Bench, rows: np.ndarray, scores: Tensor) -> Result:
    ranks = rank_of_class(scores, torch.from_numpy(bench.labels[rows]))
    return classification(bench, rows, ranks, scores.argmax(1).numpy())
