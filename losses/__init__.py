"""Alignment losses between modalities: tensors in, scalar out.

Every module of this folder is imported, so that a file with a class under ``@register_loss`` registers by being there.
"""

from importlib import import_module
from pkgutil import iter_modules

from losses.common.base import AlignmentLoss, LossOutput
from losses.pairwise import show_keywords
from losses.registry import available_losses, build_loss, register_loss, registered

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
_CLASSES = {loss.__name__: loss for loss in registered()}
show_keywords()
globals().update(_CLASSES)

__all__ = ["AlignmentLoss", "LossOutput", "available_losses", "build_loss", "register_loss", *_CLASSES]
