"""Put a data set's raw images, texts and sounds through frozen networks and write their features to a file that the
data module OwnData reads. Modalities without a network are left out and need not be there. A run that was stopped goes
on where it was when it is called again in the same way.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from os.path import expanduser
from pathlib import Path
from typing import Any

from datamodules.datasets import DATASETS
from datamodules.errors import DataError
from datamodules.features.precompute import precompute
from datamodules.files.extracted_features import FORMAT, read_metadata, write_features
from datamodules.files.sources import data_root, user_path, written_whole
from datamodules.paired_features import FeatureDataModule
from datamodules.retrieval_data import RetrievalData

# Networks and their weights.
MODELS = {
    "image": "a timm model, e.g. vgg19, or a CLIP model or its folder",
    "text": "a sentence-transformers or CLIP model, or its folder",
    "sound": "a torchaudio bundle, e.g. wav2vec2_base",
    "image-weights": "its weights; 'installed' for those of tf_efficientnet_lite0 (default: fetched from the hub)",
    "sound-weights": "its weights (default: fetched from their publisher)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument("dataset", choices=[name for name in DATASETS if raw_forms(name)])
    parser.add_argument("--features", help="what the data set is read as (default: the first whose files are there)")
    for option, said in MODELS.items():
        metavar = "FILE" if option.endswith("weights") else "MODEL"
        parser.add_argument(f"--{option}", type=expanduser, metavar=metavar, help=said)
    parser.add_argument(
        "--drop", action="store_true", help="leave out items that lack a modality, or with a broken file"
    )
    parser.add_argument("--out", type=user_path, metavar="FILE.safetensors", help="(default: <data set>.safetensors)")


def run(arguments: argparse.Namespace) -> int:
    """Extract the features, say what made them, and return 0.

    Raises:
        ValueError: something is missing, unknown or broken.
        OSError: the file cannot be written.
    """
    out = arguments.out or Path(f"{arguments.dataset}.safetensors")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; expected a name ending in .safetensors")
    networks = _networks(arguments)
    root, forms = data_root(arguments.data_root), raw_forms(arguments.dataset)
    form = arguments.features or default_form(arguments.dataset, root)
    if form not in forms:
        raise ValueError(f"{arguments.dataset} cannot be read as {form!r}; it can as {', '.join(forms)}")
    choice = "drop" if arguments.drop else "refuse"
    chosen = {"modalities": tuple(networks), "on_missing": choice, "on_broken": choice}
    module = DATASETS[arguments.dataset].open(form, root, **chosen)
    written, modalities = extract_features(module, networks, out), module.data.modalities
    print(f"{'wrote' if written else 'there already:'} {out}, {len(module.data)} items")
    for name, said in json.loads(read_metadata(out)["encoders"]).items():
        made = f"{said['model']} ({said['weights']}; sha256 {said['sha256'][:12]})"
        print(f"  {name}: {len(modalities[name].entries)} entries through {made}")
    return 0


def _networks(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Modality -> what loads the network that was named for it, in the order of the data sets."""
    from datamodules.features.networks import ImageNetwork, SentenceNetwork, SoundNetwork  # takes seconds

    for kind in ("image", "sound"):
        if getattr(arguments, f"{kind}_weights") is not None and getattr(arguments, kind) is None:
            raise ValueError(f"--{kind}-weights are given and no --{kind}; name the model that they belong to")
    image = partial(ImageNetwork, arguments.image, arguments.image_weights)
    if arguments.image is not None and _brings_weights(arguments.image):
        if arguments.image_weights is not None:
            raise ValueError(f"--image-weights are given, and --image {arguments.image} brings its own; leave one out")
        image = partial(SentenceNetwork, arguments.image, "image")
    named = {
        "image": (arguments.image, image),
        "text": (arguments.text, partial(SentenceNetwork, arguments.text)),
        "audio": (arguments.sound, partial(SoundNetwork, arguments.sound, arguments.sound_weights)),
    }
    networks = {name: load for name, (model, load) in named.items() if model is not None}
    if len(networks) < 2:
        raise ValueError("expected networks for two modalities or more: name them by --image, --text and --sound")
    return networks


def _brings_weights(model: str) -> bool:
    """Whether an image model is of sentence-transformers or CLIP: a folder, or a name on the hub, but none of timm."""
    return Path(model).is_dir() or ("/" in model and not model.startswith(("timm/", "hf-hub:", "hf_hub:")))


def raw_forms(dataset: str) -> list[str]:
    """The forms of a data set that hold what features are extracted from."""
    forms = DATASETS[dataset].forms.items()
    return [name for name, form in forms if not issubclass(form.data_module, FeatureDataModule)]


def default_form(dataset: str, root: Path) -> str:
    """The form in which a data set's items are read where none is asked for: the first whose files are all there.

    Where there is none, that which lacks the fewest, for its reader to say what is missing.

    Args:
        dataset: one that has such forms.
        root: the data root.
    """
    declared, forms = DATASETS[dataset], raw_forms(dataset)
    lacks = declared.lacking(declared.folder_below(root))
    return min((form for form in forms if form in lacks), key=lambda form: len(lacks[form]), default=forms[0])


def extract_features(module: RetrievalData, networks: Mapping[str, Callable[[], Any]], out: Path) -> bool:
    """Write the features of every entry of some modalities to a file; one that holds them already stays as it is.

    What is done is kept as by `precompute`: a run that was killed goes on from there, and the file comes out the same,
    byte for byte. One network is in memory at a time.

    Args:
        module: the data set; its items are read after the networks, so that missing weights are found at once.
        networks: modality -> what loads its network; called twice. It is a `FrozenNetwork` that returns one vector (d,)
            float32 per entry and says what it is: ``identity`` holds "model", "weights" (where they come from), their
            "sha256", and "versions" of the libraries; its key says the same.
        out: the .safetensors file.

    Returns:
        Whether the file was written now.

    Raises:
        DataError: a network returns something that is not finite or cannot take an entry, or `out` is a file of
            something else.
        OSError: the disk is full or the folder cannot be written.
    """
    encoders = {name: dict(load().identity) for name, load in networks.items()}
    data = module.data
    metadata = {
        "dataset": module.dataset,
        "read_as": module.features,
        "data_sha256": data.digest(),
        "encoders": json.dumps(encoders),
    }
    named = [FORMAT, metadata, list(data.names), list(data.class_names or ())]
    metadata["key"] = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    if out.exists():
        if read_metadata(out).get("key") != metadata["key"]:
            raise DataError(
                f"{out} holds features of other data, class names or networks; remove it or name another file."
            )
        return False
    features = {}
    for name, load in networks.items():
        try:
            features[name] = precompute(data.modalities[name], load()).entries
        except DataError:
            raise
        except (RuntimeError, ValueError) as error:  # such as memory that does not suffice
            what = f"{name} cannot go through {encoders[name]['model']} ({type(error).__name__}: {error})"
            raise DataError(f"{data.origin}: {what}.") from error
    with written_whole(out) as file:
        write_features(file, data, features, metadata)
    return True
