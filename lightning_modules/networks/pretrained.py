"""Networks of others with all of their weights, or refused; models of transformers and their low-rank adaptation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from datamodules.class_embeddings import model_folder, without_loading_bars
from datamodules.features import DataError
from datamodules.items import listed

# Query and value projections of attention, as the models of transformers name them: what LoRA adapts.
PROJECTIONS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "q", "v")


def loaded_whole(load: Callable[[], nn.Module], lacking: str) -> nn.Module:
    """A network that is loaded twice, under different seeds: a weight that its files lack would be random, and differ.

    Args:
        load: loads it, and draws what it does not find.
        lacking: how the message begins, e.g. "FILE lacks weights".

    Raises:
        DataError: weights are missing.
    """
    networks = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            networks.append(load())
    again = networks[1].state_dict()
    absent = [name for name, value in networks[0].state_dict().items() if not torch.equal(value, again[name])]
    if absent:
        raise DataError(f"{lacking}, which would be random: {listed(absent)}")
    return networks[0]


def pretrained(model: str) -> nn.Module:
    """A model of transformers in float32, without the pooling layer of BERT and its kin.

    Args:
        model: its local folder, or its name where its files are on this machine.

    Raises:
        DataError: it is not here, is damaged, or lacks weights, which would be random.
    """
    from transformers import AutoModel  # takes seconds

    folder = model_folder(model)
    try:
        with without_loading_bars():
            network, found = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # transformers and safetensors each refuse in their own way
        raise DataError(
            f"{folder} cannot be loaded as a model of transformers ({type(error).__name__}: {error})"
        ) from error
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # its weights may be missing, and would never receive a gradient
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise DataError(f"{folder} lacks weights, which would be random: {listed(missing)}; fetch the model again")
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
