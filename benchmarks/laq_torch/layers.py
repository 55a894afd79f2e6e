"""The layers of the official LAQ in plain PyTorch, under the parameter names of its checkpoints.

Written anew from what the official code computes, eagerly and without masks, caches or dropout; what
benchmarks/laq.py compares with. Tokens are [N, L, D]: N sequences of L tokens.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGIT_SCALE = 8.0


class ScaleNorm(nn.Module):
    """Layer norm with a learned scale and a shift that stays zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class PEG(nn.Module):
    """3x3x3 depthwise convolution, causal in time, over tokens read as [B, T, H, W, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor, clip: Sequence[int]) -> Tensor:
        """x [N, L, D] and clip (B, T, H, W) with B*T*H*W = N*L -> [N, L, D]."""
        grid = x.reshape(*clip, -1).permute(0, 4, 1, 2, 3)
        grid = self.dsconv(F.pad(grid, (1, 1, 1, 1, 2, 0)))
        return grid.permute(0, 2, 3, 4, 1).reshape(x.shape)


class Attention(nn.Module):
    """Cosine attention; queries alone are normed, unless there is a context."""

    def __init__(self, dim: int, heads: int, head_dim: int, num_null_kv: int = 0) -> None:
        super().__init__()
        inner, self.heads, self.num_null_kv = heads * head_dim, heads, num_null_kv
        self.norm, self.context_norm = ScaleNorm(dim), ScaleNorm(dim)
        self.null_kv = nn.Parameter(torch.randn(heads, 2 * num_null_kv, head_dim))
        self.q_scale = nn.Parameter(torch.ones(head_dim))
        self.k_scale = nn.Parameter(torch.ones(head_dim))
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x [N, L, D], bias [heads, L, L], context [N, M, D] -> [N, L, D]."""
        source = x if context is None else self.context_norm(context)
        q = self.to_q(self.norm(x))
        k, v = self.to_kv(source).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if self.num_null_kv:
            nulls = self.null_kv.unflatten(1, (-1, 2)).expand(len(x), -1, -1, -1, -1)
            k, v = torch.cat([nulls[..., 0, :], k], dim=2), torch.cat([nulls[..., 1, :], v], dim=2)
        q, k = F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale
        logits = q @ k.transpose(-1, -2) * LOGIT_SCALE
        if bias is not None:
            logits = logits + bias
        return self.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class GEGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * x


def feed_forward(dim: int) -> nn.Sequential:
    """Norm, up, gate, (dropout of nothing), down: the indices are those of the checkpoints."""
    inner = int(4 * (2 / 3) * dim)
    up, down = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(inner, dim, bias=False)
    return nn.Sequential(nn.LayerNorm(dim), up, GEGLU(), nn.Identity(), down)


class Transformer(nn.Module):
    """PEG, self-attention, cross-attention where there is a context, feed-forward; then a norm."""

    def __init__(self, dim: int, depth: int, heads: int, head_dim: int, cross: bool = False) -> None:
        super().__init__()

        def layer() -> nn.ModuleList:
            across = Attention(dim, heads, head_dim, num_null_kv=2) if cross else nn.Identity()
            return nn.ModuleList([PEG(dim), Attention(dim, heads, head_dim), across, feed_forward(dim)])

        self.layers = nn.ModuleList([layer() for _ in range(depth)])
        self.norm_out = ScaleNorm(dim)

    def forward(
        self, x: Tensor, clip: Sequence[int], bias: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        for peg, attention, across, forward in self.layers:
            x = x + peg(x, clip)
            x = x + attention(x, bias)
            if context is not None:
                x = x + across(x, context=context)
            x = x + forward(x)
        return self.norm_out(x)


class PositionBias(nn.Module):
    """An MLP on the log-scaled offsets of all pairs of patches -> bias [heads, P, P]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        hidden = [nn.Sequential(nn.Linear(i, dim), nn.LeakyReLU(0.1)) for i in (2, dim)]
        self.net = nn.ModuleList([*hidden, nn.Linear(dim, heads)])

    def forward(self, height: int, width: int) -> Tensor:
        device = self.net[2].weight.device
        cells = torch.stack(
            torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            ),
            dim=-1,
        ).reshape(-1, 2)
        x = (cells[:, None] - cells[None]).float()
        x = torch.sign(x) * torch.log(x.abs() + 1)
        for layer in self.net:
            x = layer(x)
        return x.permute(2, 0, 1)
