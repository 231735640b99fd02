"""What alignment costs by the number of modalities: the counts, the bytes and the fitted exponents."""

from __future__ import annotations

import pytest
from torch import Tensor

from losses import AlignmentLoss, build_loss
from losses.common.base import GatheredBatch
from losses.common.matching import product
from reproduce.measurements.scaling import LOSSES, SETTINGS, draw_inputs, exponent, matrices, saved_bytes

# Counts


@pytest.mark.parametrize("modalities", [2, 3, 4, 5])
@pytest.mark.parametrize("method", LOSSES)
def test_counted_matrices_are_those_the_loss_computes(method, modalities, monkeypatch):
    loss = build_loss(**LOSSES[method])
    embeddings, labels = draw_inputs(modalities)
    similarities, matchings = [], []
    logits = GatheredBatch.logits

    def counted(batch, a, b, temperature):
        matchings.append((a, b))
        return logits(batch, a, b, temperature)

    monkeypatch.setattr("losses.common.base.product", lambda *given: similarities.append(1) or product(*given))
    monkeypatch.setattr(GatheredBatch, "logits", counted)
    loss(embeddings, labels)
    similarity, matching = matrices(loss, tuple(embeddings))
    # A ring of two is a pair there and back: both of its matrices are one product.
    assert len(similarities) == (1 if modalities == 2 else similarity)
    assert len(matchings) == matching


# Bytes


class KeepsNothing(AlignmentLoss):
    """A sum of squares: its gradient needs the embeddings alone."""

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        return {"squares": sum(x.square().sum() for x in batch.columns.values())}


class KeepsTwo(AlignmentLoss):
    """The gradient of exp needs its result, and so does that of the sine of it."""

    def terms(self, batch: GatheredBatch) -> dict[str, Tensor]:
        first = next(iter(batch.columns.values())).exp()
        return {"one": first.sin().sum(), "two": first.T.exp().sum()}


def test_saved_bytes_by_hand():
    embeddings, labels = draw_inputs(2)
    one = embeddings["m1"].numel() * 4
    assert saved_bytes(KeepsNothing(), embeddings, labels) == 0
    # exp(x), which sin keeps as well, and exp(exp(x)): views and repeats of a storage count once.
    assert saved_bytes(KeepsTwo(), embeddings, labels) == 2 * one


@pytest.mark.parametrize("method", LOSSES)
def test_saved_bytes_are_the_same_again_and_grow_with_the_modalities(method):
    loss = build_loss(**LOSSES[method])
    few, again, more = (saved_bytes(loss, *draw_inputs(modalities)) for modalities in (3, 3, 5))
    assert few == again
    assert few >= len(matrices(loss, ("a", "b", "c"))) * SETTINGS["batch"] ** 2 * 4
    assert more > few


# Exponents and training


@pytest.mark.parametrize("power", [-0.5, 1.0, 2.5])
def test_the_exponent_of_a_power_law(power):
    slope, error = exponent({m: 3e-4 * m**power for m in range(2, 9)})
    assert slope == pytest.approx(power, abs=1e-9)
    assert error == pytest.approx(0, abs=1e-7)
