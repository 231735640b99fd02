"""Features that were computed elsewhere."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.networks.encoders.base import Encoder, Standardise, pool


class Features(Encoder):
    """Precomputed features, standardised by the training items; a sequence becomes its mean and maximum.

    Args:
        source: of kind "vector" (d,) or "sequence" of vectors.
        standardise: False leaves the features in their own units.

    Raises:
        ValueError: the steps of the sequence are no vectors.
    """

    kinds = ("vector", "sequence")

    def __init__(self, source: Mapping[str, Any], standardise: bool = True):
        super().__init__(source)
        if len(source["shape"]) != 1:
            raise ValueError(f"Features reads vectors, and the steps have shape {tuple(source['shape'])}")
        (width,) = source["shape"]
        self.dim, self.token_dim = (width, None) if source["kind"] == "vector" else (2 * width, width)
        self.standardise = Standardise(width) if standardise else nn.Identity()

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        if isinstance(self.standardise, Standardise):
            self.standardise.fit(rows, mask)

    def with_tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        x = self.standardise(x)
        return pool(x, mask), x, mask

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.standardise(x) if self.token_dim is None else self.with_tokens(x, mask)[0]


class MLP(Encoder):
    """A hidden layer on feature vectors, standardised by the training items: dropout(relu(W x + b)).

    With the projection that a model puts after its encoders this is a network of two layers.

    Args:
        source: of kind "vector".
        width: hidden units.
        dropout: share of hidden units dropped in training.
    """

    kinds = ("vector",)

    def __init__(self, source: Mapping[str, Any], width: int = 256, dropout: float = 0.3):
        super().__init__(source)
        self.standardise = Standardise(source["shape"][0])
        self.hidden = nn.Sequential(nn.Linear(source["shape"][0], width), nn.ReLU(), nn.Dropout(dropout))
        self.dim = width

    def fit(self, rows: Tensor, mask: Tensor | None) -> None:
        self.standardise.fit(rows, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.hidden(self.standardise(x))
