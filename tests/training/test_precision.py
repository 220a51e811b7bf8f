import pytest
import torch
from toy import Config, Toy, ToyData, recipe

from diptych.training import precision, train


def test_auto_is_bf16_only_where_it_is_native(monkeypatch) -> None:
    device = torch.device("cpu")
    for has, expected in (({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert precision.choose("auto", device) == expected


def test_emulated_bf16_is_taken_with_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.warns(UserWarning, match="no bf16 arithmetic"):
        assert precision.choose("bf16", torch.device("cpu")) == "bf16"
    assert precision.choose("fp32", torch.device("cpu")) == "fp32"


def test_a_device_that_is_not_there_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match="sees no CUDA device"):
        precision.choose_device("cuda")
    assert precision.choose_device("auto") == torch.device("cpu")


@pytest.mark.filterwarnings("ignore:.*no bf16 arithmetic")
@pytest.mark.parametrize(("name", "product"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_are_in_the_precision_asked_for_and_weights_stay_fp32(name, product, tmp_path) -> None:
    method, seen = Toy(), set()
    method.head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    train(method, ToyData(), tmp_path, recipe(samples=8, precision=name), logs=())
    assert seen == {product}
    assert {value.dtype for value in method.parameters()} == {torch.float32}


@pytest.mark.slow
def test_compiled_gives_the_same_weights(tmp_path) -> None:
    plain, compiled = (Toy(Config(dropout=0.0)) for _ in range(2))  # compiled dropout draws other numbers
    train(plain, ToyData(), tmp_path / "plain", recipe(samples=16), logs=())
    try:
        train(compiled, ToyData(), tmp_path / "compiled", recipe(samples=16, compile=True), logs=())
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"torch.compile does not work here: {error}")
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, compiled.state_dict()[name], atol=1e-4), name
