"""What a method says of itself, and the protocols by which evaluations meet methods.

An evaluation names the protocol that it wants and never a method; a method implements the protocols that make sense
for it. `isinstance(method, EmbedsImages)` is the whole mechanism.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from diptych.config import IF_USED

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from diptych.batch import Batch, Features, Sample, Step, Terms
    from diptych.recipe import Recipe, Stage


@dataclass(frozen=True)
class Claim:
    """What a method says it does better than its baseline, fixed before it is measured; `diptych claim ID` decides.

    It is confirmed when the 95 % interval of the difference to the baseline, and of that to the control where there is
    one, lies on the right side of zero, or of `margin` below it.
    """

    metric: str
    """task/metric that decides, such as `pointing/phrase`, on the first of `val` that has it"""
    data: tuple[str, ...]
    val: tuple[str, ...]
    baseline: str
    """method id, with options where it needs some: `clip:pool=mean`"""
    budget: str
    """of each run, as in `diptych compare`: `samples=30k`"""
    control: str = ""
    """a variant that has the trivial part of the change alone, and should not do as well"""
    direction: Literal["higher", "lower"] = "higher"
    also: tuple[str, ...] = ()
    """other tasks or metrics that are measured beside it and decide nothing"""
    settings: tuple[str, ...] = ()
    """options of all sides, `image_width=96`"""
    seeds: int = 3
    about: str = ""
    """the claim in a sentence"""
    margin: float = 0.0
    """how far behind it may be and still count as no worse, in the units of the metric, for what is cheaper"""
    share: float = field(default=1.0, metadata=IF_USED)
    """it is compared with so large a share of the baseline's figure: 0.5 and `lower` claim at most half of it"""


@dataclass(frozen=True)
class Card:
    """Who a method is. Written with literal values only, so that lists of methods are read without importing them."""

    id: str
    title: str
    year: int
    arxiv: str
    family: Literal["contrastive", "fusion", "generative", "adaptation", "points", "vision"]
    modalities: tuple[str, ...] = ("image", "text")
    needs: tuple[str, ...] = ("image", "text")
    baseline: str | None = None
    idea: str = ""
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """one or several, each by a word for what it is about: `diptych claim ID/WORD`"""


@runtime_checkable
class Method(Protocol):
    """What the trainer asks of a method (an `nn.Module`)."""

    card: Card
    config: Any

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Sample -> named tensors; random when `rng` is given (training), deterministic when it is None."""
        ...

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Batch -> named loss terms."""
        ...

    def stages(self, recipe: Recipe) -> list[Stage]:
        """What trains when."""
        ...


@runtime_checkable
class EmbedsImages(Protocol):
    """Turns a batch with `image` into features in the joint space, L2-normalised."""

    def embed_image(self, batch: Batch) -> Features:
        """(B, 3, H, W) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        ...


@runtime_checkable
class EmbedsTexts(Protocol):
    """Turns texts into features in the joint space, L2-normalised."""

    def tokenize(self, texts: list[str]) -> Batch:
        """B strings -> a batch with `text` (B, T) int64 and `text_mask` (B, T) bool."""
        ...

    def embed_text(self, batch: Batch) -> Features:
        """(B, T) -> tokens (B, T, D), pooled (B, D), mask (B, T)."""
        ...


@runtime_checkable
class ScoresPairs(Protocol):
    """Scores every image of one set against every text of another, from their features.

    `similarity` returns two (I, T) matrices: image -> text (rows rank texts) and text -> image (columns rank images).
    They are the same for a dual encoder with one vector a side and differ for late interaction.
    """

    prompts: tuple[str, ...]  # sentences for zero-shot classification, `{}` is the class; none: the evaluation's own
    prompt_ensemble: Literal["features", "similarities"]

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Features of I images and of T texts -> two (I, T) matrices of similarities in [-1, 1]."""
        ...


@runtime_checkable
class EncodesPairs(Protocol):
    """Turns both sides into what fusion starts from. An "image" may be a picture, its regions or a clip."""

    def tokenize(self, texts: list[str]) -> Batch:
        """As in `EmbedsTexts`."""
        ...

    def encode_image(self, batch: Batch) -> Features:
        """What is seen -> tokens (B, P, D), pooled (B, D), mask (B, P), boxes (B, P, 4) where tokens are regions."""
        ...

    def encode_text(self, batch: Batch) -> Features:
        """`text` and `text_mask` (B, T) -> tokens (B, T, D), pooled (B, D), mask (B, T)."""
        ...


@runtime_checkable
class MatchesPairs(EncodesPairs, Protocol):
    """Says whether an image and a text belong together, by fusing them."""

    def match(self, image: Features, text: Features) -> Tensor:
        """Encoded images and texts of B pairs -> (B,) log-odds, by which pairs are ranked."""
        ...


@runtime_checkable
class EmbedsPairs(EncodesPairs, Protocol):
    """Makes one vector of an image and a text, by fusing them."""

    def embed_pair(self, image: Features, text: Features) -> Tensor:
        """Encoded images and texts of B pairs -> (B, D), compared by the cosine of their angle."""
        ...


@runtime_checkable
class AnswersQuestions(EncodesPairs, Protocol):
    """Answers questions about an image, choosing from a list."""

    @property
    def answers(self) -> tuple[str, ...]:
        """The A answers that it knows; none: it was not trained to answer."""
        ...

    def answer(self, image: Features, question: Features) -> Tensor:
        """Encoded images and questions of B pairs -> (B, A) logits."""
        ...


@runtime_checkable
class JudgesStatements(EncodesPairs, Protocol):
    """Says whether a statement about two images is true."""

    def judge(self, first: Features, second: Features, text: Features) -> Tensor:
        """Encoded first and second images and statements -> (B,) log-odds that each is true."""
        ...


@runtime_checkable
class Locates(EncodesPairs, Protocol):
    """Says where what a text speaks of is, in boxes."""

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """As in `Grounds`."""
        ...

    def locate(self, image: Features, text: Features, about: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded pairs, and which tokens of each text are asked for (B, T) bool.

        Returns:
            N boxes an image (B, N, 4), as x0, y0, x1, y1 in [0, 1], and how well each fits (B, N); -inf is none.
        """
        ...


@runtime_checkable
class AlignsWords(EncodesPairs, Protocol):
    """Says which region each token of a text belongs to."""

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """As in `Grounds`."""
        ...

    def align(self, image: Features, text: Features) -> Tensor:
        """Encoded pairs -> (B, T, P) weights; P tokens of the image with `boxes`."""
        ...


@runtime_checkable
class FillsWords(EncodesPairs, Protocol):
    """Guesses words of a text that are masked, with the image before it."""

    mask_id: int
    """id of the token that stands for a masked word"""

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """As in `Grounds`."""
        ...

    def fill(self, image: Features, text: Features) -> Tensor:
        """Encoded pairs -> (B, T, V) logits of the word at each place of the text."""
        ...


@runtime_checkable
class ProbesTokens(EncodesPairs, Protocol):
    """Gives the tokens of images after fusion, to be probed."""

    def probe(self, image: Features, text: Features) -> Tensor:
        """Encoded pairs -> fused tokens of the images (B, P, D): regions with `boxes`, or a square grid, row by row."""
        ...


@runtime_checkable
class Captions(Protocol):
    """Says in words what is seen."""

    def encode_image(self, batch: Batch) -> Features:
        """As in `EncodesPairs`."""
        ...

    def caption(self, image: Features) -> list[str]:
        """Encoded images -> a caption for each."""
        ...


class TooLong(ValueError):
    """A prompt, with all that is seen in it, has more tokens than a method reads."""


@runtime_checkable
class Generates(Protocol):
    """Writes what follows a prompt, about what is seen; `image=None` is the model that sees nothing.

    A prompt of which not all can be read raises `TooLong`.
    """

    prompts: Mapping[
        str, str
    ]  # task -> prompt, `{}` stands for the question: "caption", "question", "choice", "yes_no"

    def encode_image(self, batch: Batch) -> Features:
        """What is seen -> tokens (B, P, C), pooled (B, C), mask (B, P): the part that no prompt changes."""
        ...

    def respond(self, image: Features | None, prompts: Sequence[str], longest: int = 32, beams: int = 1) -> list[str]:
        """B prompts -> what is written after each, of at most `longest` tokens; with one beam the likeliest token."""
        ...

    def likelihood(
        self, image: Features | None, prompts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """B prompts, B answers -> (B,) sum of the log probabilities of an answer's tokens, (B,) how many they are."""
        ...

    def token_likelihood(
        self, image: Features | None, prompts: Sequence[str], answers: Sequence[str]
    ) -> list[list[tuple[int, int, float, bool]]]:
        """For each token of each answer: its characters (start, end), its log probability, whether it is likeliest."""
        ...


@runtime_checkable
class ShowsLayers(Protocol):
    """Shows what each layer of its language model makes of what is seen and read."""

    def encode_image(self, batch: Batch) -> Features:
        """As in `Generates`."""
        ...

    def hidden_states(self, image: Features, texts: Sequence[str]) -> tuple[Sequence[Tensor], Tensor, Tensor]:
        """Encoded images, and B texts as answers to them.

        Returns:
            The hidden states (B, T, D) behind each of L layers, the last ones after the final norm; which tokens are
            visual (B, T), and which stand behind these (B, T), bool.
        """
        ...


@runtime_checkable
class PredictsTexts(Protocol):
    """Says how likely each token of a text is from the text before it alone: a reference for what needs the picture."""

    def text_chances(self, texts: Sequence[str]) -> list[tuple[list[int], list[float]]]:
        """For each text the ids of its tokens, the one that ends it included, and the probability of each."""
        ...


@runtime_checkable
class Grounds(Protocol):
    """Says where in the picture a token of the text is."""

    def heat(self, image: Features, text: Features) -> Tensor:
        """Features of B pairs -> (B, T, h, w): how strongly each image position answers each text token."""
        ...

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """For each text the characters (start, end) that each token covers; (0, 0) for special tokens."""
        ...
