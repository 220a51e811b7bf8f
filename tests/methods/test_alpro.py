"""ALPRO against its sheet and against the paper's own code."""

import math
from dataclasses import replace
from pathlib import Path

import method_helpers
import numpy as np
import pytest
import torch
from method_helpers import batch_of, figures, learn
from PIL import Image
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from diptych import methods
from diptych.batch import Batch, Features, Sample, Step
from diptych.encoders.from_hf import HfText
from diptych.encoders.tokenizer import own_tokenizer
from diptych.encoders.video import TimeSformer
from diptych.evaluation.tasks import evaluate
from diptych.methods.fusion import alpro
from diptych.methods.fusion.alpro import ALPRO, Config
from diptych.models import aligned_video
from diptych.models.start import start_from
from diptych.objectives.masked import labelled_cross_entropy
from diptych.objectives.prompting import entity_loss, mean_inside, pseudo_labels
from diptych.recipe import Recipe
from diptych.world.clips import Clips
from diptych.world.knobs import Knobs

SMALL = Config(
    image_size=16,
    image_width=16,
    image_layers=2,
    image_heads=2,
    patch=4,
    frames=3,
    text_width=16,
    text_layers=4,
    text_heads=2,
    lower=2,
    embed=8,
    context=12,
    entities=("star", "moon", "tree", "fish", "boat"),
)


def small(**options) -> ALPRO:
    torch.manual_seed(0)
    return ALPRO(replace(SMALL, **options))


def batch(method: ALPRO, size: int = 4, still: bool = False) -> Batch:
    rng = np.random.default_rng(0)
    samples = [
        {"video": torch.from_numpy(rng.integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)), "still": torch.tensor(still)}
        for _ in range(size)
    ]
    inside = torch.zeros(size, 16, dtype=torch.bool)
    inside[:, 5:7] = True
    texts = ["a star", "the moon over a tree", "two fish", "a boat and one star"][:size]
    columns = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    return Batch({**columns, "inside": inside, **method.tokenize(texts)})


def test_dropout_is_in_both_halves_of_the_text_tower_in_training_alone() -> None:
    method, plain = small(dropout=0.5), small(dropout=0.0)
    plain.load_state_dict(method.state_dict())
    seen = batch(method)
    torch.testing.assert_close(method.eval().encode_text(seen).tokens, plain.eval().encode_text(seen).tokens)
    image, text = plain.encode_image(seen), plain.encode_text(seen)
    torch.testing.assert_close(method.fuse(image, text).pooled, plain.fuse(image, text).pooled)
    method.train()
    assert not torch.allclose(method.encode_text(seen).tokens, method.encode_text(seen).tokens)
    assert not torch.allclose(method.fuse(image, text).pooled, method.fuse(image, text).pooled)


def test_one_layer_of_text_has_no_half() -> None:
    with pytest.raises(ValueError, match="text_layers two or more"):
        small(text_layers=1, lower=0)


# -- the paper's own code ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parents[1] / "reference" / "alpro.npz"))


@pytest.fixture
def ours(theirs, monkeypatch) -> ALPRO:
    """Our model with their weights: a BERT of 37 words, as theirs has."""

    def bert(*_, **__) -> HfText:
        sizes = {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=37, hidden_size=16, max_position_embeddings=12, **sizes)
        return HfText(BertModel(config, add_pooling_layer=False), "bert", own_tokenizer(12), "cls")

    monkeypatch.setattr(aligned_video, "text_encoder", bert)
    method = ALPRO(SMALL)
    found = method.from_official({name[2:]: torch.from_numpy(x) for name, x in theirs.items() if name[:2] == "w."})
    fresh, unknown = method.load_state_dict(found, strict=False)
    assert not unknown
    made_anew = {"entity_prompts", "prompted"}
    assert set(fresh) == made_anew | {
        f"{side}.video.{name}" for side in ("towers", "prompter") for name in ("mean", "std")
    }
    for side in (method.towers, method.prompter):
        side.video.mean.zero_()  # their clips are normalised already
        side.video.std.fill_(1)
    return method.eval()


def their_batch(theirs) -> Batch:
    parts = {name: torch.from_numpy(theirs[name]) for name in ("video", "ids", "atts", "inside")}
    return Batch(
        {
            "video": parts["video"],
            "text": parts["ids"],
            "text_mask": parts["atts"].bool(),
            "inside": parts["inside"].flatten(1),
            "still": torch.zeros(4, dtype=torch.bool),
        }
    )


def close(mine: torch.Tensor, reference: np.ndarray) -> None:
    torch.testing.assert_close(mine, torch.from_numpy(np.asarray(reference)), rtol=1e-5, atol=2e-6)


@pytest.mark.shows("P", "alpro")
@torch.no_grad()
def test_both_sides_and_their_fusion_are_those_of_the_papers_code(theirs, ours) -> None:
    some = their_batch(theirs)
    image, text = ours.encode_image(some), ours.encode_text(some)
    real = some.text_mask
    close(image.tokens, theirs["video_embeds"])
    close(text.tokens[real], theirs["text_embeds"][real])
    fused = ours.fuse(image, text)
    close(fused.text[real], theirs["fused"][:, :7][real])
    close(fused.image, theirs["fused"][:, 7:])
    close(ours.match_head(fused.pooled), theirs["itm_pos"])
    close(ours.embed_image(some).pooled, theirs["video_feat"])
    close(ours.embed_text(some).pooled, theirs["text_feat"])


@pytest.mark.shows("P", "alpro")
@torch.no_grad()
def test_losses_are_those_of_the_papers_code(theirs, ours) -> None:
    some = their_batch(theirs)
    image, text = ours.encode_image(some), ours.encode_text(some)
    close(ours.contrast(ours.towers, image, text, Step())[0], theirs["vtc"])
    hidden = ours.encode_text(Batch({**some, "text": torch.from_numpy(theirs["mlm_ids"])}))
    logits = ours.fill(image, hidden)
    close(logits[some.text_mask], theirs["mlm_logits"][some.text_mask])
    close(labelled_cross_entropy(logits, torch.from_numpy(theirs["labels"])), theirs["mlm"])


@pytest.mark.shows("P", "alpro")
@torch.no_grad()
def test_the_prompter_is_that_of_the_papers_code(theirs, ours) -> None:
    some = their_batch(theirs)
    for row, kind in enumerate(("video", "image")):
        ids = torch.from_numpy(theirs[f"{kind}_prompt_ids"])  # all entities in one template, then in the next
        read = ours.prompter.joint(ours.prompter.text.text(ids, torch.ones_like(ids).bool()), ours.prompter.text_head)
        close(read.unflatten(0, (12, 5)).mean(0), theirs[f"{kind}_prompts"])
        ours.entity_prompts[row] = torch.from_numpy(theirs[f"{kind}_prompts"])
    ours.prompted.fill_(True)
    ours.config = replace(ours.config, official=True)
    soft, counts = ours.ask_prompter(some)
    close(soft, theirs["soft"])
    assert torch.equal(~counts, torch.from_numpy(theirs["ignored"]))
    fused = ours.fuse(ours.encode_image(some), ours.encode_text(some)).image[:, 1:]
    logits = ours.entity_head(mean_inside(fused, some.inside))
    close(logits, theirs["pem_logits"])
    close(entity_loss(logits, soft, counts), theirs["pem"])


@pytest.mark.shows("L", "alpro")
def test_starts_from_an_official_checkpoint(theirs, ours, tmp_path) -> None:
    state = {name[2:]: torch.from_numpy(value) for name, value in theirs.items() if name.startswith("w.")}
    torch.save(state, tmp_path / "alpro.pt")
    fresh = ALPRO(replace(SMALL, start=str(tmp_path / "alpro.pt")))
    for name, value in ours.state_dict().items():
        if not name.endswith(("mean", "std")):
            assert torch.equal(fresh.state_dict()[name], value), name


@pytest.mark.shows("L", "alpro")
def test_takes_the_head_of_answers_of_an_official_checkpoint(tmp_path) -> None:
    method = small(tasks=("vqa",), answers=("yes", "no"), pem=0.0)
    state = {"classifier.0.weight": torch.ones(32, 16), "classifier.2.bias": torch.ones(2)}
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "qa.pt")
    start_from(method, str(tmp_path / "qa.pt"), method.from_official)
    assert (method.answer_head.dense.weight == 1).all()


@pytest.mark.shows("R", "alpro")
def test_the_paper_preset_has_the_parameters_of_the_papers_code() -> None:
    config = replace(methods.presets("alpro")["paper"].config, video="timesformer", text="bert")
    config = replace(config, image_width=768, image_layers=12, image_heads=12, patch=16, text_width=768, text_layers=12)
    with torch.device("meta"):
        method = ALPRO(replace(config, text_heads=12, context=512), weights=False)
    counted = sum(value.numel() for value in method.parameters())
    # ours has another vocabulary, and its prompter neither an upper half of the BERT nor heads that it never uses
    vocabulary = method.towers.text.encoder.vocab_size
    without_prompter, prompter = 233_883_429, 231_165_245
    upper_half, word_head, matching = 42_527_232, 622_650, 1_538
    expected = without_prompter + prompter - upper_half - word_head - matching
    assert counted == expected + (vocabulary - 30_522) * (2 * 768 + 1)


# -- the sheet's checks ------------------------------------------------------------------------------------------------


@pytest.mark.shows("F", "alpro")
def test_a_clip_of_any_length_has_one_token_a_patch() -> None:
    method = small()
    for frames in (1, 3, 5):
        seen = method.encode_image(Batch({"video": torch.zeros(2, frames, 3, 16, 16, dtype=torch.uint8)}))
        assert seen.tokens.shape == (2, 17, 16)


@pytest.mark.shows("F", "alpro")
@torch.no_grad()
def test_equal_frames_are_as_one_frame_at_the_beginning() -> None:
    method = small().eval()
    frame = batch(method).video[:, :1]
    once, often = (method.encode_image(Batch({"video": frame.expand(-1, count, -1, -1, -1)})) for count in (1, 3))
    torch.testing.assert_close(often.tokens, once.tokens)


@pytest.mark.shows("F", "alpro")
def test_the_temporal_path_of_every_layer_begins_at_zero() -> None:
    video = small().towers.video
    assert isinstance(video, TimeSformer)
    assert all(not layer.temporal_dense.weight.any() for layer in video.layers)
    assert not video.model.embeddings.time_embeddings.any()


@pytest.mark.shows("F", "alpro")
def test_contrast_of_aligned_and_of_uniform_features_has_the_values_of_the_sheet() -> None:
    method = small()
    size, tau = 4, float(method.towers.tau)
    method.towers.joint = lambda features, head: features.tokens[:, 0]
    eye, same = torch.eye(size, 8)[:, None], torch.ones(size, 1, 8) / math.sqrt(8)
    mask = torch.ones(size, 1, dtype=torch.bool)
    for tokens, expected in ((eye, math.log(1 + (size - 1) * math.exp(-1 / tau))), (same, math.log(size))):
        features = Features(tokens, tokens[:, 0], mask)
        assert method.contrast(method.towers, features, features, Step())[0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.shows("F", "alpro")
def test_matching_sees_each_pair_and_two_like_it() -> None:
    method = small().eval()
    some = batch(method, 2)  # the other item is the only negative
    seen = []
    fuse = method.fuse
    method.fuse = lambda image, text: (seen.append((image, text)), fuse(image, text))[1]
    image, text = method.encode_image(some), method.encode_text(some)
    terms, fused = method.match_and_align(image, text, Step())
    (images, texts) = seen[0]
    order = [[int((row == image.tokens).flatten(1).all(1).nonzero()) for row in images.tokens]]
    order += [[int((row == text.tokens).flatten(1).all(1).nonzero()) for row in texts.tokens]]
    assert order == [[0, 1, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0]]
    logits = method.match_head(fuse(images, texts).pooled)
    labels = torch.tensor([1, 1, 0, 0, 0, 0])
    torch.testing.assert_close(terms["vtm"], F.cross_entropy(logits, labels))
    assert fused.shape == (6, 17, 16)


@pytest.mark.shows("F", "alpro")
def test_prompts_are_means_of_unit_vectors_that_are_not_normalised_again() -> None:
    method = small().eval()
    found = method.read_prompts()
    assert found.shape == (2, 5, 8)
    template = alpro.IMAGE_PROMPTS
    tokens = method.tokenize([one.format("moon") for one in template])
    read = method.prompter.text.text(tokens.text, tokens.text_mask)
    expected = method.prompter.joint(read, method.prompter.text_head).mean(0)
    torch.testing.assert_close(found[1, 1], expected)
    assert float(found.norm(dim=-1).max()) < 1


@pytest.mark.shows("F", "alpro")
def test_the_prompter_sees_the_crop_alone_and_pictures_have_prompts_of_their_own() -> None:
    method = small().eval()
    some = batch(method)
    first, _ = method.ask_prompter(some)
    outside = some.inside.view(-1, 1, 1, 4, 4).repeat_interleave(4, 3).repeat_interleave(4, 4).expand_as(some.video)
    changed = Batch({**some, "video": torch.where(outside, some.video, 255 - some.video)})
    torch.testing.assert_close(method.ask_prompter(changed)[0], first)
    assert not torch.allclose(method.ask_prompter(Batch({**some, "still": ~some.still}))[0], first, atol=1e-6)


@pytest.mark.shows("F", "alpro")
def test_the_prompter_learns_in_its_own_stage_and_nothing_else_does() -> None:
    method = small()
    first, second = method.stages(Recipe())
    assert (first.name, second.name) == ("prompter", "pretrain")
    assert first.train == second.freeze == (r"^prompter\.",)
    for name, value in method.named_parameters():
        value.requires_grad_(not name.startswith("prompter."))
    method.train()
    assert method.towers.training
    assert not any(module.training for module in method.prompter.modules())
    terms = method.loss(batch(method), Step(stage="pretrain"))
    assert set(terms) == {"vtc", "vtm", "mlm", "pem"}
    terms.total.backward()
    assert all(value.grad is None for value in method.prompter.parameters())
    assert float(method.entity_head[0].weight.grad.abs().sum()) > 0


def test_prompts_are_read_again_after_the_prompter_has_learned() -> None:
    method = small()
    method.ask_prompter(batch(method))
    assert method.prompted
    with torch.no_grad():
        method.prompter.tau.fill_(7.0)
    method.after_step(Step(stage="pretrain"))
    assert method.prompted
    assert float(method.prompter.tau) == 0.5  # kept within its bounds
    method.after_step(Step(stage="prompter"))
    assert not method.prompted


def test_without_the_change_there_is_no_prompter() -> None:
    method = small(pem=0.0, tasks=("pretrain",))
    assert method.prompter is None
    some = batch(method)
    assert set(method.loss(some, Step())) == {"vtc", "vtm", "mlm"}


def test_takes_the_prompter_of_another_run(tmp_path) -> None:
    other = small()
    other.save_pretrained(tmp_path / "run")
    torch.manual_seed(5)
    method = ALPRO(replace(SMALL, tasks=("pretrain",), prompter=str(tmp_path / "run")))
    for name, value in method.prompter.state_dict().items():
        assert torch.equal(value, other.state_dict()[f"prompter.{name}"]), name
    assert not torch.equal(method.towers.text_head.weight, other.towers.text_head.weight)
    small(pem=0.0, tasks=("pretrain",)).save_pretrained(tmp_path / "none")
    with pytest.raises(ValueError, match="has no prompter"):
        ALPRO(replace(SMALL, prompter=str(tmp_path / "none")))


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="image_width equal"):
        small(text_width=32)
    with pytest.raises(ValueError, match="no entities"):
        small(entities=()).read_prompts()


def test_a_picture_is_a_clip_that_stands_still() -> None:
    method = small()
    picture = [Image.new("RGB", (20, 20), "red")]
    seen = method.view_image(Sample("a", {"video": picture}), None)
    assert seen["still"]
    assert seen["video"].shape == (3, 3, 16, 16)
    assert torch.equal(seen["video"][0], seen["video"][2])


def test_most_named_answer_is_the_one_that_counts() -> None:
    method = small(tasks=("vqa",), answers=("a", "b", "c"), pem=0.0)
    some = batch(method, 2)
    scores = torch.tensor([[0.3, 0.9, 0.0], [0.0, 0.0, 0.0]])
    asked = Batch(
        {
            **some,
            "question": some.text,
            "question_mask": some.text_mask,
            "answer_scores": scores,
            "asked": scores.sum(1) > 0,
        }
    )
    logits = method.answer(method.encode_image(asked), method.question(asked))
    torch.testing.assert_close(
        method.eval().loss(asked, Step())["vqa"], F.cross_entropy(logits[:1], torch.tensor([1])), rtol=1, atol=1
    )


def test_unsure_prompters_are_not_believed() -> None:
    method = small(sure=0.9)
    some = batch(method)
    terms = method.loss(some, Step(stage="pretrain"))
    assert terms["pem"] == 0
    assert terms.watch["crops that count"] == 0
    probabilities, counts = pseudo_labels(torch.eye(5)[:1], torch.eye(5), torch.tensor(0.1), 0.9)
    assert counts.all()
    assert probabilities[0, 0] > 0.9


@pytest.mark.shows("E", "alpro")
def test_clips_are_found_by_their_captions_after_learning() -> None:
    options = {"tasks": ("retrieval",), "pem": 0.0, "dropout": 0.0, "text_layers": 2}
    found = figures("alpro", ["retrieval", "pair_retrieval"], **options)
    for task in ("retrieval", "pair_retrieval"):  # eight clips; the median rank of guessing is 4.5
        assert found[f"{task} text_to_image_r1"].value > 2 * found[f"{task} text_to_image_r1"].chance
        assert found[f"{task} text_to_image_median_rank"].value < 3


@pytest.mark.shows("E", "alpro")
def test_questions_about_clips_are_answered_after_learning() -> None:
    knobs = Knobs(video=True, frames=4, events=1, objects=(1, 1), pixels=32, questions=("colour", "direction"), each=1)
    clips = Clips(size=8, knobs=knobs)
    method = method_helpers.small("alpro", tasks=("vqa",), pem=0.0, answers=clips.answers)
    learn(method, batch_of(method, clips), 60)
    found = {row.metric: row for row in evaluate(method, clips, ["vqa"])}
    assert found["accuracy"].value > 2 * found["accuracy"].chance
