"""`--compile`: the blocks of a network's encoder compiled by torch, and what that made kept for the next run.

Only blocks are compiled, one by one: all of one shape share what is made for the first. What torch's compiler made
lies in `$MEDSEG_HOME/compiled`, one file per network architecture, torch version, device and precision. Such a file is
code: it is loaded from the user's own folder only, and nothing downloads one.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg_cli.device import Runtime, processor
from medseg_cli.errors import DeviceError, UsageError
from medseg_cli.preset import Preset
from medseg_cli.weights import store
from medseg_cli.writers.atomic import atomic_output


@dataclass(frozen=True)
class Compiled:
    """A network whose blocks are compiled when they first run.

    Args:
        artefact: where the result is kept.
        loaded: whether there was one from an earlier run.
        blocks: how many were marked.
    """

    artefact: Path
    loaded: bool
    blocks: int


def compile_blocks(model: nn.Module, preset: Preset, runtime: Runtime) -> Compiled:
    """Mark the blocks of a network for compilation, and load what an earlier run made of them.

    Raises:
        UsageError: the network has no encoder of blocks.
        DeviceError: this machine cannot compile.
    """
    blocks = [block for each in model.modules() for block in _blocks(each)]
    if not blocks:
        raise UsageError(f"preset {preset.name} has no encoder of blocks that could be compiled", "leave --compile out")
    _check_compiler(runtime)
    artefact = folder() / f"{_key(model, runtime)}.bin"
    loaded = artefact.is_file() and torch.compiler.load_cache_artifacts(artefact.read_bytes()) is not None
    for block in blocks:
        block.compile()
    return Compiled(artefact, loaded, len(blocks))


@contextmanager
def told() -> Iterator[None]:
    """What fails in torch's compiler fails as a DeviceError.

    Raises:
        DeviceError: the compiler's own words, first line.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise DeviceError(f"--compile failed: {words[0]}", "leave --compile out; --debug shows the whole") from error


def keep(compiled: Compiled) -> dict[str, Any]:
    """Keep what was made in this run; and what reports say about it.

    `artefact` is "used" where all came from the kept one, "made" where anything had to be compiled, None where no block
    ran (everything came from the cache of embeddings).
    """
    from torch._dynamo.utils import counters

    found = counters["inductor"]
    made = found["fxgraph_cache_miss"] + found["fxgraph_cache_bypass"]
    reused = found["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]
    result = torch.compiler.save_cache_artifacts() if made or not compiled.loaded else None
    if result is not None:
        compiled.artefact.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(compiled.artefact, overwrite=True) as path:
            path.write_bytes(result[0])
    artefact = "made" if made else "used" if reused and compiled.loaded else None
    return {"compiled": bool(made or reused), "blocks": compiled.blocks, "artefact": artefact}


def folder() -> Path:
    """Where artefacts are kept."""
    return store.home() / "compiled"


def _blocks(module: nn.Module) -> list[nn.Module]:
    blocks = getattr(module, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


def _check_compiler(runtime: Runtime) -> None:
    if runtime.device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, RuntimeError) as error:
            raise DeviceError(
                "--compile needs a C++ compiler, and none was found", "install g++, set CXX, or leave --compile out"
            ) from error
    elif runtime.device.type != "cuda" or runtime.kernels == "pytorch":
        raise DeviceError(f"torch compiles nothing for {runtime.device} here", "leave --compile out")


def _key(model: nn.Module, runtime: Runtime) -> str:
    """Of the architecture and of all that a compiled block depends on besides; not of the weights' values."""
    facts = {
        "network": [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in model.state_dict().items()],
        "device": processor(runtime.device),
        "precision": runtime.precision,
        "kernels": runtime.kernels,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
