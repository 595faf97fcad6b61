"""Ask every external address of the built book once: `python tools/check_links.py build/book-out/_build/html`.

Links inside the book are checked by tests/test_book.py without a network. Exit code 1 when an address does not answer.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

_REFUSED = {401, 403, 405, 429}  # the server is there and does not like to be asked by a program


class _Links(HTMLParser):
    """The external addresses of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href") or ""
        if tag == "a" and address.startswith(("http://", "https://")):
            self.found.add(address.split("#")[0])


def external(folder: Path) -> dict[str, list[str]]:
    """Every external address and the pages that link to it."""
    pages: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.html")):
        links = _Links()
        links.feed(path.read_text())
        for address in links.found:
            pages.setdefault(address, []).append(path.relative_to(folder).as_posix())
    return pages


def problem(address: str, timeout: float = 20.0) -> str:
    """Why an address does not answer; nothing where it does."""
    request = urllib.request.Request(address, headers={"User-Agent": "link check of a book"})
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in _REFUSED else f"{error.code} {error.reason}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def main(arguments: list[str] | None = None) -> int:
    """Print the addresses that do not answer with the pages that name them."""
    parser = argparse.ArgumentParser(description="check the external links of the built book")
    parser.add_argument("folder", type=Path)
    pages = external(parser.parse_args(arguments).folder)
    with ThreadPoolExecutor(8) as pool:
        wrong = {address: why for address, why in zip(pages, pool.map(problem, pages), strict=True) if why}
    for address, why in wrong.items():
        print(f"{address}: {why} (on {', '.join(pages[address][:3])})")
    print(f"{len(pages)} addresses, {len(wrong)} do not answer")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
