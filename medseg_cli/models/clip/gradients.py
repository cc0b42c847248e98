"""gScoreCAM, the saliency of MedCLIP-SAM v1, and Grad-CAM: maps from a block's tokens and their gradients.

The official gScoreCAM looks at the second norm of the last block, where the class token alone has gradients: every
channel is worth the same there, and 300 arbitrary ones are scored (spec section 3). `official=True` reproduces that
with channels 0 to 299; the default looks at the tokens behind an earlier block, where patches have gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medseg_cli.models.clip.network import Tower

TOP = 300
"""Channels that gScoreCAM scores."""


def channels(tower: Tower, image: Tensor, text: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Activations and gradients of the cosine behind a block.

    Args:
        image: (1, 3, S, S) normalised.
        text: (E,) features.
        layer: block, from 0; behind the last one no patch has a gradient.

    Returns:
        Activations and gradients, both (D, rows, columns), of the patches.
    """
    with torch.no_grad():
        tokens = tower.run(tower.tokens(image), 0, layer + 1)
    with torch.enable_grad():
        tokens.requires_grad_(True)
        features = tower.features(tower.run(tokens, layer + 1, len(tower.blocks)))
        similarity = torch.nn.functional.cosine_similarity(features[0], text, dim=-1)
        (gradient,) = torch.autograd.grad(similarity, [tokens])
    return _patches(tower, tokens.detach()), _patches(tower, gradient)


def grad_cam(tower: Tower, image: Tensor, text: Tensor, layer: int) -> Tensor:
    """Grad-CAM (rows, columns), 0 or more, not normalised; arguments as `channels`."""
    activations, gradients = channels(tower, image, text, layer)
    return (gradients.mean(dim=(1, 2))[:, None, None] * activations).sum(0).clamp(min=0)


def gscore_cam(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    scale: float,
    layer: int,
    top: int = TOP,
    batch: int = 64,
    *,
    official: bool = False,
) -> Tensor:
    """gScoreCAM (rows, columns), 0 or more, not normalised.

    Args:
        tower, image, text: as `channels`.
        scale: what cosines are multiplied by before the softmax over channels: `logit_scale.exp()`.
        layer: block, from 0, behind which tokens are taken; without meaning for `official`.
        top: how many channels are scored.
        batch: masked pictures that are encoded at a time.
        official: as the released code computes it, see above.
    """
    if official:
        activations = _official_activations(tower, image)
        chosen = torch.arange(min(top, len(activations)), device=image.device)
    else:
        activations, gradients = channels(tower, image, text, layer)
        chosen = gradients.mean(dim=(1, 2)).topk(min(top, len(activations))).indices
    # The released code aligns the corners of maps and picture, which moves the map by up to half a patch.
    scores = _scores(tower, image, text, activations[chosen], batch, align_corners=official) * scale
    if official:
        weights = torch.zeros(len(activations), device=image.device)
        weights[chosen] = scores
        weights = weights.softmax(0)[chosen]
    else:
        weights = scores.softmax(0)
    return (weights[:, None, None] * activations[chosen]).sum(0).clamp(min=0)


@torch.no_grad()
def _scores(
    tower: Tower, image: Tensor, text: Tensor, activations: Tensor, batch: int, *, align_corners: bool
) -> Tensor:
    """Cosine with the text of the picture masked by each channel; channels (K, rows, columns) → (K,)."""
    unit = torch.nn.functional.normalize(text, dim=-1)
    found = []
    # Masks are made as they are needed: all of them at once take half a gigabyte.
    for part in activations.split(batch):
        masks = nn.functional.interpolate(part[:, None], image.shape[2:], mode="bilinear", align_corners=align_corners)
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        masked = image * ((masks - low) / (high - low + 1e-6))
        features = tower.features(tower.run(tower.tokens(masked), 0, len(tower.blocks)))
        found.append(torch.nn.functional.normalize(features, dim=-1) @ unit)
    return torch.cat(found).nan_to_num(0.0)


@torch.no_grad()
def _official_activations(tower: Tower, image: Tensor) -> Tensor:
    """(D, rows, columns) behind the norm that feeds the last block's MLP."""
    last = tower.blocks[-1]
    seen: list[Tensor] = []
    norm: nn.Module = last.norm2 if tower.timm else last.ln_2  # type: ignore[assignment]
    handle = norm.register_forward_hook(_keep(seen))
    try:
        tower.run(tower.tokens(image), 0, len(tower.blocks))
    finally:
        handle.remove()
    return _patches(tower, seen[0])


def _keep(seen: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        seen.append(result.detach())

    return hook


def _patches(tower: Tower, tokens: Tensor) -> Tensor:
    """Tokens (1, 1 + N, D) → (D, rows, columns), without the class token."""
    rows, columns = tower.grid
    return tokens[0, 1:].T.reshape(-1, rows, columns)
