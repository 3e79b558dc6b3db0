"""Row I3 as rules: which place a name may come from, for every way it can be found. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.pipconfig import PipSettings
from builder.sources import AmbiguousError, Source, Sources, allowed, asked_for
from builder.spec import IndexSpec

INTERNAL = Source("index 'internal'", "https://i.example/", projects=("shop-*", "acme"))
OTHER = Source("index 'other'", "https://o.example/", projects=("tool-*",))
GENERAL = Source("index 'general'", "https://g.example/")
PIP = Source("pip's indexes", "https://p.example/")
LINKS = Source("pip's indexes", "file:///links", links=True)
ALL = (INTERNAL, OTHER, PIP, LINKS)


def test_pinned_name_is_asked_for_nowhere_else() -> None:
    assert asked_for("shop-core", ALL) == (INTERNAL,)
    assert asked_for("acme", ALL) == (INTERNAL,)
    assert asked_for("six", ALL) == ALL


@pytest.mark.row("I3")
@pytest.mark.parametrize(
    ("name", "places", "says"),
    [
        ("six", (PIP,), ""),
        ("six", (PIP, LINKS), ""),
        ("six", (), ""),
        ("shop-core", (INTERNAL,), ""),
        ("six", (INTERNAL,), "is on index 'internal', whose 'projects' leave it out"),
        ("six", (INTERNAL, PIP), "leave it out and on pip's indexes"),
        ("six", (INTERNAL, OTHER), "is on index 'internal', index 'other'"),
        ("six", (GENERAL, PIP), "is on pip's indexes and on index 'general'"),
    ],
)
def test_what_counts(name: str, places: tuple[Source, ...], says: str) -> None:
    found = {place: place in places for place in (*ALL, GENERAL)}
    if not says:
        assert allowed(name, found) == places
        return
    with pytest.raises(AmbiguousError, match=says):
        allowed(name, found)


@pytest.mark.row("I3")
@given(
    name=st.sampled_from(["shop-core", "tool-x", "six", "acme"]),
    places=st.sets(st.sampled_from((*ALL, GENERAL))),
)
def test_never_two_places(name: str, places: set[Source]) -> None:
    """Whatever is found wherever: one place's files count, its own one's if it has one, or none."""
    asked = asked_for(name, (*ALL, GENERAL))
    try:
        counting = allowed(name, {place: place in places for place in asked})
    except AmbiguousError:
        return
    assert len({place.group for place in counting}) <= 1
    if any(place.serves(name) for place in (*ALL, GENERAL)):
        assert all(place.serves(name) for place in counting)
    else:
        assert not any(place.projects for place in counting)


def test_every_other_name() -> None:
    """`*` pins what nobody else names, so that a mirror is not even asked for it."""
    rest = Source("index 'rest'", "https://r.example/", projects=("*",))
    assert asked_for("six", (INTERNAL, rest)) == (rest,)
    assert asked_for("shop-core", (INTERNAL, rest)) == (INTERNAL,)
    assert allowed("six", {rest: True}) == (rest,)
    assert allowed("shop-core", {INTERNAL: True}) == (INTERNAL,)


def test_who_serves_the_rest() -> None:
    """Indexes without projects stand in the place of pip's; others stand beside them."""
    settings = PipSettings(index_url="https://p.example/", find_links=("file:///links",))
    pinned = IndexSpec("internal", "https://i.example/", ("Shop.*",))
    beside = Sources(settings, (pinned,)).all()
    assert [place.url for place in beside] == [
        "https://i.example/",
        "https://p.example/",
        "file:///links",
    ]
    assert beside[0].serves("shop-core")
    instead = Sources(settings, (pinned, IndexSpec("general", "https://g.example/"))).all()
    assert [place.url for place in instead] == ["https://i.example/", "https://g.example/"]
    no_index = PipSettings(no_index=True, find_links=("file:///links",))
    assert [place.url for place in Sources(no_index).all()] == ["file:///links"]
