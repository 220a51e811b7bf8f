"""Connectors: what they compute, by hand, and how many tokens they make of how many."""

import pytest
import torch
from torch import nn

from diptych.batch import Features
from diptych.fusion.connectors import AdaptivePool, AveragePool, Chain, Connector, Projector


def features(tokens: torch.Tensor) -> Features:
    return Features(tokens, tokens.mean(1), torch.ones(tokens.shape[:2], dtype=torch.bool))


def test_a_linear_map_is_that_of_each_token() -> None:
    connector = Projector(3, 5, of=4)
    x = torch.randn(2, 4, 3)
    (layer,) = connector.layers
    assert (connector.tokens, connector.of) == (4, 4)
    torch.testing.assert_close(connector(x), x @ layer.weight.T + layer.bias)
    torch.testing.assert_close(connector(features(x)), connector(x))
    assert sum(value.numel() for value in connector.parameters()) == 3 * 5 + 5


def test_an_mlp_has_a_gelu_between_its_maps() -> None:
    connector = Projector(3, 5, of=4, depth=2)
    first, _, second = connector.layers
    x = torch.randn(2, 4, 3)
    expected = second(nn.functional.gelu(first(x)))
    assert (first.out_features, second.in_features, second.out_features) == (5, 5, 5)
    torch.testing.assert_close(connector(x), expected)
    with pytest.raises(ValueError, match="no map"):
        Projector(3, 5, of=4, depth=0)


def test_adaptive_pooling_by_hand() -> None:
    x = torch.arange(6.0).view(1, 6, 1)  # rows 0 1 2, 3 4 5
    two = AdaptivePool((2, 3), (1, 3))
    assert (two.tokens, two.of) == (3, 6)
    assert two(x).flatten().tolist() == [1.5, 2.5, 3.5]
    assert AdaptivePool((2, 3), (2, 2))(x).flatten().tolist() == [0.5, 1.5, 3.5, 4.5]  # columns 0-1 and 1-2
    assert two.to(torch.float64)(x.double()).dtype == torch.float64
    three = AdaptivePool((3, 1, 2), (1, 1, 2))  # three frames of 0 1, 2 3, 4 5
    assert three(x).flatten().tolist() == [2.0, 3.0]


def test_average_pooling_by_hand_drops_what_is_left_over() -> None:
    x = torch.arange(6.0).view(1, 6, 1)
    connector = AveragePool((2, 3), (2, 2))
    assert (connector.tokens, connector.of) == (1, 6)
    assert connector(x).flatten().tolist() == [2.0]  # of 0 1 3 4
    assert AveragePool((3, 1, 2), (2, 1, 1))(x).flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6)])
def test_pooling_to_its_own_shape_changes_nothing_and_kinds_agree_where_sides_divide(shape: tuple[int, ...]) -> None:
    whole = torch.Size(shape).numel()
    x = torch.randn(3, whole, 5)
    assert torch.equal(AdaptivePool(shape, shape)(x), x)
    half = tuple(side // 2 for side in shape)
    torch.testing.assert_close(AdaptivePool(shape, half)(x), AveragePool(shape, (2,) * len(shape))(x))


def test_pooling_commutes_with_a_linear_map_and_not_with_an_mlp() -> None:
    x, pool = torch.randn(2, 16, 3), AdaptivePool((4, 4), (2, 2))
    for depth, same in ((1, True), (2, False)):
        before = Chain(pool, Projector(3, 5, of=4, depth=depth))
        after = Chain(Projector(3, 5, of=16, depth=depth), pool)
        after.parts[0].load_state_dict(before.parts[1].state_dict())
        assert (before.tokens, before.of) == (after.tokens, after.of) == (4, 16)
        assert torch.allclose(before(x), after(x), atol=1e-6) == same


def test_several_media_are_connected_each_for_itself_with_the_same_instruction() -> None:
    class Adds(Connector):
        def connect(self, tokens, mask, instruction):
            return tokens[:, :1] + instruction.tokens[:, :1]

    x, instruction = torch.randn(2, 12, 3), features(torch.randn(2, 4, 3))
    connector = Adds(1, 4)
    together = connector(x, instruction)
    assert together.shape == (2, 3, 3)
    for index in range(3):
        one = x[:, 4 * index : 4 * (index + 1)]
        torch.testing.assert_close(together[:, index : index + 1], connector(one, instruction))


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="makes 1 tokens of every 4 and got 6"):
        AdaptivePool((2, 2), (1, 1))(torch.randn(1, 6, 3))
    with pytest.raises(ValueError, match="makes 1 tokens of every 4 and got 0"):
        AdaptivePool((2, 2), (1, 1))(torch.randn(1, 0, 3))
    for shape, to in (((2, 2), (3, 1)), ((2, 2), (1, 1, 1)), ((4,), (2,)), ((2, 2), (0, 1))):
        with pytest.raises(ValueError, match="does not fit"):
            AdaptivePool(shape, to)
        with pytest.raises(ValueError, match="does not fit"):
            AveragePool(shape, to)
    with pytest.raises(ValueError, match="cannot follow"):
        Chain(AdaptivePool((4, 4), (2, 2)), Projector(3, 5, of=16))
