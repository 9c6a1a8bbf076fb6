"""`Decode` in a chain: samplers and searches on the engine, over train problems; it leaves ``dataset.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from truegain.core.component import call, spec_of
from truegain.core.errors import RunError, WiringError
from truegain.core.forms import Decode, Train, members
from truegain.core.types import Problem, Rollout
from truegain.train.dataset import NAME, Found, found_by, row_of, write_dataset
from truegain.train.drawing import Draw, problems
from truegain.train.folder import RunFolder, read_lines
from truegain.train.launch import StopSignal
from truegain.train.ledger import Ledger
from truegain.train.memory import memory
from truegain.train.models import FILLED, Model, frozen_models
from truegain.train.run import fitted
from truegain.train.setup import Setup, State, facts_of
from truegain.train.stages.stage import Event, Stage, finish

ROWS = "rows.jsonl"


def run(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """Search to the last step, or until ``stop`` has a reason; goes on behind the last step that was logged."""
    task, policy = stage.the_task(), stage.policy()
    # A draw reads of its form what a Decode has too: loop, scores, segments.
    form = fitted(cast(Train, stage.form), task)
    with RunFolder(stage.place) as folder:
        setup = Setup(form, policy, task, folder, stage.drawn_with)
        models, state = frozen_models(form.roles, policy), _taken_up(folder)
        yield {"kind": "begin", "total": form.loop.steps, "unit": "steps", "done": state.step}
        while state.step < form.loop.steps and not stop.reason():
            with memory("sampling", form.loop, state.step + 1):
                line = _step(setup, models, state)
            yield line
        if state.step < form.loop.steps:
            return
        rows = [line["row"] for line in read_lines(folder.path / ROWS)]
        if not rows:
            raise RunError(
                f"{stage.label} kept nothing of {state.taken} problems, so the next form has nothing to learn from: "
                f"give it more (--set {stage.number}.loop.steps=N), or problems of another level"
            )
        write_dataset(stage.place / NAME, rows)
    finish(stage.place, form="Decode", dataset=NAME, rows=len(rows), problems=state.taken)


def _taken_up(folder: RunFolder) -> State:
    """Where an interrupted search goes on; rows of a step that was not logged are dropped."""
    lines = folder.read_log()
    state = State() if not lines else State(lines[-1]["step"], lines[-1]["taken"], Ledger(**lines[-1]["ledger"]))
    folder.rewind(state.step)
    return state


def _step(setup: Setup, models: Mapping[str, Model], state: State) -> Event:
    """Search on the next problems, write what was found, then the line that makes it count."""
    began, form = time.perf_counter(), cast(Decode, setup.form)
    asked = problems(setup.task, "train", state.taken, form.loop.prompts, setup.seed)
    state.taken += len(asked)
    found, spent, logs = _search(setup, models, state, asked)
    kept = [one for one in found if not isinstance(one, Rollout) or "abstained" not in one.facts]
    state.step, state.ledger = state.step + 1, state.ledger + spent
    rows = [{"step": state.step, "row": row_of(setup.policy, one)} for one in kept]
    if rows:
        setup.folder.records(ROWS).append(*rows)
    right = [one.facts["correct"] for one in kept if isinstance(one, Rollout) and "correct" in one.facts]
    line: Event = {"kind": "step", "step": state.step, "taken": state.taken, "rows": len(rows)}
    line |= {"correct": sum(right) / len(right)} if right else {}
    line |= {**logs, "seconds": time.perf_counter() - began, "ledger": state.ledger.to_json()}
    setup.folder.log(line)
    return line


def _search(
    setup: Setup, models: Mapping[str, Model], state: State, asked: Sequence[Problem]
) -> tuple[list[Found], Ledger, dict[str, float]]:
    """What the searches found, one after the other; the loop's plain samples where there are none."""
    searches, spent, logs = members(cast(Decode, setup.form).search), Ledger(), dict[str, float]()
    found: list[Found] = []
    if not searches or "rollouts" in spec_of(searches[0]).inputs:
        draw = Draw(setup, models, state, "sampled", "decode")
        found += draw.again(asked, draw.samples)
        spent += draw.ledger
    for member in searches:
        name = spec_of(member).full_name
        draw = Draw(setup, models, state, "sampled", name)
        offered: dict[str, Any] = {"roles": draw.roles, "draw": draw}
        offered |= {"problems": tuple(asked), "rollouts": tuple(found)}
        answer, more = call(member, offered, facts_of(setup.form, state.step))
        found, spent, logs = found_by(name, answer), spent + draw.ledger, logs | more
    return found, spent, logs


def check(form: Decode) -> None:
    """Refuse roles that nothing can fill, before anything starts. Raises WiringError."""
    for name, role in form.roles.items():
        if role.fills not in FILLED:
            raise WiringError(f"role {name!r} fills {role.fills!r}; a role can fill {', '.join(FILLED)}")
