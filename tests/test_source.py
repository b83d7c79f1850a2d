"""The code that decides a result: what is reached, what is not, and the text of it."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from sic import source
from sic.errors import SicError

ROOT = Path(__file__).parents[1]


class Code:
    """A made-up package ``pack`` in the place of ``sic``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "pack"
        monkeypatch.setattr(source, "_OWN", self.folder)
        self.write("__init__.py", "")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for above in path.relative_to(self.folder).parents:
            (self.folder / above / "__init__.py").touch()
        path.write_text(textwrap.dedent(text), encoding="utf-8")

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text(encoding="utf-8")
        assert old in text
        (self.folder / name).write_text(text.replace(old, new), encoding="utf-8")

    def reach(self, *roots: str, leave: tuple[str, ...] = ()) -> str:
        source._own.cache_clear()
        source._reach.cache_clear()
        return source.reach(roots, leave=leave)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    monkeypatch.chdir(tmp_path)
    return Code(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    source._own.cache_clear()
    source._reach.cache_clear()


Changed = Callable[[str, str, str], bool]


@pytest.fixture
def changed(code: Code) -> Changed:
    """Whether the text of ``pack.a.f`` is another after a change of a module."""

    def changed(name: str, old: str, new: str) -> bool:
        before = code.reach("pack.a.f")
        code.change(name, old, new)
        return code.reach("pack.a.f") != before

    return changed


# ---- what changes the text -------------------------------------------------------------------

LONG = '''
    """The module."""

    # A comment.
    from pack import b


    def f(x):
        """A docstring."""
        # Another comment.
        return b.g(x) + 1  # and one


    def unused():
        return 0
'''


def test_the_text_is_all_that_is_reached(code: Code) -> None:
    code.write("a.py", LONG)
    code.write("b.py", "K = 3\nL = 4\ndef g(x):\n    return K * x\ndef h(x):\n    return L * x\n")
    assert code.reach("pack.a.f") == textwrap.dedent("""\
        # pack.a
        import pack.b as b
        def f(x):
            return b.g(x) + 1

        # pack.b
        K = 3
        def g(x):
            return K * x
        """)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# A comment.", "# Other words."),
        ("# Another comment.", ""),
        ("# and one", "# 1"),
        ('"""The module."""', '"""A module."""'),
        ('"""A docstring."""', "'''Two\n    lines.'''"),
        ('    """A docstring."""\n', ""),
        ("b.g(x) + 1", "(b.g(\n        x,\n    )\n    + 1)"),
        ("return 0", "return 1"),
        ("def unused", "def still_unused"),
    ],
)
def test_comments_docstrings_layout_and_unused_code_change_nothing(
    code: Code, changed: Changed, old: str, new: str
) -> None:
    code.write("a.py", LONG)
    code.write("b.py", "def g(x):\n    return x\n")
    assert not changed("a.py", old, new)


def test_a_docstring_may_be_all_that_a_function_or_class_has(code: Code, changed: Changed) -> None:
    used = 'def g():\n    """Nothing."""\nclass C:\n    "C"\n'
    code.write("a.py", f"def f():\n    return g(), C\n{used}")
    assert not changed("a.py", '"""Nothing."""', "pass")
    assert not changed("a.py", '"C"', '"D"')


FOLLOWED = {
    "a function": ("def f():\n    return g()", "def g():\n    return 1"),
    "a function of a function": ("def f(): h()\ndef h(): g()", "def g(): return 1"),
    "a constant": ("def f():\n    return K", "K = 1"),
    "a typed constant": ("def f():\n    return K", "K: int = 1"),
    "a constant among several": ("def f():\n    return K", "J, (K, L) = 0, (1, 2)"),
    "a constant that is added to": ("def f():\n    return K", "K = []\nK += [1]"),
    "a constant through another": ("def f():\n    return J\nJ = [K for _ in range(3)]", "K = 1"),
    "a base": ("class f(B):\n    pass", "class B:\n    k = 1"),
    "a metaclass": ("class f(metaclass=B):\n    pass", "class B(type):\n    k = 1"),
    "a method": ("def f():\n    return C().run()", "class C:\n    def run(self): return 1"),
    "a decorator": ("@g\ndef f():\n    pass", "def g(h):\n    return 1"),
    "a decorator with arguments": ("@g(2)\ndef f():\n    pass", "def g(h):\n    return 1"),
    "a default": ("def f(x=K):\n    return x", "K = 1"),
    "a default by name": ("def f(*, x=K):\n    return x", "K = 1"),
    "a default of a lambda": ("f = lambda x=K: x", "K = 1"),
    "an inner function": ("def f():\n    def h():\n        return K\n    return h", "K = 1"),
    "a method's global": ("class f:\n    K = 2\n    def run(self): return K", "K = 1"),
    "an annotation of a field": ("class f:\n    x: 'list[int]' = 0\n    y: list[K]", "K = 1"),
    "a field's annotation with words": ("class f:\n    x: A[int, V(K)]\n    A = V = 0", "K = 1"),
    "an f-string": ("def f(x):\n    return f'{x:{K}}'", "K = 1"),
    "a pattern": ("def f(x):\n    match x:\n        case C(): return 2", "class C:\n    k = 1"),
    "an exception": ("def f():\n    try: pass\n    except E: pass", "class E(Exception): k = 1"),
    "a global": ("def f():\n    return K", "K = 0\ndef change():\n    global K\n    K = 1"),
    "one of two definitions": ("def f(): g()", "if f:\n    def g(): 0\nelse:\n    g = 1"),
    "a way out": ("def f():\n    return g()", "try:\n    import numba as g\nexcept E: g = 1"),
    "an import in a try": ("def f():\n    return g()", "try:\n    g = 0\nfinally:\n    g = 1"),
    "after a comprehension": ("def f(l):\n    return [K for K in l], K", "K = 1"),
    "after a lambda": ("def f():\n    return (lambda K: K), K", "K = 1"),
    "a comprehension's iterable": ("f = [K for K in K]", "K = 1"),
    "where it is assigned": ("def f():\n    global K\n    K += 1", "K = 1"),
}


@pytest.mark.parametrize(("user", "used"), FOLLOWED.values(), ids=FOLLOWED)
def test_what_a_definition_uses_changes_the_text(
    code: Code, changed: Changed, user: str, used: str
) -> None:
    code.write("a.py", f"{user}\n{used}\n")
    assert changed("a.py", used, used[::-1].replace("1", "9", 1)[::-1])


NOT_FOLLOWED = {
    "a parameter": "def f(K):\n    return K",
    "any parameter": "def f(a, /, *K, **L):\n    return K",
    "a variable": "def f():\n    K = 2\n    return K",
    "a variable of a loop": "def f():\n    for K in range(3): print(K)",
    "a variable of a comprehension": "def f(l):\n    return [K for K in l]",
    "a parameter of a lambda": "f = lambda K: K",
    "a variable of an outer function": "def f(K):\n    def g(): return K\n    return g",
    "a name of except": "def f():\n    try: pass\n    except E as K: print(K)",
    "a name of with": "def f(x):\n    with x as K: print(K)",
    "a name of case": "def f(x):\n    match x:\n        case [1, *K]: return K",
    "a walrus": "def f(x):\n    return [(K := y) for y in x], K",
    "an attribute": "def f(x):\n    return x.K",
    "a keyword": "def f(x):\n    return x(K=2)",
    "an annotation of a parameter": "def f(x: K, *y: K, **z: K) -> K:\n    pass",
    "an annotation of a variable": "def f():\n    x: K = 2",
    "a string": "def f():\n    return 'K'",
}


@pytest.mark.parametrize("user", NOT_FOLLOWED.values(), ids=NOT_FOLLOWED)
def test_names_that_stand_for_something_else_are_not_followed(
    code: Code, changed: Changed, user: str
) -> None:
    code.write("a.py", f"{user}\nK = 1\n")
    assert not changed("a.py", "K = 1", "K = 9")


# ---- through modules -------------------------------------------------------------------------

IMPORTS = {
    "a name": "from pack.d.b import g\ndef f(): return g()",
    "a name under another": "from pack.d.b import g as h\ndef f(): return h()",
    "a module": "from pack.d import b\ndef f(): return b.g()",
    "a module under another name": "import pack.d.b as h\ndef f(): return h.g()",
    "a module in full": "import pack.d.b\ndef f(): return pack.d.b.g()",
    "a folder": "from pack import d\ndef f(): return d.b.g()",
    "a neighbour": "from .d.b import g\ndef f(): return g()",
    "a neighbouring module": "from .d import b\ndef f(): return b.g()",
    "inside of a function": "def f():\n    from pack.d import b\n    return b.g()",
    "a name inside of a function": "def f():\n    from pack.d.b import g\n    return g()",
    "a neighbour inside of a function": "def f():\n    from .d.b import g as h\n    return h()",
    "in full inside of a function": "def f():\n    import pack.d.b\n    return pack.d.b.g()",
    "for an inner function": "def f():\n    from pack.d import b\n    return lambda: b.g()",
    "inside of a class": "class f:\n    from pack.d.b import g\n    x = g()",
    "in a try": "try:\n    from pack.d.b import g\nexcept E:\n    g = None\ndef f(): return g()",
    "for type checkers": "if TYPE_CHECKING:\n    from pack.d.b import g\nclass f:\n    x: g",
    "through a folder": "from pack.e import g\ndef f(): return g()",
    "through a folder, as attribute": "from pack import e\ndef f(): return e.g()",
    "through a folder, another name": "from pack.e import other\ndef f(): return other()",
    "through a folder, relative": "from pack.e import near\ndef f(): return near()",
    "through a module": "from pack import c\ndef f(): return c.g()",
    "through a folder that waits": "from pack.w import g\ndef f(): return g()",
    "a module by a folder": "from pack.e import b\ndef f(): return b.g()",
    "an attribute of a class": "from pack.d import b\ndef f(): return b.g.attribute.another",
}


@pytest.mark.parametrize("user", IMPORTS.values(), ids=IMPORTS)
def test_imports_are_followed(code: Code, changed: Changed, user: str) -> None:
    code.write("a.py", user)
    code.write("c.py", "from pack.d.b import g\n")
    code.write("d/b.py", "def g():\n    return 1\ndef h():\n    return 2\n")
    code.write("d/near.py", "from .b import g as near\n")
    inside = "from pack.d import b\nfrom pack.d.b import g\nfrom pack.d.b import g as other\n"
    later = "if TYPE_CHECKING:\n    from pack.d.b import g, h\n"
    code.write("w/__init__.py", f"{later}def __getattr__(name): return find(name)\n")
    code.write("e/__init__.py", f"{inside}from ..d.near import near\n")
    assert changed("d/b.py", "return 1", "return 9")
    assert not changed("d/b.py", "return 2", "return 9")


def test_a_function_may_be_called_as_its_module(code: Code, changed: Changed) -> None:
    code.write("d/__init__.py", "from pack.d.evaluate import evaluate\n")
    code.write("d/evaluate.py", "def evaluate(): return 1\ndef other(): return 2\n")
    code.write("a.py", "from pack import d\ndef f(): return d.evaluate()\n")
    assert changed("d/evaluate.py", "return 1", "return 3")
    assert not changed("d/evaluate.py", "return 2", "return 4")
    code.write("a.py", "from pack.d.evaluate import other\ndef f(): return other()\n")
    assert changed("d/evaluate.py", "return 4", "return 6")
    assert not changed("d/evaluate.py", "return 3", "return 5")


def test_a_folder_may_say_that_it_has_a_module(code: Code, changed: Changed) -> None:
    code.write("d/__init__.py", "from pack.d import b\n")
    code.write("d/b.py", "K = 1\n")
    code.write("a.py", "from pack import d\ndef f(): return d.b.K\n")
    assert changed("d/b.py", "K = 1", "K = 2")


def test_modules_may_use_each_other(code: Code, changed: Changed) -> None:
    code.write("a.py", "from pack import b\ndef f(): return b.g()\ndef h(): return 1\n")
    code.write("b.py", "from pack import a\ndef g(): return a.f() + a.h()\n")
    assert changed("a.py", "return 1", "return 2")
    code.write("c.py", "from pack.e import x\n")
    code.write("e.py", "from pack.c import x\n")
    code.write("a.py", "from pack.c import x\ndef f(): return x\n")
    assert "def f()" in code.reach("pack.a.f")


@pytest.mark.parametrize(
    "user",
    [
        "from pack import b\ndef f(name): return getattr(b, name)",
        "import pack.b as b\nf = [b]",
        "def f():\n    from pack import b\n    return vars(b)",
        "from pack import b\ndef f(): return b.__getattr__ if b else b",
    ],
)
def test_a_module_as_a_value_is_taken_whole(code: Code, changed: Changed, user: str) -> None:
    code.write("a.py", user)
    code.write("b.py", "def g():\n    return h()\nK = 1\ndef h():\n    return 2\n")
    assert changed("b.py", "K = 1", "K = 3")
    assert changed("b.py", "return 2", "return 4")


def test_a_name_that_is_made_at_run_time_may_be_any(code: Code, changed: Changed) -> None:
    code.write("a.py", "from pack import b\ndef f(): return b.K, b.__doc__\n")
    code.write("b.py", "def g():\n    return 1\nglobals()['K'] = g\n")
    assert changed("b.py", "return 1", "return 3")


def test_the_name_or_docstring_of_a_module_is_none_of_its_code(
    code: Code, changed: Changed
) -> None:
    code.write("a.py", "from pack import b\ndef f(): return b.__name__, b.__doc__\n")
    code.write("b.py", "'Words.'\nK = 1\n")
    assert not changed("b.py", "K = 1", "K = 2")
    assert not changed("b.py", "Words", "Others")


def test_a_folder_that_loads_names_later_says_which_to_type_checkers(
    code: Code, changed: Changed
) -> None:
    code.write("d.py", "def g(): return 1\ndef h(): return 2\n")
    later = (
        "if TYPE_CHECKING:\n    from pack.d import g\ndef __getattr__(name): return find(name)\n"
    )
    code.write("w/__init__.py", later)
    code.write("a.py", "from pack.w import g\ndef f(): return g()\n")
    assert not changed("w/__init__.py", "import g", "import g, h")
    assert not changed("w/__init__.py", "find(name)", "found(name)")
    code.change("w/__init__.py", "import g, h", "import h")
    assert changed("w/__init__.py", "found(name)", "find(name)")


def test_a_folder_stands_for_all_of_its_modules(code: Code) -> None:
    code.write("d/b.py", "K = 1\n")
    code.write("d/e/c.py", "L = 2\n")
    code.write("dd.py", "M = 3\n")
    assert code.reach("pack.d") == "# pack.d.b\nK = 1\n\n# pack.d.e.c\nL = 2\n"


# ---- what is done on import ------------------------------------------------------------------


@pytest.mark.parametrize(
    "effect",
    [
        "register(1)",
        "TABLE['k'] = 1",
        "LOOKS.color = 1",
        "for k in (): TABLE[k] = 1",
        "if LOOKS:\n    register(1)",
        "with LOOKS: J = 1",
        "assert K == 1",
    ],
)
def test_what_a_module_does_counts_where_it_is_reached(
    code: Code, changed: Changed, effect: str
) -> None:
    imports = "from pack.b import g\nfrom pack.c import h\n"
    code.write("a.py", f"{imports}def f(): return g()\ndef other(): return h()\n")
    defined = "K = 0\nLOOKS = TABLE = {}\ndef register(x): return 2\n"
    code.write("b.py", f"{defined}def g(): pass\n{effect}\n")
    code.write("c.py", f"{defined}def h(): pass\n{effect}\n")
    assert changed("b.py", effect, effect.replace("1", "9"))
    assert not changed("c.py", effect, effect.replace("1", "9"))
    if "register" in effect:
        assert changed("b.py", "return 2", "return 3")


def test_what_a_program_does_is_not_done_on_import(code: Code, changed: Changed) -> None:
    code.write(
        "a.py", 'def f(): pass\ndef main(): return 1\nif __name__ == "__main__":\n    main()\n'
    )
    assert not changed("a.py", "return 1", "return 2")


def test_an_import_for_what_it_does(code: Code, changed: Changed) -> None:
    code.write("a.py", "import pack.b\nfrom pack import c, d\ndef f(): return d.K\n")
    code.write("b.py", "print(1)\nK = 1\n")
    code.write("c.py", "print(2)\nK = 1\n")
    code.write("d.py", "K = 1\n")
    assert changed("b.py", "print(1)", "print(9)")
    assert changed("c.py", "print(2)", "print(9)")
    assert not changed("b.py", "K = 1", "K = 9")


def test_an_import_in_a_function_for_what_it_does(code: Code, changed: Changed) -> None:
    code.write("a.py", "def f():\n    import pack.b\n    from pack import c\n")
    code.write("b.py", "print(1)\nK = 1\n")
    code.write("c.py", "print(2)\nK = 1\n")
    assert changed("b.py", "print(1)", "print(9)")
    assert changed("c.py", "print(2)", "print(9)")
    assert not changed("b.py", "K = 1", "K = 9")


def test_folders_do_something_too_but_not_for_their_other_modules(
    code: Code, changed: Changed
) -> None:
    code.write("a.py", "from pack.d.b import g\ndef f(): return g()\n")
    code.write("d/__init__.py", "from pack.d.c import h\nprint(1)\n")
    code.write("d/b.py", "def g(): pass\n")
    code.write("d/c.py", "def h(): pass\nprint(2)\n")
    assert changed("d/__init__.py", "print(1)", "print(9)")
    assert not changed("d/c.py", "print(2)", "print(9)")


# ---- what is left out ------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["pack.d", "pack.d.b", "pack.d.b.g", "pack.d.g"])
def test_what_decides_nothing_is_left_out(code: Code, leave: str) -> None:
    code.write("a.py", "from pack.d.b import g as draw\nfrom pack.c import k\ndef f(): draw(k())\n")
    code.write("c.py", "def k(): pass\n")
    code.write("d/__init__.py", "from pack.d.b import g\nprint('d')\n")
    code.write("d/b.py", "def g(): return h()\ndef h(): pass\n")
    assert "def h()" in code.reach("pack.a.f")
    assert code.reach("pack.a.f", leave=(leave,)) == textwrap.dedent("""\
        # pack.a
        from pack.c import k
        def f():
            draw(k())

        # pack.c
        def k():
            pass
        """)


def test_of_a_whole_module_single_functions_are_left_out(code: Code) -> None:
    code.write("a.py", "def f(): pass\ndef draw(): pass\n")
    assert code.reach("pack.a", leave=("pack.a.draw",)) == "# pack.a\ndef f():\n    pass\n"


@pytest.mark.parametrize("name", ["pack.b", "pack.a.h", "numpy", "pack.a.f.g.h.", "", "packa"])
def test_a_name_that_is_not_there_is_told(code: Code, name: str) -> None:
    code.write("a.py", "def f(): pass\n")
    if name != "pack.a.f.g.h.":
        with pytest.raises(SicError, match=f"there is no {name}"):
            code.reach(name)
        with pytest.raises(SicError, match=f"there is no {name}"):
            code.reach("pack.a", leave=(name,))


# ---- other packages --------------------------------------------------------------------------


def test_imports_of_other_packages_are_lines_where_they_are_used(code: Code) -> None:
    code.write(
        "a.py",
        """
        import os.path
        from scipy.special import ndtr as phi, erf
        import numpy as np, torch
        from . import b

        def f(x: torch.Tensor):
            return os.path.join(phi(np.exp(x)), b.np.e)

        def g():
            return erf
        """,
    )
    code.write("b.py", "import numpy as np\n")
    assert code.reach("pack.a.f").splitlines()[:-2] == [
        "# pack.a",
        "from scipy.special import ndtr as phi",
        "import numpy as np",
        "import os",
        "import pack.b as b",
    ]


def test_another_import_under_the_same_name_is_seen(code: Code, changed: Changed) -> None:
    code.write("a.py", "from scipy.special import erf as g\ndef f(x): return g(x)\n")
    assert changed("a.py", "erf", "erfc")
    used = "def f(x): return g(x), h(x)\n"
    code.write("a.py", f"from pack.b import one as g, two as h\n{used}")
    code.write("b.py", "def one(x): 1\ndef two(x): 2\n")
    assert changed("a.py", "one as g, two as h", "two as g, one as h")


# ---- order -----------------------------------------------------------------------------------


def test_the_order_is_that_of_modules_and_positions(code: Code) -> None:
    code.write("z.py", "def late(): pass\ndef early(): pass\n")
    code.write("b.py", "def g(): pass\n")
    imports = ["from pack.b import g", "from pack.z import early", "from pack.z import late"]
    texts = set()
    for order in (imports, imports[::-1]):
        code.write("a.py", "\n".join([*order, "def f(): return early(), late(), g()", ""]))
        texts |= {code.reach("pack.a.f"), code.reach("pack.b", "pack.z.early", "pack.a.f")}
    assert len(texts) == 1
    heads = [line for line in texts.pop().splitlines() if line.startswith(("#", "def"))]
    assert heads == [
        *("# pack.a", "def f():"),
        *("# pack.b", "def g():"),
        *("# pack.z", "def late():", "def early():"),
    ]


# ---- fingerprints ----------------------------------------------------------------------------


def test_a_fingerprint_is_of_settings_and_code(code: Code) -> None:
    def fingerprint(content: object) -> str:
        source._own.cache_clear()
        source._reach.cache_clear()
        return source.fingerprint(content, "pack.a.f", leave=["pack.a.draw"])

    code.write("a.py", "def f():\n    draw()\n    return 1\ndef draw(): 2\n")
    first = fingerprint({"a": 1, "b": [2, None]})
    assert len(first) == 16
    assert set(first) <= set("0123456789abcdef")
    assert fingerprint({"b": [2, None], "a": 1}) == first
    assert fingerprint({"a": 2, "b": [2, None]}) != first
    code.change("a.py", "def draw(): 2", "def draw(): 3  # in colour")
    assert fingerprint({"a": 1, "b": [2, None]}) == first
    code.change("a.py", "return 1", "return 2")
    assert fingerprint({"a": 1, "b": [2, None]}) != first


def test_roots_may_be_functions_classes_methods_and_modules() -> None:
    for name, root in {
        "sic.source.reach": source.reach,
        "sic.errors.SicError": SicError,
        "sic.source": source,
    }.items():
        assert source.reach([root]) == source.reach([name])
    assert "class Code" not in source.reach([source.reach])
    assert "class _Package" in source.reach([source._Package.find])


# ---- notebooks -------------------------------------------------------------------------------


def write_notebook(name: str, *cells: str, tags: tuple[str, ...] = (), **other: object) -> Path:
    words = {"cell_type": "markdown", "metadata": {}, "source": ["# A title\n", "and words"]}
    code = [
        {
            "cell_type": "code",
            "execution_count": None,
            "metadata": {"tags": list(tags)} if tags and not number else {},
            "outputs": [],
            "source": text.splitlines(keepends=True),
        }
        for number, text in enumerate(cells)
    ]
    content = {"cells": [words, *code], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = Path("notebooks") / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | other), encoding="utf-8")
    return path


def extracted(name: str, **options: dict[str, tuple[str, ...]]) -> str:
    source.extract(Path("notebooks"), Path("build/code"), **options)
    return Path(f"build/code/{name}.py").read_text(encoding="utf-8")


def test_a_notebook_is_its_cells_and_what_they_reach(code: Code) -> None:
    code.write("a.py", "def f(): return K\nK = 1\nL = 2\n")
    cells = ("m = 1  # of the sweep", "from pack import a\nimport json", "a.f(m)  # is shown")
    write_notebook("10_a", *cells, tags=("parameters",))
    assert extracted("10_a") == textwrap.dedent("""\
        # %% parameters
        m = 1

        # %%
        from pack import a
        import json

        # %%
        a.f(m)

        # pack.a
        def f():
            return K
        K = 1
        """)


def test_names_of_one_cell_are_used_in_others(code: Code) -> None:
    code.write("a.py", "def f(): pass\n")
    code.write("b.py", "def g(): pass\n")
    code.write("c.py", "def h(): pass\n")
    write_notebook("10_a", "from pack import a, b", "def show(a): b.g()", "show(1)", "b = [a.f]")
    text = extracted("10_a")
    assert "def f()" in text
    assert "def g()" in text
    assert "pack.c" not in text


def test_words_outputs_and_comments_of_a_notebook_change_nothing(code: Code) -> None:
    write_notebook("10_a", "x = 1", "def f():\n    '''Doc.'''\n    return x\nf()")
    before = extracted("10_a")
    path = write_notebook("10_a", "# One.\nx = 1", "def f():\n    return x  # x\n\n\nf()")
    content = json.loads(path.read_text())
    content["cells"][0]["source"] = "# Another title"
    content["cells"][2] |= {"outputs": [{"output_type": "stream"}], "execution_count": 3}
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    assert extracted("10_a") == before
    write_notebook("10_a", "x = 2", "def f():\n    return x\nf()")
    assert extracted("10_a") != before


MAGICS = {
    "%matplotlib inline\nx = 1": "x = 1",
    "x = 1\n%time\n!ls *.py 'it\n?x\nx.y?\nz = 2": "x = 1\nz = 2",
    "%%time\nx = 1": "x = 1",
    "x = (\n    100\n    % 7\n)\n%time": "x = 100 % 7",
    "text = '''\n%matplotlib inline\n'''": "text = '\\n%matplotlib inline\\n'",
    "if x:\n    %time\ny = 1": "if x:\n    pass\ny = 1",
    "'shown'": "'shown'",
    "": "",
}


@pytest.mark.parametrize(("cell", "text"), MAGICS.items())
def test_magics_are_dropped(code: Code, cell: str, text: str) -> None:
    path = write_notebook("10_a", cell)
    assert source.cells(path) == "\n".join(filter(None, ["# %%", text])) + "\n"


def test_what_decides_nothing_is_left_out_of_some_notebooks(code: Code) -> None:
    code.write("report/plot.py", "def draw(): pass\n")
    code.write("errors.py", "def fail(): pass\n")
    cell = "from pack import errors\nfrom pack.report import plot\nplot.draw(), errors.fail()"
    write_notebook("40_train", cell)
    write_notebook("70_report", cell)
    leave = {"*": ("pack.errors",), "4?_*": ("pack.report",)}
    assert extracted("40_train", leave=leave).endswith("plot.draw(), errors.fail())\n\n")
    text = extracted("70_report", leave=leave)
    assert text.endswith("# pack.report.plot\ndef draw():\n    pass\n")


def test_a_notebook_taken_away_leaves_no_code_behind(code: Code) -> None:
    write_notebook("10_a", "m = 1")
    write_notebook("20_b", "m = 1").unlink()
    Path("build/code").mkdir(parents=True)
    Path("build/code/20_b.py").touch()
    extracted("10_a")
    assert [path.name for path in Path("build/code").iterdir()] == ["10_a.py"]


# ---- what cannot be read ---------------------------------------------------------------------


def test_a_faulty_module_is_named_with_the_line(code: Code) -> None:
    code.write("a.py", "def f():\n    return (1\n\nx = = 2\n")
    with pytest.raises(SicError, match=r"^cannot parse .*pack/a\.py, line \d: [^\n]+$"):
        code.reach("pack.a.f")
    code.write("a.py", "x = 1\nreturn x\n")
    with pytest.raises(SicError, match=r"pack/a\.py, line 2: 'return' outside function$"):
        code.reach("pack.a.f")
    (code.folder / "a.py").write_bytes(b"x = 1\n\xff = 2\n")
    with pytest.raises(SicError, match=r"cannot parse .*pack/a\.py"):
        code.reach("pack.a.f")


def test_a_module_may_begin_with_a_byte_order_mark(code: Code) -> None:
    (code.folder / "a.py").write_bytes("\ufeffK = 'λ'\n".encode())
    assert code.reach("pack.a") == "# pack.a\nK = 'λ'\n"


def test_a_faulty_cell_is_named_with_the_line(code: Code) -> None:
    write_notebook("10_a", "x = 1", "y = 2\ny = = 3")
    message = r"^cannot parse notebooks/10_a\.ipynb, code cell 2, line 2: [^\n]+$"
    with pytest.raises(SicError, match=message):
        source.extract(Path("notebooks"), Path("build/code"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"line 1 column 2"),
        (b'{\n"cells": x}', r"line 2"),
        (b"[]", "no notebook of format 4"),
        (b'{"worksheets": []}', "no notebook of format 4"),
        (b'{"cells": [{"cell_type": "code"}]}', "no notebook of format 4"),
        (b"\xff", "utf-8"),
    ],
)
def test_what_is_no_notebook_is_named(code: Code, content: bytes, message: str) -> None:
    write_notebook("10_a", "x = 1")
    assert extracted("10_a")
    Path("notebooks/20_b.ipynb").write_bytes(content)
    with pytest.raises(SicError, match=rf"^cannot read notebooks/20_b\.ipynb: .*{message}"):
        extracted("20_b")
    # Whole or not at all.
    assert [path.name for path in Path("build").iterdir()] == ["code"]
    assert [path.name for path in Path("build/code").iterdir()] == ["10_a.py"]


def test_no_notebooks_are_told(code: Code) -> None:
    with pytest.raises(SicError, match="no notebooks in notebooks; run from the study's folder"):
        source.extract(Path("notebooks"), Path("build/code"))


# ---- Python 3.11 and 3.12 --------------------------------------------------------------------

CONSTRUCTS = r'''
import numpy as np
from typing import Annotated


def strings(x, y, d):
    """Dropped."""
    plain = f"{x}" f'{y!r:>{x + 1}.{y}}' "tail" rf"\d{x}\n"
    nested = f"{d['key']} {', '.join(f'{i:02d}' for i in y)} {{braces}} {f'{x!r}'}"
    quotes = f"""it's "{x}" and QQQ{y:%Y-%m-%d}QQQ {d["it's"]}"""
    debug = f"{x = } {x + y=:.2f} {y!s} {'a' 'b'}"
    spaced = f"{ {'a': 1}['a'] } {(lambda z: z)(x)} {(y := 5)} {x:=^5} {x!r:^{y}} {x:a{'b'}c}"
    lines = f"""a
    {x
     + y} \t\x00\u00e9 é λ 𝛼 \N{BULLET} \\ \' \"
    {d['key']:{'>'}{10}}"""
    long = 'a' \
        "b" + 'it\'s' + "\"" + QQQthree
linesQQQ + r'\raw' + b'bytes\xff'.decode() + u"u"
    empty = f"" + f"{x:}" + f"{x!r:}" + f"{''}"
    return plain, nested, quotes, debug, spaced, lines, long, empty, "\ud800", "\u2028"


def shapes(x: int | None, /, *rest: "list[str]", key: dict[str, int] | None = None, **more):
    match x, rest:
        case 1 | 2, _ if (n := len(rest)) > 1:
            return n
        case {"a": [first, *others], **left}:
            return first, others, left
        case str() as text, None | True:
            return f"{text!a}"
        case np.ndarray(shape=(3, *_)), -1.5 | 2 + 3j:
            return rest[1:2, ..., None], [*rest, *key], {**more, "k": 1}
    try:
        with (open(x) as a, open(key) as b):
            pass
    except* (ValueError, TypeError) as group:
        raise SystemExit from group
    else:
        n = not x if x is not None else x < 3 <= 4 != 5
    finally:
        del x
    for i, *j in rest, *rest: yield i, *j
    while (line := next(rest)): continue
    return {a: b for a, b in n if a if b}, (yield), n[*rest], n[a, *rest], n @ key ** -1


class C(object, metaclass=type):
    x: Annotated[int | None, "é"] = 1_000_000
    y: float = 1e100; z = 0x_ff, 1j, 1.0, 10 ** 20, True, ...

    async def run(self):
        async with self as one, self: await one
        return lambda a, /, b=1, *c, d, **e: (a, b, c, d, e), [x async for x in one]

    @property
    def inner(self): return [[C for _ in (C, np)] for C in [np]]


if 1:
    K = [np for np in ()]
else:
    print(f"{'a' if C else 'b'}")
J = {f"{C}" for C in [(lambda: np)()]}
'''.replace("QQQ", "'''")

# For an interpreter that has no packages.
FILES = """
from contextlib import contextmanager

@contextmanager
def replacing_folder(path):
    path.mkdir(parents=True)
    yield path
"""

BOTH = """
import sys
from pathlib import Path
from sic import source
source._OWN = Path(sys.argv[1])
source.extract(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def interpreter(version: str) -> str:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    homes = (Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python")
    found = [str(p) for home in homes for p in home.glob(f"*{version}.*/bin/python{version}")]
    for path in filter(None, (*sorted(found), shutil.which(f"python{version}"))):
        if subprocess.run([path, "-c", "import hashlib"], capture_output=True).returncode == 0:
            return path
    pytest.skip(f"no Python {version} on this machine")


def write_with(version: str, package: Path, notebooks: Path, folder: Path) -> dict[str, str]:
    """What an interpreter without any package extracts."""
    bare = folder / "bare/sic"
    bare.mkdir(parents=True, exist_ok=True)
    (bare / "__init__.py").touch()
    (bare / "files.py").write_text(FILES)
    for name in ("source", "errors"):
        shutil.copy(ROOT / f"sic/{name}.py", bare)
    subprocess.run(
        [
            interpreter(version),
            "-P",
            "-W",
            "ignore",
            "-c",
            BOTH,
            package,
            notebooks,
            folder / version,
        ],
        env={**os.environ, "PYTHONPATH": str(bare.parent)},
        check=True,
    )
    return {p.name: p.read_text(encoding="utf-8") for p in (folder / version).iterdir()}


def test_the_text_is_the_same_on_both_pythons(code: Code, tmp_path: Path) -> None:
    code.write("a.py", CONSTRUCTS)
    cells = f"%matplotlib inline\n{CONSTRUCTS}", "from pack import a\nprint(a, f'{a=}')"
    write_notebook("10_a", *cells)
    old, new = (
        write_with(version, code.folder, Path("notebooks").absolute(), tmp_path / "both")
        for version in ("3.11", "3.12")
    )
    assert old == new
    assert old["10_a.py"].count("def strings(") == 2
    assert "Dropped" not in old["10_a.py"]


def test_the_study_s_text_is_the_same_on_both_pythons(tmp_path: Path) -> None:
    old, new = (
        write_with(version, ROOT / "sic", ROOT / "notebooks", tmp_path)
        for version in ("3.11", "3.12")
    )
    assert old == new


# ---- the study itself ------------------------------------------------------------------------


def test_the_study_s_text_depends_on_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "sic", tmp_path / "sic", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source, "_OWN", tmp_path / "sic")
    (tmp_path / "notebooks").mkdir()
    for path in sorted(ROOT.glob("notebooks/*.ipynb"))[::4]:
        shutil.copy(path, tmp_path / "notebooks")

    def texts() -> dict[str, str]:
        source.extract(tmp_path / "notebooks", tmp_path / "code")
        return {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "code").iterdir()}

    before = texts()
    assert len(before) > 2
    assert all(f"\n# {source.__package__}." in text for text in before.values())
    for module in (tmp_path / "sic").rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        module.write_text(f"# A comment.\n{text}\n'Words.'  # and more\n", "utf-8")
    assert texts() == before
