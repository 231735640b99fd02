"""Lightning modules of the retrieval models, their metrics and their command line."""

from lightning_modules.installation import check_installation

check_installation()  # before the first import of a package that something else could shadow

from lightning_modules.cmpm import CMPM  # noqa: E402
from lightning_modules.cs_aligner import CSAligner  # noqa: E402
from lightning_modules.jfse import JFSE  # noqa: E402
from lightning_modules.lavimo import LAVIMO  # noqa: E402
from lightning_modules.preparation import prepare as prepare  # noqa: E402

__all__ = ["CMPM", "JFSE", "LAVIMO", "CSAligner"]
