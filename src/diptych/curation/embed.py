"""Features of pictures and captions by a trained method, which is known here by its protocols only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diptych.batch import Sample
from diptych.card import EmbedsImages, EmbedsTexts, ScoresPairs

if TYPE_CHECKING:
    from diptych.batch import Features

_STAND_IN = "a picture"  # for views that ask for a caption where only the picture counts


class Embedder:
    """A method in evaluation mode on a device. It can be sent to other processes.

    Raises:
        ValueError: the method does not do what is asked of it.
    """

    def __init__(self, method: Any, device: str = "cpu", *, texts: bool = True) -> None:
        asked: dict[str, Any] = {"embeds pictures": EmbedsImages}
        asked |= {"embeds texts": EmbedsTexts, "scores pairs": ScoresPairs} if texts else {}
        lacking = [does for does, protocol in asked.items() if not isinstance(method, protocol)]
        if lacking:
            raise ValueError(f"{method.card.id} cannot be used here: nothing in it {' or '.join(lacking)}.")
        self.method, self.device = method.eval(), device
        self.identity = f"{method.card.id} {method.config} {digest(method)}"

    def view(self, key: str, image: Any) -> Mapping[str, Any]:
        """What the method wants to see of a picture."""
        seen = self.method.views(Sample(key, {"image": image, "text": _STAND_IN, "texts": [_STAND_IN]}), None)
        return dict(seen)

    def images(self, views: Sequence[Mapping[str, Any]]) -> Features:
        """B views -> features of the pictures, on the device."""
        import torch

        from diptych.data.loader import collate

        with torch.no_grad():
            features: Features = self.method.to(self.device).embed_image(collate(views).to(self.device))
        return features

    def texts(self, texts: list[str]) -> Features:
        """K captions -> their features, on the device."""
        import torch

        with torch.no_grad():
            features: Features = self.method.embed_text(self.method.tokenize(texts).to(self.device))
        return features

    def scores(self, image: Features, text: Features) -> list[float]:
        """One picture and K captions -> K similarities: the mean of both directions where these differ."""
        import torch

        with torch.no_grad():
            forth, back = self.method.similarity(image, text)  # (1, K) each
        return [float(value) for value in ((forth + back) / 2)[0]]


def digest(method: Any) -> str:
    """A digest of all weights: two methods with equal weights have the same."""
    import torch

    found = hashlib.sha256()
    for name, value in sorted(method.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
