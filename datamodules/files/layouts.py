"""Names of the files in which other authors publish paired features; `datamodules.files.feature_files` reads them."""

from typing import NamedTuple


class Layout(NamedTuple):
    """Folder of one image, text and label file per split; `{}` stands for train or test."""

    name: str
    image: str
    text: str
    label: str

    def files(self) -> list[str]:
        return [name.format(split) for split in ("train", "test") for name in (self.image, self.text, self.label)]


# ACMR stands before JFSE: its folders also hold *_img_files.pkl, there lists of file names instead of features.
LAYOUTS = (
    Layout("ACMR pickles", "{}_img_feats.pkl", "{}_txt_vecs.pkl", "{}_labels.pkl"),
    Layout("JFSE pickles", "{}_img_files.pkl", "{}_txt_files.pkl", "{}_labels.pkl"),
    Layout("DSCMR .mat", "{}_img.mat", "{}_txt.mat", "{}_img_lab.mat"),
)
