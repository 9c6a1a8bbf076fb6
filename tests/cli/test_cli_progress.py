"""Progress of long work: rate and time left, a bar on a terminal, plain lines elsewhere, stdout never touched."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap
import time

import pytest

from truegain.cli import progress as room
from truegain.cli.judging import HEATS, Judging
from truegain.cli.progress import Progress, in_blocks, progress


class Clock:
    """Seconds that move when told."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


def made(total: float | None, unit: str = "problems") -> tuple[Progress, Clock]:
    clock = Clock()
    return Progress("eval", total, unit, clock=clock), clock


def test_the_line_has_the_count_the_rate_and_the_time_left() -> None:
    shown, clock = made(200)
    clock.now += 4
    assert shown.line() == "eval: 0 of 200 problems, 4 s so far"
    shown.at(40)
    assert shown.line() == "eval: 40 of 200 problems, 10.0 problems per second, 16 s left"  # 160 to go at 10 a second
    shown.at(1, "loss 0.5")
    assert shown.line() == "eval: 1 of 200 problems, 4.0 s per problem, 13 min 16 s left, loss 0.5"


def test_what_was_there_before_does_not_count_in_the_rate() -> None:
    shown, clock = made(None)
    clock.now += 9
    shown.begin("fit", 30, "steps", done=20)
    clock.now += 5
    shown.at(25)
    assert shown.line() == "fit: 25 of 30 steps, 1.0 steps per second, 5 s left"


def test_without_a_total_it_says_how_long_it_took_so_far() -> None:
    shown, clock = made(None)
    clock.now += 61
    assert shown.line() == "eval: 61 s so far"


def test_what_is_shown_cannot_move_the_terminal() -> None:
    shown = Progress("a\x1b[2J\nb", None, "")
    assert shown.line().startswith("a\\x1b[2J b: ")


def test_without_a_terminal_short_work_says_nothing_and_long_work_says_lines_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress("short", 1, "steps") as shown:
        shown.at(1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(room, "FIRST_LINE", 0.01)
    monkeypatch.setattr(room, "BETWEEN_LINES", 0.05)
    text = ""
    with progress("long", 2, "steps") as shown:
        shown.at(1)
        shown.say("a word")
        while "left\n" not in text:
            text += capsys.readouterr().err
            time.sleep(0.01)
    assert "\x1b" not in text
    assert "a word\n" in text
    assert re.search(r"^long: 1 of 2 steps, .* left$", text, re.MULTILINE)


def test_on_a_terminal_the_bar_is_drawn_on_stderr_and_leaves_only_what_was_said() -> None:
    program = textwrap.dedent(
        """
        import time
        from truegain.cli.progress import progress
        with progress("eval", 4, "problems") as shown:
            shown.at(1)
            time.sleep(0.6)
            shown.say("a word")
        print("result")
        """
    )
    head, tail = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    child = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=tail, timeout=60, env=env)
    os.close(tail)
    drawn = os.read(head, 100_000).decode()
    os.close(head)
    assert child.returncode == 0
    assert child.stdout == b"result\n"
    assert "eval: 1 of 4 problems" in drawn
    assert "s left" in drawn
    assert "a word" in drawn
    assert drawn.rstrip().endswith("\x1b[2K") or drawn.rstrip().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_blocks_hold_everything_once_in_order() -> None:
    assert [list(block) for block in in_blocks(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_heats_are_those_of_the_judgement() -> None:
    from truegain.train.truth import TEMPERATURES

    assert HEATS == TEMPERATURES


def test_a_judgement_knows_its_size_and_the_time_left() -> None:
    # dev: 10 greedy, 3 x 10 x 2; test: 20 greedy (taken so until known), 20 x 4: 170 completions.
    judging = Judging("base", begun=100.0, sizes={"dev": 10, "test": 20, "samples": 4})
    assert judging.total() == 170
    assert judging.left(101.0) is None
    judging.part("base: dev at temperature 0", 101.0)
    judging.part("base: dev at temperature 0.3", 103.0)
    assert judging.done == 30
    assert judging.left(103.0) == pytest.approx(14.0)  # 140 to go at 10 a second
    assert judging.left(105.0) == pytest.approx(12.0)
    assert judging.share(103.0) == pytest.approx(30 / 170)
    assert judging.share(104.0) == pytest.approx(40 / 170)  # guessed until the next part ends
    assert judging.share(1e9) == 0.99
    assert judging.pace(103.0) == "10 completions per second, 14 s left"


def test_the_judgement_learns_the_temperature_that_dev_chose_when_test_is_opened() -> None:
    judging = Judging("base", begun=0.0, sizes={"dev": 10, "test": 20, "samples": 4})
    for heat in ("0", "0.3", "0.6", "1"):
        judging.part(f"base: dev at temperature {heat}", 7.0)
    judging.part("base: test at temperature 0.6", 15.0)  # 80 samples, not 20
    assert judging.total() == 70 + 80 + 80
    judging.part("base: test at temperature 1", 23.0)
    assert judging.share(24.0) == 1.0
    only = Judging("base", begun=0.0, sizes={"dev": 10, "test": 20, "samples": 4}, done=70)
    only.part("base: test at temperature 1", 15.0)  # the chosen one is 1: nothing comes after it
    assert only.share(15.0) == 1.0


def test_a_judgement_of_unknown_size_or_text_has_neither_rate_nor_end() -> None:
    judging = Judging("base", begun=0.0)
    judging.part("base: dev at temperature 0", 1.0)
    assert (judging.share(2.0), judging.left(2.0), judging.pace(2.0)) == (None, None, "")
    known = Judging("base", begun=0.0, sizes={"dev": 10, "test": 20, "samples": 4})
    known.part("something else", 1.0)
    assert known.done == 0
