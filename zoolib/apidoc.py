"""The API reference, written from the sources' syntax trees: nothing is imported, so it is fast and needs no torch."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoolib.spec import ZoolibError

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Field:
    """One annotated attribute of a class: `name: annotation = default  # comment`."""

    name: str
    annotation: str
    default: str
    comment: str


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, text and syntax tree."""

    name: str
    source: str
    tree: ast.Module
    comments: dict[int, str]  # line -> the comment at its end

    @property
    def summary(self) -> str:
        """The first sentence of the module's docstring."""
        return summary(self.tree)


def summary(node: ast.Module | ast.ClassDef | Function) -> str:
    """The first paragraph of a docstring on one line; empty without one."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def read(path: Path, name: str) -> Module:
    """Parse one source file. Raises ZoolibError for a file that is not Python."""
    source = path.read_text()
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        tree = ast.parse(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ZoolibError(f"{path}: not valid Python ({error})") from None
    comments = {token.start[0]: token.string.lstrip("#: ") for token in tokens if token.type == tokenize.COMMENT}
    return Module(name, source, tree, comments)


def modules(package: Path) -> list[Module]:
    """Every module below a package folder in order of name; an `__init__` stands for its package."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found.append(read(path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return sorted(found, key=lambda module: module.name)


def fields(module: Module, node: ast.ClassDef) -> list[Field]:
    """The annotated attributes of a class body, with the comment at the end of each one's line."""
    found = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            default = "" if item.value is None else ast.unparse(item.value)
            comment = module.comments.get(item.end_lineno or item.lineno, "")
            found.append(Field(item.target.id, ast.unparse(item.annotation), default, comment))
    return found


def find_class(module: Module, name: str) -> ast.ClassDef:
    """A class of a module by name. Raises ZoolibError where there is none."""
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise ZoolibError(f"{module.name} has no class {name!r}")


_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_SPECIAL = re.compile(r"([\\*_$\[\]{}|~#])")


def prose(text: str) -> str:
    """Docstring text as MyST: code spans stay, everything else that MyST could read as markup is escaped."""

    def plain(part: str) -> str:
        return _SPECIAL.sub(r"\\\1", part).replace("<", "&lt;")

    blocks = []
    for block in text.split("\n\n"):
        if all(line.startswith("    ") for line in block.splitlines() if line):
            blocks.append(block)  # indented: code
            continue
        lines = [line for line in block.splitlines() if not re.fullmatch(r"\s*[-=~]{3,}\s*", line)]
        body, end, out = "\n".join(lines), 0, ""
        for match in _CODE.finditer(body):
            out += plain(body[end : match.start()]) + match.group(0)
            end = match.end()
        out += plain(body[end:])
        blocks.append(re.sub(r"^( {4,})(\w+):", r"- `\2`:", out, flags=re.MULTILINE))  # entries below "Args:"
    return re.sub(r"^(Args|Returns|Raises):\n-", r"\1:\n\n-", "\n\n".join(blocks), flags=re.MULTILINE)


def code_block(text: str, first_line: int | None = None) -> str:
    """A fenced Python block whose fence is longer than any run of backticks inside it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    number = "" if first_line is None else f":lineno-start: {first_line}\n"
    return f"{fence}{{code-block}} python\n{number}{text.rstrip()}\n{fence}\n"


def _source(module: Module, first: int, last: int | None, colons: str = ":::") -> str:
    text = "\n".join(module.source.splitlines()[first - 1 : last])
    return f"{colons}{{dropdown}} Source\n{code_block(text, first)}{colons}\n"


def _first_line(node: ast.ClassDef | Function) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _signature(node: Function, method: bool) -> str:
    text = ast.unparse(node.args)
    if method:
        text = re.sub(r"^(self|cls)(, )?", "", text)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({text}){returns}"


def _decorated(node: Function, name: str) -> bool:
    return any(ast.unparse(decorator).split(".")[-1] == name for decorator in node.decorator_list)


def _function(module: Module, node: Function) -> str:
    text = prose(ast.get_docstring(node) or "")
    source = _source(module, _first_line(node), node.end_lineno)
    return f"::::{{py:function}} {_signature(node, method=False)}\n\n{text}\n\n{source}::::\n"


def _method(node: Function) -> str:
    text = prose(ast.get_docstring(node) or "")
    if _decorated(node, "property"):
        kind = f"::::{{py:property}} {node.name}\n" + (f":type: {ast.unparse(node.returns)}\n" if node.returns else "")
    else:
        kind = f"::::{{py:method}} {_signature(node, method=not _decorated(node, 'staticmethod'))}\n"
        kind += "".join(f":{name}:\n" for name in ("classmethod", "staticmethod") if _decorated(node, name))
    return f"{kind}\n{text}\n::::\n"


def _declaration(field: Field) -> str:
    return f"{field.name}: {field.annotation}" + (f" = {field.default}" if field.default else "")


def _class(module: Module, node: ast.ClassDef) -> str:
    init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    arguments = _signature(init, method=True).removeprefix("__init__").split(" -> ")[0] if init else ""
    parts = [f":::::{{py:class}} {node.name}{arguments}\n\n{prose(ast.get_docstring(node) or '')}\n"]
    if known := fields(module, node):
        rows = "\n".join(f"* - `{_declaration(field)}`\n  - {prose(field.comment)}" for field in known)
        parts.append(f"::::{{list-table}}\n:widths: 45 55\n\n{rows}\n::::\n")
    for item in node.body:
        if isinstance(item, Function) and not item.name.startswith("_") and not _decorated(item, "setter"):
            parts.append(_method(item))
    return "\n".join([*parts, _source(module, _first_line(node), node.end_lineno, "::::"), ":::::\n"])


def _constants(module: Module) -> Iterator[str]:
    for node in module.tree.body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id):
            kind = f":type: {ast.unparse(node.annotation)}\n" if isinstance(node, ast.AnnAssign) else ""
            yield f"::::{{py:data}} {target.id}\n{kind}\n{_source(module, node.lineno, node.end_lineno)}::::\n"


def page(module: Module) -> str:
    """One module's page: its docstring, constants, classes and functions, each with its source folded below it."""
    parts = [
        f"# {module.name}\n",
        f"```{{py:module}} {module.name}\n```\n",
        prose(ast.get_docstring(module.tree) or "") + "\n",
    ]
    parts += _constants(module)
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            parts.append(_class(module, node))
        elif isinstance(node, Function) and not node.name.startswith("_"):
            parts.append(_function(module, node))
    return "\n".join(parts)


def has_public(module: Module) -> bool:
    """Whether a module holds anything that its page would show besides a docstring."""
    named = any(isinstance(node, ast.ClassDef | Function) and node.name[0] != "_" for node in module.tree.body)
    return named or any(_constants(module))
