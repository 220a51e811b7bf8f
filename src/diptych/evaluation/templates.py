"""The sentence into which each of the usual data sets puts its class names.

Sources: Zhou et al., Learning to Prompt for Vision-Language Models, 2022, appendix; after Radford et al., 2021.
"""

from __future__ import annotations

import re

PHOTO = "a photo of a {}."
TEMPLATES: dict[str, str] = {
    "imagenet": PHOTO,
    "imagenetv2": PHOTO,
    "imagenetsketch": PHOTO,
    "imageneta": PHOTO,
    "imagenetr": PHOTO,
    "caltech101": PHOTO,
    "oxfordpets": "a photo of a {}, a type of pet.",
    "stanfordcars": PHOTO,
    "oxfordflowers": "a photo of a {}, a type of flower.",
    "food101": "a photo of {}, a type of food.",
    "fgvcaircraft": "a photo of a {}, a type of aircraft.",
    "sun397": PHOTO,
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "ucf101": "a photo of a person doing {}.",
}
"""The eleven data sets of CoOp and the shifts of ImageNet, by names without signs: `oxford_pets` is `oxfordpets`."""


def template_of(name: str) -> tuple[str, ...]:
    """The sentence for a data set of this name; none for one that is not known."""
    found = TEMPLATES.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    return (found,) if found else ()
