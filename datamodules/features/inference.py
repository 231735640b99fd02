"""How frozen networks run, whose output is kept: to the same numbers, whatever the program has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cuda, cudnn, mkldnn

# From the general to the particular: a setting that is "none" reads as the one above it. That of mkldnn itself is left
# out, as torch sets the general one in its place; so is the older allow_tf32, which cannot be read beside these.
_PRECISIONS = (torch.backends, cudnn, cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)


@contextmanager
def frozen_inference() -> Iterator[None]:
    """No gradients, float32 in full, and on a GPU the convolutions that give the same result every time.

    Precisions and flags that the program had set are as they were afterwards.
    """
    precisions, flags = [], (cudnn.benchmark, cudnn.deterministic)
    try:
        for setting in _PRECISIONS:
            precisions.append(setting.fp32_precision)
            setting.fp32_precision = "none"
        torch.backends.fp32_precision = "ieee"
        cudnn.benchmark, cudnn.deterministic = False, True
        with torch.inference_mode():
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        for setting, precision in zip(_PRECISIONS, precisions, strict=False):
            setting.fp32_precision = precision
