"""The vision encoder of BLIP-2 and InstructBLIP out of the whole, and texts of which the end is kept."""

import pytest
import torch

from diptych.encoders import EncoderError, image_encoder
from diptych.encoders.tokenizer import own_tokenizer


@pytest.fixture(scope="module", params=["blip-2", "instructblip"])
def whole(request, tmp_path_factory):
    import transformers

    kind = "Blip2" if request.param == "blip-2" else "InstructBlip"
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**vision, "image_size": 28, "patch_size": 14, "initializer_range": 0.2},
        qformer_config={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30},
        text_config={"model_type": "llama", **vision, "vocab_size": 40},
        num_query_tokens=2,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.shows("L", "instructblip")
def test_its_tokens_are_those_ahead_of_the_last_norm(whole) -> None:
    model, folder = whole
    encoder = image_encoder(f"hf:{folder}", size=28).eval()
    assert not any("post_layernorm" in name for name, _ in encoder.named_parameters())
    image = torch.rand(2, 3, 28, 28)
    found = encoder(image)
    theirs = model.vision_model(encoder.pixels(image)).last_hidden_state
    both = torch.cat([found.pooled[:, None], found.tokens], 1)
    torch.testing.assert_close(model.vision_model.post_layernorm(both), theirs)
    assert encoder.grid == (2, 2)


def test_without_weights_it_is_the_same_but_random(whole) -> None:
    model, folder = whole
    other = image_encoder(f"hf:{folder}#random", size=28)
    names = {f"vision_model.{name}" for name, _ in other.model.named_parameters()}
    assert names == {name for name, _ in model.named_parameters() if "vision_model" in name and "post_l" not in name}


def test_a_folder_without_its_weights_is_told(whole, tmp_path) -> None:
    whole[0].config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        image_encoder(f"hf:{tmp_path}", size=28)


def test_a_tokenizer_can_keep_the_end_of_a_long_text() -> None:
    from dataclasses import replace

    start = own_tokenizer(5)
    end = replace(start, keeps="end")
    text = "one two three four five six"
    (whole,), _ = own_tokenizer(20).encode([text])
    assert start.encode([text])[0][0].tolist() == [*whole[:4].tolist(), whole[-1].item()]
    assert end.encode([text])[0][0].tolist() == [whole[0].item(), *whole[-4:].tolist()]
    assert torch.equal(end.encode(["x " * 10**6 + text])[0], end.encode([text])[0])
