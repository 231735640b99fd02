"""One file per data set: its data module, and what it declares of its files, sizes, source and terms."""

from datamodules.datasets.cuhk_pedes import CUHK_PEDES
from datamodules.datasets.flickr8k import FLICKR8K
from datamodules.datasets.flickr30k import FLICKR30K
from datamodules.datasets.motion_text import HUMANML3D, KIT_ML
from datamodules.datasets.nus_wide import NUS_WIDE
from datamodules.datasets.pascal_sentences import PASCAL_SENTENCES
from datamodules.datasets.pku_xmedianet import PKU_XMEDIANET
from datamodules.datasets.utd_mhad import UTD_MHAD
from datamodules.datasets.wikipedia import WIKIPEDIA

DATASETS = {
    declaration.name: declaration
    for declaration in (
        WIKIPEDIA,
        PASCAL_SENTENCES,
        NUS_WIDE,
        PKU_XMEDIANET,
        CUHK_PEDES,
        FLICKR8K,
        FLICKR30K,
        UTD_MHAD,
        HUMANML3D,
        KIT_ML,
    )
}
