"""Adapters: small networks from an encoder's vector or tokens into a joint space."""

from typing import Any

from torch import Tensor, nn

from lightning_modules.networks import build
from lightning_modules.networks.encoders.base import TemporalTransformer, mean_over_steps


def projection(input_dim: int, dim: int, dropout: float) -> nn.Sequential:
    """Dropout, a linear map and layer normalisation: (..., input_dim) -> (..., dim)."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(input_dim, dim), nn.LayerNorm(dim))


class MLPAdapter(nn.Module):
    """A residual bottleneck on every token, x + W_2 GELU(W_1 x), then a projection; the vector is their mean.

    A single vector is one token: (B, 1, input_dim).

    Args:
        input_dim: width of a token.
        dim: width of the joint space.
        hidden: width of the bottleneck; a quarter of the token's by default.
        dropout: share of units dropped in training.

    Source of the bottleneck: Gao et al., IJCV 2024 (CLIP-Adapter).
    """

    def __init__(self, input_dim: int, dim: int, hidden: int | None = None, dropout: float = 0.0):
        super().__init__()
        hidden = max(input_dim // 4, 1) if hidden is None else hidden
        self.bottleneck = nn.Sequential(nn.Linear(input_dim, hidden), nn.GELU(), nn.Linear(hidden, input_dim))
        self.project = projection(input_dim, dim, dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Vectors (B, dim) and tokens (B, T, dim), from tokens (B, T, input_dim) and their mask (B, T)."""
        tokens = self.project(tokens + self.bottleneck(tokens))
        return mean_over_steps(tokens, mask), tokens


class TransformerAdapter(nn.Module):
    """A small transformer over the tokens, then a projection; the vector is what becomes of a class token.

    Args:
        input_dim: width of a token.
        dim: width of the joint space.
        width: of the transformer, a multiple of ``heads``.
        depth: layers.
        heads: attention heads.
        dropout: share of units dropped in training.

    Raises:
        ValueError: the width is no multiple of the heads.

    Source: Yin et al., arXiv 2502.17028 (CS-Aligner), a transformer adapter; its size is not known.
    """

    def __init__(
        self, input_dim: int, dim: int, width: int = 128, depth: int = 2, heads: int = 4, dropout: float = 0.0
    ):
        super().__init__()
        self.enter = nn.Linear(input_dim, width)
        self.transformer = TemporalTransformer(width, depth, heads, dropout)
        self.project = projection(width, dim, dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """As :meth:`MLPAdapter.forward`."""
        vector, tokens = self.transformer(self.enter(tokens), mask)
        return self.project(vector), self.project(tokens)


ADAPTERS: dict[str, type[nn.Module]] = {"mlp": MLPAdapter, "transformer": TransformerAdapter}


def build_adapter(name: str, input_dim: int, dim: int, **settings: Any) -> nn.Module:
    """An adapter by its name in ``ADAPTERS``, from tokens of one width into a joint space of another."""
    return build("adapter", ADAPTERS, name, input_dim, dim, **settings)
