"""Rules about the project's own source, each a function from a file to its offences.

An offence is one line, `path:line: what and why`. The tables below hold the only exceptions.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Final

from tests.support.source_tree import PACKAGES, SourceFile

Rule = Callable[[SourceFile], Iterator[str]]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

FUNCTION_LINES_MAX: Final = 70
"""A function fits a screen."""
FILE_LINES_MAX: Final = 800
"""Hard stop; 500 is the aim."""
FILE_LINES_AIM: Final = 500
"""Above this a file should be split; listed as a warning."""
POSITIONAL_MAX: Final = 5
"""Positional parameters of a function."""
COLUMNS_MAX: Final = 100
"""Characters a line."""

EXCEPTIONS: Final[dict[str, tuple[str, ...]]] = {
    # Rule name -> path patterns that it does not bind. Why each stands here:
    # The two modules that own time and randomness, and nothing else.
    "clock": ("swarmd/clock.py",),
    # And the one that puts a seeded generator in the place of the libraries' chance.
    "entropy": ("swarmd/entropy.py", "swarmd/simulation/daemons/runtime.py"),
    # A generator with a given seed replays; only simulations may use one.
    "seeded": ("swarmd/simulation/*",),
    # Timers of the consensus machine are local, in seconds, and never part of what is agreed.
    "floats": ("ledger/simplex/*",),
    # The one place that turns a ledger verdict into permission, and builders of test data.
    "authority": ("swarmd/authority.py", "tests/*"),
    # Waits for a condition on real sockets, where no clock of ours decides.
    "sleep": ("tests/support/network_*.py", "tests/support/swarm.py"),
    # Blocking file access below swarmd: the stores, each reached through worker threads.
    "files": (
        "chunks/byte_source.py",
        "chunks/file_backend.py",
        "chunks/file_store.py",
        "chunks/held_image.py",
        "chunks/image_table.py",
        "chunks/index_database.py",
        "chunks/memory_store.py",
        "chunks/staging.py",
        "chunks/store_recovery.py",
        "ledger/database.py",
        "ledger/disk.py",
        "ledger/journal.py",
        "ledger/store*.py",
        "ledger/*_store.py",
        "ledger/*_database.py",
    ),
}
"""Every exception from a rule, in one place."""

CLOCK_CALLS: Final = (
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter",
    "time.perf_counter_ns", "time.localtime", "time.gmtime", "datetime.datetime.now",
    "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
)  # fmt: skip
"""Calls that read a clock; `trio.current_time` is the event loop's and stays allowed in swarmd."""
SEEDED: Final = ("random.Random", "numpy.random.default_rng")
"""Generators that replay when they are given a seed."""
ENTROPY_PREFIXES: Final = ("random.", "secrets.", "numpy.random.", "os.urandom", "uuid.uuid")
"""Calls that draw randomness."""
FILE_CALLS: Final = (
    "open", "io.open", "os.open", "os.fsync", "os.fdatasync", "os.rename", "os.replace",
    "os.unlink", "os.remove", "os.mkdir", "os.makedirs", "shutil.", "sqlite3.", "tempfile.",
    "mmap.",
)  # fmt: skip
"""Calls that touch the file system; a trailing dot stands for the whole module."""
FILE_METHODS: Final = (
    "read_bytes", "read_text", "write_bytes", "write_text", "mkdir", "unlink", "touch", "rmdir",
    "iterdir", "rglob", "hardlink_to", "symlink_to",
)  # fmt: skip
"""Methods of `pathlib.Path` that touch the file system."""


def is_excepted(rule: str, path: str) -> bool:
    """Tells whether `EXCEPTIONS` frees a path from a rule."""
    return any(fnmatch(path, pattern) for pattern in EXCEPTIONS.get(rule, ()))


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """All functions, methods and nested functions."""
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            yield node


def function_length(source: SourceFile) -> Iterator[str]:
    """Functions are at most 70 lines long, docstring and decorators not counted."""
    for node in functions(source.tree):
        first = node.body[0]
        docstring = ast.get_docstring(node, clean=False)
        spent = (first.end_lineno or 0) - first.lineno + 1 if docstring is not None else 0
        lines = (node.end_lineno or 0) - node.lineno + 1 - spent
        if lines > FUNCTION_LINES_MAX:
            yield f"{source.where(node)}: {node.name} has {lines} lines; split it (at most 70)"


def file_length(source: SourceFile) -> Iterator[str]:
    """Files stay below 800 lines."""
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{source.path}: {lines} lines; one noun a file (at most {FILE_LINES_MAX})"


def line_length(source: SourceFile) -> Iterator[str]:
    """Lines stay within 100 columns."""
    for number, line in enumerate(source.text.splitlines(), start=1):
        if len(line) > COLUMNS_MAX:
            yield f"{source.path}:{number}: {len(line)} columns (at most {COLUMNS_MAX})"


def positional_parameters(source: SourceFile) -> Iterator[str]:
    """At most five positional parameters: callers cannot remember the order of more."""
    if source.package not in PACKAGES:
        return
    for node in functions(source.tree):
        if any("click." in ast.unparse(each) for each in node.decorator_list):
            continue  # click passes options by keyword
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > POSITIONAL_MAX:
            yield f"{source.where(node)}: {node.name} takes {count} positional parameters"


def docstrings(source: SourceFile) -> Iterator[str]:
    """Public modules, classes, functions and fields of the packages say what they are."""
    if source.package not in PACKAGES:
        return
    if ast.get_docstring(source.tree) is None:
        yield f"{source.path}:1: the module has no docstring"
    for node in source.tree.body:
        if isinstance(node, (ast.ClassDef, FunctionNode)) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                yield f"{source.where(node)}: {node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from _member_docstrings(source, node)


def _member_docstrings(source: SourceFile, owner: ast.ClassDef) -> Iterator[str]:
    for node in owner.body:
        if isinstance(node, FunctionNode) and not node.name.startswith("_"):
            is_overload = any("overload" in ast.unparse(each) for each in node.decorator_list)
            if ast.get_docstring(node) is None and not is_overload:
                yield f"{source.where(node)}: {owner.name}.{node.name} has no docstring"


def field_docstrings(source: SourceFile) -> Iterator[str]:
    """Public fields of dataclasses have a docstring below them: unit, bound, meaning."""
    if source.package not in PACKAGES:
        return
    for owner in ast.walk(source.tree):
        if not isinstance(owner, ast.ClassDef) or owner.name.startswith("_"):
            continue
        decorators = [ast.unparse(each) for each in owner.decorator_list]
        if not any(each.startswith(("dataclass", "dataclasses.")) for each in decorators):
            continue
        for node, following in zip(owner.body, [*owner.body[1:], None], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if not node.target.id.startswith("_") and not _is_string(following):
                yield f"{source.where(node)}: field {owner.name}.{node.target.id} is not explained"


def _is_string(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def clock(source: SourceFile) -> Iterator[str]:
    """Only swarmd/clock.py reads a clock; everybody else takes time as an argument."""
    if source.package not in PACKAGES or is_excepted("clock", source.path):
        return
    for node, name in source.calls():
        if name in CLOCK_CALLS:
            yield f"{source.where(node)}: {name}: take a Clock, or `now` as an argument"


def entropy(source: SourceFile) -> Iterator[str]:
    """Only swarmd/entropy.py draws randomness; everybody else takes it as an argument."""
    if source.package not in PACKAGES or is_excepted("entropy", source.path):
        return
    for node, name in source.calls():
        if name in SEEDED and node.args and is_excepted("seeded", source.path):
            continue
        if name.startswith(ENTROPY_PREFIXES) or name.endswith("PrivateKey.generate"):
            yield f"{source.where(node)}: {name}: take entropy as an argument"


def swallowed_errors(source: SourceFile) -> Iterator[str]:
    """No bare except, nothing broad that is silent, no cancellation that does not propagate."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and source.qualified(node.func) == "contextlib.suppress":
            broad = [each for each in node.args if _is_broad(each)]
            if broad:
                yield f"{source.where(node)}: suppressing every error hides defects"
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield f"{source.where(node)}: bare except also catches cancellation; name the errors"
        elif "BaseException" in ast.unparse(node.type) and not _is_reraised(node):
            yield f"{source.where(node)}: cancellation must propagate; raise again"
        elif _is_broad(node.type) and _is_silent(node):
            yield f"{source.where(node)}: a broad except must not be silent; name the errors"


def _is_broad(node: ast.expr) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(
        isinstance(each, ast.Name) and each.id in ("Exception", "BaseException") for each in names
    )


def _is_silent(handler: ast.ExceptHandler) -> bool:
    """Whether nothing happens in a handler but leaving it."""
    return all(
        isinstance(node, (ast.Pass, ast.Continue, ast.Break))
        or (isinstance(node, ast.Return) and node.value is None)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in handler.body
    )


def _is_reraised(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def set_order(source: SourceFile) -> Iterator[str]:
    """Agreed data never depends on set order: iterate dicts or `sorted(...)`."""
    if source.package not in ("ledger", "protocol"):
        return
    for node in ast.walk(source.tree):
        iterated: list[ast.expr] = []
        if isinstance(node, (ast.For, ast.AsyncFor)):
            iterated = [node.iter]
        elif isinstance(node, (ast.ListComp, ast.DictComp, ast.GeneratorExp)):
            iterated = [each.iter for each in node.generators]
        elif isinstance(node, ast.Call) and source.qualified(node.func) in (
            "list", "tuple", "next", "iter", "enumerate", "zip", "bytes.join", "dict.fromkeys",
        ):  # fmt: skip
            iterated = list(node.args)
        elif isinstance(node, ast.Starred):
            iterated = [node.value]
        for each in iterated:
            # `any`, `all`, `sum`, `min`, `max`, `len`, `sorted` do not depend on the order, but a
            # generator inside them is caught too: write those over a dict or a sorted list.
            if _is_set(source, each):
                yield f"{source.where(each)}: iterates a set; use a dict or sorted(...)"


def _is_set(source: SourceFile, node: ast.expr) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.BinOp):
        operators = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
        return isinstance(node.op, operators) and (
            _is_set(source, node.left) or _is_set(source, node.right)
        )
    return isinstance(node, ast.Call) and source.qualified(node.func) in ("set", "frozenset")


def floats(source: SourceFile) -> Iterator[str]:
    """The ledger computes in integers; a float would round differently elsewhere."""
    if source.package != "ledger":
        return
    if is_excepted("floats", source.path) or is_excepted("files", source.path):
        return  # stores join paths with `/` and have timeouts
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"{source.where(node)}: float literal in the ledger; integers only"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield f"{source.where(node)}: true division in the ledger; use //"


def file_access(source: SourceFile) -> Iterator[str]:
    """Below swarmd only the named stores touch the file system."""
    if source.package not in ("protocol", "chunks", "ledger"):
        return
    if is_excepted("files", source.path):
        return
    for bound, name in source.imported.items():
        if name.split(".")[0] in ("sqlite3", "shutil", "tempfile", "mmap"):
            yield f"{source.path}: imports {bound}; only the named stores touch files"
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = source.qualified(node.func) or ""
        is_call = any(
            name.startswith(each) if each.endswith(".") else name == each for each in FILE_CALLS
        )
        is_method = (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in FILE_METHODS
            # A store's parts reach files through its backend, which is one of the named modules.
            and not ast.unparse(node.func.value).endswith("backend")
        )
        if is_call or is_method:
            what = ast.unparse(node.func)
            yield f"{source.where(node)}: {what}: only the named stores touch files"


def authority(source: SourceFile) -> Iterator[str]:
    """`AuthorisedManifest` is built where the ledger's verdict is checked, nowhere else."""
    if is_excepted("authority", source.path):
        return
    for node, name in source.calls():
        if name.split(".")[-1] == "AuthorisedManifest":
            yield f"{source.where(node)}: only swarmd/authority.py may say what is authorised"
        is_replaced = name in ("dataclasses.replace", "copy.replace") and node.args
        if (
            is_replaced
            and source.package in ("swarmd", "chunks")
            and ("authorised" in ast.unparse(node.args[0]).lower())
        ):
            yield f"{source.where(node)}: an authorisation is never altered"


def sleeping_tests(source: SourceFile) -> Iterator[str]:
    """Tests do not wait for real time: an autojump clock, or `now` fed by hand."""
    if source.package != "tests" or is_excepted("sleep", source.path):
        return
    for owner, node, name in _calls_by_function(source):
        if name == "time.sleep":
            yield f"{source.where(node)}: time.sleep: feed `now` or wait for a condition"
        if name in ("trio.sleep", "trio.sleep_until") and not _has_autojump(source, owner):
            zero = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if not zero:
                yield f"{source.where(node)}: {name} outside an autojump clock"


def _calls_by_function(
    source: SourceFile,
) -> Iterator[tuple[FunctionNode | None, ast.Call, str]]:
    """Every named call with the outermost function that holds it."""
    for statement in source.tree.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and (name := source.qualified(node.func)):
                yield (statement if isinstance(statement, FunctionNode) else None), node, name


def _has_autojump(source: SourceFile, owner: FunctionNode | None) -> bool:
    """Whether the test runs on a mock clock: by fixture, or by a clock the file makes itself."""
    parameters = [each.arg for each in owner.args.args] if owner else []
    if any("autojump" in each or "mock_clock" in each for each in parameters):
        return True
    makers = ("autojump", "MockClock", "run_simulated")
    return any(maker in source.text for maker in makers)


def plain_asserts(source: SourceFile) -> Iterator[str]:
    """Tests use plain `assert` and real parts: no unittest methods, no mocks."""
    if source.package != "tests":
        return
    for bound, name in source.imported.items():
        if name.split(".")[0] in ("unittest", "mock", "pytest_mock"):
            yield f"{source.path}: imports {name} as {bound}: real parts or checked fakes"


RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        function_length, file_length, line_length, positional_parameters, docstrings, clock,
        entropy, swallowed_errors, set_order, floats, file_access, authority, sleeping_tests,
        plain_asserts,
    )
}  # fmt: skip
"""Rules that every file keeps, by name."""


def long_files(source: SourceFile) -> Iterator[str]:
    """Files aim for 500 lines."""
    lines = source.text.count("\n")
    if lines > FILE_LINES_AIM:
        yield f"{source.path}: {lines} lines (aim for {FILE_LINES_AIM})"


ADVICE: Final[dict[str, Rule]] = {rule.__name__: rule for rule in (field_docstrings, long_files)}
"""Aims: what falls short is listed in the summary of the tests and fails nothing."""
