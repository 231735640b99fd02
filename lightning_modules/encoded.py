"""What the models share that encode each modality by an encoder of their own and train with AdamW."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules import RetrievalData
from datamodules.batches import Batch
from datamodules.features.precompute import FrozenNetwork
from lightning_modules.base import RetrievalModule
from lightning_modules.networks.encoders import Encoder, build_encoder

# Kind of a modality -> the encoder of raw entries for which none is named, with weights that are installed.
BUNDLED = {
    "text": {"name": "sentence"},
    "image": {"name": "timm", "model": "tf_efficientnet_lite0", "weights": "installed", "frozen": True},
    "sound": {"name": "log_mel"},
}
# Shares of texts that an encoder can hardly tell apart: above the first they are said, above the second not trained on.
FEW, MOST = 0.01, 0.5


class EncodedModule(RetrievalModule):
    """One encoder per modality, by name; what is fixed in it is computed once; AdamW with warm-up and cosine decay.

    Where training has no last step (max_epochs -1, and no max_steps), the learning rate is reached in the first epoch
    and then kept.

    Args:
        dims: modality -> width of its vectors, or "kind", "shape" and "rate" of its entries, as `RetrievalData.dims`;
            "class_embedding" is no modality.
        encoders: modality -> {"name": one of the encoders, and its settings}; without one `BUNDLED` for texts, images
            and sounds, precomputed features for all else.
        protocol: "honest" or "as_published", handed to the metric.
        learning_rate: of AdamW, reached in a tenth of the steps and then annealed to 0 by a cosine.
        weight_decay: of AdamW.
        ks: cut-offs of the logged R@k and P@k.

    Raises:
        ValueError: an encoder for a modality that the data do not have, an unknown encoder, or one that does not read
            the modality.
        TypeError: an unknown setting of an encoder.

    Where an encoder can hardly tell apart more than a hundredth of the training or test texts, this is said; where it
    is more than half of the training texts, training stops with a ValueError.
    """

    vector_encoder: ClassVar[str] = "features"  # of vectors for which no encoder is named

    def __init__(
        self,
        dims: Mapping[str, Any],
        encoders: Mapping[str, Mapping[str, Any]] | None,
        protocol: str,
        learning_rate: float,
        weight_decay: float,
        ks: Sequence[int],
    ):
        encoders = encoders or {}
        sources = {
            name: {"kind": "vector", "shape": (dim,), "rate": None} if isinstance(dim, int) else dim
            for name, dim in dims.items()
            if name != "class_embedding"
        }
        for name in encoders:
            if name not in sources:
                raise ValueError(f"the data have no modality {name!r}; they have {', '.join(sources)}")
        super().__init__(tuple(sources), protocol=protocol, ks=ks)
        self.sources, self.learning_rate, self.weight_decay = sources, learning_rate, weight_decay
        self._test_texts: dict[tuple[str, str], Sequence[str]] = {}
        self.encoders = nn.ModuleDict()
        for name, source in sources.items():
            default = {"name": self.vector_encoder if source["kind"] == "vector" else "features"}
            settings = dict(encoders.get(name) or BUNDLED.get(source["kind"], default))
            try:
                self.encoders[name] = build_encoder(settings.pop("name", ""), source, **settings)
            except (ValueError, TypeError) as error:
                raise type(error)(f"encoder of {name!r}: {error}") from error

    def frozen_networks(self) -> dict[str, FrozenNetwork]:
        """The fixed parts of the encoders."""
        return {name: e.front_end for name, e in self.encoders.items() if e.front_end is not None}

    def prepare_training(self, data: RetrievalData) -> None:
        """Fit what is fixed in the encoders, such as means and vocabularies, to the training entries."""
        for name, encoder in self.encoders.items():
            if type(encoder).fit is not Encoder.fit:  # else the training entries need not be laid out at once
                encoder.fit(*data.entries_to_fit(name))
            if encoder.blind_to:
                self._check_texts(name, "train", data.raw_entries(name, "train"))

    def prepare_evaluation(self, data: RetrievalData) -> None:
        """Remember the test texts, to say once the encoders' vocabularies are known how many have no word of them."""
        self._test_texts = {
            (name, split): data.raw_entries(name, split)
            for name, encoder in self.encoders.items()
            for split in data.test_splits
            if encoder.blind_to
        }

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        for (name, split), texts in self._test_texts.items():
            self._check_texts(name, split, texts)

    def _check_texts(self, name: str, split: str, texts: Sequence[str]) -> None:
        encoder = self.encoders[name]
        share = np.mean(encoder.unknown(texts))
        said = (
            f"encoder {type(encoder).__name__.lower()!r} of {name!r}: {share:.0%} of the texts in the {split} "
            f"part have {encoder.blind_to}, and it can hardly tell them apart; name the encoder 'sentence' with a "
            "multilingual model, or train on texts of that language (lower min_count of 'words' if they are few)"
        )
        if split == "train" and share > MOST:
            raise ValueError(said)
        if share > FEW:
            rank_zero_warn(said)

    def configure_optimizers(self) -> dict[str, Any]:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            self.trainer.fit_loop.setup_data()
            warmup = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        else:
            warmup = steps // 10
        warmup = max(warmup, 1)

        def share(step: int) -> float:
            progress = min(max(step - warmup, 0) / max(steps - warmup, 1), 1)
            return min((step + 1) / warmup, 1) * (1 + math.cos(math.pi * progress)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def total(self, batch: Batch, **terms: tuple[float, Tensor]) -> Tensor:
        """The sum of weighted terms of a batch's loss, each of which is logged as train/<name>, without its weight."""
        self.record({name: value for name, (_, value) in terms.items()}, len(batch["id"]))
        return sum(weight * value for weight, value in terms.values())

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Modality -> (n, d) outputs of the encoders, for the modalities in the batch."""
        masks = batch.get("masks", {})
        return {name: self.encoders[name](batch[name], masks.get(name)) for name in self.modalities if name in batch}
