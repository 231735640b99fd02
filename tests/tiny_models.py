"""Tiny untrained text models, as folders of weights."""

from pathlib import Path

import torch


def text_model(folder: Path, kind: str) -> str:
    """A tiny untrained text model with the tokenizer of the installed one, saved as a local model."""
    from transformers import AutoModel, AutoTokenizer, BertConfig, DistilBertConfig, MPNetConfig

    from datamodules.features.texts import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder("all-MiniLM-L6-v2"), local_files_only=True)
    shared = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = {
        "bert": lambda: BertConfig(**shared, **size),
        "mpnet": lambda: MPNetConfig(**shared, **size),
        "distilbert": lambda: DistilBertConfig(**shared, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    }[kind]()
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
