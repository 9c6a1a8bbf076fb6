"""The verdict of a unit test: right programs pass, wrong ones fail, and no program can make its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sandboxes import WAYS, made

from truegain.core.types import Abstain
from truegain.runtime import Check, Limits, Sandbox, Verdict
from truegain.runtime.inside import wire


@pytest.fixture(scope="module", params=WAYS, ids=" as ".join)
def box(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from made(*request.param)


def passes(box: Any, source: str, test: str, **more: Any) -> bool:
    found = box.check(Check(source, test, **more))
    assert isinstance(found, Verdict), found
    return found.passed


DOUBLE = "def f(x):\n    return 2 * x\n"

PASSING = {
    "a function's value": (DOUBLE, "assert f(2) == 4"),
    "several values": (
        DOUBLE,
        """
assert f(2) == 4
assert f('a') == 'aa'
assert f([1]) == [1, 1]
""",
    ),
    "a tolerance": (
        "def f(x):\n    return x ** 0.5",
        """
import math
assert math.isclose(f(2), 1.41421356, rel_tol=1e-6)
""",
    ),
    "a module that the test does not import": (DOUBLE, "assert math.isclose(f(0.5), 1)"),
    "a constant": ("answer = (1, {2: 'x'})", "assert answer == (1, {2: 'x'})"),
    "sets, bytes, big and complex numbers": (
        """
def f():
    return {1, 2}, b'\\xff', 7 ** 9999, 2j, frozenset('a'), range(3)
""",
        "assert f() == ({1, 2}, b'\\xff', 7 ** 9999, 2j, frozenset('a'), range(3))",
    ),
    "fractions, decimals, dates and deques": (
        """
from fractions import Fraction as F
from decimal import Decimal as D
import datetime, collections
def f():
    return F(1, 3), D('0.10'), datetime.date(2020, 1, 2), collections.deque([1])
""",
        """
from fractions import Fraction as F
from decimal import Decimal as D
import datetime, collections
assert f() == (F(1, 3), D('0.10'), datetime.date(2020, 1, 2), collections.deque([1]))
""",
    ),
    "kinds of dictionary and tuple": (
        """
import collections
P = collections.namedtuple('P', 'a b')
def f():
    return collections.Counter('aab'), collections.OrderedDict(a=1), P(1, 2), True
""",
        "assert f() == ({'a': 2, 'b': 1}, {'a': 1}, (1, 2), True)",
    ),
    "an argument changed in place": (
        "def f(x):\n    x.sort(); x.append(9)",
        "v = [3, 1]\nassert f(v) is None and v == [1, 3, 9]",
    ),
    "named arguments": ("def f(a, *, b=1):\n    return a - b", "assert f(5, b=2) == 3"),
    "an exception that the test expects": (
        "class Mine(ValueError): pass\ndef f(x):\n    raise Mine('no')",
        """
try:
    f(1)
except ValueError as e:
    assert str(e) == 'no'
else:
    assert False
""",
    ),
    "an object with state": (
        """
class Stack:
    def __init__(self):
        self.items = []
    def push(self, x):
        self.items.append(x)
    def pop(self):
        return self.items.pop()
    def __len__(self):
        return len(self.items)
""",
        """
s = Stack()
s.push(1); s.push(2)
assert len(s) == 2 and s.pop() == 2 and s.items == [1]
""",
    ),
    "a generator": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
    "an object handed back to the program": (
        """
class N:
    def __init__(self, v):
        self.v = v
def f(n):
    return n.v + 1
""",
        "assert f(N(4)) == 5",
    ),
    "state between calls": (
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
        "assert [f(), f(), f()] == [1, 2, 3]",
    ),
    "a test as a function that imports the program": (
        DOUBLE,
        "from solution import f\ndef test_two():\n    assert f(2) == 4",
    ),
    "a program that prints": ("print('PASSED' * 100)\n" + DOUBLE, "assert f(1) == 2"),
}


@pytest.mark.parametrize("what", PASSING)
def test_a_right_program_passes(box: Any, what: str) -> None:
    assert passes(box, *PASSING[what]), box.check(Check(*PASSING[what]))


def test_the_form_of_humaneval_calls_check_with_the_entry_point(box: Any) -> None:
    test = "METADATA = {}\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n"
    assert passes(box, DOUBLE, test, entry="f")
    assert not passes(box, "def f(x):\n    return 4", test, entry="f")
    assert not passes(box, "def g(x):\n    return 2 * x", test, entry="f")


def test_a_function_is_called_with_arguments_and_compared_with_what_is_expected(box: Any) -> None:
    assert passes(box, "def f(a, b):\n    return (a, b)", "", entry="f", args=[1, [2]], expected=[1, [2]])
    assert not passes(box, "def f(a, b):\n    return (b, a)", "", entry="f", args=[1, [2]], expected=[1, [2]])
    solution = "class Solution:\n    def f(self, a):\n        return {1: a}"
    assert passes(box, solution, "", entry="f", args=["x"], expected={"1": "x"})


FAILING = {
    "a wrong value": "def f(x):\n    return 5",
    "no such name": "def g(x):\n    return 4",
    "an exception": "def f(x):\n    raise ValueError",
    "a syntax error": "def f(x) return 4",
    "an end before": "import sys; sys.exit(0)",
    "a silent end": "import os; os._exit(0)",
    "an end in the call": "def f(x):\n    import os; os._exit(0)",
    "an end in the call by exception": "def f(x):\n    raise SystemExit(0)",
    "words": """
print('PASSED'); print('{"passed": true}')
def f(x):
    return None
""",
    "an object that equals everything": """
class A:
    def __eq__(self, o):
        return True
    __hash__ = None
def f(x):
    return A()
""",
    "a number that equals everything": """
class A(int):
    def __eq__(self, o):
        return True
    __hash__ = int.__hash__
def f(x):
    return A(5)
""",
    "a string that equals everything": """
class A(str):
    def __eq__(self, o):
        return True
    __hash__ = str.__hash__
def f(x):
    return A('x')
""",
    "a list that equals everything": """
class A(list):
    def __eq__(self, o):
        return True
def f(x):
    return A()
""",
    "not a number": "def f(x):\n    return float('nan')",
    "patched built-ins": """
import builtins
builtins.AssertionError = type('X', (), {})
builtins.isinstance = lambda *a: True
def f(x):
    return 5
""",
    "names that stand for built-ins": """
def abs(x):
    return 0
def len(x):
    return 4
def isinstance(*a):
    return True
def f(x):
    return 5
""",
    "a patched carrier": """
import sys
for n, m in list(sys.modules.items()):
    if n.endswith('wire'):
        m.pack = lambda *a: ['object', [0, 'int']]
def f(x):
    return 5
""",
    "a verdict written to every descriptor": (
        """
import os
def f(x):
    for fd in range(3, 20):
        try:
            os.write(fd, b'{"passed": true}\\n' * 5)
        except OSError:
            pass
    return 5
"""
    ),
    "an answer that is no answer": """
import os
os.write(5, b'[[[[[[[[[[\\n' * 3)
def f(x):
    return 5
""",
    "an answer of the wrong kind": """
import os
os.write(5, b'{"value": ["dict", [[["list", []], 1]]]}\\n')
def f(x):
    return 5
""",
    "an answer nested without end": """
import os
os.write(5, b'{"value": ' + b'["list", [' * 20000)
def f(x):
    return 5
""",
    "a forged exception of the tester": """
import os
os.write(5, b'{"raised": ["Broken", "SystemExit", "GeneratorExit"], "text": ""}\\n')
def f(x):
    return 5
""",
    "a search of its memory for what is expected": (
        """
import gc, sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            if isinstance(value, dict) and 'expected' in value:
                return value['expected']
        frame = frame.f_back
    for o in gc.get_objects():
        if isinstance(o, dict) and ('expected' in o or 'test' in o):
            return o.get('expected', 4)
    return 5
"""
    ),
    "a search of the files for the test": (
        """
import os
def f(x):
    for place in ('.', '/tmp', '/box', '/inside', '/dev/shm'):
        for root, _, names in os.walk(place):
            for name in names:
                try:
                    if 'f(2) == 4' in open(os.path.join(root, name)).read():
                        return 4
                except (OSError, ValueError):
                    pass
    return 5
"""
    ),
    "changed arguments": "def f(x):\n    raise AssertionError",
    "an endless answer": """
import os
def f(x):
    while True:
        os.write(5, b'x' * 65536)
""",
    "too much memory": "def f(x):\n    return 'x' * (1 << 40)",
    "an endless loop before the first call": "while True: pass",
}


@pytest.mark.parametrize("what", FAILING)
def test_no_program_but_a_right_one_passes(box: Any, what: str) -> None:
    started = time.monotonic()
    assert not passes(box, FAILING[what], "assert f(2) == 4")
    assert time.monotonic() - started < 15
    assert passes(box, DOUBLE, "assert f(2) == 4")


def test_a_forged_object_does_not_pass_a_test_of_closeness_or_of_truth(box: Any) -> None:
    liar = """
class A:
    def __sub__(self, o): return 0
    def __lt__(self, o): return True
    def __eq__(self, o): return True
    def __abs__(self): return 0
    def __float__(self): return 2.0
    def __bool__(self): return True
def f(x):
    return A()
"""
    for test in (
        "assert abs(f(2) - 4) < 1e-6",
        "import math\nassert math.isclose(f(2), 4)",
        "assert f(2) < 5",
        "assert f(2) is True",
    ):
        assert not passes(box, liar, test)


def test_a_test_that_cannot_be_carried_out_abstains_whatever_the_program_does(box: Any) -> None:
    for test, why in (
        ("assert f(2) = 4", "SyntaxError"),
        ("assert f(lambda x: x) == 4", "hands a function"),
        ("f(open)", "hands a"),
    ):
        for source in (DOUBLE, FAILING["a wrong value"]):
            found = box.check(Check(source, test))
            assert isinstance(found, Abstain) and why in found.reason, found


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("assert 1 == 1", "asks the program nothing"),
        ("def check(candidate):\n    assert candidate(2) == 4", "asks the program nothing"),
        ("f\ndef later():\n    assert f(2) == 5", "asks the program nothing"),
        ("import numpy\nassert f(2) == 4", "imports 'numpy'"),
        ("def test_two(tmp_path):\n    assert f(2) == 4", "takes arguments"),
    ],
)
def test_a_test_that_would_pass_or_fail_every_program_abstains(box: Any, test: str, why: str) -> None:
    for source in (DOUBLE, FAILING["a wrong value"]):
        found = box.check(Check(source, test))
        assert isinstance(found, Abstain) and why in found.reason, found


def test_a_function_named_as_a_test_is_called(box: Any) -> None:
    test = "def test_two():\n    assert f(2) == 4\n"
    assert passes(box, DOUBLE, test) and not passes(box, FAILING["a wrong value"], test)


def test_a_failed_test_says_why(box: Any) -> None:
    assert "AssertionError: seven" in box.check(Check(DOUBLE, "assert f(2) == 7, 'seven'")).why
    assert box.check(Check("1 / 0", "assert f(2) == 4")).why == "ZeroDivisionError: division by zero"
    assert "cpu" in box.check(Check("def f(x):\n    while True: pass", "assert f(2) == 4")).why


def test_a_test_that_never_ends_fails_at_the_deadline() -> None:
    try:
        with Sandbox(Limits(seconds=0.5)) as box:
            started = time.monotonic()
            found = box.check(Check(DOUBLE, "import time\nf(1)\ntime.sleep(60)"))
            assert found == Verdict(False, "the program was stopped: deadline") and time.monotonic() - started < 5
    except Exception as error:
        if "no sandbox works" not in str(error):
            raise
        pytest.skip(str(error))


def test_many_tests_run_side_by_side_and_answer_in_order() -> None:
    try:
        box = Sandbox(count=2)
    except Exception as error:
        pytest.skip(str(error))
    with box:
        found = box.check_all(Check(DOUBLE, f"assert f({i}) == {2 * i + i % 2}") for i in range(10))
    assert [v.passed for v in found if isinstance(v, Verdict)] == [True, False] * 5


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**40),
        1.5,
        float("inf"),
        "é\ud800",
        b"\0\xff",
        [1, [2]],
        (1,),
        {1: {2}},
        frozenset({(1, 2)}),
        3j,
        range(1, 9, 2),
    ],
)
def test_a_value_that_is_carried_over_is_the_same(value: Any) -> None:
    import json

    back = wire.unpack(json.loads(json.dumps(wire.pack(value))), lambda number, name: pytest.fail("an object"))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    "packed", [["x", 1], ["list", 1], ["dict", [1]], ["dict", [[1]]], ["int", 5], {}, [], [[], []], ["object", [1]]]
)
def test_what_no_one_packed_is_not_unpacked(packed: Any) -> None:
    with pytest.raises(ValueError, match="not a p"):
        wire.unpack(packed, lambda number, name: None)
