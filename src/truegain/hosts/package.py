"""An environment package for verifiers: a folder to install, with problems in it and the taskset that reads them."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from truegain.core.errors import DataError, SettingError
from truegain.core.types import Problem, Split
from truegain.hosts.data import RECORD, record_of, write
from truegain.tasks import make
from truegain.tasks.files import FileTask

CHECKED_BY = "checked_by"
"""What of a problem's meta names the checker, in a package for verifiers."""
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
"""What is both a project's name, by the packaging rules, and, its - made _, a module's."""
_MODULE = '''"""Problems written by `truegain convert`. Install this folder; the taskset's id is its name."""

from pathlib import Path

from truegain.hosts.verifiers import TruegainTaskset


class {title}(TruegainTaskset):
    """The problems in this folder, a file for each split."""

    FOLDER = Path(__file__).parent
    SOURCE = {spec!r}


__all__ = ["{title}"]
'''
_PROJECT = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["truegain[verifiers]"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""


def checked_by(spec: str) -> str:
    """What checks a spec's problems where its data file is not at hand: its checker for a file, else the spec.

    Raises SettingError for a mixture with a file in it.
    """
    made = make(spec)
    if isinstance(made, FileTask):
        return made.checker
    if any(isinstance(member, FileTask) for member in getattr(made, "members", ())):
        raise SettingError(f"{spec}: a mixture with a data file in it; convert its parts one by one")
    return spec


def write_package(splits: Mapping[Split, Sequence[Problem]], spec: str, place: str | Path) -> Path:
    """Write an environment package for verifiers: problems as JSON lines, and the taskset that reads them.

    ``place`` becomes a folder with ``pyproject.toml``; the taskset's id is the folder's name. It is made beside, and
    renamed when it is whole. Raises SettingError for a place that exists or whose name is no project's or no module's.
    """
    place = Path(place)
    package = place.name.replace("-", "_").lower()
    if not _NAME.fullmatch(place.name) or keyword.iskeyword(package):
        raise SettingError(
            f"{place}: its last part names the package: letters, digits, - and _, a letter first, a letter or digit "
            "last, and no word of Python's own"
        )
    if place.exists():
        raise SettingError(f"{place}: exists already; name a new folder")
    checker = checked_by(spec)
    try:
        made = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        try:
            (made / package).mkdir()
            for split, problems in splits.items():
                held = [replace(problem, meta={**problem.meta, CHECKED_BY: checker}) for problem in problems]
                write([{RECORD: record_of(problem, split)} for problem in held], made / package / f"{split}.jsonl")
            title = "".join(part.capitalize() for part in package.split("_")) + "Taskset"
            (made / package / "__init__.py").write_text(_MODULE.format(title=title, spec=spec), encoding="utf-8")
            (made / "pyproject.toml").write_text(_PROJECT.format(package=package, name=place.name), encoding="utf-8")
            made.chmod(0o755)
            os.rename(made, place)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise DataError(f"{place}: cannot be written ({error.strerror or error}); name another place") from error
    return place
