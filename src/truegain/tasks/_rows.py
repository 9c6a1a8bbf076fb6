"""Data files row by row. Each row comes with its place in the file, so that an error can name it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, nearest

SUFFIXES = (".jsonl", ".json", ".parquet")
MAX_LINE = 64 * 2**20
MAX_JSON = 2**30
Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield ``("line 3", row)`` from JSON lines, ``("row 3", row)`` from JSON and parquet; both count from 1.

    Raises DataError when the file is missing, a folder, of an unknown kind, not UTF-8, damaged, or holds a row that
    is no object.
    """
    check_file(path)
    try:
        yield from _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def jsonable(value: Any) -> Any:
    """The value as JSON holds it: mappings and sequences by their parts, what is unknown (dates, sets) as text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return str(value)


def check_file(path: Path) -> None:
    """Raise DataError for a path that is no data file: missing, a folder, empty, of an unknown kind."""
    suffix = path.suffix.lower()
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        hint = f"; name a file in it: {', '.join(inside[:5])}" if inside else ""
        raise DataError(f"{path}: is a folder, not a data file{hint}")
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {suffix!r}; data files end in {', '.join(SUFFIXES)}")
    if not path.exists():
        names = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        raise DataError(f"{path}: no such file{nearest(path.name, names)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs one row per problem")


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    offset = 0
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            place = f"line {number}"
            if len(raw) > MAX_LINE:
                raise DataError(f"{path}, {place}: longer than {MAX_LINE} bytes; is it one JSON object per line?")
            text = _decoded(path, raw, place, offset)
            offset += len(raw)
            if text.strip():
                yield place, _object(path, place, _parsed(path, place, text))


def _decoded(path: Path, raw: bytes, place: str, offset: int) -> str:
    """UTF-8 text; a byte order mark at the start of the file is dropped."""
    try:
        return raw.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        at = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
        raise DataError(f"{path}, {place}: not UTF-8 ({at}); save the file as UTF-8") from error


def _parsed(path: Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, {place}: bad JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, {place}: bad JSON ({_brief(error)})") from error


def _object(path: Path, place: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{path}, {place}: a {type(row).__name__}, not an object with columns")
    return row


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    """One list of objects; a file of JSON lines under this name is read as such."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"{"):
        yield from _lines(path)
        return
    if path.stat().st_size > MAX_JSON:
        raise DataError(f"{path}: larger than {MAX_JSON} bytes; save it as .jsonl or .parquet")
    raw = path.read_bytes()
    text = _decoded(path, raw, "line 1", 0) if _is_text(raw) else _decoded_by_line(path, raw)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: bad JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: bad JSON ({_brief(error)})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: a {type(rows).__name__}, not a list of objects, one per problem")
    for number, row in enumerate(rows, 1):
        yield f"row {number}", _object(path, f"row {number}", row)


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded_by_line(path: Path, raw: bytes) -> str:
    """Find the line that is not UTF-8 and raise for it."""
    offset = 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        _decoded(path, line, f"line {number}", offset)
        offset += len(line)
    raise DataError(f"{path}: not UTF-8; save the file as UTF-8")


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: parquet files need pyarrow; pip install 'truegain[data]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise DataError(f"{path}: not a readable parquet file after row {number} ({_brief(error)})") from error


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as parquet; types are those of the rows. Raises DataError without pyarrow, or for rows it refuses."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: parquet files need pyarrow; pip install 'truegain[data]'") from error
    try:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{path}: parquet cannot hold these rows ({_brief(error)}); write .jsonl") from error


def _brief(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


_READERS = {".jsonl": _lines, ".json": _json, ".parquet": _parquet}
