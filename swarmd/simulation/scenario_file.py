"""Reads scenarios from TOML, and finds the ones that come with the program.

Types follow from the dataclasses of `scenario`: whole numbers, decimals, texts, tables and lists of
tables. Unknown keys and wrong types are errors that name the key and the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Mapping
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from protocol.encoding import check_identifier
from protocol.errors import ConfigError, EncodingError
from protocol.limits import KIB
from swarmd.simulation.scenario import LinkClass, Scenario

SCENARIO_BYTES_MAX: Final = 256 * KIB
"""A scenario takes about 1 KiB."""
_ITEMS_MAX: Final = 256
"""Entries of one list or table of a scenario."""
_TEXT_MAX: Final = 256
"""Characters of a text."""
_SUFFIX: Final = ".toml"


def parse_scenario(text: str, name: str = "unnamed") -> Scenario:
    """Reads a scenario.

    Args:
        text: TOML.
        name: what it is called.

    Raises:
        ConfigError: it is no TOML, or names the key and the reason.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    if "name" in document:
        raise ConfigError(f"{name}: name: a scenario is called what its file is called")
    try:
        scenario = read_table(Scenario, document, "")
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    assert isinstance(scenario, Scenario), "read_table makes what it is asked for"
    return dataclasses.replace(scenario, name=name)


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Reads a scenario that comes with the program, or a file.

    Args:
        name_or_path: a name from `shipped_scenarios`, or a path; what has a slash or ends in
            `.toml` is a path.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(_SUFFIX):
        return _load_file(Path(name_or_path))
    names = shipped_scenarios()
    if text not in names:
        raise ConfigError(f"no scenario {text[:80]!r}{_nearest(text, names)}; see --list")
    file = resources.files("swarmd.simulation").joinpath("scenarios", text + _SUFFIX)
    return parse_scenario(file.read_text("utf-8"), text)


def _load_file(path: Path) -> Scenario:
    try:
        with path.open("rb") as file:
            data = file.read(SCENARIO_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if len(data) > SCENARIO_BYTES_MAX:
        raise ConfigError(f"{path}: more than {SCENARIO_BYTES_MAX} bytes")
    try:
        return parse_scenario(data.decode("utf-8"), path.stem)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None


def shipped_scenarios() -> list[str]:
    """Names of the scenarios that come with the program, sorted."""
    folder = resources.files("swarmd.simulation").joinpath("scenarios")
    return sorted(
        each.name.removesuffix(_SUFFIX) for each in folder.iterdir() if each.name.endswith(_SUFFIX)
    )


# Tables ------------------------------------------------------------------------------------------


def read_table(kind: type[Any], table: Mapping[str, object], where: str) -> Any:
    """Makes a dataclass of `scenario` from a TOML table.

    Args:
        kind: the dataclass.
        table: its keys and values.
        where: its place in the file, for errors; empty at the top.

    Raises:
        ConfigError: names the key and the reason.
    """
    known = {each.name: each for each in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    values: dict[str, object] = {}
    for key, value in table.items():
        what = f"{where}.{key}" if where else key
        if key not in known:
            raise ConfigError(f"{what[:80]}: unknown key{_nearest(key, list(known))}")
        values[key] = _read_links(value) if key == "links" else _read(hints[key], value, what)
    return kind(**values)


def override(scenario: Scenario, document: Mapping[str, object]) -> Scenario:
    """A scenario with some keys changed; tables are changed key by key, links and lists whole.

    Args:
        scenario: to begin with; stays as it is.
        document: what a scenario's file may say.

    Raises:
        ConfigError: names the key and the reason.
    """
    hints = get_type_hints(Scenario)
    changed: dict[str, object] = {}
    for key, value in document.items():
        if key not in hints:
            raise ConfigError(f"{key[:80]}: unknown key{_nearest(key, list(hints))}")
        if dataclasses.is_dataclass(hints[key]):
            before = {
                name: item
                for name, item in dataclasses.asdict(getattr(scenario, key)).items()
                if item is not None
            }
            value = {**before, **_table(value, key)}
        changed[key] = _read_links(value) if key == "links" else _read(hints[key], value, key)
    return dataclasses.replace(scenario, **changed)  # type: ignore[arg-type]


def _read_links(value: object) -> Mapping[str, LinkClass]:
    links: dict[str, LinkClass] = {}
    for name, table in _table(value, "links").items():
        try:
            check_identifier(name, f"links.{name[:40]}")
        except EncodingError as error:
            raise ConfigError(str(error)) from None
        links[name] = read_table(LinkClass, _table(table, f"links.{name}"), f"links.{name}")
    return links


def _read(hint: Any, value: object, what: str) -> object:
    """Reads one value by its field's type."""
    if get_origin(hint) in (types.UnionType, Union):
        hint = next(each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or len(value) > _ITEMS_MAX:
            raise ConfigError(f"{what}: expected a list of at most {_ITEMS_MAX} tables")
        kind = get_args(hint)[0]
        return tuple(
            read_table(kind, _table(item, f"{what}[{number}]"), f"{what}[{number}]")
            for number, item in enumerate(value)
        )
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type), "hints are types"
        return read_table(hint, _table(value, what), what)
    return _read_plain(hint, value, what)


def _read_plain(hint: Any, value: object, what: str) -> object:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in list(hint):
            raise ConfigError(f"{what}: {str(value)[:40]!r}, expected one of {', '.join(hint)}")
        return hint(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        if len(value) > _TEXT_MAX or not value.isprintable():
            raise ConfigError(f"{what}: expected at most {_TEXT_MAX} printable characters")
        return value
    names = {int: "a whole number", float: "a number", str: "text in quotes"}
    raise ConfigError(f"{what}: expected {names[hint]}, got {_type_name(value)}")


def _table(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{what}: expected a table, got {_type_name(value)}")
    if len(value) > _ITEMS_MAX:
        raise ConfigError(f"{what}: {len(value)} keys, at most {_ITEMS_MAX}")
    return value


def _type_name(value: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a decimal number", str: "text"}
    names |= {list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def _nearest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
