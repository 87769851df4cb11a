"""The weakest links, at which a model falls apart first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from disk.pipeline.report.links import link_matrix, strongest_link, weakest_links


def test_two_groups_are_joined_by_their_strongest_bridge() -> None:
    inside = [(0, 1, 300), (1, 2, 250), (0, 2, 90), (3, 4, 200)]
    links = link_matrix(6, [*inside, (2, 3, 20), (0, 4, 15), (4, 5, 0)])
    bridge, *others = weakest_links(links, range(6), 10)
    assert (bridge.first, bridge.second, bridge.strength, bridge.joins) == (2, 3, 20, (3, 2))
    assert [(link.first, link.second) for link in others] == [(3, 4), (1, 2), (0, 1)]
    assert weakest_links(links, [0, 1, 2], 1)[0].strength == 250
    assert strongest_link(links, 4) == (3, 200)
    assert strongest_link(links, 5) is None


@given(st.data())
def test_no_path_of_stronger_links_bypasses_one(data: st.DataObject) -> None:
    """For each link of the tree: without the links no stronger than it, its two ends are disconnected (brute force)."""
    count = data.draw(st.integers(2, 7))
    places = [(a, b) for a in range(count) for b in range(a)]
    strengths = data.draw(st.lists(st.integers(0, 5), min_size=len(places), max_size=len(places)))
    links = link_matrix(count, [(a, b, n) for (a, b), n in zip(places, strengths, strict=True)])
    tree = weakest_links(links, range(count), 100)
    assert len(tree) == count - len({frozenset(_reached(links, photo, 1)) for photo in range(count)})
    for link in tree:
        assert link.second not in _reached(links, link.first, link.strength + 1)


def _reached(links: np.ndarray, start: int, least: int) -> set[int]:
    reached, todo = {start}, [start]
    while todo:
        row = links[todo.pop()]
        for other in np.flatnonzero(np.nan_to_num(row) >= least).tolist():
            if other not in reached:
                reached.add(other)
                todo.append(other)
    return reached
