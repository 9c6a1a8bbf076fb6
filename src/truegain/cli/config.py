"""``--config run.toml``: the options of ``truegain train`` by the same names. What stands on the command line wins."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, SettingError, nearest

# Option -> what its value must be in the file.
KEYS: Mapping[str, tuple[type, ...]] = {
    "recipe": (str,),
    "task": (str,),
    "model": (str,),
    "seed": (int,),
    "seeds": (int,),
    "out": (str,),
    "steps": (int,),
    "max-seconds": (int, float),
    "controls": (bool,),
    "reward": (str, list),
    "set": (dict, list),
    "guard": (str,),
    "report-to": (str, list),
    "dev-problems": (int,),
    "test-problems": (int,),
    "eval-samples": (int,),
    "dtype": (str,),
    "device": (str,),
}
_LEAST = {"seed": 0, "seeds": 1, "steps": 0, "dev-problems": 2, "test-problems": 2, "eval-samples": 1}


def read_config(path: Path) -> dict[str, Any]:
    """The options of a TOML file, hyphens in their names, lists where several are meant, ``set`` flat.

    ``set`` is a table, whose nested tables make dotted paths, or a list of ``"PATH=VALUE"``. Raises DataError for a
    file that cannot be read, SettingError for an unknown name or a value of the wrong kind.
    """
    try:
        with path.open("rb") as file:
            given = tomllib.load(file)
    except FileNotFoundError:
        raise DataError(f"no file {str(path)!r}: --config names a TOML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): --config names a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not TOML ({error}): mend that place") from None
    return {name: _value(path, name, value) for name, value in ((key.replace("_", "-"), v) for key, v in given.items())}


def _value(path: Path, name: str, value: Any) -> Any:
    if name not in KEYS:
        raise SettingError(f"{path}: unknown key {name!r}{nearest(name, set(KEYS))}; legal are {', '.join(KEYS)}")
    kinds = KEYS[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise SettingError(f"{path}: {name} cannot be {value!r}; it is a {' or a '.join(k.__name__ for k in kinds)}")
    if name in _LEAST and value < _LEAST[name]:
        raise SettingError(f"{path}: {name} cannot be {value}; it is {_LEAST[name]} or more")
    if name == "max-seconds" and not value > 0:
        raise SettingError(f"{path}: max-seconds cannot be {value}; it is above 0")
    if name == "set":
        return _assigned(path, value)
    if list not in kinds:
        return value
    several: Any = [value] if isinstance(value, str) else value
    if not all(isinstance(one, str) for one in several):
        raise SettingError(f"{path}: {name} must be a string or a list of strings")
    return several


def _assigned(path: Path, value: Any) -> dict[str, Any]:
    """``set`` by dotted path."""
    if isinstance(value, dict):
        return _flat(value)
    from truegain.cli.variant import assignments

    if not all(isinstance(one, str) for one in value):
        raise SettingError(f"{path}: set must be a table or a list of 'PATH=VALUE'")
    return dict(assignments(value))


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found


def merged(flags: Mapping[str, Any], config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults, over them the file, over it the flags that were given (not None). ``set`` is joined path by path.

    >>> merged({"seed": 3, "set": {"lr": "1"}}, {"seed": 1, "set": {"lr": 2, "clip": 3}}, {"seeds": 1})
    {'seeds': 1, 'seed': 3, 'set': {'lr': '1', 'clip': 3}}
    """
    given = {name: value for name, value in flags.items() if value is not None}
    found = {**defaults, **config, **given}
    found["set"] = {**config.get("set", {}), **(given.get("set") or {})}
    return found
