"""What the tests of the losses share: embeddings, every kind of label, and the comparison with a reference."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import reference
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

from losses import LossOutput, available_losses, build_loss, registry

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


def assert_close(found, expected, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """Of numbers, arrays and tensors."""
    found, expected = (x.detach().numpy() if isinstance(x, Tensor) else x for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def assert_gradients_are_differentiable(value: Callable[..., Tensor], leaves: Sequence[Tensor]) -> None:
    """Second derivatives are those of the gradient with create_graph=True, and this is the gradient without."""
    assert gradgradcheck(value, leaves)
    found, expected = (torch.autograd.grad(value(*leaves), leaves, create_graph=again) for again in (True, False))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def assert_matches(output: LossOutput, parts: dict[str, float]) -> None:
    assert isinstance(output, LossOutput)
    assert list(output.parts) == list(parts)
    assert output.total.shape == ()
    for name, value in output.parts.items():
        assert value.shape == ()
        assert not value.requires_grad
        np.testing.assert_allclose(value.numpy(), parts[name], rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(output.total.detach().numpy(), sum(parts.values()), rtol=1e-9, atol=1e-12)


# Every registered loss as it is by default, with each of these options, and in its forms ------------------------------

OPTIONS = {"temperature": 0.3, "sigma": 0.6, "ridge": 0.5, "epsilon": 1e-2, "logit_scale": 3.0}  # none is a default
SCHEMES = ("clockwise", "counterclockwise", "bidirectional", "mixed")
OF_PAIRS = [name for name in available_losses() if build_loss(name).takes_two]
NEED_LABELS = [name for name in available_losses() if build_loss(name).uses_labels]

Form = tuple[str, dict, int]  # name, keywords, number of modalities


def forms() -> list[Form]:
    """Registered losses with some of their keywords, on two modalities or on three and other numbers."""
    found: list[Form] = []
    for name in available_losses():
        count, keys = 2 if name in OF_PAIRS else 3, registry.keywords(name)
        found += [(name, {}, count), *((name, {key: OPTIONS[key]}, count) for key in keys if key in OPTIONS)]
    for count in (2, 3, 4):
        found += [("gcs", {"scheme": scheme}, count) for scheme in SCHEMES]
        found += [("kernel_gcs", {"sigma": 0.2}, count), ("gram", {}, count)]
        found += [("symile", {"negatives": "shuffled"}, count), ("gcs_clamped", {"scheme": "mixed"}, count)]
    for name in ("gcs", "gcs_clamped", "gcs_product"):
        found += [(name, {"scheme": scheme, "use_target": False}, 3) for scheme in SCHEMES]
    found += [("gram", {"anchor": "image", "label_smoothing": 0.0}, 3), ("symile", {}, 2)]
    found += [("pairwise", {"divergence": name}, count) for name in OF_PAIRS for count in (3, 4)]
    return [*found, ("kl", {"direction": "reverse", "temperature": 0.5}, 2)]


def labels_for(name: str, keywords: Mapping[str, object]) -> list[str | None]:
    """The kinds of label that a form takes."""
    if keywords.get("direction") == "reverse":
        return ["positive soft", "one class"]  # nowhere zero
    return list(LABELS) if build_loss(name, **keywords).uses_labels else [None, "integer"]


def expected_parts(name: str, keywords: Mapping[str, object], embeddings, labels: str | None) -> dict[str, float]:
    """What the reference of a loss says."""
    if keywords.get("negatives") == "shuffled":
        drawn = [torch.randperm(BATCH, generator=torch.Generator().manual_seed(k)) for k in range(len(embeddings))]
        keywords = {**keywords, "permutations": dict(zip(embeddings, map(Tensor.numpy, drawn), strict=True))}
    arrays = {name: x.detach().numpy() for name, x in embeddings.items()}
    return reference.LOSSES[name](arrays, None if labels is None else LABELS[labels].numpy(), **keywords)
