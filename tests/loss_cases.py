"""What the tests of the losses share: embeddings, every kind of label, and the comparison with a reference."""

from __future__ import annotations

import numpy as np
import torch

from losses import LossOutput

NAMES = ["image", "text", "audio", "video"]
BATCH, WIDTH = 6, 4


def make_embeddings(modalities: int = 2, seed: int = 0, batch: int = BATCH, width: int = WIDTH):
    """Embeddings of unequal norms, between about 0.2 and 5."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {}
    for name in NAMES[:modalities]:
        norms = torch.logspace(-0.7, 0.7, batch, dtype=torch.float64)[torch.randperm(batch, generator=generator)]
        directions = torch.randn(batch, width, generator=generator, dtype=torch.float64)
        embeddings[name] = norms[:, None] * directions
    return embeddings


def as_arrays(embeddings):
    return {name: x.detach().numpy() for name, x in embeddings.items()}


def soft_target(zeros: bool = True) -> torch.Tensor:
    """An asymmetric target with rows of different sums and a positive diagonal."""
    generator = torch.Generator().manual_seed(7)
    target = torch.rand(BATCH, BATCH, generator=generator, dtype=torch.float64) + 0.1
    if zeros:
        target[torch.rand(BATCH, BATCH, generator=generator) < 0.4] = 0.0
        target += torch.eye(BATCH, dtype=torch.float64)
    return target * torch.linspace(0.3, 4, BATCH, dtype=torch.float64)[:, None]


MULTI_HOT = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0]])
LABELS = {
    "integer": torch.tensor([0, 1, 0, 2, 1, 0]),
    "int32": torch.tensor([0, 1, 0, 2, 1, 0], dtype=torch.int32),
    "distinct": torch.arange(BATCH),
    "one class": torch.zeros(BATCH, dtype=torch.long),
    "multi-hot": MULTI_HOT,
    "bool multi-hot": MULTI_HOT.bool(),
    "square multi-hot": torch.cat([MULTI_HOT, MULTI_HOT.flip(1)], dim=1),
    "soft": soft_target(),
    "positive soft": soft_target(zeros=False),
}


def assert_matches(output: LossOutput, parts: dict[str, float]) -> None:
    assert isinstance(output, LossOutput)
    assert list(output.parts) == list(parts)
    assert output.total.shape == ()
    for name, value in output.parts.items():
        assert value.shape == ()
        assert not value.requires_grad
        np.testing.assert_allclose(value.numpy(), parts[name], rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(output.total.detach().numpy(), sum(parts.values()), rtol=1e-9, atol=1e-12)
