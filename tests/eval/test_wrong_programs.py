"""Programs that are wrong whatever is asked, against the tests of all HumanEval and MBPP problems."""

import asyncio
import builtins
import os
import textwrap
from pathlib import Path

import pytest

from agentark.code_grading import program
from agentark.sandbox import isolation_level, run_tests
from agentark.tasks import get_task
from agentark.types import Sample

pytestmark = pytest.mark.skipif(isolation_level() == "none", reason="nothing isolates programs here")

WRONG = '''
_given = dict(globals())

import builtins as _builtins

_kept = dict(vars(_builtins))
_wrong, _chosen = [], [None]


def _constants():
    inf = float("inf")
    yield from (None, True, False, ..., inf, -inf, inf - inf, 0.5, 1.5, -0.5, 2.5, 3.14, 1e-9, 0j, int, str, list, dict)
    yield from range(-30, 331)
    yield from " a b A 0 1 abc Yes No YES NO yes no True False None Even Odd even odd Valid Invalid".split(" ")
    yield from ("Valid Email", "Invalid Email", "Found a match!", "Not matched!", "Matched!", "Equal", "Not Equal")
    yield from ([], [0], [1], [[]], [None], [0, 0], [1, 2], [1, 2, 3], [True], [False], ["a"], [""], [[1]])
    yield from ((), (0,), (1,), (None, None), (0, 0), (True,), {}, {"a": 1}, {1: 1}, set(), {1}, frozenset(), b"")
    for n in range(2, 23):
        yield from ([n], (n, n), (n, n + 1), n + 0.25)


def _constant(value):
    return lambda *args, **named: value


def _raises(kind):
    def function(*args, **named):
        raise kind
    return function


def _patches(name, value):
    def function(*args, **named):
        setattr(_builtins, name, lambda *args, **named: value)
        return value
    return function


class _Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 0
    def __abs__(self): return 0
    def __bool__(self): return True
    def __len__(self): return 0
    def __iter__(self): return iter(())
    def __getattr__(self, name): return _Equal()
    def __getitem__(self, key): return _Equal()
    def __call__(self, *args, **named): return _Equal()
    __add__ = __sub__ = __mul__ = __truediv__ = __radd__ = __rsub__ = __round__ = __neg__ = __call__


def _equal(kind):
    made = type("Made", (kind,), {"__eq__": lambda a, b: True, "__hash__": lambda a: 0, "__ne__": lambda a, b: False})
    return lambda *args, **named: made()


def _clears(*args, **named):
    for arg in args:
        if hasattr(arg, "clear"):
            arg.clear()
    return args[0]


_wrong += map(_constant, _constants())
for _kind in list(vars(_builtins).values()):
    if isinstance(_kind, type) and issubclass(_kind, BaseException) and "Unicode" not in _kind.__name__:
        _wrong.append(_raises(_kind if "Group" not in _kind.__name__ else _kind("no", [StopIteration()])))
for _name in "abs all any callable divmod filter hash iter max min ord pow range round sorted sum zip".split():
    _wrong += [_patches(_name, _value) for _value in (True, 0, None, [])]
_wrong += [_equal(_kind) for _kind in (int, float, str, list, tuple, dict, set, bytes, complex, frozenset)]
_wrong += [lambda *args, **named: args, lambda *args, **named: args[-1], lambda *args, **named: _Equal()]
_wrong += [lambda *args, **named: (lambda *more: True), lambda *args, **named: iter(()), lambda *args, **named: _wrong]
_wrong += [lambda *args, **named: _Equal, lambda *args, **named: __builtins__, lambda *args, **named: (yield)]


def _choose(number):
    vars(_builtins).update(_kept)
    _chosen[0] = number
    return len(_wrong)


def _spoiled(original):
    def function(*args, **named):
        return (original if _chosen[0] is None else _wrong[_chosen[0]])(*args, **named)
    return function


class _Spoiled:
    """A module of the right program, all of whose functions are wrong."""

    def __init__(self, module): self.__dict__["module"] = module
    def __getattr__(self, name):
        value = getattr(self.module, name)
        return _spoiled(value) if callable(value) and not isinstance(value, type) else value


for _name, _value in _given.items():
    if type(_value) is type(_builtins) and not _name.startswith("__"):
        globals()[_name] = _Spoiled(_value)
    elif type(_value) is type(_choose):
        globals()[_name] = _spoiled(_value)
'''
"""Goes after the right program, which answers after `_choose(None)`; after `_choose(k)` it is wrong in its k-th way."""

ALL = """
def all_tests():
{tests}

all_tests()
passed = []
for number in range(_choose(None)):
    _choose(number)
    try:
        all_tests()
    except Exception:
        continue
    passed.append(number)
assert number > 500
assert not passed, passed
"""

LENIENT = {
    "MBPP/train/667",  # the right answer to all tests of these five is the same
    "MBPP/train/816",
    "MBPP/train/899",
    "MBPP/test/203",
    "MBPP/test/339",
    "MBPP/train/698",  # the right answer to all tests of these four is an argument as it is
    "MBPP/train/847",
    "MBPP/train/890",
    "MBPP/train/951",
}
"""What upstream's own tests cannot tell from a constant or from the argument itself."""


async def failures(samples: list[Sample]) -> dict[str, str]:
    free = asyncio.Semaphore(os.cpu_count() or 1)

    async def error(sample: Sample) -> str | None:
        tests = textwrap.indent("\n".join(sample.tests or ()), "    ")
        code = program(sample, sample.gt) + WRONG
        async with free:
            ran = await run_tests(code, [ALL.format(tests=tests)], setup=sample.preamble or "", timeout=120)
        return ran.errors[0]

    errors = await asyncio.gather(*map(error, samples))
    return {sample.id: error for sample, error in zip(samples, errors, strict=True) if error is not None}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["HumanEval", "MBPP"])
def test_no_universal_program_passes(dataset: str, data_dir: Path) -> None:
    task = get_task(dataset)
    samples = [
        sample
        for split in task.splits
        for sample in task.load(split, data_dir).samples
        if sample.entry_point not in dir(builtins)  # a test must name nothing else to mean the solution's `sum`
    ]
    failed = asyncio.run(failures(samples))
    assert failed.keys() == {sample.id for sample in samples} & LENIENT, failed
    assert all(error.startswith("AssertionError: [") for error in failed.values()), failed
