"""Which attacks cover which: more of the same does, less and others do not."""

import pytest

from expunge.core.specs.attacks import ATTACKS, PRESETS
from expunge.core.specs.attacks.inversion import InversionAttackSpec
from expunge.core.specs.attacks.suite import digest_of, facts_of, is_covered, suite_of

INVERSION = facts_of(InversionAttackSpec())
PROBE = facts_of(ATTACKS["noise_probe"](name="noise_probe"))


def test_a_higher_budget_covers_a_lower_one_and_never_the_other_way():
    quick, standard, thorough = (suite_of(preset) for preset in PRESETS)
    assert is_covered(quick, thorough)
    assert not is_covered(thorough, standard)
    assert not is_covered(standard, quick)
    assert all(is_covered(suite, suite) for suite in (quick, standard, thorough))
    assert not is_covered(quick, [])


@pytest.mark.parametrize(
    ("made", "covers"),
    [
        (INVERSION | {"steps": 301, "restarts": 2}, True),
        (INVERSION | {"seed": 7}, True),
        (INVERSION | {"steps": 299}, False),
        (INVERSION | {"images": 8}, False),
        (INVERSION | {"start": "house"}, False),
        (INVERSION | {"version": 2}, True),
        (INVERSION | {"version": 0}, False),
        ({name: value for name, value in INVERSION.items() if name != "vectors"}, True),
        (PROBE, False),
    ],
)
def test_what_counts_as_the_same_attack(made, covers):
    assert is_covered([INVERSION], [made]) is covers


def test_a_parameter_that_came_later_is_wanted_only_where_it_is_not_its_default():
    before = {name: value for name, value in INVERSION.items() if name != "vectors"}
    assert not is_covered([INVERSION | {"vectors": 8}], [before])


def test_of_a_list_every_member_must_have_been_tried():
    fewer = PROBE | {"etas": PROBE["etas"][:2]}
    assert is_covered([fewer], [PROBE])
    assert not is_covered([PROBE], [fewer])


def test_the_digest_is_another_one_with_the_version_and_with_the_budget(monkeypatch):
    digests = {digest_of(suite_of(preset)) for preset in PRESETS}
    monkeypatch.setattr(InversionAttackSpec, "version", 2)
    digests |= {digest_of(suite_of(preset)) for preset in PRESETS}
    assert len(digests) == 6
    assert digest_of(suite_of("quick")) == digest_of(suite_of("quick"))
