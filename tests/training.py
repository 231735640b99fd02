"""A trainer for tests: what `prepare` does, then what Lightning does."""

from __future__ import annotations

import lightning as L

from lightning_modules import prepare


class Trainer(L.Trainer):
    """A trainer that prepares the model for the data that it is given, as the command line and the tables do."""

    def fit(self, model, datamodule, **kwargs):
        self._prepared(model, datamodule, fit=True)
        super().fit(model, datamodule=datamodule, **kwargs)

    def validate(self, model, datamodule, **kwargs):
        return super().validate(self._prepared(model, datamodule), datamodule=datamodule, **kwargs)

    def test(self, model, datamodule, **kwargs):
        return super().test(self._prepared(model, datamodule), datamodule=datamodule, **kwargs)

    def predict(self, model, datamodule, **kwargs):
        return super().predict(self._prepared(model, datamodule), datamodule=datamodule, **kwargs)

    def _prepared(self, model, data, fit: bool = False) -> L.LightningModule:
        if self.precision == "64-true":
            model.double()  # as the trainer would, so that statistics are not rounded before
        prepare(model, data, fit=fit)
        return model
