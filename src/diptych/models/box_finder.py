"""Boxes for the words of a text: a grounding head, how it learns, and what it finds (GLIP; FIBER's fine stage)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from diptych.encoders.paired import PairedTowers
from diptych.fusion.grounding_head import Grounded, GroundingHead, level_ends
from diptych.objectives.grounding import anchors, best_boxes, decode, grounding_loss, phrase_scores


@dataclass(frozen=True)
class BoxConfig:
    """Options of finding boxes."""

    levels: int = 3
    """how many of the image tower's maps boxes are found in, of those that it has; the pyramid adds two coarser ones"""
    head_width: int = 64
    """width of the head that finds boxes"""
    head_blocks: int = 2
    """number of its dynamic blocks"""
    anchor: float = 2.0
    """side of an anchor, in strides of its level (8 in the paper, whose pictures are larger)"""
    names: tuple[str, ...] = ()
    """names of things, of which texts of data without captions, made of the names of boxes, ask for 85 more"""
    most_boxes: int = 32
    """boxes of a picture that are learned from"""
    most_found: int = 10
    """boxes that are found for a phrase"""
    overlap: float = 0.6
    """intersection over union at which the worse of two boxes is left out"""


class BoxFinder(nn.Module):
    """A `GroundingHead` over the maps of a tower, with one anchor at every place.

    Args:
        head: the head.
        levels: the blocks of the image tower whose maps it reads, finest first.
        anchor: side of an anchor, in strides of its level.
        most: N, boxes that are found in a picture.
        threshold: overlap of two of them, of which the worse is then left out.
    """

    def __init__(self, head: GroundingHead, levels: list[int], anchor: float, most: int, threshold: float) -> None:
        super().__init__()
        self.head, self.levels, self.anchor, self.most, self.threshold = head, levels, anchor, most, threshold

    def loss(
        self, maps: Sequence[Tensor], text: Tensor, real: Tensor, named: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """The terms `token`, `box` and `centre`.

        Args:
            maps: of the tower, (B, C, h, w), finest first.
            text: (B, T, E).
            real: (B, T) bool.
            named: boxes (B, N, 4), their mask (B, N), and the tokens that name each (B, N, T).
        """
        said = self.head(maps, text)
        places = self._anchors(said)
        return grounding_loss(said[:3], places, level_ends(said.grids), real, named)

    def find(self, maps: Sequence[Tensor], text: Tensor, about: Tensor) -> tuple[Tensor, Tensor]:
        """Where the tokens `about` (B, T) are: boxes (B, N, 4) in the picture, best first, and their scores (B, N).

        A score is the root of the phrase's probability times centredness, in [0, 1]; -inf is no box.
        """
        said = self.head(maps, text)
        boxes = decode(said.deltas.float(), self._anchors(said)).clamp(0, 1)
        scores = (phrase_scores(said.scores.float(), about) * said.centredness.float().sigmoid()).sqrt()
        return best_boxes(boxes, scores, self.most, self.threshold)

    def _anchors(self, said: Grounded) -> Tensor:
        return anchors(said.grids, self.anchor, said.scores.device)


def box_finder(config: BoxConfig, towers: PairedTowers) -> BoxFinder:
    """What finds boxes in the maps of two towers.

    Raises:
        ValueError: the towers do not attend to each other.
    """
    if not towers.pairs:
        raise ValueError("Boxes are found in maps of a tower that knows the text: with fusion=top there are none.")
    levels = towers.image.levels[-config.levels :]
    widths = [towers.image.blocks[index].width for index in levels]
    head = GroundingHead(widths, towers.text.width, config.head_width, config.head_blocks)
    return BoxFinder(head, levels, config.anchor, config.most_found, config.overlap)
