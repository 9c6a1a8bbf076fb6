"""Every recipe on every embedded task: fed, or refused in one line before anything is drawn."""

from __future__ import annotations

import re

import pytest

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.columns import COLUMNS
from truegain.core.component import REGISTRY
from truegain.core.errors import WiringError
from truegain.core.forms import Train
from truegain.core.system import SYSTEMS, build
from truegain.tasks import NAMES, make
from truegain.train.online import check

FORMS = {
    name: form
    for name, found in sorted(SYSTEMS.items())
    if found.recipe.__module__.startswith("truegain.")
    for form in build(name)
    if isinstance(form, Train)
}
TASKS = {name: make(name) for name in NAMES}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_recipe_is_fed_by_some_task_and_refused_by_column_component_and_supplier_on_the_others(form: Train) -> None:
    fed = []
    for name, task in TASKS.items():
        try:
            check(form, task)
        except WiringError as refused:
            said = str(refused)
            line = r"(\S+) needs column '(\w+)', which task '[^']+' does not supply; it comes from (.+)"
            found = re.match(line, said)
            assert found and "\n" not in said, said
            assert found[1] in REGISTRY and found[2] in COLUMNS
            suppliers = re.search(r"tasks that supply it: (.+)", found[3])
            for supplier in suppliers[1].split(", ") if suppliers else ():
                assert found[2] in TASKS[supplier].supplies  # pyright: ignore
        else:
            fed.append(name)
    assert fed, "no embedded task can feed this recipe"
