"""The mean of the weights over the last epochs."""

import pytest
import torch

from model.weight_average import WeightAverage


def one_weight(value: float) -> torch.nn.Module:
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.weight, value)
    network.bias.requires_grad_(False)
    return network


def move_to(network: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        network.get_parameter("weight").fill_(value)


def after(epochs: float, values: list[float]) -> float:
    network = one_weight(100.0)
    average = WeightAverage(network, epochs)
    for epoch, value in enumerate(values, start=1):
        move_to(network, value)
        average.update(epoch)
    return average.mean["weight"].item()


def test_the_first_epochs_weigh_alike() -> None:
    assert after(3, [1.0]) == 1.0
    assert after(3, [1.0, 4.0]) == 2.5


def test_later_an_epoch_weighs_two_in_one_more_than_the_number_of_epochs() -> None:
    assert after(3, [1.0, 4.0, 8.5]) == 5.5


def test_the_mean_over_one_epoch_is_its_own_weights() -> None:
    assert after(1, [1.0, 4.0]) == 4.0


def test_the_network_holds_the_mean_only_inside() -> None:
    network = one_weight(2.0)
    average = WeightAverage(network, 3)
    move_to(network, 8.0)
    with average.in_place():
        assert network.get_parameter("weight").item() == 2.0
    assert network.get_parameter("weight").item() == 8.0
    assert average.mean["weight"].item() == 2.0


def test_its_own_weights_come_back_after_an_error() -> None:
    network = one_weight(2.0)
    average = WeightAverage(network, 3)
    move_to(network, 8.0)
    with pytest.raises(KeyboardInterrupt), average.in_place():
        raise KeyboardInterrupt
    assert network.get_parameter("weight").item() == 8.0


def test_weights_that_are_not_trained_have_no_mean() -> None:
    assert set(WeightAverage(one_weight(2.0), 3).mean) == {"weight"}
