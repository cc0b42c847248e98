"""What the rows on a GPU are measured against: segment_anything, PyTorch's attention with a bias tensor, its conv3d."""

from __future__ import annotations

from functools import partial

import torch
from bench_roofline import Prompts, Vit
from medseg_kernels.relpos_attention import relpos_attention_reference
from medseg_kernels.relpos_windows import offsets
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional as F


def encoder(vit: Vit) -> ImageEncoderViT:
    """Seeded; biases and relative positions are not left at zero, and the softmax is not flat."""
    torch.manual_seed(0)
    network = ImageEncoderViT(
        img_size=vit.grid * vit.patch, patch_size=vit.patch, embed_dim=vit.width, depth=vit.depth,
        num_heads=vit.heads, out_chans=vit.out, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        window_size=vit.window, global_attn_indexes=whole(vit),
    )  # fmt: skip
    for name, parameter in network.named_parameters():
        if name.endswith("qkv.weight"):
            parameter.data *= 2
        elif "rel_pos" in name or "pos_embed" in name or name.endswith("qkv.bias"):
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


def whole(vit: Vit) -> tuple[int, ...]:
    """Blocks that attend to the whole grid, spread evenly as in the published encoders."""
    step = vit.depth // vit.whole
    return tuple(range(step - 1, vit.depth, step))


def decoder(prompts: Prompts) -> MaskDecoder:
    """Seeded; biases are not left near zero, and the softmax is not flat."""
    torch.manual_seed(1)
    transformer = TwoWayTransformer(
        depth=prompts.layers, embedding_dim=prompts.width, mlp_dim=8 * prompts.width, num_heads=prompts.heads
    )
    network = MaskDecoder(
        transformer_dim=prompts.width, transformer=transformer, num_multimask_outputs=prompts.masks - 1
    )
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith("q_proj.weight"):
            parameter.data *= 2
    return network.eval()


class SdpaAttention(nn.Module):
    """segment_anything's attention through SDPA, its bias built as one tensor (as segment-anything-fast began)."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → the same."""
        inner = self.attention
        mixed = sdpa_with_bias(inner.qkv(x), (inner.rel_pos_h, inner.rel_pos_w), inner.num_heads)
        return inner.proj(mixed)


def with_sdpa(network: ImageEncoderViT) -> ImageEncoderViT:
    """The same network, its attentions exchanged in place."""
    for block in network.blocks:
        block.attn = SdpaAttention(block.attn)
    return network


def sdpa_with_bias(qkv: Tensor, tables: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """Attention over whole grids (B, H, W, 3 * heads * d) → (B, H, W, heads * d), its bias (B, heads, N, N) made."""
    batch, h, w, channels = qkv.shape
    d = channels // (3 * heads)
    q, k, v = qkv.reshape(batch, h * w, 3, heads, d).permute(2, 0, 3, 1, 4)
    cells = q.reshape(batch, heads, h, w, d)
    bias_h = torch.einsum("bnhwd,hkd->bnhwk", cells, offsets(tables[0].to(q.dtype), h)).contiguous()
    bias_w = torch.einsum("bnhwd,wkd->bnhwk", cells, offsets(tables[1].to(q.dtype), w)).contiguous()
    bias = (bias_h[..., :, None] + bias_w[..., None, :]).view(batch, heads, h * w, h * w)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return mixed.transpose(1, 2).reshape(batch, h, w, heads * d)


def window_chain(qkv: Tensor, tables: tuple[Tensor, Tensor], pad: Tensor, heads: int, window: int) -> Tensor:
    """Padding, partition, logits, bias, softmax, values and the way back, each with its own tensors."""
    return relpos_attention_reference(qkv, tables, pad, heads, window)


def grouped_conv3d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """torch's own on the channels-last view, (B, H, W, D, R) → the same."""
    y = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, padding=1, groups=len(weight))
    return y.permute(0, 2, 3, 4, 1)
