"""Random inputs of every loss: which give finite numbers, which are refused for a documented reason."""

import re

import numpy as np
import torch
from loss_cases import NAMES, forms
from torch import Tensor

from losses import build_loss, fused, registry

FORMS = forms()
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Reasons for which a loss may refuse a batch that is whole: each stands in the docstring of a loss.
DOCUMENTED = re.compile(
    "needs labels|two items|is singular|reverse KL is infinite|takes three modalities|no positive weight|too large|"
    "weights must be finite in torch.float32"
)
RANGES = {"temperature": (1e-4, 1e2), "sigma": (1e-3, 1e3), "ridge": (1e-6, 1e2), "logit_scale": (1e-3, 1e4)}


def outcome(seed: int, number: int) -> tuple[str, str]:
    """Name of the loss, and "finite", "infinite", "refused" or what went wrong, of one random input.

    Infinite is a gradient beyond the range of its embedding's precision, as that of a vector of length 1e-40 must be.
    """
    draw = np.random.default_rng([seed, number])
    name, keywords, count = FORMS[number % len(FORMS)]
    summed = keywords.get("divergence", name)
    known = [key for key in registry.keywords(name, summed) if key in RANGES and draw.random() < 0.7]
    keywords = {**keywords, **{key: _log_uniform(draw, *RANGES[key]) for key in known}}
    if summed.endswith("clamped") and "temperature" in keywords:
        keywords["temperature"] = max(keywords["temperature"], 0.02)  # below, their exponentials overflow
    batch, width = (int(size) for size in draw.integers(1, 10, size=2))
    embeddings = {key: _embedding(draw, batch, width) for key in NAMES[:count]}
    first, second = NAMES[:2]
    if draw.random() < 0.2:
        embeddings[second] = embeddings[first] * (-1) ** int(draw.integers(2))
    embeddings = {key: x.detach().clone().requires_grad_() for key, x in embeddings.items()}
    loss, limit = build_loss(name, **keywords), fused.LIMIT_BYTES
    labels = _labels(draw, batch) if loss.uses_labels or draw.random() < 0.5 else None
    fused.LIMIT_BYTES = 0 if draw.random() < 0.2 else limit  # in blocks of rows, as large batches are
    try:
        found = loss(embeddings, labels)
        found.total.backward()
    except ValueError as error:
        return name, "refused" if DOCUMENTED.search(str(error)) else f"undocumented ValueError: {error}"
    except Exception as error:
        return name, f"{type(error).__name__}: {error}"
    finally:
        fused.LIMIT_BYTES = limit
    values = [found.total, *found.parts.values()]
    if not all(bool(x.isfinite()) for x in values):
        return name, f"the value is {float(found.total.detach())}"
    gradients = [x.grad for x in (*embeddings.values(), *loss.parameters()) if x.grad is not None]
    if any(bool(x.isnan().any()) for x in gradients):
        return name, "NaN in the gradient"
    if not all(bool(x.isfinite().all()) for x in gradients):
        return name, "infinite"
    return name, "finite"


def _log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def _embedding(draw: np.random.Generator, batch: int, width: int) -> Tensor:
    """(batch, width) finite numbers of any precision: usual ones, huge, tiny, repeated, zero, or equal in all rows."""
    dtype = PRECISIONS[draw.integers(len(PRECISIONS))]
    limits, x = torch.finfo(dtype), torch.from_numpy(draw.standard_normal((batch, width)))
    kinds = {
        "usual": lambda: x,
        "scaled": lambda: x * 10.0 ** draw.uniform(-8, 8),
        "rows scaled": lambda: x * torch.from_numpy(10.0 ** draw.uniform(-8, 8, (batch, 1))),
        "largest": lambda: x.sign() * limits.max * draw.choice([1.0, 1e-3, 1e-10]),
        "smallest": lambda: x.sign() * limits.smallest_normal * draw.choice([1.0, 1e-2, 1e3]),
        "repeated": lambda: x[torch.from_numpy(draw.integers(batch, size=batch))],
        "zero rows": lambda: x * torch.from_numpy(draw.integers(2, size=(batch, 1))),
        "zero": lambda: torch.zeros_like(x),
        "equal": lambda: x[:1].expand(batch, width),
        "whole": lambda: x.round(),
        "one-hot": lambda: torch.eye(width, dtype=x.dtype)[torch.from_numpy(draw.integers(width, size=batch))],
    }
    return kinds[draw.choice(list(kinds))]().clamp(-limits.max, limits.max).to(dtype)


def _labels(draw: np.random.Generator, batch: int) -> Tensor:
    """Labels of every form: classes, one or all different, multi-hot of any width, target weights of any size."""
    kind, integers = draw.integers(5), INTEGERS[draw.integers(len(INTEGERS))]
    if kind < 2:
        return torch.from_numpy(draw.integers(int(draw.integers(1, batch + 1)), size=batch)).to(integers)
    if kind == 2:
        return torch.arange(batch).to(integers)
    if kind == 3:
        shape = (batch, int(draw.choice([1, 3, batch])))
        return torch.from_numpy(draw.integers(2, size=shape)).to(torch.bool if draw.random() < 0.5 else integers)
    weights = draw.random((batch, batch)) * (draw.random((batch, batch)) < draw.choice([0.3, 1.0])) + np.eye(batch)
    dtype = PRECISIONS[draw.integers(len(PRECISIONS))]
    weights = torch.from_numpy(weights * draw.choice([1e-3, 1.0, 1e3, torch.finfo(dtype).max / 2]))
    return weights.to(dtype)
