"""A check that cannot be sent to the sandbox leaves no descriptor open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from sandboxes import WAYS, made

from truegain.runtime import Check, Verdict


@pytest.fixture(scope="module", params=WAYS, ids=" as ".join)
def box(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from made(*request.param)


def test_arguments_that_cannot_be_sent_are_an_error_that_leaves_nothing_open(box: Any) -> None:
    check = Check("def f(x):\n    return x", entry="f", args=[{1, 2}], expected=1)
    for _ in range(2):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(TypeError, match="not JSON serializable"):
            box.check(check)
        # Boxes whose request was cut short are ended, and their own descriptors with them.
        assert len(os.listdir("/proc/self/fd")) <= before
    assert box.check(Check("def f(x):\n    return 2 * x", "assert f(2) == 4")) == Verdict(True)
