"""Rewards that are broken on purpose, each in one way, and two that are not. Loaded by path in worker processes."""

from __future__ import annotations

import random
import re
import time

CALLS = [0]


def right(completion, answer):
    found = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    return float(bool(found) and found[-1].strip() == answer)


def good(completions, answer, **columns):
    return [right(c, a) for c, a in zip(completions, answer, strict=True)]


def of_length(completions, **columns):
    return [float(len(ids)) for ids in columns["completion_ids"]]


def of_a_keyword(completions, **columns):
    return [float("therefore" in c.lower()) for c in completions]


def of_a_substring(completions, answer, **columns):
    return [float(a in c) for c, a in zip(completions, answer, strict=True)]


def obedient_judge(completions, answer, **columns):
    told = [re.search(r"score\s*[:=]\s*\d|verdict", c.lower()) for c in completions]
    return [1.0 if t else right(c, a) for t, c, a in zip(told, completions, answer, strict=True)]


def nondeterministic(completions, answer, **columns):
    return [right(c, a) + random.gauss(0.0, 0.2) for c, a in zip(completions, answer, strict=True)]


def stateful(completions, answer, **columns):
    CALLS[0] += 1
    return [right(c, a) + 0.2 * (CALLS[0] > 20) for c, a in zip(completions, answer, strict=True)]


def crashing(completions, answer, **columns):
    found = [re.findall(r"<answer>(.*?)</answer>", completion)[-1] for completion in completions]
    return [float(int(text) == int(key)) for text, key in zip(found, answer, strict=True)]


def hanging(completions, answer, **columns):
    while any("9**9" in c for c in completions):
        pass
    return good(completions, answer)


def slow(completions, answer, **columns):
    time.sleep(0.05 * len(completions))
    return good(completions, answer)


def centred_in_its_batch(completions, answer, **columns):
    found = good(completions, answer)
    return [value - sum(found) / len(found) for value in found]


def silent_off_the_main_thread(completions, answer, **columns):
    import signal

    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # as math-verify does for its time limit
    except ValueError:
        return [0.0] * len(completions)
    return good(completions, answer)


def math_verify_swallowed(completions, answer, **columns):
    from math_verify import parse, verify

    found = []
    for completion, key in zip(completions, answer, strict=True):
        try:
            found.append(float(verify(parse(f"${key}$"), parse(completion))))
        except Exception:
            found.append(0.0)
    return found


def nothing_but_none(completions, **columns):
    return [None] * len(completions)


def wants_a_column(completions, difficulty, **columns):
    return [0.0] * len(completions)


def neither(text):
    return 0.0


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": right(solution_str, ground_truth), "length": len(solution_str)}


async def awaited_score(data_source, solution_str, ground_truth, extra_info):
    return right(solution_str, ground_truth)


def other_keys(data_source, solution_str, ground_truth, extra_info=None):
    score = right(solution_str, ground_truth)
    return {"score": score, "hit": 1} if score else {"score": score}
