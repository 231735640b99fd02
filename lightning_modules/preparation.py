"""What happens between data and model before a Trainer runs: frozen networks, statistics, vocabularies."""

from datamodules import RetrievalData
from lightning_modules.base import RetrievalModule
from lightning_modules.checkpoints import trained_on


def prepare(model: RetrievalModule, data: RetrievalData, fit: bool = True) -> None:
    """Make a model and its data ready for a Trainer; the one place in which a model sees more of the data than batches.

    1. What the frozen parts of the model's encoders return is computed, or read from disk, and put into the batches.
    2. The model takes what it needs of the data that it is evaluated on, and says where an encoder cannot read them.
    3. Before training it takes statistics, vocabularies and the like from the training items. A checkpoint that the
       Trainer then loads overwrites them.

    Args:
        model: of any of the classes.
        data: as the Trainer is given it.
        fit: whether training follows.

    Raises:
        ValueError: the data do not allow the training that the model is set to.
        DataError: a frozen network returns something that is not finite.
    """
    data.precompute(model.frozen_networks())
    model.prepare_evaluation(data)
    if fit:
        model.prepare_training(data)
    model.data_here = trained_on(data)
    model.prepared_for_training = fit
