"""The official LAQ in plain PyTorch: the network that benchmarks/laq.py compares ours with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laq_speed.sizes import CODE_LENGTH, Sizes
from laq_torch import layers


class Quantizer(nn.Module):
    """Noise-substitution VQ on the difference of two frames, each read by a small CNN."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        code_dim, grid = sizes.code_dim, sizes.image_size // sizes.patch_size
        self.grid = grid
        self.codebooks = nn.Parameter(torch.randn(sizes.num_codes, code_dim))
        self.project_in = nn.Linear(sizes.dim, code_dim)
        self.project_out = nn.Linear(code_dim, sizes.dim)
        self.cnn_encoder = nn.Sequential(
            nn.Conv2d(code_dim, code_dim, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(code_dim, code_dim, (grid + 1) // 2 - 1),
        )

    def difference(self, first: Tensor, last: Tensor) -> Tensor:
        """Tokens [B, P, D] of both frames -> [B * N, code_dim]."""
        return self._encode(last) - self._encode(first)

    def codes(self, d: Tensor) -> Tensor:
        square = (d**2).sum(1, keepdim=True) + (self.codebooks**2).sum(1)
        return (square - 2 * d @ self.codebooks.T).argmin(1)

    def noisy(self, d: Tensor, codes: Tensor, noise: Tensor) -> Tensor:
        """What the decoder is trained on: noise as long as the quantisation error."""
        error = (d - self.codebooks[codes]).norm(dim=1, keepdim=True)
        return d + (error / noise.norm(dim=1, keepdim=True) + 1e-12) * noise

    def decode(self, q: Tensor) -> Tensor:
        """[B * N, code_dim] -> [B, N, D]; channels and positions mix, as they do officially."""
        return self.project_out(q.reshape(-1, q.shape[-1], CODE_LENGTH).transpose(1, 2))

    def _encode(self, tokens: Tensor) -> Tensor:
        x = self.project_in(tokens).transpose(1, 2)
        x = self.cnn_encoder(x.unflatten(2, (self.grid, self.grid)))
        return x.flatten(2).transpose(1, 2).reshape(-1, x.shape[1])


class LAQ(nn.Module):
    """Frames are float [B, 3, 2, H, W] in [0, 1], as the official code has them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, pixels = sizes, 3 * sizes.patch_size**2
        stack = (sizes.dim, sizes.depth, sizes.heads, sizes.head_dim)
        self.spatial_rel_pos_bias = layers.PositionBias(sizes.dim, sizes.heads)
        self.to_patch_emb_first_frame = nn.Sequential(
            nn.Identity(), nn.LayerNorm(pixels), nn.Linear(pixels, sizes.dim), nn.LayerNorm(sizes.dim)
        )
        self.enc_spatial_transformer = layers.Transformer(*stack)
        self.enc_temporal_transformer = layers.Transformer(*stack)
        self.vq = Quantizer(sizes)
        self.dec_spatial_transformer = layers.Transformer(*stack, cross=True)
        self.to_pixels_first_frame = nn.Sequential(nn.Linear(sizes.dim, pixels))

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Training: (loss, codes [B * N]); noise [B * N, code_dim]."""
        first, last, start = self.encode(video)
        d = self.vq.difference(first, last)
        codes = self.vq.codes(d)
        context = self.vq.decode(self.vq.noisy(d, codes, noise))
        return F.mse_loss(self._decode(start.detach(), context), video[:, :, 1]), codes

    def label(self, video: Tensor) -> Tensor:
        """Codes [B, N]."""
        first, last, _ = self.encode(video)
        return self.vq.codes(self.vq.difference(first, last)).reshape(-1, CODE_LENGTH)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, P, D] of both frames after the encoders, and of the first before them."""
        grid = self.vq.grid
        clip = (len(video), 2, grid, grid)
        patches = self.to_patch_emb_first_frame(self._patches(video))  # [B, 2, P, D]
        bias = self.spatial_rel_pos_bias(grid, grid)
        x = self.enc_spatial_transformer(patches.flatten(0, 1), clip, bias)
        x = x.unflatten(0, (-1, 2)).transpose(1, 2).flatten(0, 1)  # sequences over time, one a patch
        x = self.enc_temporal_transformer(x, clip)
        first, last = x.unflatten(0, (len(video), -1)).unbind(2)
        return first, last, patches[:, 0]

    def _decode(self, start: Tensor, context: Tensor) -> Tensor:
        """-> images [B, 3, H, W]."""
        grid, patch = self.vq.grid, self.sizes.patch_size
        bias = self.spatial_rel_pos_bias(grid, grid)
        x = self.dec_spatial_transformer(start, (len(start), 1, grid, grid), bias, context)
        x = self.to_pixels_first_frame(x).reshape(-1, grid, grid, 3, patch, patch)
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def _patches(self, video: Tensor) -> Tensor:
        """[B, 3, 2, H, W] -> [B, 2, P, 3 * patch * patch]; a patch is read as (c, h, w)."""
        grid, patch = self.vq.grid, self.sizes.patch_size
        x = video.reshape(len(video), 3, 2, grid, patch, grid, patch)
        return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(len(video), 2, grid * grid, -1)
