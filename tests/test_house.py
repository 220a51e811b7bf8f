"""The house rules that a machine can hold: lint, types, one-way imports, size budgets."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src" / "diptych").rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
MAX_NESTING = 3

# function -> why it may break a budget
EXCEPTIONS: dict[str, str] = {}


def run(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", "src", "tests", "tools", "benchmarks")


def test_code_is_formatted() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", "src", "tests", "tools", "benchmarks")


def test_types_are_right() -> None:
    run(sys.executable, "-m", "mypy")


def test_imports_run_one_way() -> None:
    run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src" / "diptych")))
def test_size_budgets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES, f"{path.name} is too long"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name in EXCEPTIONS:
            continue
        lines = (node.end_lineno or 0) - node.lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"
        assert parameters(node) <= MAX_PARAMETERS, f"{node.name} has {parameters(node)} parameters"
        assert nesting(node) <= MAX_NESTING, f"{node.name} nests {nesting(node)} deep"


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def nesting(node: ast.AST) -> int:
    """Depth of blocks inside a function; `elif` does not count as deeper, nested functions count on their own."""
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
    deepest = 0
    for name, field in ast.iter_fields(node):
        for child in field if isinstance(field, list) else [field]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            is_elif = isinstance(node, ast.If) and name == "orelse" and isinstance(child, ast.If) and len(field) == 1
            deepest = max(deepest, nesting(child) + (isinstance(child, blocks) and not is_elif))
    return deepest


def test_the_nesting_counter_counts() -> None:
    flat = ast.parse("def f():\n    if a:\n        pass\n    elif b:\n        pass\n    elif c:\n        pass")
    deep = ast.parse("def f():\n    for a in b:\n        with c:\n            if d:\n                x = 1")
    assert nesting(flat.body[0]) == 1
    assert nesting(deep.body[0]) == 3


def test_no_machine_paths_or_dead_code_marks() -> None:
    forbidden = ("TO" + "DO", "FIX" + "ME", "legacy_")
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in forbidden if word in text], path


def test_nothing_is_unpickled_or_evaluated() -> None:
    """No pickle, no eval, and torch.load only where it says weights_only."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "cloudpickle", "joblib", "shelve"} & set(names), path
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "pickle.load", "pickle.loads"), path
                if name == "torch.load":
                    assert any(k.arg == "weights_only" for k in node.keywords), path


def test_no_two_test_files_have_one_name() -> None:
    """Python would take one for the other where both are collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
