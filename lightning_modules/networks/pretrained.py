"""Models of transformers with all of their weights, and their low-rank adaptation."""

import torch
from torch import nn

from datamodules.errors import DataError
from datamodules.features.texts import missing_weights, model_folder, refuse_missing, without_loading_bars

# Query and value projections of attention, as the models of transformers name them: what LoRA adapts.
PROJECTIONS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "q", "v")


def pretrained(model: str) -> nn.Module:
    """A model of transformers in float32, without the pooling layer of BERT and its kin.

    Args:
        model: its local folder, or its name where its files are on this machine.

    Raises:
        DataError: it is not here, is damaged, or lacks weights.
    """
    from transformers import AutoModel  # takes seconds

    folder = model_folder(model)
    try:
        with without_loading_bars():
            network = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, ignore_mismatched_sizes=True
            )
    except Exception as error:  # transformers and safetensors each refuse in their own way
        raise DataError(
            f"{folder} cannot be loaded as a model of transformers ({type(error).__name__}: {error})"
        ) from error
    refuse_missing(folder, missing_weights(network))
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # it would never receive a gradient
    return network


def check_low_rank(frozen: bool, lora_rank: int) -> None:
    """Raise ValueError where a rank is below 0 or that of a frozen model."""
    if lora_rank < 0 or (frozen and lora_rank):
        raise ValueError(
            f"lora_rank is {lora_rank} and frozen is {frozen}; low-rank adaptation takes a rank of 1 or more and "
            "frozen false: only the model's own weights then stay as they are"
        )


def adapt_low_rank(network: nn.Module, model: str, rank: int) -> None:
    """Put low-rank updates, which alone train, beside the attention projections of a network.

    A projection W becomes W + B A, with B of `rank` columns and zero at the start.

    Raises:
        ValueError: the network has no projections of known names.

    Source: Hu et al., ICLR 2022 (LoRA).
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    names = {name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    found = sorted(names.intersection(PROJECTIONS))
    if not found:
        raise ValueError(
            f"{model} has no linear layers named {', '.join(PROJECTIONS)} for LoRA to adapt; they are "
            f"{', '.join(sorted(names))}. Set lora_rank to 0 to train all weights."
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=found), network)
