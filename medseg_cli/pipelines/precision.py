"""What `--precision auto` means for a preset on a machine: bf16 where it is known to be right and faster, else fp32.

Three things must hold, asked in the order of what they cost: the device multiplies bf16 in hardware; the preset says
what bf16 did to its masks (`bf16:`), and that was little; and this network, on this machine, passes a self-check:
its encoder gives nearly the same in both, sooner. The self-check is kept in `$MEDSEG_HOME/precision`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg_cli.device import Runtime, has_bf16_units, processor
from medseg_cli.preset import Preset
from medseg_cli.weights import store
from medseg_cli.writers.atomic import atomic_output

TOLERANCE = 2e-2
"""‖bf16 - fp32‖ / ‖fp32‖ of the encoder's output; the ViT-B encoders lie at 1e-2."""
GAIN = 1.2
"""Times faster that bf16 must be."""
LOSS = 0.005
"""By how much the preset's measured value may be worse in bf16."""
PARAMETERS = 20_000_000
"""Below this a network's products are too small to gain: measured on both embedded ones, of 0.8 and 1.8 million."""


@dataclass(frozen=True)
class SelfCheck:
    """How one network's encoder fared in bf16 on one machine: relative difference to fp32, and times faster."""

    difference: float
    gain: float


@dataclass(frozen=True)
class Probe:
    """What a self-check needs.

    Args:
        encode: one forward pass of the encoder on a fixed input; a tensor, or several in lists and mappings.
        parameters: of the whole network.
        name: of weights and configuration.
    """

    encode: Callable[[], Any]
    parameters: int
    name: str


def probe(model: nn.Module, encode: Callable[[], Any], weights: dict[str, Any], preset: Preset) -> Probe:
    """A network's probe; `weights` is what `loading.weights_of` says."""
    name = f"{weights['sha256'] or 'random'} {json.dumps(preset.model, sort_keys=True)}"
    return Probe(encode, sum(each.numel() for each in model.parameters()), name)


def settle(runtime: Runtime, preset: Preset, of: Probe | None) -> Runtime:
    """The runtime with its precision decided and the reason in words; unchanged where the user chose.

    Args:
        runtime: `asked` is "auto" or what the user chose.
        preset: what is run.
        of: the network; None where its pipeline offers no self-check.
    """
    if runtime.asked != "auto":
        return runtime
    reason = against(runtime, preset, of)
    if reason is None and of is not None:
        check = checked(runtime, of)
        reason = weigh(check)
        if reason is None:
            why = f"self-check: {check.gain:.1f} times faster, the encoder differs by {check.difference:.1e}"
            return replace(runtime, precision="bf16", why=why)
    return replace(runtime, precision="fp32", why=reason or "")


def against(runtime: Runtime, preset: Preset, of: Probe | None) -> str | None:
    """Why bf16 is out of the question before anything is computed; None where it is not."""
    if not has_bf16_units(runtime.device):
        return f"{processor(runtime.device)} has no bf16 units"
    if runtime.deterministic:
        return "--deterministic: a choice that depends on speed would not be the same on every run"
    if preset.bf16 is None:
        return "the effect of bf16 on this preset's masks was not measured"
    if preset.bf16.loss > LOSS:
        return f"bf16 costs this preset {preset.bf16.loss:.4f} of {preset.bf16.metric}"
    if of is None:
        return "this pipeline has no self-check of bf16"
    if of.parameters < PARAMETERS:
        return f"a network of {of.parameters / 1e6:.1f} million parameters gains nothing from bf16"
    return None


def weigh(check: SelfCheck) -> str | None:
    """Why a self-check speaks against bf16; None where it does not."""
    # Written so that NaN speaks against it.
    if not check.difference <= TOLERANCE:
        return f"self-check: in bf16 the encoder differs by {check.difference:.1e}, more than {TOLERANCE:.0e}"
    if not check.gain >= GAIN:
        return f"self-check: bf16 is {check.gain:.2f} times as fast here, less than {GAIN}"
    return None


def checked(runtime: Runtime, of: Probe) -> SelfCheck:
    """The self-check of this network on this machine: kept from an earlier run, or made and kept."""
    kept = folder() / f"{_key(runtime, of)}.json"
    try:
        return SelfCheck(**json.loads(kept.read_text("utf-8"))["check"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there, or not what we wrote: it is made anew
    check = measure(runtime, of.encode)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(kept, overwrite=True) as path:
            path.write_text(json.dumps({"what": _facts(runtime, of), "check": asdict(check)}, indent=1), "utf-8")
    except OSError:
        pass  # a home that cannot be written costs the next run its time, nothing else
    return check


def measure(runtime: Runtime, encode: Callable[[], Any]) -> SelfCheck:
    """Three forward passes: bf16 to warm up, fp32, bf16."""
    half = replace(runtime, precision="bf16")
    with torch.inference_mode():
        _timed(half, encode)
        exact, slow = _timed(replace(runtime, precision="fp32"), encode)
        rounded, fast = _timed(half, encode)
    difference = float((rounded - exact).norm() / exact.norm())
    return SelfCheck(difference, slow / fast)


def folder() -> Path:
    """Where self-checks are kept."""
    return store.home() / "precision"


def _timed(runtime: Runtime, encode: Callable[[], Any]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    with runtime.autocast():
        result = _flat(encode()).float().cpu()  # waits for the device
    return result, time.perf_counter() - start


def _flat(features: Any) -> Tensor:
    """All values of what an encoder returns, (n,)."""
    if isinstance(features, Tensor):
        return features.flatten()
    parts = features.values() if isinstance(features, dict) else features
    return torch.cat([_flat(each) for each in parts])


def _facts(runtime: Runtime, of: Probe) -> dict[str, Any]:
    """Everything a self-check depends on."""
    return {
        "network": of.name,
        "device": processor(runtime.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": runtime.kernels,
    }


def _key(runtime: Runtime, of: Probe) -> str:
    return hashlib.sha256(json.dumps(_facts(runtime, of), sort_keys=True).encode()).hexdigest()[:32]
