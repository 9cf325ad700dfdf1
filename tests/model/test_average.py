"""The average of the weights over epochs."""

import torch

from model.average import Average


def one_weight() -> torch.nn.Module:
    network = torch.nn.Linear(1, 1)
    network.bias.requires_grad_(False)
    network.bias.fill_(7)
    return network


def after(average: Average, network: torch.nn.Module, *epochs: float) -> list[float]:
    """Return the average after each epoch that ended with these weights."""
    seen = []
    for value in epochs:
        network.weight.data.fill_(value)
        average.update()
        with average.in_network():
            seen.append(network.weight.item())
    return seen


def test_the_former_average_has_its_share_and_the_new_weights_the_rest() -> None:
    network = one_weight()
    assert after(Average(network, 0.75), network, 8, 16, 32) == [8, 10, 15.5]


def test_share_zero_is_the_last_weights_to_the_bit() -> None:
    network = one_weight()
    average = Average(network, 0.0)
    last = torch.tensor([1 / 3, 1 / 7, 1e-8, 3e7]).tolist()
    assert after(average, network, *last) == last


def test_the_network_has_its_own_weights_again() -> None:
    network = one_weight()
    after(Average(network, 0.75), network, 8, 16)
    assert network.weight.item() == 16


def test_frozen_weights_are_not_averaged() -> None:
    network = one_weight()
    average = Average(network, 0.75)
    after(average, network, 8)
    assert list(average.state()) == ["weight"]


def test_a_saved_average_goes_on_as_if_it_had_not_stopped() -> None:
    network = one_weight()
    average = Average(network, 0.75)
    after(average, network, 8, 16)
    resumed = Average(network, 0.75)
    resumed.load(average.state())
    assert after(resumed, network, 32) == [15.5]
