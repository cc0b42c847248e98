"""3DSAM-adapter at its published size, ours against the computation of the official code; random seeded weights.

Run by itself, `bench_sam3d.py memory original|ours` prints the bytes that the widest parts of one 128³ crop, stem, one
block and decoder, add to a fresh process.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from measuring import Row, compare
from medseg_kernels import volume_patches
from medseg_kernels.adapter_3d import adapter_3d_reference
from medseg_kernels.cubic_attention import split_heads
from medseg_kernels.cubic_windows import partition, shift_mask
from medseg_kernels.volume_patches import volume_patches_reference
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.sam3d.config import Sam3dConfig
from medseg_cli.models.sam3d.decoder import LEVELS, MaskDecoder
from medseg_cli.models.sam3d.encoder import Block, ImageEncoder

EXACT, HALF = 1e-5, 2e-2
"""Relative distance to the official computation in float32 that float32 and bfloat16 may have."""


def seeded(part: nn.Module) -> nn.Module:
    """Relative positions and gains that matter, in eval mode."""
    for name, parameter in part.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.3)
    return part.eval()


def official_block(block: Block, mask: Tensor, x: Tensor) -> Tensor:
    """A block as published: rolled, partitioned and reversed copies, bias and stored mask as tensors."""
    parts, attention = block.adapter, block.attn
    down, conv, up = parts.linear1, parts.conv, parts.linear2
    x = adapter_3d_reference(x, down.weight, down.bias, conv.weight, conv.bias, up.weight, up.bias)
    edge, shift, residual = attention.window, (attention.shift,) * 3, x
    b, h, w, d, c = x.shape
    windows = partition(torch.roll(block.norm1(x), [-s for s in shift], (1, 2, 3)), edge)
    q, k, v = split_heads(attention.qkv(windows), attention.heads)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    place = torch.arange(edge, device=x.device)
    place = place[:, None] - place[None, :] + edge - 1
    cube = q.unflatten(2, (edge,) * 3)
    stored = (attention.rel_pos_h, attention.rel_pos_w, attention.rel_pos_d)
    rel_h, rel_w, rel_d = (attention._rows(table)[place] for table in stored)
    bias = torch.einsum("bnhwdc,hkc->bnhwdk", cube, rel_h)[..., :, None, None]
    bias = bias + torch.einsum("bnhwdc,wkc->bnhwdk", cube, rel_w)[..., None, :, None]
    bias = bias + torch.einsum("bnhwdc,dkc->bnhwdk", cube, rel_d)[..., None, None, :]
    logits = logits + attention.lr * bias.reshape(logits.shape) + mask[:, None]
    mixed = attention.proj((torch.softmax(logits, dim=-1) @ v).transpose(1, 2).flatten(2))
    mixed = mixed.view(b, h // edge, w // edge, d // edge, edge, edge, edge, c)
    mixed = mixed.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, h, w, d, c)
    x = residual + torch.roll(mixed, shift, (1, 2, 3))
    return x + block.mlp(block.norm2(x))


def official_decoder(decoder: MaskDecoder, features: list[Tensor], image: Tensor) -> Tensor:
    """The decoder as published: four levels and the image side by side before one convolution."""
    sizes = [decoder.mlahead.get_submodule(level)(feature) for level, feature in zip(LEVELS, features, strict=True)]
    wide = [F.interpolate(level, scale_factor=2, mode="trilinear", align_corners=True) for level in sizes]
    small = F.interpolate(image.permute(0, 1, 3, 4, 2), scale_factor=0.5, mode="trilinear", align_corners=False)
    logits = decoder.cls(torch.cat([*wide, small], dim=1))
    logits = F.interpolate(logits, scale_factor=2, mode="trilinear", align_corners=True)
    return logits.permute(0, 1, 4, 2, 3)


def stem_weights(config: Sam3dConfig) -> tuple[Tensor, ...]:
    """Weights and biases of the two convolutions of the stem."""
    encoder = ImageEncoder(config)
    patch, slices = encoder.patch_embed.proj, encoder.slice_embed
    return patch.weight, patch.bias, slices.weight, slices.bias


def rows(device: torch.device) -> list[Row]:
    """Stem on 16 of 128 slices, a shifted block on 16³ of 32³ tokens."""
    torch.manual_seed(0)
    stem = [weight.to(device) for weight in stem_weights(Sam3dConfig())]
    crop = torch.randn(1, 1, 16, 128, 128, device=device)
    three = crop.repeat(1, 3, 1, 1, 1)
    block = seeded(Block(Sam3dConfig(), 0)).to(device)
    half = copy.deepcopy(block).bfloat16()
    mask = shift_mask((16,) * 3, 8, 4, device)
    x = torch.randn(1, 16, 16, 16, 768, device=device)
    halved = [weight.bfloat16() for weight in stem]
    base = "(baseline: as the official code, fp32)"

    def rounded(run: partial[Tensor]) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return run()

    patches = partial(volume_patches_reference, three, *stem, 4)
    official = partial(official_block, block, mask, x)
    return [
        compare(f"3DSAM stem, fp32 {base}", patches, partial(volume_patches, crop, *stem, 4), EXACT),
        compare(f"3DSAM stem, bf16 {base}", patches, partial(volume_patches, crop.bfloat16(), *halved, 4), HALF),
        compare(f"3DSAM block, fp32 {base}", official, partial(block, x), EXACT),
        compare(f"3DSAM block, bf16 autocast {base}", official, partial(rounded, partial(block, x)), HALF),
        compare(f"3DSAM block, bf16 weights {base}", official, partial(half, x.bfloat16()), HALF),
        compare(
            "3DSAM block, bf16 autocast (baseline: as the official code, bf16 autocast)",
            partial(rounded, official),
            partial(rounded, partial(block, x)),
            2 * HALF,
        ),
    ]


def memory(device: torch.device) -> dict[str, float]:
    """Peak MB beyond weights and input, in float32, of the official computation and of ours."""
    return {
        name: int(
            subprocess.run(
                [sys.executable, __file__, "memory", name, str(device)], check=True, capture_output=True, text=True
            ).stdout
        )
        / 1e6
        for name in ("original", "ours")
    }


def _peak(name: str, device: torch.device) -> int:
    """Bytes; on a CPU the kernel's own high-water mark, so Linux only."""
    torch.manual_seed(0)
    config = Sam3dConfig()
    stem = [weight.to(device) for weight in stem_weights(config)]
    block, decoder = seeded(Block(config, 0)).to(device), MaskDecoder(config).eval().to(device)
    image = torch.randn(1, 1, 128, 128, 128, device=device)
    official = name == "original"
    mask = shift_mask((32,) * 3, 8, 4, device) if official else torch.empty(0)
    with torch.inference_mode():
        before = _start(device)
        if official:
            tokens = official_block(block, mask, volume_patches_reference(image.repeat(1, 3, 1, 1, 1), *stem, 4))
        else:
            tokens = block(volume_patches(image, *stem, 4))
        feature = tokens[..., :256].contiguous().permute(0, 4, 1, 2, 3)
        del tokens
        (official_decoder if official else MaskDecoder.forward)(decoder, [feature] * 4, image)
        return _end(device) - before


def _start(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _end(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024


if __name__ == "__main__":
    sys.stdout.write(f"{_peak(sys.argv[2], torch.device(sys.argv[3]))}\n")
