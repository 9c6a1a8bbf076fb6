"""What every test runs under: one thread, no network, runtime-checked shapes, repeatable property tests."""

from __future__ import annotations

import os
import signal

# A shell that runs the tests in the background has them ignore Ctrl-C, which some of them are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is imported anywhere: its OpenMP threads spin, and two test workers on two cores starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A test that reaches for the hub is wrong, and should fail at once instead of waiting for a time-out.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Types and shapes in signatures are promises; here they are checked at every call. An int may stand for a float, as
# PEP 484 has it. This must precede the first import of a room.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["truegain.core", "truegain.methods"], CHECKER)

settings.register_profile(
    "truegain", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "truegain"))
