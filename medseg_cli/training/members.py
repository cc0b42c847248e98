"""Checkpoints that a cyclic training keeps: the members of an ensemble, and the preset that averages them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from medseg_cli import preset
from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.preset import Preset
from medseg_cli.preset_weights import Member, ShippedWeights
from medseg_cli.training.average import learned, put
from medseg_cli.training.plan import Plan
from medseg_cli.weights.store import sha256_of
from medseg_cli.writers.atomic import atomic_output
from medseg_cli.writers.tensor_file import save_tensors

FOLDER = "members"
"""Folder of what the network had learnt at each of the plan's steps; of no use once the run is done."""
PRESET = "ensemble.yaml"


def keep(run: Path, step: int, network: nn.Module) -> None:
    """Write what the network has learnt after a step; a resumed run writes the same again.

    Raises:
        InputError: the folder cannot be written, or no space is left.
    """
    (run / FOLDER).mkdir(exist_ok=True)
    with atomic_output(_file(run, step), overwrite=True) as part:
        save_tensors({name: value.detach().cpu().contiguous() for name, value in learned(network).items()}, part, {})


def export(
    network: nn.Module, run: Path, plan: Plan, single: Preset, save: Callable[[nn.Module, Path], ShippedWeights]
) -> Path:
    """Write each member's weights and `ensemble.yaml`, the preset of their mean; returns its path.

    Args:
        network: takes the weights of one member after the other.
        run: its folder.
        plan: says which there are.
        single: the preset of the run's best weights.
        save: writes the network's weights into a file as `single` has them.

    Raises:
        ModelError: one that was kept is missing or damaged.
    """
    if (run / PRESET).is_file() and not (run / FOLDER).exists():
        return run / PRESET  # of a run that was done before and then tidied up
    weights: list[ShippedWeights] = []
    for number, step in enumerate(plan.kept, start=1):
        put(network, _read(run, step))
        weights.append(save(network, run / f"member-{number:02d}.safetensors"))
    others = tuple(Member(file=each.file, sha256=each.sha256 or sha256_of(run / each.file)) for each in weights[1:])
    together = single.model_copy(
        update={
            "name": f"{single.name[:55]}-ensemble",
            "title": f"{single.title}, {len(weights)} checkpoints together",
            "weights": weights[0].model_copy(update={"members": others}),
        }
    )
    with atomic_output(run / PRESET, overwrite=True) as part:
        part.write_text(preset.dump(together), encoding="utf-8")
    return run / PRESET


def _file(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:07d}.safetensors"


def _read(run: Path, step: int) -> dict[str, Tensor]:
    path = _file(run, step)
    if not path.is_file():
        raise ModelError(f"{path}, a checkpoint of the ensemble, is missing", "start again with another -o")
    return {name: value for name, value in read_tensors(path).items() if isinstance(value, Tensor)}
