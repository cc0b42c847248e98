"""What of a network is trained, and what is put into it for that: bottleneck adapters, low-rank updates.

A network that can be tuned says what its parts are (`Parts`) and what its paper trains (`freeze`). Everything else is
the same for all of them. What is put in changes nothing at first: the network begins exactly as its weights have it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from medseg_kernels import adapter
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medseg_cli.errors import UsageError

Kind = Literal["method", "adapter", "lora", "full", "decoder"]

SAM_WIDTHS = (768, 1024, 1280)
"""Channels of SAM's three transformers. One of another width was never SAM's, and nothing is lost by training it."""
BESIDE_MLP = 0.5
"""Share of the bottleneck beside a block's MLP (Medical SAM Adapter, arXiv 2304.12620)."""
NARROWING = 4
"""Channels of a block per channel of its bottlenecks (the same)."""
_LORA = "default"


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a network that a choice can name.

    Args:
        encoder: what turns an image into features; nothing in it depends on a prompt.
        blocks: the encoder's transformer blocks, each with Linears `attn.qkv` and `attn.proj` and a module `mlp`.
        decoder: what "decoder" trains: from features and prompts to masks.
        own_adapters: whether the method has adapters of its own, which `freeze` leaves trainable. Where not,
            bottlenecks are put into the blocks; these must then call `attn.proj` and `mlp` as modules.
        idle: how the names of parameters begin that nothing is computed with; no file needs them.
    """

    encoder: nn.Module
    blocks: nn.ModuleList
    decoder: tuple[nn.Module, ...]
    own_adapters: bool = False
    idle: tuple[str, ...] = ()


class Tunable(Protocol):
    """What a network offers."""

    def parts(self) -> Parts:
        """Its parts."""
        ...

    def freeze(self) -> None:
        """Freeze what the method's paper does not train."""
        ...


@dataclass(frozen=True)
class Tuned:
    """What was done to a network.

    Args:
        kind: what of it is trained.
        rank: of its low-rank updates, 0 without.
        bottleneck: channels of its bottlenecks, 0 without.
        start: the weights it begins with; None = random ones.
    """

    kind: Kind
    rank: int = 0
    bottleneck: int = 0
    start: Path | None = None

    def text(self) -> str:
        """As JSON, without the file, which a result names by its hash."""
        return json.dumps({"bottleneck": self.bottleneck, "kind": self.kind, "rank": self.rank})


class Bottleneck(nn.Module):
    """down, GELU, up; the second projection begins with zeros, so that nothing comes out of it at first."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, scale: float = 1.0, residual: bool = True) -> Tensor:
        """(..., C) → (..., C): scale * up(gelu(down(x))), with x where it is a residual."""
        down, up = self.down, self.up
        return adapter(x, down.weight, down.bias, up.weight, up.bias, "gelu", scale=scale, residual=residual)


def decide(kind: Kind, width: int | None, scratch: bool) -> Kind:
    """What "method" comes to for these weights.

    Args:
        kind: the user's choice.
        width: channels of the transformer, where the method freezes SAM's; None where it freezes none.
        scratch: the weights are random.

    Raises:
        UsageError: frozen random weights were asked for.
    """
    if scratch:
        if kind not in ("method", "full"):
            raise UsageError(
                f"--peft {kind} keeps the weights that a training begins with, and random ones are not worth keeping",
                "begin with the preset's weights (--start preset), or train everything (--peft full)",
            )
        return "full"
    return "full" if kind == "method" and width is not None and width not in SAM_WIDTHS else kind


def tune(
    network: nn.Module, kind: Kind, rank: int, seed: int, fresh: Collection[str] = (), start: Path | None = None
) -> None:
    """Set what is trained and put in what is missing for it.

    Parameters that are built without a gradient are constants and stay it.

    Args:
        network: a `Tunable` on the CPU; it may hold bottlenecks already, which "adapter" then trains on.
        kind: see `pipelines.choices.Choices`.
        rank: of low-rank updates.
        seed: of what is put in.
        fresh: names of parameters that no file covered: trained whatever the choice.
        start: the weights that the network has now, for its result; None = random ones.
    """
    tunable, before = cast(Tunable, network), tuned_of(network)
    parts = tunable.parts()
    constants = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    width = before.bottleneck
    network.requires_grad_(kind in ("full", "method"))
    for module in parts.decoder:
        module.requires_grad_(True)
    if kind == "method" or (kind == "adapter" and parts.own_adapters):
        network.requires_grad_(True)
        tunable.freeze()
    if kind == "adapter" and not parts.own_adapters:
        width = width or max(1, _width(parts) // NARROWING)
        if not before.bottleneck:
            add_bottlenecks(network, width, seed)
        for module in bottlenecks(network):
            module.requires_grad_(True)
    if kind == "lora":
        _add_updates(parts, rank, seed, beside_bottlenecks=bool(width))
    for name, parameter in network.named_parameters():
        plain = plain_name(name)
        if plain in constants:
            parameter.requires_grad_(False)
        elif plain in fresh and not plain.startswith(parts.idle):
            parameter.requires_grad_(True)
    _note(network, Tuned(kind, rank if kind == "lora" else 0, width, start))


def add_bottlenecks(network: nn.Module, inner: int, seed: int) -> None:
    """Two in each block: one after the attention, one beside the MLP (Medical SAM Adapter, arXiv 2304.12620)."""
    parts = cast(Tunable, network).parts()
    width = _width(parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for block in parts.blocks:
            for module, hook in ((block.get_submodule("attn.proj"), _after), (block.get_submodule("mlp"), _beside)):
                module.add_module("bottleneck", Bottleneck(width, inner))
                module.register_forward_hook(hook)
    _note(network, Tuned(tuned_of(network).kind, bottleneck=inner))


def bottlenecks(network: nn.Module) -> Iterator[Bottleneck]:
    """Those that were put into it."""
    return (module for module in network.modules() if isinstance(module, Bottleneck))


def _after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    result: Tensor = module.get_submodule("bottleneck")(output)
    return result


def _beside(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + module.get_submodule("bottleneck")(inputs[0], BESIDE_MLP, False)


def _add_updates(parts: Parts, rank: int, seed: int, beside_bottlenecks: bool) -> None:
    """PEFT's low-rank updates at the attention's Linears; a projection with a bottleneck behind it has none."""
    from peft import LoraConfig, inject_adapter_in_model

    layers = "qkv" if beside_bottlenecks else "qkv|proj"
    # Alpha equal to the rank: the product is added as it is.
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=rf"\d+\.attn\.({layers})")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, parts.blocks, adapter_name=_LORA)
    for name, parameter in parts.blocks.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def plain_name(name: str) -> str:
    """The name of a tensor as if PEFT had wrapped nothing; updates are `X.lora_A` and `X.lora_B` beside `X.weight`."""
    return name.replace(".base_layer.", ".").replace(f".{_LORA}.weight", "")


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network under `plain_name`s."""
    return {plain_name(name): value for name, value in network.state_dict().items()}


def trainable(network: nn.Module) -> tuple[int, int]:
    """Numbers of parameters: trained, all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def share_trained(network: nn.Module) -> str:
    """How much of it learns, for people."""
    trained, every = trainable(network)
    return f"{trained:,} of {every:,} parameters learn ({trained / every:.1%})"


def encoder_rests(network: nn.Module) -> bool:
    """Whether an image's features never change in a training: nothing in the encoder is trained."""
    encoder = cast(Tunable, network).parts().encoder
    return not any(parameter.requires_grad for parameter in encoder.parameters())


def rest(network: nn.Module) -> None:
    """Statistics of frozen BatchNorms stay as they are; call it after each `network.train()`."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()


def tuned_of(network: nn.Module) -> Tuned:
    """What was done to it; a network that nothing was done to counts as wholly trained."""
    found: Tuned = getattr(network, "tuned", Tuned("full"))
    return found


def _note(network: nn.Module, tuned: Tuned) -> None:
    network.tuned = tuned  # type: ignore[assignment]  # a plain value beside the modules; deep copies keep it


def _width(parts: Parts) -> int:
    first = parts.blocks[0]
    return int(first.get_submodule("attn.qkv").get_parameter("weight").shape[1])
