"""Fusion of the modalities' embeddings and reconstruction of one of them: a branch of training alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Each modality's embedding plus what it attends to in the item's other ones: e_m + MHA_m( e_m; {e_k, k != m} ).

    Attention runs over the modalities of one item, never across items.

    Args:
        modalities: their names.
        dim: width of the embeddings, a multiple of ``heads``.
        heads: attention heads.

    One attention over all other modalities stands for LAVIMO's sum of one per modality, which over a single vector each
    would have nothing to choose from.

    Source: Yin et al., CVPR 2024 (LAVIMO); the paper's code attends across the batch instead, which makes an
    embedding depend on the items beside it.
    """

    def __init__(self, modalities: Sequence[str], dim: int, heads: int):
        super().__init__()
        self.attention = nn.ModuleDict(
            {name: nn.MultiheadAttention(dim, heads, batch_first=True) for name in modalities}
        )

    def forward(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality -> (B, D), from modality -> (B, D) with row i of all describing item i."""
        fused = {}
        for name, x in embeddings.items():
            others = torch.stack([z for other, z in embeddings.items() if other != name], dim=1)
            fused[name] = x + self.attention[name](x[:, None], others, others, need_weights=False)[0][:, 0]
        return fused


class Reconstruction(nn.Module):
    """Decoder of the fused item: self-attention over the modalities, mean, LayerNorm, then D - 2 D - output, GELU.

    Args:
        dim: width of the embeddings.
        heads: attention heads.
        output: width of what is reconstructed.

    Source: the paper's image-text-audio code (audio decoder 512-1024-512).
    """

    def __init__(self, dim: int, heads: int, output: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.decoder = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, output))

    def forward(self, fused: Mapping[str, Tensor]) -> Tensor:
        """(B, output) from modality -> (B, D)."""
        tokens = torch.stack(list(fused.values()), dim=1)
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.decoder(self.norm(attended.mean(dim=1)))
