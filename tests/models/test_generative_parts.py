"""Language models that see: what trains, low-rank updates, activations computed again, and how they write."""

import pytest
import torch
from test_generative import Config, Small, batch_of, small

from diptych.batch import Batch, Step
from diptych.encoders.language import LanguageModel, own_chat_tokenizer
from diptych.models.generation import beside, few_shot
from diptych.recipe import Recipe
from diptych.training.optimiser import trainable
from diptych.views.conversations import Turn

LORA = {"lora_rank": 2, "lora_targets": ("q_proj",)}


def gradients(method, batch: Batch) -> dict[str, torch.Tensor]:
    method.zero_grad()
    method.loss(batch, Step()).total.backward()
    return {name: value.grad for name, value in method.named_parameters() if value.grad is not None}


def test_tasks_are_the_stages_of_one_run() -> None:
    method = small(tasks=("text", "pretrain"), task_shares=(1, 3), freeze=(r"^encoder\.",))
    stages = method.stages(Recipe())
    assert [(stage.name, stage.share, stage.needs) for stage in stages] == [
        ("text", 0.25, ("text",)),
        ("pretrain", 0.75, None),
    ]
    assert {name.split(".")[0] for name in trainable(method, stages[0])} == {"language"}
    assert {name.split(".")[0] for name in trainable(method, stages[1])} == {"language", "connector"}
    chosen = small(tasks=("text", "pretrain"), train=("norm", "^connector")).stages(Recipe())
    assert all("norm" in name for name in trainable(method, chosen[0]))
    assert set(trainable(method, chosen[1])) == {"connector.proj.weight", "connector.proj.bias"}
    with pytest.raises(ValueError, match="train has 1 values for 2 tasks"):
        small(tasks=("text", "pretrain"), train=("norm",)).stages(Recipe())


def test_low_rank_updates_train_in_place_of_the_language_model_but_in_text() -> None:
    method = small(tasks=("text", "pretrain"), **LORA)
    text, pretrain = ({n for n in trainable(method, s) if "language" in n} for s in method.stages(Recipe()))
    assert text == {name for name, _ in method.named_parameters() if "language" in name and "lora_" not in name}
    assert pretrain == {name for name, _ in method.named_parameters() if "lora_" in name}
    assert len(pretrain) == 2 * 2  # two matrices in each of two layers
    assert all("q_proj" in name for name in pretrain)


def test_low_rank_updates_change_nothing_at_first_and_are_saved_with_the_rest(tmp_path) -> None:
    plain = small()
    plain.save_pretrained(tmp_path / "plain")
    method = small(start=str(tmp_path / "plain"), **LORA)
    batch = batch_of(method)
    with torch.no_grad():
        assert torch.equal(method.loss(batch, Step()).total, plain.loss(batch, Step()).total)
        for name, value in method.named_parameters():
            if "lora_B" in name:
                value.normal_()
        changed = method.loss(batch, Step()).total
    assert changed != plain.loss(batch, Step()).total
    method.save_pretrained(tmp_path / "updated")
    for again in (Small.from_pretrained(tmp_path / "updated"), small(start=str(tmp_path / "updated"), **LORA)):
        assert torch.equal(again.loss(batch, Step()).total, changed)


@pytest.mark.parametrize("frozen", [False, True])
def test_activations_that_are_computed_again_give_the_same_gradients(frozen: bool) -> None:
    found = []
    for again in (False, True):
        method = small(checkpointing=again)
        method.language.requires_grad_(not frozen)
        calls: list[int] = []
        method.language.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        found.append(gradients(method.train(), batch_of(method)))
        assert len(calls) == 1 + again
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("how", [{}, {"beams": 3}])
def test_prompts_of_different_lengths_are_answered_as_each_alone(how) -> None:
    method = small()
    with torch.no_grad():
        image = method.encode_image(batch_of(method))
        prompts = ["a", "a long question about a <image> red star in the picture", "what is it ?"]
        together = method.respond(image, prompts, longest=6, **how)
        alone = [method.respond(image.take(slice(i, i + 1)), [prompt], 6, **how)[0] for i, prompt in enumerate(prompts)]
    assert together == alone
    assert all(together)


def test_what_is_written_is_likelier_than_anything_else_of_one_word() -> None:
    method = small(template="vicuna")
    with torch.no_grad():
        image = method.encode_image(batch_of(method, 1))
        (said,) = method.respond(image, ["what ?"], longest=1)
        ((_, _, chance, likeliest),) = method.token_likelihood(image, ["what ?"], [said])[0]
        ((_, _, other, _),) = method.token_likelihood(image, ["what ?"], ["star"])[0]
    assert likeliest
    assert chance >= other


def test_a_likelihood_is_the_product_of_those_of_its_words() -> None:
    method = small()
    prompts, answers = ["is it red ?", ""], ["no , blue", "a star"]
    with torch.no_grad():
        image = method.encode_image(batch_of(method, 2))
        total, count = method.likelihood(image, prompts, answers)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            said = [Turn("user", prompt)] * bool(prompt) + [Turn("assistant", answer)]
            read = method.read(said, [4])
            embeds = method.splice(read["ids"][None], read["visual"][None], method.connect(image.take([row])))
            logs = method.language.logits(method.language.hidden(embeds))[0].log_softmax(-1)
            words = read["ids"][-int(count[row]) :]
            assert method.language.tokenizer.text(words.tolist()) == answer
            expected = logs[-len(words) - 1 : -1].gather(1, words[:, None]).sum()
            torch.testing.assert_close(total[row], expected)


def test_an_earlier_answer_of_a_conversation_does_not_count() -> None:
    method = small()
    talk = [Turn("user", "what ?"), Turn("assistant", "a star"), Turn("user", "red ?")]
    with torch.no_grad():
        image = method.encode_image(batch_of(method, 1))
        _, count = method.likelihood(image, [talk], ["no"])
    assert count.tolist() == [2]  # the word and the end


def test_pictures_stand_where_their_markers_are() -> None:
    method = small()
    with torch.no_grad():
        image = method.encode_image(batch_of(method, 2))
        one, other = image.take(slice(0, 1)), image.take(slice(1, 2))
        read = method.read([Turn("text", "a <image> and <image> end")], [4, 4])
        embeds = method.splice(read["ids"][None], read["visual"][None], method.connect(beside(one, other)))[0]
        ids = method.language.tokenizer.ids
        parts = [ids("a"), one, ids("and"), other, [*ids("end"), method.language.tokenizer.end]]
        made = [
            method.language.embed(torch.tensor(part)) if isinstance(part, list) else method.connect(part)[0]
            for part in parts
        ]
    begin = method.language.embed(torch.tensor([method.language.tokenizer.begin]))
    assert torch.equal(embeds, torch.cat([begin, *made]))


def test_examples_show_how_to_answer() -> None:
    prompt = few_shot([("Q: what ? A:", "star"), ("Q: red ? A:", "no")], "Q: blue ? A:")
    assert prompt == "<image>Q: what ? A: star\n<image>Q: red ? A: no\n<image>Q: blue ? A:"
    method = small()
    with torch.no_grad():
        image = method.encode_image(batch_of(method, 3))
        asked = beside(*(image.take([row]) for row in range(3)))
        assert len(method.respond(asked, [prompt], longest=3)) == 1


@pytest.mark.parametrize("kind", ["Gemma2", "Granite", "Cohere", "GPTJ", "OPT", "GPT2"])
def test_logits_are_those_of_the_whole_model(kind: str) -> None:
    import transformers

    sizes = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "head_dim": 8}
    others = {"intermediate_size": 16, "num_key_value_heads": 2, "pad_token_id": 0, "rotary_dim": 4, "dropout": 0.0}
    scales = {"logits_scaling": 8.0} if kind == "Granite" else {"logit_scale": 0.25} if kind == "Cohere" else {}
    config = getattr(transformers, f"{kind}Config")(**sizes, **others, **scales, word_embed_proj_dim=16, ffn_dim=16)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    language = LanguageModel(model, own_chat_tokenizer(), 20, "own")
    ids = torch.randint(1, 30, (2, 5))
    with torch.no_grad():
        found = language.logits(language.hidden(language.embed(ids), torch.ones(2, 5, dtype=torch.bool)))
        torch.testing.assert_close(found, model(input_ids=ids).logits)
    assert len(language.layers) == 2


def test_a_tied_head_is_saved_once_and_stays_tied() -> None:
    method, other = small(), small()
    names = list(method.state_dict())
    assert any("embed_tokens" in name for name in names)
    assert not any("lm_head" in name for name in names)
    with torch.no_grad():
        method.language.model.lm_head.weight.normal_()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.language.model.lm_head.weight, method.language.model.lm_head.weight)
    assert other.language.model.lm_head.weight is other.language.model.model.embed_tokens.weight


def test_features_of_a_frozen_encoder_are_computed_once() -> None:
    method = small(remember=1)
    batch, calls = batch_of(method), []
    method.encoder.requires_grad_(False)
    method.encoder.register_forward_hook(lambda *_: calls.append(1))
    first, second = (method.loss(batch, Step()).total for _ in range(2))
    assert torch.equal(first, second)
    assert len(calls) == 1
    assert method.whole() == [method.encoder]
    plain = small().loss(batch, Step()).total
    torch.testing.assert_close(first, plain)


def test_a_wrong_word_is_told_with_the_nearest() -> None:
    for options, message in (({"template": "vicun"}, "vicuna"), ({"tasks": ("pretrian",)}, "pretrain")):
        with pytest.raises(ValueError, match=message):
            Small(Config(**options))
