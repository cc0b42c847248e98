"""What a run leaves behind: weights and the preset that uses them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medseg_cli import preset
from medseg_cli.models import STARTS
from medseg_cli.models.tuned_file import difference_of
from medseg_cli.preset import Preset
from medseg_cli.preset_quality import Quality
from medseg_cli.preset_weights import BaseWeights, ShippedWeights
from medseg_cli.training import members
from medseg_cli.training.facts import RunFacts
from medseg_cli.versions import version
from medseg_cli.weights.store import sha256_of
from medseg_cli.writers.atomic import atomic_output
from medseg_cli.writers.tensor_file import save_tensors

WEIGHTS = "weights.safetensors"


def export(network: nn.Module, base: Preset, facts: RunFacts, run: Path, quality: Quality | None = None) -> Path:
    """Write the weights as safetensors and a preset that uses them; returns the preset's path.

    Where a training kept a part of the weights it began with, the file holds the others alone.

    Args:
        network: the network with the weights to keep, on any device; after cycles it has those of the last member.
        base: the preset that was trained.
        facts: where they come from.
        run: the run's folder.
        quality: limits of the preset's flags, measured on the training cases; None where they could not be.
    """

    def save(trained: nn.Module, file: Path) -> ShippedWeights:
        return _save(trained, base, facts, file)

    weights = save(network, run / WEIGHTS)
    source = f"trained with medseg finetune on {facts.dataset}, seed {facts.plan.seed}, {facts.step} steps"
    objects = facts.choices.objects
    tuned = base.model_copy(
        update={
            "name": _preset_name(run),
            "title": f"{base.title} (trained on {facts.dataset})",
            "weights": weights,
            "options": _options(base),
            "prompts": base.prompts if base.prompts.automatic else base.prompts.model_copy(update={"objects": objects}),
            "accuracy": (),
            "bf16": None,
            "quality": quality,
            "source": source,
            "licence": "not stated",
        }
    )
    with atomic_output(run / preset.RUN_FILE, overwrite=True) as part:
        part.write_text(preset.dump(tuned), encoding="utf-8")
    if facts.plan.cycles > 1:
        members.export(network, run, facts.plan, tuned, save)
    return run / preset.RUN_FILE


def _options(base: Preset) -> dict[str, Any]:
    """The preset's knobs, without the name of a file whose content the weights hold now."""
    inside = "text_rows" in base.model
    return {name: value for name, value in base.options.items() if not (inside and name == "text_table")}


def _save(network: nn.Module, base: Preset, facts: RunFacts, file: Path) -> ShippedWeights:
    """Write a network's weights, or what of them a training changed; how a preset beside the file names it."""
    tensors, metadata, began = _tensors(network, base)
    metadata |= {
        "preset": base.name,
        "pipeline": base.pipeline,
        "plan": json.dumps(asdict(facts.plan)),
        "dataset": facts.dataset,
        "medseg": version("medseg-cli") or "",
        "torch": version("torch") or "",
    }
    with atomic_output(file, overwrite=True) as part:
        save_tensors({name: value.detach().contiguous() for name, value in tensors.items()}, part, metadata)
    return ShippedWeights(file=file.name, sha256=sha256_of(file), base=began)


def _tensors(network: nn.Module, base: Preset) -> tuple[dict[str, Tensor], dict[str, str], BaseWeights | None]:
    """What the file must hold, its metadata, and the weights that it belongs to: see `tuned_file.difference_of`."""
    network = network.cpu()
    if base.pipeline not in STARTS:
        return network.state_dict(), {}, None
    module, name = STARTS[base.pipeline].split(":")
    return difference_of(network, base.model, getattr(import_module(module), name))


def _preset_name(run: Path) -> str:
    """The run folder's name as presets spell names."""
    return re.sub(r"[^a-z0-9._-]+", "-", run.resolve().name.lower()).strip("-._")[:64] or "run"
