"""What BLIP-2 learns of pictures and captions with the Q-Former alone, before any language model (its stage 1).

Li et al., arXiv 2301.12597, section 3.1. Three tasks of one network, which differ in what queries and words see of
each other: contrast (each alone), matching (both see all), captions (words see queries and the words before them).

Letters: B samples, Q queries, T tokens, P tokens of a picture, W width, C width of the picture, E joint space, V words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features, Step, Terms
from diptych.fusion.qformer import QFormer
from diptych.objectives.captioning import next_words
from diptych.objectives.contrastive import exact, info_nce_from_logits
from diptych.objectives.masked import IGNORE
from diptych.objectives.matching import hard_pairs, matching_loss
from diptych.objectives.queue import own_columns
from diptych.objectives.tied import TiedHead

SMOOTHING = 0.1
"""of the labels of contrast and captions (LAVIS, blip2_qformer.py at baad2d7 and Qformer.py at c6bec01)"""


class Querying(nn.Module):
    """Heads and losses; the Q-Former itself is handed in, as the language model's connector owns it.

    Args:
        width: W.
        vocab: V; the last id begins a caption that is written (LAVIS: [DEC]).
        embed: E.
        tau: initial temperature of the contrast, learned from there.
    """

    def __init__(self, width: int, vocab: int, embed: int, tau: float = 0.07) -> None:
        super().__init__()
        self.begin = vocab - 1
        self.image_map, self.text_map = nn.Linear(width, embed), nn.Linear(width, embed)
        self.match_head = nn.Linear(width, 2)
        self.word_head = TiedHead(width, vocab)
        self.tau = nn.Parameter(torch.tensor(tau))

    def forward(self, qformer: QFormer, image: Features, ids: Tensor, mask: Tensor, step: Step) -> Terms:
        """Pictures (B, P, C) and captions (B, T) with their masks -> `itc`, `itm` and `itg`, each of weight 1."""
        words = qformer.words(ids)
        text = Features(words, words[:, 0], mask)
        seen, said = self.image(qformer, image), self.text(qformer, text).tokens[:, 0]
        found = best_query(seen, said, step.gather(seen), step.gather(said))
        forth, back = found[0] / self.tau, found[1] / self.tau
        offset = step.gather.rank * len(seen)
        itc = info_nce_from_logits(forth, back, smoothed(forth, offset), offset)
        # of this process, as in the other methods; LAVIS draws from all, but hands no gradient to their features
        pairs = hard_pairs(own_columns(forth, step.gather), own_columns(back, step.gather))
        matches = self.match_logits(qformer, image.take(pairs.image), text.take(pairs.text))
        return Terms(
            {"tau": self.tau.detach()},
            itc=itc,
            itm=matching_loss(matches, pairs.matched),
            itg=self.write_loss(qformer, image, ids, mask),
        )

    def image(self, qformer: QFormer, image: Features) -> Tensor:
        """(B, P, C) -> the queries in the joint space, of length 1: (B, Q, E)."""
        return F.normalize(exact(self.image_map(qformer.look(image.tokens, image.mask)[0])), dim=-1)

    def text(self, qformer: QFormer, text: Features) -> Features:
        """Words (B, T, W) -> in the joint space, of length 1: (B, T, E), of which the first stands for the caption."""
        tokens = F.normalize(exact(self.text_map(qformer.read(text.tokens, text.mask))), dim=-1)
        return Features(tokens, tokens[:, 0], text.mask)

    def match_logits(self, qformer: QFormer, image: Features, text: Features) -> Tensor:
        """Queries that saw picture and caption -> (B, 2) logits that they belong together, the mean of the queries'."""
        queries, _ = qformer.look(image.tokens, image.mask, text.tokens, text.mask)
        logits: Tensor = self.match_head(queries).mean(1)
        return logits

    def write_logits(self, qformer: QFormer, image: Features, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, T, V) of what follows each token; in place of the first stands that which begins a caption."""
        ids = torch.cat([torch.full_like(ids[:, :1], self.begin), ids[:, 1:]], dim=1)
        _, hidden = qformer.look(image.tokens, image.mask, qformer.words(ids), mask, written=True)
        logits: Tensor = self.word_head(hidden, qformer.model.embeddings.word_embeddings.weight)
        return logits

    def write_loss(self, qformer: QFormer, image: Features, ids: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of each next word, labels smoothed; mean over words."""
        labels = next_words(ids, mask)
        logits = exact(self.write_logits(qformer, image, ids, mask)[labels != IGNORE])
        total = F.cross_entropy(logits, labels[labels != IGNORE], label_smoothing=SMOOTHING, reduction="sum")
        return total / max(len(logits), 1)


def best_query(image: Tensor, text: Tensor, all_image: Tensor, all_text: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity of picture and text is that of the query that is closest to the text.

    Args:
        image: (B, Q, E), L2-normalised.
        text: (B, E), L2-normalised.
        all_image: (N, Q, E), of all processes.
        all_text: (N, E).

    Returns:
        (B, N) of pictures with all texts, (B, N) of texts with all pictures.
    """
    forth = torch.einsum("bqe,ne->bnq", image, all_text).amax(-1)
    back = torch.einsum("be,nqe->bnq", text, all_image).amax(-1)
    return forth, back


def smoothed(logits: Tensor, offset: int) -> Tensor:
    """(B, N) -> targets (B, N): the pair's own column, offset by those of other processes, smoothed over all."""
    own = torch.arange(len(logits), device=logits.device) + offset
    one = F.one_hot(own, logits.shape[1]).to(logits.dtype)
    return one * (1 - SMOOTHING) + SMOOTHING / logits.shape[1]
