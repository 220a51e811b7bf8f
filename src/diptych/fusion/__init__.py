"""What joins two modalities: attention from one to the other, or tokens of one made into tokens of the other."""

from __future__ import annotations

from diptych.fusion.connectors import AdaptivePool, AveragePool, Chain, Connector, Projector
from diptych.fusion.cross import Attention, CrossLayer, CrossPair, Layer, Sublayer, initialise
from diptych.fusion.inside import GatedCross, inside

__all__ = [
    "AdaptivePool",
    "Attention",
    "AveragePool",
    "Chain",
    "Connector",
    "CrossLayer",
    "CrossPair",
    "GatedCross",
    "Layer",
    "Projector",
    "Sublayer",
    "initialise",
    "inside",
]
