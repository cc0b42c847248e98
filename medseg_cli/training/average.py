"""Averaged weights: those that learn and the buffers beside them; frozen ones need no copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def learned(network: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters that learn, and buffers; by their names in the state dict.

    A frozen parameter is the same in every checkpoint: it comes from the weights the run began with, or from its seed.
    """
    frozen = {name for name, value in network.named_parameters(remove_duplicate=False) if not value.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


class Average:
    """An exponential moving average of what a network learns.

    With buffers: a BatchNorm's running statistics must belong to the weights they stand beside.

    Args:
        network: it is averaged as it is; afterwards `update` after every step.
        decay: largest share that stays at an update; 0 = the average is the network itself.
    """

    RECENT = 10
    """Of s steps, the average is mostly of the last s / RECENT, as long as `decay` allows so few: a short run would
    otherwise leave the weights it began with behind."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self.values = {name: value.detach().clone() for name, value in learned(network).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights of one more step; `step` others came before, and the first one's become the average."""
        now = learned(self._network)
        floats = [name for name, value in now.items() if value.is_floating_point()]
        keep = min(self._decay, step / (step + self.RECENT))
        torch._foreach_lerp_([self.values[name] for name in floats], [now[name] for name in floats], 1 - keep)
        for name in now.keys() - set(floats):
            self.values[name].copy_(now[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights inside the block and its own after it."""
        own = {name: value.detach().clone() for name, value in learned(self._network).items()}
        put(self._network, self.values)
        try:
            yield
        finally:
            put(self._network, own)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's average.

        Raises:
            ValueError: other names or shapes than the network's.
        """
        check_fit(self.values, values)
        for name, value in values.items():
            self.values[name].copy_(value)


@torch.no_grad()
def put(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a network the learned weights `values`.

    Raises:
        ValueError: other names or shapes than the network's.
    """
    own = learned(network)
    check_fit(own, values)
    for name, value in values.items():
        own[name].copy_(value)


def check_fit(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Whether values of a file can stand for the network's own.

    Raises:
        ValueError: other names or shapes.
    """
    odd = sorted(own.keys() ^ values.keys())
    if odd:
        raise ValueError(f"{len(odd)} other tensors, such as {odd[0]}")
    for name, value in values.items():
        if value.shape != own[name].shape:
            raise ValueError(f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}")
