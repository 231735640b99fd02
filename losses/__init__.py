"""Alignment losses between modalities: tensors in, scalar out."""

from losses.base import AlignmentLoss, LossOutput
from losses.clamped import CSClampedLoss, GCSClampedLoss
from losses.coral import CORALLoss, LogCORALLoss
from losses.cs import CSLoss
from losses.gcs import GCSLoss
from losses.infonce import InfoNCELoss
from losses.kernel_cs import KernelCSLoss, KernelGCSLoss
from losses.kl import CMPMKLLoss, KLLoss
from losses.mmd import MMDLoss
from losses.pairwise import PairwiseLoss
from losses.registry import available_losses, build_loss, register_loss

__all__ = [
    "AlignmentLoss",
    "CMPMKLLoss",
    "CORALLoss",
    "CSClampedLoss",
    "CSLoss",
    "GCSClampedLoss",
    "GCSLoss",
    "InfoNCELoss",
    "KLLoss",
    "KernelCSLoss",
    "KernelGCSLoss",
    "LogCORALLoss",
    "LossOutput",
    "MMDLoss",
    "PairwiseLoss",
    "available_losses",
    "build_loss",
    "register_loss",
]
