"""What joins two modalities: attention from one to the other, in layers of their own or inside those of a tower."""

from __future__ import annotations

from diptych.fusion.cross import Attention, CrossLayer, CrossPair, Layer, Sublayer, initialise
from diptych.fusion.inside import GatedCross, inside

__all__ = ["Attention", "CrossLayer", "CrossPair", "GatedCross", "Layer", "Sublayer", "initialise", "inside"]
