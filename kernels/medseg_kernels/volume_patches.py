"""Tokens of an upsampled volume: trilinear upsampling, a patch embedding per slice, a convolution over slices.

    up[d, h, w] = trilinear(image, scale)                              align_corners False
    slices[d]   = conv2d(up[d], patch_w, stride = kernel) + patch_b    frozen in 3DSAM-adapter
    tokens      = depth-wise conv over d, kernel = stride = n, weights slice_w, + slice_b

All of it is linear in the image, and one patch of n x p x p upsampled voxels depends on few voxels of the image itself:
upsampling by s is a matrix per axis, so a p-tap kernel of stride p on the upsampled axis is a (p / s + 2)-tap kernel of
stride p / s on the image's own axis, whose border voxels are repeated once. The three folded kernels multiply to one
small dense kernel, applied as one matrix product; nothing of the upsampled size exists.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference
from medseg_kernels.linear import linear


def volume_patches(
    image: Tensor, patch_w: Tensor, patch_b: Tensor, slice_w: Tensor, slice_b: Tensor, scale: int
) -> Tensor:
    """Tokens of a volume.

    Args:
        image: (B, 1 or I, D, H, W); one channel stands for I identical ones.
        patch_w, patch_b: (C, I, p, p), (C,).
        slice_w, slice_b: (C, 1, 1, 1, n), (C,).
        scale: upsampling factor of every axis; 1 is none.

    Returns:
        (B, scale H / p, scale W / p, scale D / n, C). Gradients reach all tensors.
    """
    if use_reference() or patch_w.shape[-1] % scale or slice_w.shape[-1] % scale:
        return volume_patches_reference(image, patch_w, patch_b, slice_w, slice_b, scale)
    across = slice_w.flatten(1) @ taps(slice_w.shape[-1], scale, slice_w)
    plane = taps(patch_w.shape[-1], scale, patch_w)
    inside = plane.t() @ (patch_w.sum(1, keepdim=True) if image.shape[1] == 1 else patch_w) @ plane
    kernel = (across[:, None, :, None, None] * inside[:, :, None]).flatten(1)
    bias = patch_b * slice_w.flatten(1).sum(1) + slice_b
    return linear(columns(image, across.shape[1], inside.shape[-1], scale), kernel, bias)


def taps(length: int, scale: int, like: Tensor) -> Tensor:
    """(length, length / scale + 2) weights of the image's voxels in each upsampled voxel of a patch.

    The first column is the voxel before the patch, the last the one behind it. No upsampling: the unit matrix.
    """
    if scale == 1:
        return torch.eye(length, dtype=like.dtype, device=like.device)
    place = (torch.arange(length, dtype=torch.float64) + 0.5) / scale + 0.5
    distance = (place[:, None] - torch.arange(length // scale + 2, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0).to(like.dtype).to(like.device)


def columns(image: Tensor, depth: int, edge: int, scale: int) -> Tensor:
    """(B, I, D, H, W) → (B, H', W', D', I * depth * edge * edge): the voxels of each token, (I, d, h, w) row-major."""
    overlap = 0 if scale == 1 else 2
    if overlap:
        image = F.pad(image, (1,) * 6, mode="replicate")
    blocks = image.unfold(2, depth, depth - overlap).unfold(3, edge, edge - overlap).unfold(4, edge, edge - overlap)
    return blocks.permute(0, 3, 4, 2, 1, 5, 6, 7).flatten(4)


def volume_patches_reference(
    image: Tensor, patch_w: Tensor, patch_b: Tensor, slice_w: Tensor, slice_b: Tensor, scale: int
) -> Tensor:
    """The three steps one after the other, as the official code has them. Shapes as `volume_patches`."""
    patches = slice_patches_reference(image, patch_w, patch_b, scale).permute(0, 4, 1, 2, 3)
    tokens = F.conv3d(patches, slice_w, slice_b, stride=slice_w.shape[2:], groups=len(slice_w))
    return tokens.permute(0, 2, 3, 4, 1)


def slice_patches_reference(image: Tensor, patch_w: Tensor, patch_b: Tensor, scale: int) -> Tensor:
    """(B, 1 or I, D, H, W) → (B, H', W', scale D, C): the first two steps, patches of every upsampled slice."""
    if scale != 1:
        image = F.interpolate(image, scale_factor=scale, mode="trilinear", align_corners=False)
    batch, channels = image.shape[:2]
    slices = image.transpose(1, 2).flatten(0, 1)
    kernel = patch_w.sum(1, keepdim=True) if channels == 1 else patch_w
    embedded = F.conv2d(slices, kernel, patch_b, stride=patch_w.shape[2:])
    return embedded.unflatten(0, (batch, -1)).permute(0, 3, 4, 1, 2)
