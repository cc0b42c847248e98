"""SAMUS as its official code computes it, and CC-SAM (our reconstruction) by its formulas, on the weights of ours.

Written from the equations. Blocks of the transformer and the mask decoder are segment_anything's own code, which the
official SAMUS calls too; nothing is shared between prompts, draws or frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.models.cc_sam.encoder import CcSamEncoder, FusedBlock
from medseg_cli.models.cc_sam.fusion import HIGHEST, LOWEST, Latent, VariationalFusion
from medseg_cli.models.cc_sam.network import CcSam
from medseg_cli.models.samus.config import GRID, PATCH, SIZE, STRIDE, SamusConfig
from medseg_cli.models.samus.encoder import SHARE, FeatureAdapter, JoinedBlock, SamusEncoder
from medseg_cli.models.vit import GridBlock


def channel_norm(norm: Any, x: Tensor) -> Tensor:
    """LayerNorm over the channels of (B, C, H, W), term by term as SAM has it."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + norm.eps)
    return norm.weight[:, None, None] * x + norm.bias[:, None, None]


def in_turn(parts: Iterable[Any], x: Tensor) -> Tensor:
    """Layers one after the other, norms over channels by `channel_norm`."""
    for part in parts:
        x = channel_norm(part, x) if hasattr(part, "eps") else part(x)
    return x


def bottleneck(adapter: FeatureAdapter, x: Tensor) -> Tensor:
    """A feature adapter without what is added to it."""
    return adapter.D_fc2(F.gelu(adapter.D_fc1(x)))


def sam_block(block: GridBlock, x: Tensor) -> Tensor:
    """SAM's block with windows: padded, cut up, put together again."""
    windows, padded = window_partition(block.norm1(x), block.window_size)
    heard = window_unpartition(block.attn(windows), block.window_size, padded, (GRID, GRID))
    x = x + heard
    return x + block.mlp(block.norm2(x))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention between tokens (B, N, C), the whole matrix of it in memory."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def joined_block(block: JoinedBlock, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """A global block of SAMUS: tokens (B, H, W, C), the CNN's map (B, C, H, W) → both."""
    normed, cross = block.norm1(x), block.Space_Adapter
    others = features.flatten(2).transpose(1, 2)
    q, k, v = cross.q(normed.flatten(1, 2)), cross.k(others), cross.v(others)
    normed = normed + cross.proj(softmax_attention(q, k, v, cross.heads)).view_as(normed)
    features = in_turn(block.refine_Adapter.conv, features)
    return adapted(block, x, normed), features


def adapted(block: JoinedBlock | FusedBlock, x: Tensor, normed: Tensor) -> Tensor:
    """The rest of a global block: SAM's attention on what was heard, its MLP and the adapter beside it."""
    x = x + block.attn(normed)
    normed = block.norm2(x)
    x = x + block.mlp(normed)
    return x if block.MLP_Adapter is None else x + SHARE * bottleneck(block.MLP_Adapter, normed)


def stem(encoder: SamusEncoder | CcSamEncoder, images: Tensor) -> Tensor:
    """Patches that overlap, the input's adapter, and SAM's positions through theirs."""
    edge = (GRID - 1) * STRIDE + PATCH
    x = F.interpolate(images, (edge, edge), mode="bilinear", align_corners=False)
    x = encoder.patch_embed.proj(x).permute(0, 2, 3, 1)
    if encoder.input_Adapter is not None:
        x = x + bottleneck(encoder.input_Adapter, x)
    (halving,) = encoder.post_pos_embed.downs
    return x + in_turn(halving.maxpool_conv, encoder.pos_embed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def samus_encode(encoder: SamusEncoder, images: Tensor) -> Tensor:
    """Images (B, 3, 256, 256) → (B, C, 32, 32)."""
    features = in_turn(encoder.cnn_embed.inc.conv, images)
    for halving in encoder.cnn_embed.downs:
        features = in_turn(halving.maxpool_conv, features)
    x = stem(encoder, images)
    for block in encoder.blocks:
        if isinstance(block, JoinedBlock):
            x, features = joined_block(block, x, features)
        else:
            x = sam_block(block, x)
    return in_turn(encoder.neck, x.permute(0, 3, 1, 2) + SHARE * features)


def latent(side: Latent, tokens: Tensor, noise: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A draw of one side's latents, or their means without noise, and their log-variance; (B, N, z) both."""
    inner = F.gelu(side.hidden(side.norm(tokens)))
    mean, log_variance = side.mean(inner), side.log_variance(inner).clamp(LOWEST, HIGHEST)
    if noise is None:
        return mean, log_variance
    return mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=noise), log_variance


def fused(fusion: VariationalFusion, tokens: Tensor, features: Tensor, noise: torch.Generator | None) -> Tensor:
    """Variational attention fusion, "vaf": tokens (B, N, D) that have heard the CNN's (B, N, D)."""
    (z_v, log_v), (z_c, log_c) = latent(fusion.latent_v, tokens, noise), latent(fusion.latent_c, features, noise)
    heard = softmax_attention(fusion.q(z_v), fusion.k(z_c), fusion.value(features), fusion.heads)
    sure = [
        fusion.gate(z) - fusion.certainty / 2 * log_variance.mean(-1, keepdim=True)
        for z, log_variance in ((z_v, log_v), (z_c, log_c))
    ]
    share = torch.softmax(torch.cat(sure, -1), -1)[..., 1:]
    return tokens + 2 * share * fusion.out(heard)


def cc_sam_encode(encoder: CcSamEncoder, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
    """Images (B, 3, 256, 256) → (B, C, 32, 32), frozen CNN, one tap to a block; with `noise` the latents are drawn."""
    taps = [
        F.interpolate(in_turn([tap.conv, tap.norm], stage), (GRID, GRID), mode="bilinear", align_corners=False)
        for tap, stage in zip(encoder.cnn_proj, encoder.cnn(images), strict=True)
    ]
    x, heard = stem(encoder, images), iter(taps)
    for block in encoder.blocks:
        if isinstance(block, FusedBlock):
            normed = block.norm1(x).flatten(1, 2)
            assert block.vaf is not None
            normed = fused(block.vaf, normed, next(heard).flatten(2).transpose(1, 2), noise).view_as(x)
            x = adapted(block, x, normed)
        else:
            x = sam_block(block, x)
    return in_turn(encoder.neck, x.permute(0, 3, 1, 2) + SHARE * encoder.tail_scale * taps[-1])


def sam_decoder(config: SamusConfig, weights: dict[str, Tensor]) -> MaskDecoder:
    """segment_anything's decoder with the weights of ours."""
    transformer = TwoWayTransformer(
        depth=config.decoder_depth,
        embedding_dim=config.prompt_dim,
        mlp_dim=config.decoder_mlp_dim,
        num_heads=config.decoder_heads,
    )
    decoder = MaskDecoder(
        transformer_dim=config.prompt_dim, transformer=transformer, iou_head_hidden_dim=config.iou_dim
    )
    decoder.load_state_dict(weights)
    return decoder.eval().requires_grad_(False)


def decoded(decoder: MaskDecoder, network: Any, image: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
    """Logits (N, 1, 128, 128) of N prompts in one encoded image (1, C, 32, 32)."""
    return decoder(image, network.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False)[0]


def drawn(network: CcSam, decoder: MaskDecoder, image: Tensor, samples: int, noise: torch.Generator) -> Tensor:
    """Logits (1, 1, 128, 128), mean over draws, the whole network for each; the variance is made too. No prompt."""
    each = []
    for _ in range(samples):
        sparse, dense = network.embed(None, None, None, None, None, 1)
        each.append(decoded(decoder, network, cc_sam_encode(network.image_encoder, image, noise), sparse, dense))
    wide = [F.interpolate(one, (SIZE, SIZE), mode="bilinear", align_corners=False) for one in each]
    torch.stack([one.sigmoid() for one in wide]).var(0, correction=0)
    return torch.stack(each).mean(0)
