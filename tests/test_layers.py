"""Imports point downward, and each outside library has the one place it is meant for.

The modules are read, not imported: what is checked is the text of every file of the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "glmm_jax"
ROOT = Path(__file__).parent.parent / PACKAGE

LAYERS = {
    "rules": 0,
    "status": 0,
    "covariance": 1,
    "families": 1,
    "gamma_functions": 1,
    "inversion": 1,
    "links": 1,
    "normal": 1,
    "tails": 1,
    "formula": 2,
    "build": 3,
    "model": 3,
    "priors": 3,
    "structure": 3,
    "linalg": 4,
    "packing": 4,
    "implicit": 5,
    "pirls": 5,
    "predictors": 5,
    "objective": 6,
    "optimize": 7,
    "batch": 8,
    "constrained": 8,
    "embedding": 8,
    "estimate": 8,
    "expansion": 8,
    "fitted": 8,
    "information": 8,
    "lanes": 7,
    "leave_one": 8,
    "leave_out": 8,
    "sensitivity": 8,
    "sharding": 8,
    # The analysts' layer of the design, from its foundations to its entries.
    "datasets": 9,
    "runtime": 9,
    "stored": 9,
    "fitting": 9,
    "nodes": 9,
    "progress": 9,
    "driver": 9,
    "inference": 10,
    "results": 11,
    "glmer": 12,
    "many": 12,
    "plots": 12,
    "__init__": 13,
    "__main__": 13,
}

# The only files that import a library, as paths in the package; "folder/" stands for all in it.
HOMES = {
    "patsy": ("formula/fixed.py", "formula/constraints.py"),
    "matplotlib": ("plots/",),
    "optax": ("optimize/",),
}
# Below the analysts' layer only what reads a user's table knows pandas.
PANDAS_LAYERS = {2, *range(9, 14)}
PANDAS_FILES = ("build.py",)

CACHE_FILE = "runtime.py"
CACHE_OPTIONS = ("jax_compilation_cache", "jax_persistent_cache")

ARRAY_MAKERS = set("array asarray arange linspace zeros ones full eye empty concatenate".split())


@dataclass(frozen=True)
class File:
    """A module of the package: its path in it, with "/" between folders, and its text parsed."""

    path: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """The module's name below the package, "__init__" for the package itself."""
        return self.path.split("/")[0].removesuffix(".py")


def package_files() -> list[File]:
    paths = sorted(ROOT.rglob("*.py"))
    return [
        File(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in paths
    ]


FILES = package_files()
every_file = pytest.mark.parametrize("file", FILES, ids=[file.path for file in FILES])


def layer(module: str, where: str) -> int:
    assert module in LAYERS, (
        f"{where}: the module {PACKAGE}.{module} has no layer; add it to LAYERS in "
        f"tests/test_layers.py (and to the design) where it belongs."
    )
    return LAYERS[module]


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without what stands under `if TYPE_CHECKING:`, which never runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
            if node.test.id == "TYPE_CHECKING":
                continue
        yield node
        yield from running_nodes(node)


def imports(file: File) -> Iterator[str]:
    """Yield the dotted name of every module the file imports when run, all absolute."""
    folders = file.path.split("/")[:-1]
    for node in running_nodes(file.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                kept = [PACKAGE, *folders][: len(folders) + 2 - node.level]
                base = ".".join([*kept, base] if base else kept)
            if base == PACKAGE:
                # `from glmm_jax import links` names a module, or else something of __init__.
                names = [alias.name for alias in node.names]
                yield from (f"{base}.{n if n in LAYERS else '__init__'}" for n in names)
            else:
                yield base


def upward_imports(file: File) -> list[str]:
    own = layer(file.module, file.path)
    found = []
    for name in imports(file):
        first, _, rest = name.partition(".")
        if first != PACKAGE:
            continue
        module = rest.split(".")[0] or "__init__"
        other = layer(module, file.path)
        if other > own:
            found.append(f"{file.path} (layer {own}) imports {name} (layer {other})")
    return found


def misplaced_libraries(file: File) -> list[str]:
    found = []
    for name in imports(file):
        library = name.split(".")[0]
        allowed = library not in HOMES or any(
            file.path.startswith(home) if home.endswith("/") else file.path == home
            for home in HOMES[library]
        )
        if library == "pandas":
            allowed = layer(file.module, file.path) in PANDAS_LAYERS or file.path in PANDAS_FILES
        if not allowed:
            found.append(f"{file.path}, outside its place, imports {library}")
    return found


def global_configuration(file: File) -> list[str]:
    """List what changes JAX's configuration for the whole process.

    Allowed is one thing: runtime.py sets options of the persistent compilation cache.
    """
    found = []
    for node in ast.walk(file.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "update"
            and _is_config(node.func.value)
        ):
            option = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            of_cache = isinstance(option, str) and option.startswith(CACHE_OPTIONS)
            if not (file.path == CACHE_FILE and of_cache):
                found.append(f"{file.path}:{node.lineno} sets jax.config {option}")
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Attribute) and _is_config(target.value):
                found.append(f"{file.path}:{node.lineno} assigns jax.config.{target.attr}")
    if file.path != CACHE_FILE and any("compilation_cache" in name for name in imports(file)):
        found.append(f"{file.path} imports JAX's compilation cache")
    return found


def _is_config(node: ast.expr) -> bool:
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    return name in ("config", "jax_config")


def arrays_at_import(file: File) -> list[str]:
    """List calls that make a JAX array while the module is imported.

    Such an array starts the backend, has the precision of that moment, and becomes a constant of
    every program that uses it.
    """
    found = []
    waiting: list[ast.AST] = list(file.tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            # The body runs later, defaults and decorators run now.
            waiting += [default for default in node.args.defaults]
            waiting += [default for default in node.args.kw_defaults if default is not None]
            waiting += getattr(node, "decorator_list", [])
            continue
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "jnp"
            and node.func.attr in ARRAY_MAKERS
        ):
            found.append(f"{file.path}:{node.lineno} calls jnp.{node.func.attr} at import")
        waiting += ast.iter_child_nodes(node)
    return found


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 3


@every_file
def test_imports_point_downward(file: File) -> None:
    assert upward_imports(file) == []


@every_file
def test_libraries_are_imported_in_their_place(file: File) -> None:
    assert misplaced_libraries(file) == []


@every_file
def test_jax_is_not_configured_globally(file: File) -> None:
    assert global_configuration(file) == []


@every_file
def test_no_array_is_made_at_import(file: File) -> None:
    assert arrays_at_import(file) == []


def parsed(path: str, text: str) -> File:
    return File(path, ast.parse(text))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("links.py", "from glmm_jax.formula import parser"),
        ("links.py", "def f():\n    import glmm_jax.pirls"),
        ("linalg/dense.py", "from ..objective import laplace"),
        ("model.py", "from . import estimate"),
        ("estimate.py", "from glmm_jax import Fit"),
        ("estimate.py", "import glmm_jax"),
        ("inference/ranef.py", "from glmm_jax.results import Fit"),
        ("results.py", "from glmm_jax import glmer"),
    ],
)
def test_upward_imports_are_found(path: str, text: str) -> None:
    assert len(upward_imports(parsed(path, text))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("linalg/dense.py", "from glmm_jax.structure import Structure\nfrom . import base"),
        ("build.py", "from glmm_jax.formula.frame import Frame\nfrom glmm_jax import model"),
        ("results.py", "import glmm_jax.links\nfrom glmm_jax import estimate\nimport jax"),
        ("inference/ranef.py", "if TYPE_CHECKING:\n    from glmm_jax.results import Fit"),
    ],
)
def test_downward_imports_pass(path: str, text: str) -> None:
    assert upward_imports(parsed(path, text)) == []


def test_a_module_without_a_layer_is_reported() -> None:
    with pytest.raises(AssertionError, match=r"glmm_jax\.utils has no layer; add it to LAYERS"):
        upward_imports(parsed("utils.py", "import jax"))
    with pytest.raises(AssertionError, match=r"links\.py: the module glmm_jax\.helpers"):
        upward_imports(parsed("links.py", "from glmm_jax.helpers import clip"))


@pytest.mark.parametrize(
    ("path", "text", "count"),
    [
        ("formula/fixed.py", "import patsy.contrasts", 0),
        ("formula/parser.py", "from patsy import dmatrix", 1),
        ("plots/caterpillar.py", "import matplotlib.pyplot as plt", 0),
        ("inference/profile.py", "def f():\n    import matplotlib", 1),
        ("optimize/first_order.py", "import optax", 0),
        ("estimate.py", "import optax", 1),
        ("build.py", "import pandas as pd", 0),
        ("formula/frame.py", "import pandas as pd", 0),
        ("inference/anova.py", "import pandas as pd", 0),
        ("model.py", "import pandas as pd", 1),
        ("links.py", "from pandas import Series", 1),
    ],
)
def test_misplaced_libraries_are_found(path: str, text: str, count: int) -> None:
    assert len(misplaced_libraries(parsed(path, text))) == count


@pytest.mark.parametrize(
    ("path", "text", "count"),
    [
        ("glmer.py", "import jax\njax.config.update('jax_enable_x64', True)", 1),
        ("glmer.py", "from jax import config\nconfig.update('jax_enable_x64', True)", 1),
        ("glmer.py", "import jax\njax.config.jax_enable_x64 = True", 1),
        ("glmer.py", "import jax\nwith jax.enable_x64(True):\n    pass", 0),
        ("glmer.py", "d = {}\nd.update(a=1)", 0),
        ("runtime.py", "import jax\njax.config.update('jax_compilation_cache_dir', 'x')", 0),
        ("runtime.py", "import jax\njax.config.update('jax_enable_x64', True)", 1),
        ("runtime.py", "import jax\njax.config.update(option, True)", 1),
        ("glmer.py", "import jax\njax.config.update('jax_compilation_cache_dir', 'x')", 1),
        ("glmer.py", "from jax.experimental.compilation_cache import compilation_cache", 1),
    ],
)
def test_global_configuration_is_found(path: str, text: str, count: int) -> None:
    assert len(global_configuration(parsed(path, text))) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("A = jnp.array([1.0])", 1),
        ("A = (1, {'b': jnp.zeros(3)})", 1),
        ("class C:\n    a = jnp.eye(2)", 1),
        ("def f(x=jnp.ones(2)):\n    return x", 1),
        ("def f(x):\n    return jnp.zeros(3) + x", 0),
        ("f = lambda x: jnp.zeros(3) + x", 0),
        ("E = jnp.finfo(jnp.float64).eps\nA = np.array([1.0])", 0),
    ],
)
def test_arrays_at_import_are_found(text: str, count: int) -> None:
    assert len(arrays_at_import(parsed("links.py", text))) == count
