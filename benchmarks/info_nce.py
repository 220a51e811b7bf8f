"""InfoNCE and the sigmoid loss, forward and backward: the tiled form against the plain one.

python benchmarks/info_nce.py --batch 4096 --loss info_nce --tile 1024
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from side_by_side import Step, report
from torch.nn import functional as F

from diptych.objectives.contrastive import info_nce, sigmoid_loss


def make(args: argparse.Namespace, form: str, place: torch.device) -> Step:
    torch.manual_seed(0)
    image = F.normalize(torch.randn(args.batch, args.width, device=place), dim=-1).requires_grad_()
    text = F.normalize(torch.randn(args.batch, args.width, device=place), dim=-1).requires_grad_()
    scale = torch.tensor(14.0, device=place, requires_grad=True)
    bias = torch.tensor(-10.0, device=place, requires_grad=True)
    ids = torch.arange(args.batch, device=place) // 2
    tile = args.tile if form == "tiled" else 0

    def step() -> None:
        if args.loss == "sigmoid":
            loss = sigmoid_loss(image, text, scale, bias, tile=tile)
        else:
            loss = info_nce(image, text, scale, targets=ids if args.loss == "multi-positive" else None, tile=tile)
        loss.backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--loss", choices=["info_nce", "multi-positive", "sigmoid"], default="info_nce")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    title = f"{args.loss}, B {args.batch}, D {args.width}, tile {args.tile}"
    report(title, partial(make, args), "plain", "tiled", args.repeats, args.device)


if __name__ == "__main__":
    main()
