"""The mask decoder with absorbed projections against segment_anything's: outputs, gradients, state dict."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from torch import Tensor, nn

from medseg_cli.models import two_way
from medseg_cli.models.two_way import AbsorbedTransformer, PromptedMasks

WIDTH, GRID = 32, (5, 7)


def decoder() -> MaskDecoder:
    """A small decoder whose attention is sharp and whose every parameter matters."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=4, mlp_dim=48)
    network = MaskDecoder(transformer_dim=WIDTH, transformer=transformer, iou_head_hidden_dim=24)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5 if parameter.ndim == 1 else 1.5 * parameter[0].numel() ** -0.5)
    return network.eval()


def inputs(prompts: int, masked: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, position, sparse and dense embeddings; without masks the dense ones are one, expanded."""
    dense = torch.randn(prompts, WIDTH, *GRID) if masked else torch.randn(1, WIDTH, 1, 1).expand(prompts, WIDTH, *GRID)
    return torch.randn(1, WIDTH, *GRID), torch.randn(1, WIDTH, *GRID), torch.randn(prompts, 3, WIDTH), dense


@pytest.mark.parametrize("together", [1, 70, 10**6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("prompts", [1, 2, 5])
def test_masks_and_scores_are_the_originals(
    prompts: int, masked: bool, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_way, "TOGETHER", together)
    given = inputs(prompts, masked)
    with torch.inference_mode():
        expected = decoder().predict_masks(*given)
        results = PromptedMasks(decoder())(*given)
    for result, exact in zip(results, expected, strict=True):
        assert result.shape == exact.shape
        assert (result - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("learning", [False, True])
def test_no_prompt_is_no_mask(learning: bool) -> None:
    with torch.set_grad_enabled(learning):
        masks, quality = PromptedMasks(decoder())(*inputs(0, masked=False))
    assert masks.shape == (0, 4, 4 * GRID[0], 4 * GRID[1])
    assert quality.shape == (0, 4)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_the_originals(masked: bool) -> None:
    original, ours = decoder(), PromptedMasks(decoder())
    given = inputs(3, masked)
    image = given[0].requires_grad_()
    found = []
    for predict in (original.predict_masks, ours):
        image.grad = None
        masks, quality = predict(*given)
        ((masks * torch.linspace(-1, 1, masks.shape[-1])).sum() + quality.sum()).backward()
        assert image.grad is not None
        found.append(image.grad.clone())
    assert (found[1] - found[0]).norm() < 1e-5 * found[0].norm()
    expected = dict(original.named_parameters())
    for name, parameter in ours.named_parameters():
        exact, gradient = expected[name].grad, parameter.grad
        if name.endswith("token_to_image.k_proj.bias"):
            # A softmax does not see what all its keys have in common: both are rounding.
            assert gradient is not None
            assert max(gradient.abs().max(), exact.abs().max()) < 1e-3
        else:
            assert (gradient - exact).norm() < 2e-5 * exact.norm() + 1e-4, name


def test_the_transformer_alone_takes_what_the_original_takes() -> None:
    original, ours = decoder().transformer, AbsorbedTransformer(decoder().transformer)
    image, position, tokens = torch.randn(2, WIDTH, *GRID), torch.randn(1, WIDTH, *GRID), torch.randn(2, 4, WIDTH)
    with torch.inference_mode():
        expected = original(image, position.expand(2, -1, -1, -1), tokens)
        for result, exact in zip(ours(image, position, tokens), expected, strict=True):
            assert (result - exact).norm() < 1e-5 * exact.norm()


def test_the_state_dict_is_the_originals() -> None:
    ours, original = PromptedMasks(decoder()).state_dict(), decoder().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in original.items()}
