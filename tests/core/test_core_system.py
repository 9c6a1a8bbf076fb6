"""The register of systems."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core_checks import refused

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import SettingError
from truegain.core.forms import FORMS, Fit, Form, Term, Train
from truegain.core.settings import settings
from truegain.core.system import SYSTEMS, build, system
from truegain.methods import objective

OURS = sorted(name for name, found in SYSTEMS.items() if found.recipe.__module__.startswith("truegain."))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(SYSTEMS)
    yield
    SYSTEMS.clear()
    SYSTEMS.update(before)


def fit() -> Fit:
    return Fit(terms=(Term(surrogate=objective.negative_logp, weight=objective.token_mean),))


def test_grpo_is_registered() -> None:
    assert "grpo" in OURS


@pytest.mark.parametrize("name", OURS)
def test_every_system_builds_into_forms_and_is_described(name: str) -> None:
    found = SYSTEMS[name]
    forms = build(name)
    assert forms
    assert all(isinstance(form, FORMS) for form in forms)
    assert all(settings(form) == settings(again) for form, again in zip(forms, build(name), strict=True))
    assert found.summary.endswith(".")
    assert found.cite
    assert found.paper
    assert found.slot.isidentifier()
    assert not {"\n"} & set(found.summary + found.cite + found.differs + found.slot)


def test_knobs_reach_the_form() -> None:
    (form,) = build("grpo", beta=0.2, clip=0.1)
    assert isinstance(form, Train)
    assert settings(form)["surrogate.ppo_clip.clip_low"] == 0.1
    assert settings(form)["surrogate.kl_to_reference.beta"] == 0.2
    assert form.roles["reference"].fills == "ref_logp"
    (plain,) = build("grpo")
    assert isinstance(plain, Train)
    assert plain.roles == {}


def test_an_unknown_system_or_knob_is_refused_with_the_nearest_name() -> None:
    with refused(SettingError, "'gropo'", "did you mean 'grpo'", "truegain list"):
        build("gropo")
    with refused(SettingError, "'grpo'", "no knob 'bta'", "did you mean 'beta'", "it has beta, clip"):
        build("grpo", bta=1.0)
    with refused(SettingError, "'sft'", "no knob 'beta'", "it has none"):
        build("sft", beta=1.0)


def test_the_name_is_the_functions_with_dashes_or_the_given_one() -> None:
    def min_form_test() -> Form:
        """Nothing."""
        return fit()

    assert system("credit", paper="none", cite="nobody")(min_form_test) is min_form_test
    assert SYSTEMS["min-form-test"].recipe is min_form_test
    system("credit", paper="none", cite="nobody", name="min.2")(min_form_test)
    assert build("min.2") == build("min-form-test") != ()


def test_illegal_names_missing_defaults_and_taken_names_are_refused() -> None:
    def needs(beta: float) -> Form:
        return fit()

    with refused(SettingError, "'Min Form'", "lower-case"):
        system("credit", paper="none", cite="nobody", name="Min Form")(fit)
    with refused(SettingError, "'needs'", "'beta'", "default"):
        system("credit", paper="none", cite="nobody")(needs)
    with refused(SettingError, "'grpo'", "truegain.recipes.grpo", "another name"):
        system("credit", paper="none", cite="nobody", name="grpo")(fit)
    assert SYSTEMS["grpo"].recipe.__module__ == "truegain.recipes.grpo"


def test_what_is_no_form_is_refused_when_it_is_built() -> None:
    def wrong() -> object:
        return {"reward": 1}

    system("credit", paper="none", cite="nobody")(wrong)
    with refused(SettingError, "'wrong'", "dict", "none of the six forms"):
        build("wrong")


def test_a_recipe_may_return_several_forms() -> None:
    def twice() -> tuple[Form, ...]:
        return fit(), fit()

    system("credit", paper="none", cite="nobody")(twice)
    assert [type(form) for form in build("twice")] == [Fit, Fit]
