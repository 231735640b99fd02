"""The YAML beside a table: the command, and the settings chosen on validation data."""

from pathlib import Path
from typing import Any

import yaml

from reproduce.results.schema import TableError


def read_companion(path: Path) -> dict[str, Any]:
    """Read it.

    Raises:
        TableError: it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise TableError(f"{place}: cannot be read as YAML; remove it, and run the whole table again.") from error
    if not isinstance(content, dict):
        raise TableError(f"{path}, line 1: expected a mapping; remove it, and run the whole table again.")
    return content


def dump_yaml(content: Any) -> str:
    """YAML for people to read: in the given order, each entry written out each time it occurs."""
    return yaml.dump(content, Dumper=_WithoutAliases, sort_keys=False, width=120, allow_unicode=True)


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
