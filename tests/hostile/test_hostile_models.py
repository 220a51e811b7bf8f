"""Saved models, runs and checkpoints of strangers, and the options that are typed or lie in their files."""

import json
import os
import pickle

import pytest
import torch
from app_helpers import FLAGS, tiny
from hostile_helpers import Bomb, ask, everything, limited, sparse
from safetensors.torch import load_file, save_file

import diptych
from diptych import methods
from diptych.encoders.adapt import freeze
from diptych.encoders.base import EncoderError
from diptych.training import checkpoint


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A small CLIP with fresh weights; it is loaded once, so that children need not import what that takes."""
    torch.manual_seed(0)
    method = methods.build("clip", tiny("clip"))
    folder = tmp_path_factory.mktemp("honest")
    method.save_pretrained(folder)
    diptych.load(folder)
    return method


@pytest.fixture
def model(honest, tmp_path):
    """The folder of a saved method, for each test its own."""
    honest.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed(model, **options):
    told = json.loads((model / "config.json").read_text())
    told["config"] |= options
    (model / "config.json").write_text(json.dumps(told))


def loading(model, memory=1200, seconds=30):
    """What a command that loads the model says, with nothing written beside it."""
    before = everything(model.parent)
    said = ask("export", model, "--to", "transformers", memory=memory, seconds=seconds).sentence
    assert everything(model.parent) == before
    return said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_width": 2**40}, "options"),
        ({"image_width": 100_000}, "does not fit the options"),
        ({"embed": 2**50}, "options"),
        ({"embed": 2**60}, "embed is 1152921504606846976, which is no int"),
        ({"context": 10**9}, "does not fit the options"),
        ({"image_layers": 10**9}, "cannot have 1000000000 layers"),
        ({"text_layers": -1}, "cannot have -1 layers"),
        ({"image_heads": 0}, "with 0 heads"),
        ({"image_size": 10**9}, "does not fit the options"),
        ({"patch": 0}, "cannot be cut into patches of 0"),
        ({"tau": 0}, "make no model"),
        ({"image_width": "16"}, "image_width is '16', which is no int"),
        ({"image": ["vit"]}, "image is ('vit',), which is no str"),
        ({"pool": "os.system"}, "pool is 'os.system', which is no"),
        ({"freeze": [1]}, "freeze is (1,), which is no"),
        ({"freeze": [r"(.+)+!"]}, "could take for ever"),
        ({"freeze": ["(a|b"]}, "pattern"),
        ({"lora": [r".*.*.*.*.*!"]}, "could take for ever"),
        ({"image": "os:system"}, "There is no image encoder"),
        ({"image": "hf:../../../etc"}, "no model that transformers knows"),
        ({"text": "open_clip:../../etc/passwd"}, "open_clip knows no model"),
        ({"__class__": "os.system"}, "there is no field"),
        ({"trust_remote_code": True}, "there is no field"),
    ],
)
def test_options_are_checked_before_memory_is_spent(model, options, reason):
    changed(model, **options)
    assert reason in loading(model, memory=900)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "names no method"),
        ('{"method": ["clip"], "config": {}}', "names no method"),
        ('{"method": "clip"}', "no options of the method"),
        ('{"method": "../../x", "config": {}}', "there is no method"),
        ('{"method": "' + "x" * 900_000 + '", "config": {}}', "there is no method"),
        ('{"auto_map": {"AutoModel": "evil.Model"}, "model_type": "clip"}', "names no method"),
        ('{"method": "\\u001b[2J", "config": {}}', "there is no method"),
    ],
)
def test_configurations_that_are_none(model, text, reason):
    (model / "config.json").write_text(text)
    assert reason in loading(model)


def test_a_giant_configuration_is_not_read(model):
    sparse(model / "config.json", 40 << 30)
    assert "it is no configuration" in loading(model, memory=900)


def header(length, text):
    return length.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        header(2**63 - 1, b"{}"),
        header(99_000_000, b"{}"),
        header(2, b"[]"),
        header(60, b'{"log_scale":{"dtype":"F32","shape":[],"data_offsets":[0,4]}'),
        header(78, b'{"log_scale":{"dtype":"F32","shape":[999999999],"data_offsets":[0,3999999996]}}'),
        pickle.dumps(Bomb("ran")),
    ],
)
def test_weights_that_are_none(model, data, monkeypatch):
    monkeypatch.chdir(model)
    (model / "model.safetensors").write_bytes(data)
    assert "is no whole safetensors file" in loading(model)
    assert not (model / "ran").exists()


def test_weights_of_another_shape_are_named(model):
    weights = load_file(model / "model.safetensors")
    save_file(weights | {"image_head.weight": torch.zeros(3, 3)}, model / "model.safetensors")
    assert "image_head.weight is (3, 3) there, and by the options (8, 16)" in loading(model)


def test_a_pipe_in_the_place_of_weights(model):
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")
    assert "no plain file" in loading(model, seconds=20)


def tokenizer(model, change):
    told = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    change(told)
    (model / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told.clear(), "is no tokenizer"),
        (lambda told: told["model"]["vocab"].update(zzz=4_000_000_000), "knows 8,192 words"),
        (lambda told: told["model"].update(vocab="/etc/passwd"), "is no tokenizer"),
    ],
)
def test_tokenizers_that_do_not_fit(model, change, reason):
    tokenizer(model, change)
    assert reason in loading(model)


def test_a_tokenizer_with_a_pattern_that_takes_for_ever(model):
    slow = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}
    tokenizer(model, lambda told: told.update(pre_tokenizer=slow))

    def work():
        try:
            diptych.load(model).tokenize(["a" * 60])
        except ValueError as error:
            print(error)

    assert "the tokenizer fails on one of these texts" in limited(work, seconds=60).text


def test_long_texts_do_not_cost_seconds(honest):
    words = "a red cat " * 100_000
    whole = honest.text.tokenizer.encode([words])[0]
    assert torch.equal(whole, honest.text.tokenizer.encode([words[:2_000]])[0])


@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.bin", "model.pt", "model.pth", "optimizer.pkl"])
def test_pickles_beside_a_model_are_not_looked_at(model, tmp_path, name):
    (model / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    diptych.load(model)
    assert not (tmp_path / "ran").exists()


def test_a_transformers_model_that_is_a_pickle_or_names_code(tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    told = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(EncoderError, match="no model that transformers knows"):
        methods.build("clip", tiny("clip", text=f"hf:{folder}"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 1}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(Exception, match=r"."):  # of torch's loader, which reads weights only
        methods.build("clip", tiny("clip", text=f"hf:{folder}"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors", "state.json"])
def test_checkpoints_that_are_pickles(tmp_path, name):
    folder = tmp_path / "last"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"files": {"../../etc/passwd": 1}, "shapes": {}}))
    save_file({"a": torch.zeros(1)}, folder / "state.safetensors")
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises((checkpoint.DamagedCheckpoint, ValueError)):
        checkpoint.read(folder)
    assert not (tmp_path / "ran").exists()


# --- options that are typed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        "world:objects=" + "9" * 5_000,
        "world:train=99999999999999",
        "world:pixels=100000",
        "world:clutter=999999999",
        "world:sprites=../../etc",
        "world:noise=nan",
        "world:objects=__import__('os')",
        "starter#99999999999",
        "../../etc/passwd",
        "/dev/zero",
        "pipe:touch owned",
        "x\x1b[2J",
        "starter@../../x",
        "",
    ],
)
def test_sources_that_are_none(tmp_path, spec, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ask("train", "clip", "--data", spec, "--out", tmp_path / "run", *FLAGS).sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "side",
    [
        "clip:",
        "clip:lr",
        "clip:lr=x",
        'clip:crop="1',
        "clip:__class__=1",
        "clip:preset=../x",
        "\x1b[2J",
        "clip:embed=[]",
    ],
)
def test_contestants_that_are_none(tmp_path, side, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = ask("compare", side, side, "--data", "starter", "--out", tmp_path / "out")
    assert said.code in (1, 2)
    assert "Traceback" not in said.text
    assert list(tmp_path.iterdir()) == []


def test_patterns_that_are_usual_still_match(honest):
    torch.manual_seed(0)
    method = methods.build("clip", tiny("clip"))
    assert len(freeze(method, [r"^image\.blocks\.(0|1)\..*weight$"])) == 6
