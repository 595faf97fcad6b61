"""Pieces of Markdown that the generated pages are made of: tables, links, numbers and settings in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; pipes and line breaks inside cells are made harmless."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def facts(stated: Mapping[str, object]) -> str:
    """A two-column table of what is stated; entries that are empty are left out."""
    rows = [(f"**{name}**", value) for name, value in stated.items() if value not in (None, "")]
    return ":::{div} facts\n" + table(("", ""), rows) + ":::\n"


def link(url: str) -> str:
    """An address as a link; anything else as it is."""
    return f"<{url}>" if url.startswith(("https://", "http://")) else url


def number(value: int) -> str:
    """A whole number with its thousands apart, such as 50,000."""
    return f"{value:,}"


def words(value: object) -> str:
    """A setting's value in words: yes and no, tuples with commas, numbers without needless digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(words(part) for part in value)
    if isinstance(value, int):
        return number(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
