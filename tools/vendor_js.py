"""Copy the browser files that the offline book needs from an npm folder into book/_assets/offline.

    npm install --ignore-scripts --no-package-lock && python tools/vendor_js.py && rm -r node_modules

The result is committed, so a reader and the build need no npm; run this only to update a version in package.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "book" / "_assets" / "offline"
MANAGER = Path("@jupyter-widgets/html-manager/dist")

# AMD modules resolve from this folder whatever the depth of the page ("anywidget" -> anywidget.js); the widget manager
# asks for MathJax 2's Hub, and the book has MathJax 3.
REQUIRE_LOCAL = """\
(() => {
  const base = new URL(".", document.currentScript.src).href;
  window.requirejs.config({ baseUrl: base });
  window.addEventListener("load", () => { if (window.MathJax) window.MathJax.Hub ??= { Queue() {} }; });
})();
"""

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS
OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def copy(npm: Path) -> list[Path]:
    """Copy every vendored file below TARGET; the paths written. Raises FileNotFoundError for a missing one."""
    import anywidget

    widget = Path(anywidget.__file__).parent / "nbextension" / "index.js"
    files = {
        "require.js": npm / "requirejs" / "require.js",
        "embed-amd.js": npm / MANAGER / "embed-amd.js",
        "mathjax-tex-svg-full.js": npm / "mathjax" / "es5" / "tex-svg-full.js",
        "anywidget.js": widget,
        "LICENSE-mathjax.txt": npm / "mathjax" / "LICENSE",
        "LICENSE-fontawesome.txt": npm / "@fortawesome" / "fontawesome-free" / "LICENSE.txt",
        "LICENSE-widgets-bundled.txt": npm / MANAGER / "embed.js.LICENSE.txt",  # of what the manager was built from
        "LICENSE-jupyter-widgets.txt": _licence("ipywidgets"),  # of the same repository; the manager's has none
        "LICENSE-anywidget.txt": _licence("anywidget"),
    }
    source = (npm / MANAGER / "embed-amd.js").read_text()
    for font in sorted((npm / MANAGER).glob("*.woff2")):
        if font.name in source:  # the manager looks for its icons below either module's name
            files[f"@jupyter-widgets/{font.name}"] = font
            files[f"@jupyter-widgets/html-manager/dist/{font.name}"] = font
    written = []
    for name, origin in files.items():
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, path)
        written.append(path)
    own = {"require-local.js": REQUIRE_LOCAL, "LICENSE-requirejs.txt": _mit(npm / "requirejs" / "require.js")}
    for name, text in own.items():
        (TARGET / name).write_text(text)
    return [*written, *(TARGET / name for name in own)]


def _mit(script: Path) -> str:
    """The MIT licence under the copyright at a script's head, for a package that ships the script alone.

    Raises ValueError where the head names no copyright or another licence.
    """
    head = script.read_text()[:400]
    found = re.search(r"Copyright [^\n.]+", head)
    if not found or "Released under MIT license" not in head:
        raise ValueError(f"{script}: its head names no copyright under the MIT licence; look up its licence")
    return f"{found[0]}\n\n{MIT}"


def _licence(package: str) -> Path:
    """The licence text of an installed package. Raises FileNotFoundError where it brings none."""
    for path in distribution(package).files or []:
        if path.name == "LICENSE":
            return Path(str(path.locate()))
    raise FileNotFoundError(f"{package}: its package holds no file LICENSE")


def notice(paths: list[Path], npm: Path) -> str:
    """A text that names each package, its version and licence, and the SHA-256 of each file."""
    import anywidget

    versions = json.loads((ROOT / "package.json").read_text())["dependencies"] | {"anywidget": anywidget.__version__}
    licences = {
        "@jupyter-widgets/html-manager": "BSD-3-Clause",
        "mathjax": "Apache-2.0",
        "requirejs": "MIT",
        "anywidget": "MIT",
    }
    lines = [
        "Files from other projects, unchanged, copied by tools/vendor_js.py; require-local.js is this project's own",
        "",
    ]
    lines += [f"{name} {version}, {licences[name]}" for name, version in sorted(versions.items())]
    awesome = json.loads((npm / "@fortawesome" / "fontawesome-free" / "package.json").read_text())["version"]
    lines += [f"@fortawesome/fontawesome-free {awesome}, SIL OFL 1.1 (the fonts *.woff2, by way of html-manager)", ""]
    lines += ["The texts are in LICENSE-*.txt.", ""]
    for path in sorted(paths):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{digest}  {path.relative_to(TARGET).as_posix()}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy the offline book's browser files out of an npm folder.")
    parser.add_argument("npm", type=Path, nargs="?", default=ROOT / "node_modules", help="folder node_modules")
    npm = parser.parse_args().npm
    paths = copy(npm)
    (TARGET / "NOTICE.txt").write_text(notice(paths, npm))
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{len(paths)} files, {size:.1f} MB in {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
