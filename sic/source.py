"""The code that a result depends on: what a notebook or a function reaches, as plain text.

The text has every function, class and constant of the package that is reached by name, without
comments, docstrings and layout, and is the same on Python 3.11 and 3.12.  Nothing is imported or
run.  Not followed are annotations of functions, names that are put together at run time
(``import_module(f"sic.{name}")``), and files that are no Python.
"""

import __future__

import ast
import dis
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from sic.errors import SicError
from sic.files import replacing_folder

Root = str | ModuleType | Callable[..., Any]  # a dotted name, a module, a function or a class
#: What decides no result: messages, how files are written and work is shared, and the reader of
#: params.yaml, whose values count one by one.
_FILES = ("cluster", "errors", "files", "memory", "progress", "work")
_SETTINGS = ("measuring", "params", "schema", "source")
PLUMBING = tuple(f"sic.{name}" for name in (*_FILES, *_SETTINGS))

_OWN = Path(__file__).parents[__name__.count(".") - 1]
_own = cache(lambda: _Package(_OWN))
_LOCK = threading.RLock()  # Python 3.11's parser fails at random where two threads call it
_MAGIC = re.compile(r"(\s*)([%!?].*|[\w.]+\?{1,2}\s*)$")
_ACTS = ast.Expr | ast.For | ast.While | ast.With | ast.Match | ast.Raise | ast.Assert | ast.Delete
_NO_ANNOTATIONS = __future__.annotations.compiler_flag
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"}
_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_LOCALS = {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_CLASSDEREF"}
_NAMES = _GLOBALS | _LOCALS | {"LOAD_FROM_DICT_OR_DEREF", "STORE_NAME", "STORE_GLOBAL"}


def reach(roots: Iterable[Root], *, leave: Collection[str] = ()) -> str:
    """The text of all that is reached from entry points of this package, read once a process.

    Of a module all is taken, of a folder all of its modules.  ``leave`` has dotted names that
    decide no result (what draws, narrates or reports faults); neither they nor what they use is
    followed.  Raises SicError if a name is not part of the package, or a module cannot be parsed.
    """
    with _LOCK:
        return _reach(tuple(map(_dotted, roots)), frozenset(leave))


def fingerprint(content: Any, *roots: Root, leave: Collection[str] = PLUMBING) -> str:
    """Sixteen hexadecimal digits for settings, as JSON, and the code that :func:`reach` finds."""
    text = f"{json.dumps(content, sort_keys=True)}\n{reach(roots, leave=leave)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def extract(
    notebooks: Path, folder: Path, *, leave: Mapping[str, Collection[str]] | None = None
) -> None:
    """Write ``folder/NAME.py`` for each notebook: its code, then all of the package it reaches.

    The folder is replaced, whole or not at all.  ``leave`` says for patterns of notebooks' names
    (``4?_*``) what decides no result, as for :func:`reach`.  Raises SicError if there are no
    notebooks, or, naming file and line, if one or a module is not Python.
    """
    paths = sorted(notebooks.glob("*.ipynb"))
    if not paths:
        raise SicError(f"no notebooks in {notebooks}; run from the study's folder")
    with _LOCK, replacing_folder(folder) as partial:
        code = _Package(_OWN)
        for path in paths:
            parsed = _cells(path)
            left = [n for p, names in (leave or {}).items() if fnmatch(path.stem, p) for n in names]
            code.modules[""] = _Module("", "?", [s for _, cell in parsed for s in cell])
            text = f"{_written(parsed)}\n{_Walk(code, left).text([_Name('')])}"
            (partial / f"{path.stem}.py").write_text(text, encoding="utf-8")


def cells(notebook: Path) -> str:
    """The code cells of a notebook as text, without magics.  Raises SicError as :func:`extract`."""
    with _LOCK:
        return _written(_cells(notebook))


@cache
def _reach(roots: tuple[str, ...], leave: frozenset[str]) -> str:
    return _Walk(_own(), leave).text(map(_own().find, roots))


def _dotted(root: Root) -> str:
    if isinstance(root, str | ModuleType):
        return str(getattr(root, "__name__", root))
    return f"{root.__module__}.{root.__qualname__}"


def _parse(source: bytes | str, where: str) -> list[ast.stmt]:
    try:
        tree = ast.parse(source)
        compile(tree, where, "exec", 0, True)  # finds more, a return outside of functions for one
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno or 1}" if isinstance(error, SyntaxError) else ""
        raise SicError(f"cannot parse {where}{line}: {error.args[0]}") from error
    return tree.body


def _cells(notebook: Path) -> list[tuple[str, list[ast.stmt]]]:
    try:
        content = json.loads(notebook.read_bytes().decode("utf-8-sig"))
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        parts = [(" ".join(c["metadata"].get("tags", [])), "".join(c["source"])) for c in code]
    except (OSError, ValueError) as error:
        raise SicError(f"cannot read {notebook}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise SicError(f"cannot read {notebook}: it is no notebook of format 4") from error
    return [(t, _cell(s, f"{notebook}, code cell {n}")) for n, (t, s) in enumerate(parts, 1)]


def _cell(text: str, where: str) -> list[ast.stmt]:
    """A cell's statements; a magic is a line that looks like one and where Python finds a fault."""
    lines = text.splitlines()
    while True:
        try:
            found = _parse("\n".join(lines), where)
            return [statement for statement in found if not isinstance(statement, ast.Pass)]
        except SicError as error:
            fault = min(getattr(error.__cause__, "lineno", 0) or 0, len(lines)) - 1
            lines[fault], dropped = _MAGIC.subn(r"\1pass", lines[fault])
            if not dropped:
                raise


def _written(parsed: list[tuple[str, list[ast.stmt]]]) -> str:
    return "\n".join("\n".join((f"# %% {tags}".rstrip(), *map(_text, s), "")) for tags, s in parsed)


@cache
def _text(statement: ast.stmt) -> str:
    """A statement as text; one that is itself a string stays, because Jupyter shows it."""
    return ast.unparse(_Plain().generic_visit(statement))


class _Plain(ast.NodeTransformer):
    """Drops docstrings, and writes f-strings itself, for 3.11 and 3.12 quote them differently."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Name(f"f'{''.join(map(self.part, node.values))}'")  # as if it were a name

    def part(self, node: ast.AST) -> str:
        if isinstance(node, ast.Constant):  # with a double quote inside, repr puts single ones
            return repr(f'{node.value!s}"')[1:-2].replace("{", "{{").replace("}", "}}")
        assert isinstance(node, ast.FormattedValue)
        value = ast.unparse(self.visit(node.value))
        value += f"!{chr(node.conversion)}" if node.conversion > 0 else ""
        form = "".join(map(self.part, getattr(node.format_spec, "values", [])))
        return "{" + " " * value.startswith("{") + value + (f":{form}}}" if form else "}")

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node


class _Name(NamedTuple):
    """Names to look up one after the other in a module, or in the notebook, which has no name."""

    module: str
    names: tuple[str, ...] = ()

    def then(self, names: Iterable[str]) -> "_Name":
        return _Name(self.module, (*self.names, *names))

    def line(self, local: str) -> str:
        """The import that gives it a local name."""
        start = f"from {self.module} import " if self.names else "import "
        name = self.names[0] if self.names else self.module
        return f"{start}{name}" + (f" as {local}" if local != name else "")

    def __str__(self) -> str:
        return ".".join((self.module, *self.names))


class _Statement:
    """A statement of a module: what it imports (also in functions), binds and uses."""

    def __init__(self, node: ast.stmt, module: str, folder: str) -> None:
        self.node = node
        parts = list(ast.walk(node))
        imports = [part for part in parts if isinstance(part, ast.Import | ast.ImportFrom)]
        self.imports = [pair for part in imports for pair in _imported(part, folder)]
        self.acts = not hasattr(node, "decorator_list") and any(map(_acts, parts))
        self.binds: set[str] = set()
        self.uses: set[_Name] = set()
        fields = [f for part in parts if isinstance(part, ast.ClassDef) for f in part.body]
        for code in _codes(node, (f.annotation for f in fields if isinstance(f, ast.AnnAssign))):
            for kind, (local, *attributes) in _chains(code):
                if kind == "STORE_GLOBAL" or (kind == "STORE_NAME" and code.co_name == "<module>"):
                    self.binds.add(local)
                elif not kind.startswith("STORE"):
                    found = [name for bound, name in self.imports if bound == local]
                    found += [_Name(module, (local,))] if kind in _GLOBALS else []
                    self.uses.update(name.then(attributes) for name in found)


def _imported(node: ast.Import | ast.ImportFrom, folder: str) -> Iterator[tuple[str, _Name]]:
    """The names that an import in a folder binds, and what they stand for; import a.b runs both."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield alias.asname or "", _Name(alias.name)
            yield alias.asname or top, _Name(alias.name if alias.asname else top)
    else:
        above = folder.rsplit(".", node.level - 1)[0] if node.level else ""
        module = ".".join(filter(None, (above, node.module)))
        yield from ((a.asname or a.name, _Name(module, (a.name,))) for a in node.names)


def _codes(node: ast.stmt, fields: Iterable[ast.expr]) -> list[CodeType]:
    """What Python makes of a statement, functions one by one, and of annotations that count."""
    codes = [compile(ast.Module([node], []), "", "exec", _NO_ANNOTATIONS, True, 0)]
    codes += (compile(ast.Expression(field), "", "eval", 0, True, 0) for field in fields)
    for code in codes:  # grows on the way
        codes += (inner for inner in code.co_consts if isinstance(inner, CodeType))
    return codes


def _chains(code: CodeType) -> list[tuple[str, list[str]]]:
    """Names and the attributes behind them (``a.b.c``), and how Python loads or stores the name."""
    found: list[tuple[str, list[str]]] = []
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in _ATTRIBUTES:
            chain.append(instruction.argval)
        elif instruction.opname in _NAMES:
            chain = [instruction.argval]
            found.append((instruction.opname, chain))
        elif instruction.opname != "EXTENDED_ARG":
            chain = []
    return found


def _acts(part: ast.AST) -> bool:
    """Whether a part of a statement does more than give names to values."""
    if isinstance(part, ast.Attribute | ast.Subscript):
        return isinstance(part.ctx, ast.Store)
    return isinstance(part, _ACTS) and not isinstance(getattr(part, "value", 0), ast.Constant)


class _Module:
    """The statements of a module, and what its names stand for: statements and imports."""

    def __init__(self, name: str, folder: str, body: list[ast.stmt]) -> None:
        ifs = (s for s in body if isinstance(s, ast.If) and not s.orelse)
        tests: dict[ast.stmt, str] = {s: ast.unparse(s.test) for s in ifs}
        body = [s for s in body if "'__main__'" not in tests.get(s, "")]  # no part of an import
        self.statements = [_Statement(node, name, folder) for node in body]
        self.names: dict[str, list[_Statement | _Name]] = defaultdict(list)
        self.runs: list[_Name] = []  # imported and not used, for what it does
        used = {use.names[:1] for s in self.statements for use in s.uses if use.module == name}
        for statement in self.statements:
            typed = tests.get(statement.node) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            plain = typed or isinstance(statement.node, ast.Import | ast.ImportFrom)
            for local in statement.binds - {"__doc__"}:
                imported = (target for name, target in statement.imports if name == local)
                self.names[local] += [*([] if plain else [statement]), *imported]
            if plain and not typed and name != folder:  # what a folder imports is for others to use
                self.runs += (target for local, target in statement.imports if (local,) not in used)


class _Package:
    """The modules of a package, each parsed when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.modules: dict[str, _Module] = {}
        self.paths: dict[str, Path] = {}
        for path in folder.rglob("*.py"):
            name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
            self.paths[name.removesuffix(".__init__")] = path

    def __contains__(self, name: _Name) -> bool:
        return name.module in self.paths or not name.module

    def __getitem__(self, module: str) -> _Module:
        if module not in self.modules:
            path = self.paths[module]
            folder = module if path.stem == "__init__" else module.rpartition(".")[0]
            self.modules[module] = _Module(module, folder, _parse(path.read_bytes(), str(path)))
        return self.modules[module]

    def find(self, dotted: str) -> _Name:
        """A dotted name as the longest module that it begins with, and names in that."""
        module, names = dotted, list[str]()
        while module and module not in self.paths:
            module, _, last = module.rpartition(".")
            names.insert(0, last)
        if not module or (names and names[0] not in self[module].names):
            raise SicError(f"there is no {dotted}")
        return _Name(module, tuple(names))

    def places(self, name: _Name, seen: frozenset[_Name] = frozenset()) -> Iterator[_Name]:
        """Where a name is defined, behind imports and what folders re-export."""
        first, rest = _Name(name.module, name.names[:1]), name.names[1:]
        known = name in self and first.names and first not in seen
        found = self[name.module].names.get(first.names[0], []) if known else []
        for imported in found:
            if isinstance(imported, _Name):
                yield from self.places(imported.then(rest), seen | {first})
        if first.names and not found and str(first) in self.paths:
            yield from self.places(_Name(str(first), rest), seen)
        elif not found or any(isinstance(statement, _Statement) for statement in found):
            yield name


class _Walk:
    """What is reached in a package: statements and, as lines, the imports that they use."""

    def __init__(self, package: _Package, leave: Iterable[str]) -> None:
        self.package = package
        self.left = tuple(f"{p}." for name in leave for p in package.places(package.find(name)))
        self.taken: dict[str, set[_Statement]] = defaultdict(set)
        self.lines: dict[str, set[str]] = defaultdict(set)
        self.done: set[_Name | str] = set()
        self.waiting: list[tuple[str, _Statement]] = []

    def text(self, roots: Iterable[_Name]) -> str:
        """All that is reached from some names, by module and position."""
        for root in roots:
            self.follow(root)
        while self.waiting:
            module, statement = self.waiting.pop()
            self.run(name for _, name in statement.imports)
            for use in statement.uses:
                if use.module != module or {*use.names[:1]} <= self.package[module].names.keys():
                    self.follow(use)
        parts = []
        for module, found in sorted(self.taken.items()):
            taken = [_text(s.node) for s in self.package[module].statements if s in found]
            lines = [f"# {module}", *sorted(self.lines[module]), *taken]
            parts += ["\n".join(lines) + "\n"] if module and len(lines) > 1 else []
        return "\n".join(parts)

    def places(self, name: _Name) -> Iterator[_Name]:
        """Where a name is defined, if that is not left out."""
        return (p for p in self.package.places(name) if not f"{p}.".startswith(self.left))

    def follow(self, use: _Name) -> None:
        """Take what a name stands for, and note the imports that lead to it."""
        if use in self.done or use not in self.package:
            return
        self.done.add(use)
        self.run([use])
        for place in filter(self.package.__contains__, self.places(use)):
            self.take(place)
        local = "".join(use.names[:1])
        for name in self.package[use.module].names.get(local, ()):
            if isinstance(name, _Name):
                self.lines[use.module].update(place.line(local) for place in self.places(name))

    def take(self, place: _Name) -> None:
        """Add what has a name; of a module that is itself used as a value, all that it has."""
        module, local = self.package[place.module], "".join(place.names[:1])
        if local in module.names:
            self.add(place.module, module.names[local])
        elif not local.startswith("__"):
            own = [name for name, found in module.names.items() if _Statement in map(type, found)]
            below = [_Name(n) for n in self.package.paths if n.startswith(f"{place.module}.")]
            for name in [*(_Name(place.module, (n,)) for n in own), *below]:
                self.follow(name)

    def run(self, names: Iterable[_Name]) -> None:
        """Add what modules do when they are imported, and the folders above them."""
        for module in {place.module for name in names for place in self.places(name)} - self.done:
            self.done.add(module)
            if _Name(module) in self.package:
                found, above = self.package[module], module.rpartition(".")[0]
                self.add(module, (s for s in found.statements if s.acts))
                self.run([*found.runs, *([_Name(above)] if above else [])])

    def add(self, module: str, found: Iterable[_Statement | _Name]) -> None:
        new = {s for s in found if isinstance(s, _Statement)} - self.taken[module]
        self.taken[module] |= new
        self.waiting += ((module, statement) for statement in new)
