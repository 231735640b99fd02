"""Frozen networks beside what a program has set of torch's precision: their numbers, and the settings afterwards."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch.backends import cuda, cudnn, mkldnn

from datamodules.features.inference import frozen_inference
from datamodules.features.networks import ImageNetwork
from datamodules.features.texts import SentenceEmbedding

OPERATIONS = (cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)
SETTINGS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "one operation": lambda: setattr(cudnn.conv, "fp32_precision", "ieee"),
    "a backend": lambda: setattr(cudnn, "fp32_precision", "tf32"),
    "all": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "all on a CPU": lambda: setattr(mkldnn, "fp32_precision", "bf16"),
    "convolutions, as before torch 2.9": lambda: setattr(cudnn, "allow_tf32", False),
    "products, as before torch 2.9": lambda: torch.set_float32_matmul_precision("medium"),
}


def reset() -> None:
    """What torch starts with."""
    torch.set_float32_matmul_precision("highest")
    for level in (torch.backends, cudnn, *OPERATIONS):
        level.fp32_precision = "none"
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"


@pytest.fixture(params=SETTINGS)
def setting(request):
    yield SETTINGS[request.param]
    reset()


def shown() -> list[object]:
    """All settings as a program reads them; the older ones can be read where they agree with the newer."""
    found: list[object] = [level.fp32_precision for level in (torch.backends, cudnn, mkldnn, *OPERATIONS)]
    for older in (lambda: cudnn.allow_tf32, lambda: cuda.matmul.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(older())
        except RuntimeError:
            found.append("no one answer")
    return [*found, cudnn.enabled, cudnn.benchmark, cudnn.deterministic]


def test_a_reset_is_what_torch_starts_with():
    before = shown()
    reset()
    assert shown() == before


def test_inside_all_is_float32_and_outside_all_is_as_it_was(setting):
    setting()
    before = shown()
    with frozen_inference():
        assert {operation.fp32_precision for operation in OPERATIONS} == {"ieee"}
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        assert torch.is_inference_mode_enabled()
    assert shown() == before
    with pytest.raises(KeyError), frozen_inference():
        raise KeyError
    assert shown() == before


def test_what_was_set_for_all_still_goes_for_the_same_operations(setting):
    setting()
    torch.backends.fp32_precision = "bf16"
    expected = shown()
    torch.backends.fp32_precision = "ieee"
    with frozen_inference():
        pass
    torch.backends.fp32_precision = "bf16"
    assert shown() == expected


def test_frozen_networks_give_the_same_numbers_whatever_is_set(setting, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    network = ImageNetwork("test_vit", str(tmp_path / "vit.pth"))
    expected = network([image], None)[0], SentenceEmbedding("all-MiniLM-L6-v2")(["a dog runs"], None)[0]
    setting()
    before = shown()
    np.testing.assert_array_equal(network([image], None)[0], expected[0])
    np.testing.assert_array_equal(SentenceEmbedding("all-MiniLM-L6-v2")(["a dog runs"], None)[0], expected[1])
    assert shown() == before
