"""Second derivatives of functions whose gradient is written out."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_formula(
    formula: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of a formula, by operations that autograd can differentiate once more (create_graph=True).

    Args:
        formula: of the inputs.
        inputs: tensors, of which those that need a gradient get one.
        gradient: of the formula's value.
    """
    wanted = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(formula(*inputs), wanted, gradient, create_graph=True))
    return tuple(next(found) if x.requires_grad else None for x in inputs)
