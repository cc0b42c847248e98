"""Variational attention fusion: what the CNN says counts as much as the network is certain of it.

The idea is the paper's, the equations are our reconstruction. With V the transformer's normed tokens and C the CNN's,
both (B, N, D), each side has a Gaussian latent per token, N(mu, exp(l)). Attention runs between the latents; its result
is added with the weight that a softmax over both sides' certainty gives to the CNN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from medseg_kernels import attention
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.cc_sam.config import CcSamConfig

Noise = torch.Generator | Sequence[torch.Generator] | None
"""One generator on the tensors' device; or one on the CPU for each row of a batch, which is then drawn alike in any
batch and on any device; or None, PyTorch's own."""
LOWEST, HIGHEST = -8.0, 4.0
"""Limits of the log-variance."""
FIRST = -2.0
"""Log-variance of an untrained encoder, whatever it sees."""


class Latent(nn.Module):
    """Tokens (B, N, D) → mean and log-variance (B, N, z) of their latent."""

    def __init__(self, width: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, FIRST)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        inner = F.gelu(self.hidden(self.norm(tokens)))
        return self.mean(inner), self.log_variance(inner).clamp(LOWEST, HIGHEST)


class VariationalFusion(nn.Module):
    """The fusion of one block; with `cross` and `gate` the parts of it that an ablation leaves.

    The output projection begins at zero: an untrained fusion changes nothing.
    """

    def __init__(self, config: CcSamConfig) -> None:
        super().__init__()
        width, r, z = config.samus.embed_dim, config.fusion_dim, config.latent_dim
        self.form = config.fusion
        self.heads = config.samus.num_heads
        self.latent_v, self.latent_c = Latent(width, r, z), Latent(width, r, z)
        if self.form != "gate":
            self.q, self.k = nn.Linear(z, z, bias=False), nn.Linear(z, z, bias=False)
        self.value = nn.Linear(width, r, bias=False)
        if self.form != "cross":
            self.gate = nn.Linear(z, 1, bias=False)
            self.certainty = nn.Parameter(torch.ones(()))
        self.out = nn.Linear(r, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, tokens: Tensor, features: Tensor, noise: Noise = None, sampled: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One block's fusion, in single precision whatever autocast says: it holds exponentials.

        Args:
            tokens: V, (B, N, D).
            features: C, (B, N, D).
            noise: of the latents, see `Noise`.
            sampled: draw the latents instead of taking their means.

        Returns:
            Tokens (B, N, D); the divergence from N(0, I) in nats, a scalar, and the weight of the CNN per token (B, N),
            None for "cross".
        """
        with torch.autocast(tokens.device.type, enabled=False):
            tokens, features = tokens.float(), features.float()
            (mean_v, log_v), (mean_c, log_c) = self.latent_v(tokens), self.latent_c(features)
            drawn = sampled and self.form != "cross"
            z_v, z_c = (drawn_from(*each, noise) if drawn else each[0] for each in ((mean_v, log_v), (mean_c, log_c)))
            heard = self.out(self._mixed(z_v, z_c, self.value(features)))
            if self.form == "cross":
                return tokens + heard, None, None
            of_v, of_c = self._certainty(z_v, log_v), self._certainty(z_c, log_c)
            share = torch.sigmoid(of_c - of_v)  # a softmax over two
            divergence = (gaussian_divergence(mean_v, log_v) + gaussian_divergence(mean_c, log_c)) / 2
            if self.form == "convex":
                return 2 * ((1 - share) * tokens + share * heard), divergence, share[..., 0]
            return tokens + 2 * share * heard, divergence, share[..., 0]

    def _mixed(self, z_v: Tensor, z_c: Tensor, values: Tensor) -> Tensor:
        """The CNN's values (B, N, r), each token's mixed by attention between the latents (B, N, z)."""
        if self.form == "gate":
            return values
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.q(z_v), self.k(z_c), values))
        return attention(q, k, v).transpose(1, 2).flatten(2)

    def _certainty(self, z: Tensor, log_variance: Tensor) -> Tensor:
        """(B, N, 1), lower where the latent varies more."""
        return self.gate(z) - self.certainty / 2 * log_variance.mean(-1, keepdim=True)


def drawn_from(mean: Tensor, log_variance: Tensor, noise: Noise) -> Tensor:
    """A sample of N(mean, exp(log_variance)), any shape whose first axis is the batch."""
    if noise is None or isinstance(noise, torch.Generator):
        epsilon = torch.randn(mean.shape, generator=noise, device=mean.device, dtype=mean.dtype)
    else:
        assert len(noise) == len(mean), f"{len(noise)} generators for {len(mean)} rows"
        epsilon = torch.stack([torch.randn(mean.shape[1:], generator=each, dtype=mean.dtype) for each in noise])
        epsilon = epsilon.to(mean.device)
    return mean + (log_variance / 2).exp() * epsilon


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, summed over the last axis, averaged over the others."""
    return (-0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1)).mean()
