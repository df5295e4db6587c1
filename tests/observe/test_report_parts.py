"""REP: each sum, order and boundary of a report, of recordings whose content is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.observe.recording import Moment, Owner, Recording, Refused, Sampled, Sized
from nativemem.observe.report import Report, changes
from nativemem.observe.report.comparison import Comparison, OwnerGrowth, SiteGrowth
from nativemem.observe.report.model import OwnerRow, Point, RefusalRow, SiteRow, error_of
from nativemem.observe.report.tables import tables
from nativemem.observe.report.timeline import chart
from nativemem.observe.report.tree import MEASURES, Amount, Place, Tree, tree_of

from .recordings import MIB, at, example, recorded, reported, site

# --- what is added up


def test_the_error_of_an_estimate() -> None:
    for n, rate, error in (
        (100, 0, 0),
        (100, 1, 0),
        (100, 2, 14),
        (0, 9, 0),
        (-5, 9, 0),
        (1 << 40, 1 << 20, 1 << 30),
    ):
        assert error_of(n, rate) == error


def test_amounts() -> None:
    one, two = Amount(1, 2, 3, 4, 5, 6), Amount(10, 20, 30, 40, 50, 60)
    assert one + two == Amount(11, 22, 33, 44, 55, 66)
    assert [one.bytes(each) for each in MEASURES] == [1, 3, 5]
    assert [one.blocks(each) for each in MEASURES] == [2, 4, 6]
    assert Amount.of(Sampled(at(1), "o", "raw", 1, 2, 5, 6, 3, 4)) == one and Amount() == Amount(0, 0, 0, 0, 0, 0)


def test_a_tree_has_each_place_of_a_path_once() -> None:
    main = at(9, "main")
    load, other = at(4, "load", caller=main), at(5, "other", caller=main)
    again = at(4, "load", caller=at(9, "main"))
    tree = tree_of([site(load, 1), site(other, 2), site(again, 4), site(main, 8), site(load, 16, owner="b")])
    assert tree.parents == [0, 0, 1, 1]
    assert [place.function for place in tree.places] == ["(all)", "main", "load", "other"]
    assert [(leaf.node, leaf.owner, leaf.source, leaf.amount.live) for leaf in tree.leaves] == [
        (2, "process", "objects", 5),
        (3, "process", "objects", 2),
        (1, "process", "objects", 8),
        (2, "b", "objects", 16),
    ]
    assert tree.places[0] == Place("", 0, "(all)") and list(tree.path(0)) == []
    assert tree.leaves[0].amount.live_blocks == 2
    empty = Tree()
    assert (empty.parents, empty.leaves) == ([0], []) and tree_of([]).leaves == []


def test_owners_in_their_order() -> None:
    """The process first, the largest peak next, of two as large by name; one name is one row."""
    owners = (
        Owner("process", None, 1, 2, 3),
        Owner("b", 100, 10, 50, 1),
        Owner("a", None, 20, 50, 2),
        Owner("z", 900, 5, 70, 0),
        Owner("z", 800, 6, 90, 4),
        Owner("never", None, 0, 0, 0),
    )
    moments = (Moment(1.0, "a", 1, 60, 2), Moment(2.0, "a", 1, 70, 2), Moment(3.0, "a", 1, None, 2))
    sites = (site(at(1), 5, owner="a"), site(at(2), 6, owner="a"), site(at(1), 7, owner="gone"))
    report = reported(*sites, owners=owners, moments=moments)
    nothing = Amount()
    assert report.owners == (
        OwnerRow("process", 1, 2, None, 3, 1, nothing),
        OwnerRow("z", 11, 90, None, 4, 2, nothing),
        OwnerRow("a", 20, 50, 70, 2, 1, Amount(11, 2, 0, 2, 0, 2)),
        OwnerRow("b", 10, 50, 100, 1, 1, nothing),
        OwnerRow("never", 0, 0, None, 0, 1, nothing),
    )
    assert report.amount.live == 18
    shown = tables(report)[0]
    assert [row[0] for row in shown.rows] == ["process", "z (2 of the name)", "a", "b"]
    assert [row[3] for row in shown.rows] == ["none", "each its own", "70 B", "100 B"]


def test_sources_in_their_order() -> None:
    report = reported(
        site(at(1), total=3, source="raw"), site(at(2), total=9, source="arrays"), site(at(3), total=1)
    )
    assert [(name, amount.total) for name, amount in report.sources] == [("arrays", 9), ("raw", 3), ("objects", 1)]


def test_lines_in_their_order() -> None:
    """By what is asked for, then by place and owner; those with nothing of it are left out, unless asked for."""
    deep = at(3, caller=at(8, "g"))
    report = reported(
        site(at(2), 5, 9, 50, owner="b"), site(at(2), 5, 9, 50, owner="a"), site(at(1), 5, 1, 60),
        site(deep, 1, 20, 21), site(at(3), 2, 20, 22, source="raw"), site(at(3), 2, 20, 22, source="arrays"),
        site(at(4), 0, 0, 7),
    )  # fmt: skip

    def rows(*args: Any, **rest: Any) -> list[tuple[int, str]]:
        return [(row.place.line, row.owner) for row in report.sites(*args, **rest)]

    assert rows() == rows("peak") == [(3, "process"), (2, "a"), (2, "b"), (1, "process")]
    assert rows("live") == [(1, "process"), (2, "a"), (2, "b"), (3, "process")]
    assert rows("total") == [(3, "process"), (1, "process"), (2, "a"), (2, "b"), (4, "process")]
    assert rows("total", 2) == rows("total")[:2] and rows("total", 0) == []
    assert rows("peak", at_least=0)[-1] == (4, "process") and rows("peak", at_least=10) == [(3, "process")]
    assert rows("peak", at_least=9) == rows("peak")[:3]
    third = report.sites("peak", 1)[0]
    assert third == SiteRow(
        Place("/x/a.py", 3, "f"), "process", ("arrays", "objects", "raw"), Amount(5, 3, 60, 3, 65, 3),
        (Place("/x/a.py", 3, "f"),), 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "largest"),
    [((2, 0, 0), (1, 9, 9), 8), ((1, 5, 0), (1, 4, 9), 8), ((1, 1, 5), (1, 1, 4), 8), ((1, 1, 4), (1, 1, 5), 9)],
)
def test_the_largest_of_the_paths_of_a_line(one: Any, other: Any, largest: int) -> None:
    """By what is live, then by the peak, then by all."""
    first, second = at(3, caller=at(8)), at(3, caller=at(9))
    (row,) = reported(site(first, *one), site(second, *other)).sites("total")
    assert row.path[1].line == largest and row.paths == 2


def test_refusals_in_their_order() -> None:
    """The most first, then the largest; the last of them is shown."""
    one, two, three = at(1), at(2), at(3, caller=at(9, "main"))
    refused = (
        Refused(1.0, "a", 100, 10, 50, one),
        Refused(2.0, "a", 300, 20, 60, two),
        Refused(3.0, "a", 50, 30, 70, three),
        Refused(4.0, "a", 40, 40, None, three),
        Refused(5.0, "b", 100, 50, 80, one),
    )
    places = [Place("/x/a.py", line, "f") for line in (1, 2, 3)]
    assert reported(refused=refused).refusals == (
        RefusalRow(places[2], "a", 2, 50, 4.0, 40, None, (places[2], Place("/x/a.py", 9, "main"))),
        RefusalRow(places[1], "a", 1, 300, 2.0, 20, 60, (places[1],)),
        RefusalRow(places[0], "a", 1, 100, 1.0, 10, 50, (places[0],)),
        RefusalRow(places[0], "b", 1, 100, 5.0, 50, 80, (places[0],)),
    )


def test_sizes_of_blocks() -> None:
    """Of the recording, or of each site's mean: four classes to a doubling."""
    given = (Sized(16, 1, 1, 2, 2),)
    exact = reported(site(at(1), 1, 1, 1), sizes=given).histogram
    assert (exact.rows, exact.exact, exact.total, exact.live) == (given, True, *[{50: 16, 90: 16, 99: 16}] * 2)
    nothing = reported().histogram
    assert (nothing.rows, nothing.exact, nothing.total, nothing.live) == ((), True, None, None)
    for total, blocks, most in (
        *(
            (1, 1, 1),
            (4, 1, 4),
            (7, 1, 7),
            (8, 1, 8),
            (9, 1, 10),
            (10, 1, 10),
            (11, 1, 12),
            (15, 1, 16),
            (16, 1, 16),
        ),
        *((17, 1, 20), (1000, 3, 384), (1025, 1, 1280), (7, 0, 7), (0, 5, 0), (15, 7, 3)),
    ):
        found = reported(site(at(1), 2, 3, total, blocks=(5, 6, blocks))).histogram
        assert found.rows == (Sized(most, 2, 5, total, blocks),) and not found.exact
    both = reported(
        site(at(1), 2, 0, 64, blocks=(1, 0, 1)), site(at(2), 3, 0, 63, blocks=(2, 0, 1)),
        site(at(3), 5, 0, 8, blocks=(0, 0, 1)),
    ).histogram  # fmt: skip
    assert both.rows == (Sized(8, 5, 0, 8, 1), Sized(64, 5, 3, 127, 2))
    assert both.total == {50: 64, 90: 64, 99: 64} and both.live == {50: 64, 90: 64, 99: 64}


def test_a_timeline() -> None:
    """Those of one name together, without a limit where they are several; of one time the last."""
    moments = (
        Moment(0.0, "a", 5, 9, 1), Moment(1.0, "a", 7, 9, 2), Moment(1.0, "a", 3, 9, 1), Moment(2.0, "b", 1, 4, 3),
        Moment(2.0, "b", 2, 6, 3), Moment(3.0, "b", 100, None, 3), Moment(4.0, "a", 0, 9, 2),
    )  # fmt: skip
    assert reported(moments=moments).timelines == {
        "b": [Point(2.0, 2, 6), Point(3.0, 100, None)],
        "a": [Point(0.0, 5, None), Point(1.0, 10, None), Point(4.0, 3, None)],
    }
    assert list(reported(moments=moments).timelines) == ["b", "a"], "what had most is first"


def test_how_long_it_took() -> None:
    """As far as it is known, where there is no end."""
    some = {"moments": (Moment(3.0, "a", 1, None, 1),), "refused": (Refused(4.0, "a", 1, 1, 1, at(1)),)}
    assert reported(lasted=2.0, peak_at=9.0).seconds == 2.0 and reported(lasted=0.0, peak_at=9.0).seconds == 0.0
    assert reported(lasted=None, peak_at=5.0, **some).seconds == 5.0
    assert reported(lasted=None, peak_at=1.0, **some).seconds == 4.0
    assert reported(lasted=None, peak_at=1.0, moments=some["moments"]).seconds == 3.0
    assert reported(lasted=None).seconds == 0.0


def test_one_owner_alone() -> None:
    recording = example()
    report = Report(recording, owner="cache", where="w")
    alone = report.recording
    assert (report.owner, report.where, Report(recording).owner, Report(recording).where) == (
        "cache",
        "w",
        None,
        "",
    )
    assert [each.name for each in alone.owners] == ["cache"] and len(alone.moments) == len(alone.refused) == 2
    assert (alone.live, alone.peak, alone.sizes) == (20 * MIB, 24 * MIB, ()) and len(alone.sites) == 1
    many = replace(recording, owners=tuple(Owner(f"owner {n:03}", None, 0, 0, 0) for n in (*range(90), *range(90))))
    with pytest.raises(ConfigError) as caught:
        Report(many, owner="none")
    said = str(caught.value)
    known = ", ".join(f"owner {n:03}" for n in range(90))[:300]
    assert said == f"report: no owner 'none' in the recording; it has {known}"


# --- charts


def line(*points: tuple[float, int, int | None], owner: str = "a", number: int = 1) -> tuple[Moment, ...]:
    return tuple(Moment(seconds, owner, used, limit, number) for seconds, used, limit in points)


def test_a_chart() -> None:
    """All owners at the same times; nothing before the first moment of each; the end is one of them."""
    moments = (*line((1.0, 5, 9), (3.0, 2, 8)), *line((2.0, 50, None), owner="b", number=2))
    refused = (Refused(1.5, "a", 7, 1, 1, at(1)), Refused(1.6, "x", 8, 1, 1, at(1)))
    found = chart(reported(moments=moments, refused=refused, lasted=4.0000004), {"a": 3, "b": 4})
    assert found == {
        "seconds": [1.0, 2.0, 3.0, 4.0],
        "owners": [
            {"name": "b", "number": 4, "used": [None, 50, 50, 50], "limit": [None] * 4},
            {"name": "a", "number": 3, "used": [5, 5, 2, 2], "limit": [9, 9, 8, 8]},
        ],
        "refused": [[1.5, 3, 7], [1.6, -1, 8]],
    }
    assert chart(reported(moments=line((1.0, 5, None))), {})["owners"][0]["number"] == -1
    assert chart(reported(), {}) == {"seconds": [], "owners": [], "refused": []}
    late = chart(reported(moments=line((1.0, 5, None), (6.0, 1, None)), lasted=2.0), {})
    assert late["seconds"] == [1.0, 6.0], "a moment after the end"


def test_a_chart_of_too_many_moments() -> None:
    """Each of 1201 times stands for the time up to the next, with the most that was used in it."""
    few = line(*((n / 1200, n, None) for n in range(1, 1201)))
    found = chart(reported(moments=few, lasted=1.0), {})
    assert found["seconds"] == [round(n / 1200, 6) for n in range(1, 1201)]
    many = line(*((float(n), 100 - n % 7, n) for n in range(1, 2402)))
    found = chart(reported(moments=many, lasted=2401.0), {})
    assert found["seconds"] == [round(2401 * n / 1200, 6) for n in range(1201)]
    (one,) = found["owners"]
    expected_used: list[int | None] = []
    expected_limit: list[int | None] = []
    for i in range(1201):
        start, until = 2401 * i / 1200, 2401 * (i + 1) / 1200 if i < 1200 else 9999.0
        within = [m for m in many[max(int(start) - 1, 0) : int(start) + 4] if int(start) <= m.seconds < until]
        expected_used.append(max(m.used for m in within) if within else None)
        expected_limit.append(within[-1].limit if within else None)
    assert one["used"] == expected_used and one["limit"] == expected_limit
    assert one["used"][0] == 99 and max(each for each in one["used"]) == 100


def test_a_chart_of_too_many_owners() -> None:
    """The 24 that used most, and 2000 refusals."""
    moments = tuple(Moment(1.0, f"o{n}", n + 1, None, n) for n in range(30))
    refused = tuple(Refused(float(n), "a", n, 1, 1, at(1)) for n in range(2001))
    found = chart(reported(moments=moments, refused=refused), {})
    assert [owner["name"] for owner in found["owners"]] == [f"o{n}" for n in range(29, 5, -1)]
    assert len(found["refused"]) == 2000 and found["refused"][-1][0] == 1999.0


# --- comparisons


def compared(a: Recording, b: Recording, **rest: Any) -> Comparison:
    return Comparison(Report(a, where="a"), Report(b, where="b"), **rest)


def test_what_grew() -> None:
    """The most first, then by place and owner; of estimates what chance would not make."""
    a = recorded(site(at(1), 100, 1, 2), site(at(2), 50, 9, 9), site(at(5), 7), rate=1)
    b = recorded(
        site(at(1), 300, 5, 6, blocks=(4, 1, 1)), site(at(2), 20), site(at(3, "new"), 40, owner="o"), site(at(5), 7)
    )
    found = compared(a, b)
    assert [
        (each.place.line, each.owner, each.before, each.after, each.grew, each.blocks) for each in found.sites
    ] == [
        (1, "process", 100, 300, 200, 3),
        (3, "o", 0, 40, 40, 1),
        (5, "process", 7, 7, 0, 0),
        (2, "process", 50, 20, -30, 0),
    ]
    assert all(each.doubt == 0 for each in found.sites) and found.sites[0].is_certain
    assert not found.sites[2].is_certain and found.sites[3].is_certain
    assert [each.place.line for each in found.grown_sites(40)] == [1, 3]
    assert [each.place.line for each in found.grown_sites(41)] == [1]
    assert found.measure == "live" and (found.a.where, found.b.where) == ("a", "b")
    gone = compared(b, a, measure="peak")
    assert [(each.place.line, each.before, each.after, each.blocks) for each in gone.sites] == [
        (2, 0, 9, 0), (3, 0, 0, -1), (5, 0, 0, 0), (1, 5, 1, 0)
    ]  # fmt: skip
    assert [each.grew for each in compared(a, b, measure="total").sites] == [4, 0, 0, -9]
    with pytest.raises(ConfigError, match="^diff: measures are live, peak, total, not 'most'"):
        compared(a, b, measure="most")


def test_owners_that_grew() -> None:
    a = recorded(
        owners=(Owner("process", None, 10, 90, 0), Owner("gone", None, 5, 6, 0), Owner("same", None, 1, 1, 0))
    )
    b = recorded(
        owners=(
            *(Owner("process", None, 30, 80, 0), Owner("come", None, 7, 8, 0), Owner("also", None, 7, 8, 0)),
            Owner("same", None, 1, 1, 0),
        )
    )
    assert compared(a, b).owners == (
        *(OwnerGrowth("process", 10, 30), OwnerGrowth("also", None, 7), OwnerGrowth("come", None, 7)),
        *(OwnerGrowth("same", 1, 1), OwnerGrowth("gone", 5, None)),
    )
    assert [each.grew for each in compared(a, b).owners] == [20, 7, 7, 0, -5]
    assert [(each.owner, each.grew) for each in compared(a, b, measure="peak").owners] == [
        *(("also", 8), ("come", 8), ("same", 0), ("gone", -6), ("process", -10)),
    ]
    assert [each.owner for each in compared(a, b, measure="total").grown_owners(7)] == ["process", "also", "come"]
    assert [each.owner for each in compared(a, b).grown_owners(8)] == ["process"]


def test_the_doubt_of_estimates() -> None:
    """Three standard deviations of both, and at the least one sample, where either is of samples."""

    def doubt(before: int, after: int, rates: tuple[int, int]) -> SiteGrowth:
        sites = [[site(at(1), n)] if n else [] for n in (before, after)]
        made = compared(recorded(*sites[0], rate=rates[0]), recorded(*sites[1], rate=rates[1]))
        return made.sites[0]

    assert doubt(10_000, 40_000, (100, 100)).doubt == round(3 * (1000**2 + 2000**2) ** 0.5)
    assert doubt(10_000, 40_000, (100, 1)).doubt == 3000 and doubt(10_000, 40_000, (1, 100)).doubt == 6000
    assert doubt(0, 1, (1000, 1)).doubt == 1000 and doubt(0, 1, (1, 1000)).doubt == 1000
    assert doubt(0, 1, (1000, 4000)).doubt == 4000 and doubt(0, 1, (1, 1)).doubt == 0
    assert doubt(0, 2, (2, 1)).doubt == 2 and not doubt(0, 2, (2, 1)).is_certain
    assert not doubt(100, 100 + 3, (1, 1)).doubt and doubt(103, 100, (1, 1)).is_certain


def test_lines_that_have_moved() -> None:
    """Where of a function as many came as went, in their order; of the same owner, of Python code alone."""

    def moves(before: list[Sampled], after: list[Sampled]) -> list[tuple[int, int | None]]:
        found = compared(recorded(*before), recorded(*after)).sites
        return sorted((each.place.line, each.was.line if each.was else None) for each in found)

    assert moves([site(at(1), 5), site(at(4), 6)], [site(at(8), 6), site(at(3), 5)]) == [(3, 1), (8, 4)]
    assert moves([site(at(1), 5)], [site(at(3), 5), site(at(8), 6)]) == [(1, None), (3, None), (8, None)]
    assert moves([site(at(1), 5)], [site(at(3, "g"), 5)]) == [(1, None), (3, None)]
    assert moves([site(at(1), 5)], [site(at(3, file="b.py"), 5)]) == [(1, None), (3, None)]
    assert moves([site(at(1), 5)], [site(at(3), 5, owner="o")]) == [(1, None), (3, None)]
    assert moves([site(at(0, "(a)", ""), 5)], [site(at(1, "(a)", ""), 5)]) == [(0, None), (1, None)]
    assert moves([site(at(1), 5), site(at(2), 1)], [site(at(2), 1), site(at(7), 5)]) == [(2, None), (7, 1)]
    (one,) = compared(recorded(site(at(1), 5)), recorded(site(at(3), 9))).sites
    assert (one.before, one.after, one.grew) == (5, 9, 4)


def test_a_comparison_in_words() -> None:
    a, b = recorded(site(at(1), 5)), recorded(site(at(1), 2000, blocks=(3, 1, 1)), site(at(2), 3000))
    b = replace(b, owners=(Owner("process", None, 500, 0, 0),))
    both = compared(a, b)
    assert changes.headline(both, 1000) == [
        "a to b: live at the end 5 B to 4.9 KiB",
        "0 owners and 2 lines grew by 1000 B or more",
    ]
    assert changes.headline(both, 2500)[1] == "0 owners and 1 line grew by 2.4 KiB or more"
    assert changes.headline(both, 1)[1] == "1 owner and 2 lines grew by 1 B or more"
    nameless = Comparison(Report(a), Report(b), measure="peak")
    assert changes.headline(nameless, 1)[0] == "before to after: at the peak 0 B to 0 B"
    shown = {each.name: each for each in changes.tables(both, at_least=1, top=1, every=False)}
    assert shown["owners"].rows == (("+500 B", "0 B", "500 B", "process"),) and shown["owners"].more == 0
    assert shown["sites"].rows == (("+2.9 KiB", "none", "+1", "0 B", "2.9 KiB", "process", "/x/a.py:2 in f", ""),)
    assert (shown["sites"].more, shown["sites"].note, shown["sites"].title) == (
        1,
        "",
        "Lines that grew, live at the end",
    )
    assert changes.tables(both, at_least=1 << 30, top=9, every=False) == []
    document = changes.document(both, at_least=2500, top=None, every=False)
    assert (document["nativemem_diff"], document["grew"], len(document["sites"])) == (1, True, 1)
    none = changes.document(both, at_least=1 << 30, top=None, every=True)
    assert (none["grew"], len(none["owners"]), len(none["sites"])) == (False, 1, 2)
    assert "<p>Nothing did.</p>" in changes.render_html(both, at_least=1 << 30, top=9, every=False)
    assert "Nothing did" not in changes.render_html(both, at_least=1, top=9, every=False)


@pytest.mark.parametrize(("rates", "noted"), [((1, 1), False), ((2, 1), True), ((1, 2), True)])
def test_a_comparison_of_estimates(rates: tuple[int, int], noted: bool) -> None:
    both = compared(recorded(site(at(1), 1), rate=rates[0]), recorded(site(at(1), 9999), rate=rates[1]))
    (shown,) = changes.tables(both, at_least=1, top=9, every=False)
    assert shown.note.startswith("Figures are estimates from samples;") is noted
    assert shown.rows[0][1].startswith("±") is noted
