"""Floating-point operations and bytes that benchmarked networks need at least, and what a device could do with them.

A multiplication with its addition counts as two operations; softmax, norms and activations are not counted. Bytes are
those of weights and of activations between products, each written once and read once. Nothing here is measured:
tests/test_bench_roofline.py holds the operations against torch's FlopCounterMode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

CEILINGS = {"NVIDIA H200": (790e12, 4.3e12)}
"""Device → operations per second of dense products in 16 bits and bytes per second of a copy, both measured on it."""


@dataclass(frozen=True)
class Work:
    """What has to be done.

    Args:
        flops: floating-point operations.
        bytes: to and from memory.
    """

    flops: float
    bytes: float

    def floor_ms(self, device: str) -> float | None:
        """Milliseconds below which the device cannot do it; None for a device whose ceilings were not measured."""
        for name, (compute, memory) in CEILINGS.items():
            if name in device:
                return 1000 * max(self.flops / compute, self.bytes / memory)
        return None


@dataclass(frozen=True)
class Vit:
    """Sizes of SAM's image encoder.

    Args:
        grid: tokens along an edge.
        width, depth, heads: of the transformer; its hidden layer has four times the channels.
        window: edge of a window.
        whole: how many blocks attend to the whole grid.
        patch: edge of a patch.
        out: channels of the embedding.
    """

    grid: int = 64
    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    whole: int = 4
    patch: int = 16
    out: int = 256


def windows(grid: int, window: int) -> Iterator[tuple[int, int]]:
    """Rows and columns of real tokens in each window of a grid; 0 = one window."""
    starts = range(0, grid, window or grid)
    for top, left in product(starts, starts):
        yield min(window or grid, grid - top), min(window or grid, grid - left)


def attention(vit: Vit, window: int, padded: bool = False) -> Work:
    """Logits and mixing of values in one block of one image, biases included; 16-bit numbers.

    Args:
        vit: sizes.
        window: edge; 0 for the whole grid.
        padded: with the padding of the windows at the edge, as the original computes; else all of it is one more key.
    """
    edge, pairs, queries = window or vit.grid, 0, 0
    for r, c in windows(vit.grid, window):
        tokens = edge**2 if padded else r * c
        pairs += tokens * (tokens + (0 if padded or r * c == edge**2 else 1))
        queries += tokens
    bias = 2 * 2 * queries * edge * vit.width
    biases = 2 * vit.grid**2 * vit.heads * edge * 4
    return Work(4 * pairs * vit.width + bias, 4 * vit.grid**2 * vit.width * 2 + biases)


def encoder(vit: Vit, batch: int = 1, padded: bool = False) -> Work:
    """The whole image encoder, 16-bit numbers; arguments as `attention`."""
    tokens, c = vit.grid**2, vit.width
    flops = 2 * tokens * 3 * vit.patch**2 * c + 2 * tokens * (c * vit.out + 9 * vit.out**2)
    for index in range(vit.depth):
        window = 0 if index < vit.whole else vit.window
        rows = len(list(windows(vit.grid, window))) * window**2 if padded and window else tokens
        flops += 8 * rows * c * c + attention(vit, window, padded).flops + 16 * tokens * c * c
    weights = vit.depth * 12 * c * c + 3 * vit.patch**2 * c + c * vit.out + 9 * vit.out**2
    # Channels per token and block: qkv 1 + 3, attention 3 + 1, projection 1 + 1 + 1, MLP 1 + 4 + 4 + 1 + 1.
    activations = vit.depth * 22 * tokens * c
    return Work(batch * flops, 2 * (weights + batch * activations))


def depthwise(voxels: int, channels: int) -> Work:
    """Depth-wise 3x3x3 convolution forward: one reading and one writing of 16-bit numbers."""
    return Work(2 * 27 * voxels * channels, 2 * 2 * voxels * channels)


def depthwise_backward(voxels: int, channels: int) -> Work:
    """Gradients of input and weights: gradient and input are read, the input's gradient is written."""
    return Work(2 * 2 * 27 * voxels * channels, 3 * 2 * voxels * channels)


@dataclass(frozen=True)
class Cube:
    """Sizes of 3DSAM-adapter.

    Args:
        grid: tokens along an edge.
        width, depth, window: of the transformer; hidden layers have four times the channels, adapters half of them.
        out, head, classes: channels of the features, of the decoder's levels, of the result.
        scale: voxels of the decoder's grid per token along an edge.
    """

    grid: int = 32
    width: int = 768
    depth: int = 12
    window: int = 8
    out: int = 256
    head: int = 128
    classes: int = 2
    scale: int = 2


def cube_block(cube: Cube) -> float:
    """Operations of one block: adapter, attention with three biases, MLP."""
    tokens, c = cube.grid**3, cube.width
    adapter = 2 * tokens * c * (c // 2) * 2 + 2 * 27 * tokens * (c // 2)
    mixing = 4 * tokens * cube.window**3 * c + 3 * 2 * tokens * cube.window * c
    return adapter + 8 * tokens * c * c + mixing + 16 * tokens * c * c


def cube_neck(cube: Cube) -> float:
    """Operations of one neck."""
    return 2 * cube.grid**3 * (cube.width * cube.out + 27 * cube.out**2)


def cube_decoder(cube: Cube) -> float:
    """Operations of the decoder's convolutions."""
    heads = 4 * 2 * cube.grid**3 * 27 * (cube.out * cube.head + cube.head**2)
    last = 2 * (cube.scale * cube.grid) ** 3 * 27 * ((4 * cube.head + 1) * cube.head + cube.head * cube.classes)
    return heads + last


def crop(cube: Cube) -> Work:
    """One crop, 16-bit numbers; the folded stem and the click's few tokens are below a hundredth and left out."""
    tokens, c = cube.grid**3, cube.width
    flops = cube.depth * cube_block(cube) + 4 * cube_neck(cube) + cube_decoder(cube)
    weights = cube.depth * (12 * c * c + c * c) + 4 * (c * cube.out + 27 * cube.out**2)
    # 22 as in `encoder`, 4.5 of the adapter: read, half written and read twice, added to what was read.
    activations = cube.depth * tokens * c * (22 + 4.5)
    fine = (cube.scale * cube.grid) ** 3
    return Work(flops, 2 * (weights + activations + 2 * fine * (4 * cube.head + 1 + cube.head)))


@dataclass(frozen=True)
class Prompts:
    """Sizes of the mask decoder.

    Args:
        count: prompts.
        tokens: of one prompt, learned ones included.
        grid: places along an edge.
        width, heads, layers, masks: of the decoder.
    """

    count: int = 256
    tokens: int = 7
    grid: int = 64
    width: int = 256
    heads: int = 8
    layers: int = 2
    masks: int = 4


def decoder_attention(prompts: Prompts) -> float:
    """Operations of one attention between tokens and places of one prompt, with projections on the tokens' side."""
    return 4 * prompts.heads * prompts.tokens * prompts.grid**2 * prompts.width


def decoder_upscaling(prompts: Prompts) -> float:
    """Operations of both doublings and of the masks of one prompt."""
    places, c = prompts.grid**2, prompts.width
    return 2 * places * (c * c + 4 * (c // 4) * (c // 2) + 16 * prompts.masks * (c // 8))


def decoder(prompts: Prompts) -> Work:
    """All prompts, 16-bit numbers; what the few tokens do among themselves is below a hundredth and left out.

    The first layer reads places that all prompts share. After it every prompt has its own: written once by each layer,
    read by the attentions of the next one and at the end, where only masks leave the chip.
    """
    places = prompts.grid**2
    flops = (2 * prompts.layers + 1) * decoder_attention(prompts) + decoder_upscaling(prompts)
    passes = prompts.layers + 2 * (prompts.layers - 1) + 2
    moved = 2 * places * (passes * prompts.width + 16 * prompts.masks)
    return Work(prompts.count * flops, prompts.count * moved)
