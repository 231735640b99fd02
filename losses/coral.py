"""Correlation alignment between the embeddings of two modalities."""

import torch
from torch import Tensor

from losses.common.base import AlignmentLoss, GatheredBatch
from losses.registry import register_loss


@register_loss("coral")
class CORALLoss(AlignmentLoss):
    """Mean squared difference of the covariance matrices of the raw embeddings.

    (1/D^2) |C_x - C_z|_F^2 with C = (1/(B-1)) sum_i (x_i - mean)(x_i - mean)^T. Labels are not used.

    Processes: every process computes the loss of the whole gathered batch, gradient through the gather.

    Raises:
        ValueError: on call, fewer than two items.

    Source: Sun and Saenko, "Deep CORAL", ECCV Workshops 2016; scaling of the public JFSE code.
    """

    uses_labels = False
    power = 4

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        a, b = batch.modalities
        difference = self.matrix(batch, a) - self.matrix(batch, b)
        return {f"{a}<->{b}": difference.square().mean()}

    def matrix(self, batch: GatheredBatch, name: str) -> Tensor:
        """(D, D) matrix of a modality that is compared with that of the other one."""
        return covariance(batch.columns[name])


@register_loss("log_coral")
class LogCORALLoss(CORALLoss):
    """Mean squared difference of the matrix logarithms of the covariances of the raw embeddings.

    (1/D^2) |log(C_x + ridge I) - log(C_z + ridge I)|_F^2, C as in :class:`CORALLoss`. Labels are not used.

    Processes: every process computes the loss of the whole gathered batch, gradient through the gather.

    Args:
        ridge: added to the diagonal, >= 0; the public code adds 1e-3. Zero suits batches larger than the dimension.

    Raises:
        ValueError: on call, fewer than two items, or a covariance that is singular (as it is whenever B <= D) while
            ``ridge`` is zero.

    Source: Morerio, Cavazza and Murino, "Minimal-Entropy Correlation Alignment", ICLR 2018.
    """

    power = 2

    def __init__(self, ridge: float = 0.0):
        super().__init__()
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge must be finite and not negative, got {ridge}")
        self.ridge = ridge

    def matrix(self, batch: GatheredBatch, name: str) -> Tensor:
        x = batch.columns[name]
        if self.ridge == 0 and len(x) <= x.shape[1]:
            raise ValueError(
                f"the covariance of {name!r} is singular: {len(x)} items in {x.shape[1]} dimensions; "
                "use a larger batch or a positive ridge such as 1e-3"
            )
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return _SymmetricLog.apply(covariance(x) + self.ridge * identity)


def covariance(x: Tensor) -> Tensor:
    """Covariance matrix of the rows, normalised by their number less one.

    Args:
        x: (B, D).

    Returns:
        (D, D) tensor.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(x) < 2:
        raise ValueError("a covariance needs at least two items in the batch")
    centred = x - x.mean(dim=0)
    return centred.T @ centred / (len(x) - 1)


class _SymmetricLog(torch.autograd.Function):
    """Logarithm of a symmetric positive definite matrix.

    Differentiating through the eigenvectors divides by differences of eigenvalues, which are zero whenever the ridge
    fills a null space; the Daleckii-Krein form used here has the finite limit 1/eigenvalue there.
    """

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        # Below this the smallest eigenvalue is rounding error, and so would be its logarithm.
        rounding = eigenvalues[-1] * len(matrix) * torch.finfo(matrix.dtype).eps
        if bool(eigenvalues[0] <= rounding):
            raise ValueError(
                f"a covariance is singular to rounding (eigenvalues {float(eigenvalues[0]):.3g} to "
                f"{float(eigenvalues[-1]):.3g}), so its logarithm is not defined; use a larger ridge, such as 1e-3"
            )
        ctx.save_for_backward(eigenvalues, vectors)
        return (vectors * eigenvalues.log()) @ vectors.T

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        eigenvalues, vectors = ctx.saved_tensors
        gap = eigenvalues[:, None] - eigenvalues[None, :]
        # log(a) - log(b) over a - b, written with log1p so that close eigenvalues do not cancel.
        relative = gap / eigenvalues[None, :]
        equal = relative == 0
        slope = torch.where(equal, 1.0, torch.log1p(relative) / relative.masked_fill(equal, 1.0)) / eigenvalues
        return vectors @ (slope * (vectors.T @ gradient @ vectors)) @ vectors.T
