"""SAM's image encoder and mask decoder, ours against segment_anything's: the same random weights in one process.

Run by itself, `bench_sam.py memory SIZE original|ours` prints the bytes that one forward pass adds to a fresh process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measuring import Row, compare
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, TwoWayTransformer
from torch import Tensor, nn

from medseg_cli.models.sam_unet.config import SamUnetConfig
from medseg_cli.models.sam_unet.decoder import MaskDecoder as SamUnetDecoder
from medseg_cli.models.two_way import PromptedMasks
from medseg_cli.models.vit import accelerate

EXACT, HALF = 1e-5, 2e-2
"""Relative distance to the original in float32 that float32 and bfloat16 may have."""


def encoder(size: int) -> ImageEncoderViT:
    """ViT-B for size² images; biases and relative positions are not left at zero, and the softmax is not flat."""
    torch.manual_seed(0)
    network = ImageEncoderViT(
        img_size=size,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(2, 5, 8, 11),
    )
    for name, parameter in network.named_parameters():
        if name.endswith("qkv.weight"):
            parameter.data *= 2
        elif "rel_pos" in name or "pos_embed" in name or name.endswith("qkv.bias"):
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


def rows(device: torch.device) -> list[Row]:
    """ViT-B at 256 and 1024 pixels and the mask decoder, in float32 and bfloat16."""
    found = []
    for size in (256, 1024):
        original, ours = encoder(size).to(device), accelerate(encoder(size)).to(device)
        image = torch.randn(1, 3, size, size, device=device)
        half = torch.autocast(device.type, dtype=torch.bfloat16)

        def in_half(network: ImageEncoderViT, image: Tensor = image, half: torch.autocast = half) -> Tensor:
            with half:
                return network(image)

        what = f"ViT-B encoder, {size} px, "
        exact, half_original, half_ours = partial(original, image), partial(in_half, original), partial(in_half, ours)
        found += [
            compare(f"{what}fp32 (baseline: segment_anything, fp32)", exact, partial(ours, image), EXACT),
            compare(f"{what}bf16 (baseline: segment_anything, fp32)", exact, half_ours, HALF),
            # Both are rounded, each in its own way.
            compare(f"{what}bf16 (baseline: segment_anything, bf16)", half_original, half_ours, 2 * HALF),
        ]
    return found + decoder_rows(device) + sam_unet_rows(device)


def decoder() -> MaskDecoder:
    """SAM's mask decoder; biases are not left near zero, and the softmax is not flat."""
    torch.manual_seed(1)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    network = MaskDecoder(transformer_dim=256, transformer=transformer)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith("q_proj.weight"):
            parameter.data *= 2
    return network.eval()


def decoder_rows(device: torch.device) -> list[Row]:
    """The mask decoder with 8 boxes, for images of 256 and 1024 pixels, in float32 and bfloat16."""
    original, ours = decoder().to(device).predict_masks, PromptedMasks(decoder()).to(device)
    found = []
    for size in (256, 1024):
        image, position = torch.randn(2, 1, 256, size // 16, size // 16, device=device)
        dense = torch.randn(1, 256, 1, 1, device=device).expand(8, -1, size // 16, size // 16)
        given = (image, position, torch.randn(8, 2, 256, device=device), dense)
        what = f"mask decoder, 8 boxes, {size} px, "
        exact, half_ours = partial(masks, original, given), partial(masks, ours, given, torch.bfloat16)
        found += [
            compare(f"{what}fp32 (baseline: segment_anything, fp32)", exact, partial(masks, ours, given), EXACT),
            compare(f"{what}bf16 (baseline: segment_anything, fp32)", exact, half_ours, HALF),
        ]
    return found


def sam_unet_rows(device: torch.device) -> list[Row]:
    """SAM-UNet's mask decoder with 8 boxes at its published size, in float32 and bfloat16."""
    config = SamUnetConfig()
    ours = SamUnetDecoder(config).eval().to(device)
    parts = ours.sam_mask_decoder
    transformer = TwoWayTransformer(
        depth=config.decoder_depth,
        embedding_dim=config.prompt_dim,
        mlp_dim=config.decoder_mlp_dim,
        num_heads=config.decoder_heads,
    )
    transformer.load_state_dict(parts.transformer.state_dict())
    transformer = transformer.eval().to(device)
    torch.manual_seed(1)
    grid, width = config.grid, config.prompt_dim
    image, position, dense = torch.randn(3, 1, width, grid, grid, device=device)
    scales = torch.randn(1, width // 8, 4 * grid, 4 * grid, device=device)
    sparse = torch.randn(8, 2, width, device=device)
    image, dense, scales = (part.expand(8, -1, -1, -1) for part in (image, dense, scales))

    def official() -> Tensor:
        """As published: every step on whole pictures, the token's product last."""
        tokens = torch.cat([ours.med_token.weight.expand(8, 1, -1), sparse], dim=1)
        tokens, places = transformer(image + dense, position.expand(8, -1, -1, -1), tokens)
        upscaled = parts.output_upscaling(places.transpose(1, 2).reshape(image.shape))
        return torch.einsum("nc,nchw->nhw", ours.hf_mlp(tokens[:, 0]), ours.embedding_maskfeature(upscaled) + scales)

    def run(dtype: torch.dtype) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            return ours(image, scales, position, sparse, dense)

    what = "SAM-UNet mask decoder, 8 boxes, "
    return [
        compare(f"{what}fp32 (baseline: as the official code, fp32)", official, partial(run, torch.float32), EXACT),
        compare(f"{what}bf16 (baseline: as the official code, fp32)", official, partial(run, torch.bfloat16), HALF),
    ]


def masks(
    decode: Callable[..., tuple[Tensor, Tensor]], given: tuple[Tensor, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Logits of all prompts; products in `dtype`."""
    with torch.autocast(given[0].device.type, dtype=dtype, enabled=dtype != torch.float32):
        return decode(*given)[0]


def memory(device: torch.device, size: int) -> dict[str, float]:
    """Peak MB that one forward pass in float32 needs beyond weights and image, of the original and of ours."""
    return {
        name: int(
            subprocess.run(
                [sys.executable, __file__, "memory", str(size), name, str(device)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        / 1e6
        for name in ("original", "ours")
    }


def _peak(size: int, name: str, device: torch.device) -> int:
    """Bytes; on a CPU the kernel's own high-water mark, so Linux only."""
    network = encoder(size) if name == "original" else accelerate(encoder(size))
    network, image = network.to(device), torch.randn(1, 3, size, size, device=device)
    with torch.inference_mode():
        if device.type == "cuda":
            before = torch.cuda.memory_allocated()
            network(image)
            return torch.cuda.max_memory_allocated() - before
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        network(image)
        return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024


if __name__ == "__main__":
    sys.stdout.write(f"{_peak(int(sys.argv[2]), sys.argv[3], torch.device(sys.argv[4]))}\n")
