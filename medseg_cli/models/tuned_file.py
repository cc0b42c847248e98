"""A training's result as the difference to the weights it began with: one safetensors file that names them.

The file holds tensors that differ, bottlenecks and low-rank factors under their plain names; what the network was made
into stands in its metadata. Factors are multiplied and added when it is read, without PEFT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from medseg_cli.checkpoint_file import read_tensors, sniff
from medseg_cli.errors import ModelError
from medseg_cli.models.tuning import Kind, Tunable, Tuned, add_bottlenecks, plain_state, tuned_of
from medseg_cli.preset_weights import BaseWeights
from medseg_cli.weights.base import describe, find
from medseg_cli.weights.importer import DIFFERENCE

TUNED, BASE = "medseg.tuned", DIFFERENCE
"""Metadata keys: what was done to the network, and what it began with."""


class Begin(Protocol):
    """A family's `begin`: the network that files hold, drawn from the seed where they hold nothing."""

    def __call__(self, values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[Any, Collection[str]]:
        """The network, and the names of its parameters that no file covers."""
        ...


@dataclass(frozen=True)
class Difference:
    """What the metadata of a file says.

    Args:
        path: of the file.
        base: the weights it belongs to.
        tuned: what was done to the network.
    """

    path: Path
    base: BaseWeights
    tuned: Tuned


def opened(path: Path) -> Difference | None:
    """The metadata of a difference; None for a file that stands alone.

    Raises:
        ModelError: unreadable, or metadata that nobody can have written.
    """
    if sniff(path) != "safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or truncated: {error}", "fetch or make it again") from error
    if TUNED not in facts:
        return None
    try:
        base, said = BaseWeights(**json.loads(facts[BASE])), json.loads(facts[TUNED])
        tuned = Tuned(cast(Kind, str(said["kind"])), int(said["rank"]), int(said["bottleneck"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} does not say what it belongs to: {error}", "train again") from error
    return Difference(path, base, tuned)


def root(path: Path) -> BaseWeights:
    """What the result of a training that begins with this file is a difference to: a difference has its own base."""
    difference = opened(path)
    return describe(path) if difference is None else difference.base


def read(path: Path, values: Mapping[str, Any], begin: Begin) -> nn.Module | None:
    """The network that a difference makes of its base, in training mode; None for a file that stands alone.

    Args:
        path: the file.
        values: the network's configuration.
        begin: of its family.

    Raises:
        ModelError: the base is missing or another one, or tensors do not fit.
    """
    difference = opened(path)
    if difference is None:
        return None
    network, fresh = begin(values, 0, [find(difference.base, path).path])
    assert isinstance(network, nn.Module)
    if difference.tuned.bottleneck:
        add_bottlenecks(network, difference.tuned.bottleneck, 0)
    stored = dict(read_tensors(path))
    own = network.state_dict()
    for name in sorted(key.removesuffix(".lora_A") for key in stored if key.endswith(".lora_A")):
        _add_update(own, stored, name, path)
    idle = cast(Tunable, network).parts().idle
    _check(own, stored, [name for name in fresh if not name.startswith(idle)], path)
    network.load_state_dict({**own, **stored})
    return network


def _add_update(own: Mapping[str, Tensor], stored: dict[str, Tensor], name: str, path: Path) -> None:
    """Replace the two factors of a layer by its weight with their product added; own or stored weight alike."""
    down, up = stored.pop(f"{name}.lora_A"), stored.pop(f"{name}.lora_B", None)
    weight = stored.get(f"{name}.weight", own.get(f"{name}.weight"))
    if up is None or weight is None or (up.shape[0], down.shape[1]) != tuple(weight.shape):
        raise ModelError(f"{path}: the low-rank update of '{name}' fits no layer", "train again")
    stored[f"{name}.weight"] = weight + up.float() @ down.float()


def _check(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], needed: Collection[str], path: Path) -> None:
    unknown, lacking = sorted(stored.keys() - own.keys()), sorted(set(needed) - stored.keys())
    misfit = [name for name, value in stored.items() if name in own and own[name].shape != value.shape]
    if unknown or lacking or misfit:
        raise ModelError(
            f"{path} does not fit the network it belongs to: {len(unknown)} unknown {unknown[:3]}, "
            f"{len(lacking)} missing {lacking[:3]}, {len(misfit)} of another shape {misfit[:3]}",
            "it was made by another version, or its preset was changed: train again",
        )


def difference_of(
    network: nn.Module, values: Mapping[str, Any], begin: Begin
) -> tuple[dict[str, Tensor], dict[str, str], BaseWeights | None]:
    """What of a trained network a file must hold.

    Args:
        network: tuned by `tuning.tune`, trained, on the CPU.
        values: its configuration.
        begin: of its family.

    Returns:
        Tensors by plain name, metadata, and the base; no metadata and no base where the tensors stand alone: nothing
        was frozen, or nothing was begun with.
    """
    state, tuned = plain_state(network), tuned_of(network)
    start = tuned.start
    if start is None or (tuned.kind == "full" and not tuned.bottleneck):
        return state, {}, None
    base = root(start)
    before, fresh = begin(values, 0, [find(base, start).path])
    same = before.state_dict()
    idle = before.parts().idle
    kept = {
        name: value
        for name, value in state.items()
        if not name.startswith(idle)
        and (name in fresh or name not in same or not torch.equal(value, same[name].to(value.dtype)))
    }
    return kept, {TUNED: tuned.text(), BASE: base.model_dump_json()}, base


def loader(build: Callable[[Path | None, Mapping[str, Any]], Any], begin: Begin) -> Callable[..., Any]:
    """`build` that understands differences too."""

    def load(checkpoint: Path | None, values: Mapping[str, Any]) -> Any:
        network = None if checkpoint is None else read(checkpoint, values, begin)
        return build(checkpoint, values) if network is None else network.eval()

    return load
