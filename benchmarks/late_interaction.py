"""FILIP's late interaction, forward and backward: the tiled form against the plain one.

python benchmarks/late_interaction.py --batch 256 --tile 16
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from side_by_side import Step, report
from torch.nn import functional as F

from diptych.batch import Features
from diptych.objectives.late_interaction import filip_loss


def make(args: argparse.Namespace, form: str, place: torch.device) -> Step:
    torch.manual_seed(0)
    patches = F.normalize(torch.randn(args.batch, args.patches, args.width, device=place), dim=-1).requires_grad_()
    words = F.normalize(torch.randn(args.batch, args.words, args.width, device=place), dim=-1).requires_grad_()
    length = torch.randint(args.words // 4, args.words + 1, (args.batch, 1), device=place)
    masks = (
        torch.ones(patches.shape[:2], dtype=torch.bool, device=place),
        torch.arange(args.words, device=place) < length,
    )
    scale = torch.tensor(14.0, device=place)

    def step() -> None:
        image, text = Features(patches, patches[:, 0], masks[0]), Features(words, words[:, 0], masks[1])
        filip_loss(image, text, scale, keep=args.keep, tile=args.tile if form == "tiled" else 0).backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--patches", type=int, default=49)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--keep", type=float, default=1.0)
    parser.add_argument("--tile", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    title = f"late interaction, B {args.batch}, {args.patches} x {args.words} tokens, D {args.width}, keep {args.keep}"
    report(f"{title}, tile {args.tile}", partial(make, args), "plain", "tiled", args.repeats, args.device)


if __name__ == "__main__":
    main()
