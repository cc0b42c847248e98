"""What becomes rows G1 to G7: the two ways of each, on the inputs that are published or on small ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import bench_gpu_baselines as baselines
import bench_roofline as roofline
import torch
from bench_roofline import Work
from formulas import by_formulas
from medseg_kernels import relpos_attention
from medseg_kernels.depthwise_conv3d import depthwise_conv3d
from torch import Tensor

from medseg_cli.models.sam3d.config import Sam3dConfig
from medseg_cli.models.sam3d.network import Sam3d
from medseg_cli.models.two_way import PromptedMasks
from medseg_cli.models.vit import accelerate

HALF, BOTH, DEEP = 2e-2, 4e-2, 6e-2
"""Relative distance that results in 16 bits may have: to float32, to other 16 bits, at the end of a whole network."""


@dataclass(frozen=True)
class Sizes:
    """What the rows run on.

    Args:
        vit: the image encoder, whose grid and window the attention rows share.
        batches: images at a time in the encoder rows.
        cube, channels: edge and channels of the depth-wise convolution.
        crop: configuration of 3DSAM-adapter.
        prompts: of the mask decoder.
        compiler: backend of torch.compile.
    """

    vit: roofline.Vit = field(default_factory=roofline.Vit)
    batches: tuple[int, ...] = (1, 8)
    cube: int = 32
    channels: int = 384
    crop: Sam3dConfig = field(default_factory=Sam3dConfig)
    prompts: roofline.Prompts = field(default_factory=roofline.Prompts)
    compiler: str = "inductor"


@dataclass(frozen=True)
class Case:
    """What becomes a row: see `bench_gpu.GpuRow`; baseline and ours return what is compared."""

    goal: str
    what: str
    baseline: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    tolerance: float
    must: float | None = None
    stretch: float | None = None
    work: Work | None = None


def inferred(run: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """Without gradients."""
    with torch.inference_mode():
        return run(*given)


def encoders(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """G1: the image encoder in bfloat16 against segment_anything's in float32, and against its compiled form."""
    vit = sizes.vit
    original = baselines.encoder(vit).to(device)
    fused = baselines.with_sdpa(baselines.encoder(vit)).to(device).bfloat16()
    compiled = torch.compile(fused, backend=sizes.compiler)
    ours = accelerate(baselines.encoder(vit)).to(device).bfloat16()
    for batch in sizes.batches:
        torch.manual_seed(0)
        images = torch.randn(batch, 3, vit.grid * vit.patch, vit.grid * vit.patch, device=device)
        half, work = images.bfloat16(), roofline.encoder(vit, batch)
        what, run = f"encoder, {vit.grid * vit.patch} px, batch {batch}, bf16", partial(inferred, ours, half)
        goals = (8.0, 13.0) if batch > 1 else (None, None)
        yield Case("G1", f"{what} (eager fp32)", partial(inferred, original, images), run, HALF, *goals, work)
        goals = (1.25, 1.5) if batch > 1 else (None, None)
        yield Case("G1", f"{what} (compiled, SDPA, bf16)", partial(inferred, compiled, half), run, BOTH, *goals, work)


def drawn(vit: roofline.Vit, window: int, device: torch.device) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """qkv and padding in bfloat16, tables in float32."""
    torch.manual_seed(0)
    edge, d = window or vit.grid, vit.width // vit.heads
    qkv = torch.randn(1, vit.grid, vit.grid, 3 * vit.width, device=device).bfloat16()
    tables = (torch.randn(2, 2 * edge - 1, d, device=device) * 0.3).unbind()
    return qkv, tables, torch.randn(3 * vit.width, device=device).bfloat16()


def global_attention(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """G2: one global attention against SDPA with its bias as a tensor."""
    vit = sizes.vit
    qkv, tables, pad = drawn(vit, 0, device)
    what = f"global attention {vit.grid}x{vit.grid}, bf16 (SDPA + bias tensor)"
    baseline = partial(inferred, partial(baselines.sdpa_with_bias, qkv, tables, vit.heads))
    ours = partial(inferred, partial(relpos_attention, qkv, tables, pad, vit.heads))
    yield Case("G2", what, baseline, ours, BOTH, 2.0, 3.0, roofline.attention(vit, 0))


def window_attention(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """G3: one window attention with all that makes windows, against the chain of the original."""
    vit = sizes.vit
    qkv, tables, pad = drawn(vit, vit.window, device)
    what = f"window attention {vit.window}x{vit.window} with partition, bf16 (eager chain)"
    baseline = partial(inferred, partial(baselines.window_chain, qkv, tables, pad, vit.heads, vit.window))
    ours = partial(inferred, partial(relpos_attention, qkv, tables, pad, vit.heads, vit.window))
    yield Case("G3", what, baseline, ours, BOTH, 4.0, 8.0, roofline.attention(vit, vit.window))


def attention_gradients(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """G4: forward and backward of one global attention, the gradient of qkv compared; memory is the point."""
    vit = sizes.vit
    qkv, tables, pad = drawn(vit, 0, device)
    given = [qkv.requires_grad_(), *(table.clone().requires_grad_() for table in tables)]
    direction = torch.randn(*qkv.shape[:3], vit.width, device=device).bfloat16()

    def both(attend: Callable[[], Tensor]) -> Tensor:
        return torch.autograd.grad(attend(), given, direction)[0]

    work = roofline.attention(vit, 0)
    baseline = partial(both, partial(baselines.sdpa_with_bias, given[0], (given[1], given[2]), vit.heads))
    ours = partial(both, partial(relpos_attention, given[0], (given[1], given[2]), pad, vit.heads))
    what = f"global attention {vit.grid}x{vit.grid}, forward and backward, bf16 (SDPA + bias tensor)"
    # Five products backward for two forward.
    yield Case("G4", what, baseline, ours, BOTH, 1.5, 2.5, Work(3.5 * work.flops, 3.5 * work.bytes))


def convolutions(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """G5: depth-wise 3-D convolution, forward and backward, against torch's."""
    torch.manual_seed(0)
    edge, channels = sizes.cube, sizes.channels
    x = torch.randn(1, edge, edge, edge, channels, device=device).bfloat16().requires_grad_()
    weight = torch.randn(channels, 1, 3, 3, 3, device=device).bfloat16().requires_grad_()
    bias = torch.randn(channels, device=device).bfloat16().requires_grad_()
    what, voxels = f"depth-wise conv3d {edge}³ x {channels}, bf16", edge**3
    forward = (partial(inferred, run, x, weight, bias) for run in (baselines.grouped_conv3d, depthwise_conv3d))
    yield Case("G5", f"{what} (F.conv3d)", *forward, HALF, 5.0, 20.0, roofline.depthwise(voxels, channels))
    direction = torch.randn_like(x)

    def gradients(result: Tensor) -> Tensor:
        found = torch.autograd.grad(result, (x, weight, bias), direction, retain_graph=True)
        return torch.cat([part.flatten().float() / part.float().norm() for part in found])

    backward = (partial(gradients, run(x, weight, bias)) for run in (baselines.grouped_conv3d, depthwise_conv3d))
    work = roofline.depthwise_backward(voxels, channels)
    yield Case("G5", f"{what}, backward (F.conv3d)", *backward, HALF, 5.0, 20.0, work)


def crops(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """G6: one crop through 3DSAM-adapter against the formulas in float32 and under autocast."""
    torch.manual_seed(0)
    network = Sam3d(sizes.crop).eval()
    network.initialise()
    network = network.to(device)
    edge = sizes.crop.crop_size
    image, click = torch.randn(1, 1, edge, edge, edge, device=device), torch.full((1, 1, 3), edge / 2, device=device)

    def run(half: bool, reference: bool) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half), torch.inference_mode():
            if not reference:
                return network(image, click)
            # The official computation upsamples three equal channels.
            with by_formulas():
                return network(image.repeat(1, 3, 1, 1, 1), click)

    cube = roofline.Cube(
        sizes.crop.tokens, sizes.crop.embed_dim, sizes.crop.depth, sizes.crop.cubic_window_size, sizes.crop.out_chans,
        sizes.crop.mlahead_channels, sizes.crop.num_classes, sizes.crop.decoder_scale,
    )  # fmt: skip
    ours, work = partial(run, True, False), roofline.crop(cube)
    what = f"3DSAM-adapter, one crop of {edge}³, bf16"
    yield Case("G6", f"{what} (formulas, fp32)", partial(run, False, True), ours, DEEP, 6.0, 12.0, work)
    yield Case("G6", f"{what} (formulas, bf16 autocast)", partial(run, True, True), ours, DEEP, 2.0, 3.0, work)


def decoders(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """G7: the mask decoder with many prompts against segment_anything's under autocast."""
    prompts = sizes.prompts
    original = baselines.decoder(prompts).to(device)
    ours = PromptedMasks(baselines.decoder(prompts)).to(device)
    torch.manual_seed(0)
    image, position = torch.randn(2, 1, prompts.width, prompts.grid, prompts.grid, device=device)
    sparse = torch.randn(prompts.count, prompts.tokens - 1 - prompts.masks, prompts.width, device=device)
    dense = torch.randn(1, prompts.width, 1, 1, device=device).expand(prompts.count, -1, prompts.grid, prompts.grid)

    def run(decode: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16), torch.inference_mode():
            return decode(image, position, sparse, dense)[0]

    what = f"mask decoder, {prompts.count} prompts, bf16 (segment_anything, bf16 autocast)"
    work = roofline.decoder(prompts)
    yield Case("G7", what, partial(run, original.predict_masks), partial(run, ours), BOTH, 2.5, 4.0, work)


PARTS = (encoders, global_attention, window_attention, attention_gradients, convolutions, crops, decoders)
"""In the order of the goals."""
