"""A CLIP model of a few random weights in the files of a published one: what it makes of anything shows nothing."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

WIDTH, HIDDEN, SIDE, LIMIT = 8, 16, 32, 12
WORDS = ("dog", "cat", "runs", "sleeps", "a", "the", "in", "snow")
TEXTS = ["a dog runs", "the cat", "a dog runs in the snow in the snow in the snow in the snow", "snow"]


def write_clip(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Weights, configuration, tokenizer and image processor as transformers writes them; returns the folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    tower = {"hidden_size": HIDDEN, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    tower["projection_dim"] = WIDTH
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {word: number for number, word in enumerate(["<|startoftext|>", *letters, "<|endoftext|>"])}
    end = len(vocabulary) - 1
    numbers = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": end, "pad_token_id": end}
    text = {**tower, **numbers, "max_position_embeddings": LIMIT}
    vision = {**tower, "image_size": SIDE, "patch_size": 16}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    model.to(dtype).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LIMIT).save_pretrained(folder)
    CLIPImageProcessor(crop_size=SIDE, size=SIDE).save_pretrained(folder)
    return folder


def lose_weight(folder: Path, name: str) -> None:
    """Take one tensor out of the file of weights."""
    path = folder / "model.safetensors"
    state = load_file(path)
    del state[name]
    save_file(state, path, {"format": "pt"})


def photographs(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def of_the_library(folder: Path, entries: list[str] | list[np.ndarray]) -> np.ndarray:
    """What CLIPModel itself makes of texts or images, one by one."""
    from transformers import AutoProcessor, CLIPModel

    model, processor = CLIPModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    rows = []
    for entry in entries:
        with torch.no_grad():
            if isinstance(entry, str):
                given = processor(text=[entry], return_tensors="pt", truncation=True, max_length=LIMIT)
                found = model.get_text_features(**given)
            else:
                found = model.get_image_features(**processor(images=[entry.copy()], return_tensors="pt"))
        rows.append(found.pooler_output[0].float().numpy())
    return np.stack(rows)
