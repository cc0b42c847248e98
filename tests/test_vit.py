"""The accelerated image encoder against segment_anything's: outputs, gradients, state dict, block by block."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from medseg_cli.models.vit import ChannelNorm, accelerate


def encoder(grid: int, window: int = 14, **changes: object) -> ImageEncoderViT:
    """A small encoder whose attention is sharp and whose every parameter matters."""
    torch.manual_seed(0)
    settings = {
        "img_size": 8 * grid,
        "patch_size": 8,
        "embed_dim": 36,
        "depth": 3,
        "num_heads": 3,
        "out_chans": 16,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "use_rel_pos": True,
        "window_size": window,
        "global_attn_indexes": (1,),
    }
    network = ImageEncoderViT(**{**settings, **changes})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5 if parameter.ndim == 1 else 2 * parameter[0].numel() ** -0.5)
    return network.eval()


def pair(grid: int, window: int = 14, **changes: object) -> tuple[ImageEncoderViT, ImageEncoderViT]:
    original, ours = encoder(grid, window, **changes), accelerate(encoder(grid, window, **changes))
    ours.load_state_dict(original.state_dict())
    return original, ours


@pytest.mark.parametrize("changes", [{}, {"use_rel_pos": False}, {"qkv_bias": False}, {"use_abs_pos": False}])
@pytest.mark.parametrize(("grid", "window"), [(16, 14), (28, 14), (9, 4), (6, 14)])
def test_outputs_are_the_originals(grid: int, window: int, changes: dict[str, bool]) -> None:
    original, ours = pair(grid, window, **changes)
    images = torch.randn(2, 3, 8 * grid, 8 * grid)
    with torch.inference_mode():
        assert distance(ours(images), original(images)) < 1e-5


def test_the_grid_of_a_1024_image() -> None:
    original, ours = pair(64, depth=2)
    images = torch.randn(1, 3, 512, 512)
    with torch.inference_mode():
        assert distance(ours(images), original(images)) < 1e-5


def test_blocks_one_by_one() -> None:
    original, ours = pair(16)
    tokens = torch.randn(1, 16, 16, 36)
    with torch.inference_mode():
        for theirs, mine in zip(original.blocks, ours.blocks, strict=True):
            assert distance(mine(tokens), theirs(tokens)) < 1e-5


def test_a_grid_of_another_size_interpolates_the_tables() -> None:
    original, ours = pair(16)
    tokens = torch.randn(1, 11, 11, 36)
    with torch.inference_mode():
        assert distance(ours.blocks[1](tokens), original.blocks[1](tokens)) < 1e-5


def test_gradients_are_the_originals() -> None:
    original, ours = pair(9, 4)
    images = torch.randn(2, 3, 72, 72)
    weights = torch.randn(2, 16, 9, 9)
    for network in (original, ours):
        (network(images) * weights).sum().backward()
    expected = {name: parameter.grad for name, parameter in original.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert distance(parameter.grad, expected[name]) < 2e-5, name


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_block_is_traced_whole(recorded: bool, precision: torch.dtype) -> None:
    """torch.compile finds nothing in it that it has to leave to Python."""
    block, tokens = pair(16)[1].blocks[0], torch.randn(1, 16, 16, 36)
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
    with half, torch.set_grad_enabled(recorded):
        compiled = torch.compile(block, backend="eager", fullgraph=True)(tokens)
        assert distance(compiled.detach(), block(tokens).detach()) < (1e-5 if precision == torch.float32 else 1e-2)


def test_the_state_dict_is_the_originals() -> None:
    original, ours = pair(9, 4)
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in original.state_dict().items()
    ]


def test_bfloat16_is_as_good_as_the_originals() -> None:
    original, ours = pair(16)
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        exact = original(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert distance(ours(images), exact) < 1.1 * distance(original(images), exact)


def test_a_block_takes_tokens_in_any_order_in_memory() -> None:
    original, ours = pair(9, 4)
    tokens = torch.randn(2, 36, 9, 9).permute(0, 2, 3, 1)
    with torch.inference_mode():
        assert distance(ours.blocks[0](tokens), original.blocks[0](tokens)) < 1e-5


def test_residuals_lie_in_memory_as_their_shape_says() -> None:
    assert pair(9, 4)[1].patch_embed(torch.randn(1, 3, 72, 72)).is_contiguous()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channel_norm_is_layer_norm_2d(layout: torch.memory_format) -> None:
    theirs = LayerNorm2d(5)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    x = torch.randn(2, 5, 4, 3).contiguous(memory_format=layout)
    assert torch.allclose(ChannelNorm(theirs)(x), theirs(x), atol=1e-5)


def distance(result: Tensor | None, exact: Tensor | None) -> float:
    assert result is not None
    assert exact is not None
    return float((result.float() - exact.float()).norm() / exact.norm())
