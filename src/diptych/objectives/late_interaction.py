"""Token-wise late interaction between images and texts: FILIP (Yao et al. 2021, arXiv 2111.07783).

An image scores a text by letting each patch take its best word, a text scores an image by letting each word take its
best patch; averages over the real tokens are the two similarities, and they differ. A mean, not ColBERT's sum, which
would let long texts win. Padding is masked with -inf: with zeros instead, a pad would be the best word of any patch
that likes no word.

Letters: I images of n1 tokens, T texts of n2 tokens, D width, B pairs of this process, C = world * B of all.
Tokens are L2-normalised by the caller, so that similarities lie in [-1, 1]. Every row has at least one real token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.batch import Features, Gather
from diptych.objectives import tiled
from diptych.objectives.contrastive import ALONE, Targets, exact, info_nce_from_logits, precise


def late_interaction(
    image: Tensor, image_mask: Tensor, text: Tensor, text_mask: Tensor, tile: int = 0
) -> tuple[Tensor, Tensor]:
    """Both similarities of every image with every text (FILIP, section 3.1).

    Args:
        image: (I, n1, D).
        image_mask: (I, n1) bool, True where a token is real.
        text: (T, n2, D).
        text_mask: (T, n2) bool.
        tile: above 0, images and texts of the tiles in which the (I, T, n1, n2) cosines are computed and forgotten.

    Returns:
        s_image (I, T): mean over an image's tokens of the best cosine with a token of the text; rows rank texts.
        s_text (I, T): mean over a text's tokens of the best cosine with a token of the image; columns rank images.
    """
    with precise(image):
        image, text = exact(image), exact(text)
        if tile:
            image, text = _without_pads(image, image_mask), _without_pads(text, text_mask)
            weights = _weights(image_mask, image), _weights(text_mask, text)
            s_image, s_text = tiled.max_mean(image, weights[0], text, weights[1], tile)
            assert s_text is not None
            return s_image, s_text
        cosine = torch.einsum("ikd,jrd->ijkr", image, text)  # (I, T, n1, n2)
        best_word = cosine.masked_fill(~text_mask[None, :, None, :], -torch.inf).max(3).values  # (I, T, n1)
        best_patch = cosine.masked_fill(~image_mask[:, None, :, None], -torch.inf).max(2).values  # (I, T, n2)
        return _mean(best_word, image_mask[:, None]), _mean(best_patch, text_mask[None])


def token_similarity(query: Tensor, query_mask: Tensor, key: Tensor, key_mask: Tensor, tile: int = 0) -> Tensor:
    """One side of `late_interaction`: the mean over query tokens of the best cosine with a token of the key.

    Args:
        query: (Q, nq, D).
        query_mask: (Q, nq) bool.
        key: (K, nk, D).
        key_mask: (K, nk) bool.
        tile: as in `late_interaction`.

    Returns:
        (Q, K).
    """
    with precise(query):
        query, key = exact(query), exact(key)
        if tile:
            query, key = _without_pads(query, query_mask), _without_pads(key, key_mask)
            return tiled.max_mean(query, _weights(query_mask, query), key, None, tile)[0]
        cosine = torch.einsum("ikd,jrd->ijkr", query, key)  # (Q, K, nq, nk)
        best = cosine.masked_fill(~key_mask[None, :, None, :], -torch.inf).max(3).values
        return _mean(best, query_mask[:, None])


@torch.no_grad()
def token_scores(
    image: Tensor, image_mask: Tensor, text: Tensor, text_mask: Tensor, tile: int = 32
) -> tuple[Tensor, Tensor]:
    """How well each token matches the other modality: its best cosine with any real token of any sample there.

    Args:
        image: (I, n1, D) tokens of the local batch.
        image_mask: (I, n1) bool.
        text: (T, n2, D).
        text_mask: (T, n2) bool.
        tile: images and texts that are compared at a time.

    Returns:
        (I, n1) and (T, n2), -inf for padding; without gradient.
    """
    with precise(image):
        image, text = _without_pads(exact(image), image_mask), _without_pads(exact(text), text_mask)
        image_scores = torch.full_like(image[..., 0], -torch.inf)
        text_scores = torch.full_like(text[..., 0], -torch.inf)
        for patches, best_word in zip(image.split(tile), image_scores.split(tile), strict=True):
            for words, best_patch in zip(text.split(tile), text_scores.split(tile), strict=True):
                cosine = patches.flatten(0, 1) @ words.flatten(0, 1).T
                torch.maximum(best_word, cosine.amax(1).view_as(best_word), out=best_word)
                torch.maximum(best_patch, cosine.amax(0).view_as(best_patch), out=best_patch)
        return image_scores.masked_fill(~image_mask, -torch.inf), text_scores.masked_fill(~text_mask, -torch.inf)


def select_tokens(tokens: Tensor, mask: Tensor, scores: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Keeps the best-scored share of each sample's tokens, in their order (FILIP, section 3.1, on efficiency).

    A share of the padded length, floor(keep * n) and at least one, so that all processes gather one shape; where a
    short text has fewer real tokens than that, the rest is marked as padding.

    Args:
        tokens: (B, n, D).
        mask: (B, n) bool.
        scores: (B, n), one of the two from `token_scores`, -inf for padding.
        keep: share in (0, 1].

    Returns:
        The kept tokens (B, k, D), with gradient, and their mask (B, k).

    Raises:
        ValueError: `keep` is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"The share of tokens to keep must be above 0 and at most 1; it is {keep}.")
    count = max(1, int(keep * tokens.shape[1] + 1e-6))
    index = scores.topk(count, dim=1).indices.sort(1).values  # (B, k)
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2])), mask.gather(1, index)


def filip_loss(
    image: Features,
    text: Features,
    scale: Tensor,
    gather: Gather = ALONE,
    keep: float = 0.25,
    tile: int = 0,
    targets: Targets = None,
    wire: torch.dtype | None = None,
) -> Tensor:
    """FILIP's loss: InfoNCE over the similarities of `late_interaction`, the mean of both directions.

    The local tokens stay whole; of the gathered ones only the share `keep` of each sample's tokens is left, chosen
    before the gathering by their best match in the local batch.

    Args:
        image: tokens (B, n1, D), mask (B, n1).
        text: tokens (B, n2, D), mask (B, n2).
        scale: scalar by which similarities are multiplied, 1 / tau.
        gather: brings the kept tokens (and ids) of all processes.
        keep: share of tokens that the gathered side keeps; 1 keeps all.
        tile: above 0, images and texts of a tile, as in `late_interaction`.
        targets: as in `info_nce`.
        wire: precision in which tokens travel between processes (the paper: float16); None keeps theirs.

    Returns:
        Scalar, in nats.
    """
    with precise(image.tokens):
        if isinstance(targets, Tensor) and targets.ndim == 1:
            targets = gather(targets)
        offset = gather.rank * len(image.tokens)
        if keep == 1 and gather.world == 1:  # both sides from one product
            s_image, s_text = late_interaction(image.tokens, image.mask, text.tokens, text.mask, tile)
            return info_nce_from_logits(scale * s_image, scale * s_text.T, targets, offset)
        images, texts = (image.tokens, image.mask), (text.tokens, text.mask)
        if keep != 1:
            image_scores, text_scores = token_scores(*images, *texts)
            images, texts = select_tokens(*images, image_scores, keep), select_tokens(*texts, text_scores, keep)
        images, texts = _travel(*images, gather, wire), _travel(*texts, gather, wire)  # (C, k1, D), (C, k2, D)
        s_image = token_similarity(image.tokens, image.mask, *texts, tile=tile)  # (B, C), s^I
        s_text = token_similarity(text.tokens, text.mask, *images, tile=tile)  # (B, C), s^T transposed
        return info_nce_from_logits(scale * s_image, scale * s_text, targets, offset)


def _travel(tokens: Tensor, mask: Tensor, gather: Gather, wire: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """The tokens of all processes and their mask."""
    return gather(tokens.to(wire or tokens.dtype)).to(tokens.dtype), gather(mask)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last dimension, of the real tokens only."""
    return values.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)


def _weights(mask: Tensor, like: Tensor) -> Tensor:
    """(B, n): what `_mean` multiplies each token by."""
    return mask.to(like.dtype) / mask.sum(1, keepdim=True)


def _without_pads(tokens: Tensor, mask: Tensor) -> Tensor:
    """Puts a copy of the sample's first real token into each pad: no maximum changes, so no tile needs a mask."""
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    source = torch.where(mask, place, mask.int().argmax(1, keepdim=True))
    return tokens.gather(1, source[..., None].expand_as(tokens))
