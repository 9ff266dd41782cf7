"""The cost table works: everything in it is measured on both sides, on the servers that need no more than Python."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench import encodings, growth, plumbing, report, scale
from tests.bench.__main__ import measured
from tests.bench.counting import Counts, Tally
from tests.bench.prices import monthly
from tests.bench.sides import AGNO, FLOOR, OURS
from tests.bench.work import OWNER, Sizes, run_of, session_of
from tests.meters import KB

TINY = Sizes(histories=(0, 3), deleted=2, sessions=40, counted=2, records=10, large=100_000, repeat=1)


@pytest.fixture(scope="module")
def found() -> report.Found:
    return measured(["mongo", "dynamo", "firestore"], TINY, strict=False)


def test_every_work_is_counted_on_both_sides(found: report.Found) -> None:
    """Agno's Firestore adapter asks for composite indexes that it does not declare, which our emulator refuses."""
    assert list(found) == ["sqlite", "mongo", "dynamo", "firestore"]
    works = set(found["sqlite"][FLOOR])
    for store in ("mongo", "dynamo", "firestore"):
        ours, agno = found[store][OURS], found[store][AGNO]
        assert set(ours) == works
        for work, counts in ours.items():
            assert counts.failure is None, f"{store}: {work}"
            assert counts.value or counts.seconds > 0, f"{store}: {work}"
            if counts.value is None and not work.startswith("event loop"):
                assert counts.total > 0 and counts.up > 0 and counts.down > 0, f"{store}: {work}"
        failures = {counts.failure for counts in agno.values()} - {None}
        assert failures <= ({"FailedPrecondition", "wrong answer"} if store == "firestore" else set())
    mongo = found["mongo"]
    assert mongo[OURS]["turn, warm, 3 runs"].read == 1 < mongo[AGNO]["turn, warm, 3 runs"].read
    assert found["firestore"][OURS]["turn, warm, 3 runs"].write_units == 3, "session, history, run"


def test_the_tables_say_what_was_counted(found: report.Found) -> None:
    dumped = json.dumps(report.dump(found))  # moto does not tell units, and what is no number is not equal to itself
    assert json.dumps(report.dump(report.load(dumped))) == dumped
    text = report.markdown(found)
    warm = {side: found["mongo"][side]["turn, warm, 3 runs"] for side in (OURS, AGNO)}
    assert f"| turn, warm, 3 runs | {warm[OURS].total} / {warm[AGNO].total} |" in text
    assert "listIndexes" in report.requests_by_kind(found)
    begin, end = report.markers("cost")
    page = report.between_markers(f"before\n{begin}old\n{end}after\n", "cost", text)
    assert page == f"before\n{begin}\n{text.strip()}\n\n{end}after\n"
    with pytest.raises(ValueError):
        report.between_markers("no markers", "cost", text)


@pytest.mark.parametrize(
    "part, page", [("cost", "cost.md"), ("growth", "scale.md"), ("scale", "scale.md"), ("queue", "scale.md")]
)
def test_the_docs_have_a_place_for_each_part(part: str, page: str) -> None:
    text = (Path(__file__).parent.parent / "docs" / page).read_text()
    assert report.between_markers(text, part, "new") != text


def test_goals_are_judged_by_what_was_counted() -> None:
    def rows(warm: int, units: float) -> dict[str, Counts]:
        return {
            **{f"turn, warm, {n} runs": Counts(Counter(q=3), up=warm) for n in (10, 1000)},
            "turn, cold, 1000 runs": Counts(Counter(q=4), up=1000),
            "upsert_run of 5 KB": Counts(write_units=units),
        }

    def judged(ours: dict[str, Counts], agno: dict[str, Counts]) -> dict[str, bool]:
        return {goal.partition(":")[0]: met for goal, _, _, met in report.goals({"dynamo": {OURS: ours, AGNO: agno}})}

    good = judged(rows(10, 12), rows(1500, 30))
    assert good["warm turn at 1,000 runs"] and good["a run of 5 KB"] and not good["cold turn at 1,000 runs"]
    bad = judged(rows(11, 12.5), rows(1500, 30))
    assert not bad["warm turn at 1,000 runs"] and not bad["a run of 5 KB"]


def test_a_failure_is_told_by_its_class_and_a_wrong_answer_as_one() -> None:
    def fail() -> Any:
        raise LookupError("gone")

    assert Tally().take(fail).failure == "LookupError"
    assert Tally().take(lambda: 1, lambda answer: answer == 2).failure == "wrong answer"
    assert Tally().take(lambda: 2, lambda answer: answer == 2).failure is None


def test_a_million_turns_are_priced_by_their_units() -> None:
    turn = Counts(read_units=2, write_units=12)
    operations, storage = monthly("dynamo", turn, 1000)
    assert operations == pytest.approx(2 * 0.125 + 12 * 0.625)
    assert storage == pytest.approx(0.25 * 1e9 / 2**30)


@pytest.mark.parametrize("atomic", [True, False])
def test_no_operation_costs_more_with_more_sessions_and_users(atomic: bool) -> None:
    """But the count of the metrics, which answers with a row of each owner."""
    found = growth.measured((100, 400), atomic=atomic, tell=lambda text: None)
    grown = {name for name, (few, many) in found.items() if few != many}
    assert grown == {"calculate_metrics, nothing new; answers with a row of each owner"}
    assert found["20 sessions of a user"][0].records == 10
    assert "| turn, warm |" in growth.markdown(found, (100, 400))
    lines = ElementTree.fromstring(growth.plot(found, (100, 400))).findall("{*}polyline")
    assert len(lines) == len({tuple(cost.records for cost in costs) for costs in found.values()})


def test_plumbing_is_measured_for_each_port_operation() -> None:
    watched = plumbing.Watched()
    for name, (act, agnos) in plumbing.acts(watched.db).items():
        watched.calls = 0
        act()
        agnos()
        assert watched.calls == (2 if name == "upsert_user_memory" else 1), name


def test_no_partition_of_dynamodb_takes_more_than_it_may_where_one_agent_has_all_the_turns() -> None:
    """But the agent's own, which is divided where that is asked for. A user's or a session's are far from it."""
    narrow, wide = scale.DynamoLoad(), scale.DynamoLoad(component_shards=4)
    scale.replay(600, narrow, wide)
    loads = [{what: rate for what, _, rate, _ in scale.hottest(load, 600)} for load in (narrow, wide)]
    over = [{what for what, rate in load.items() if rate > scale.PARTITION_WRITES} for load in loads]
    assert over == [{"sessions component_touched"}, set()]
    firestore = scale.FirestoreLoad()
    scale.replay(20, firestore)
    told = scale.markdown(600, scale.BEFORE, [narrow, wide], [firestore])
    whole, divided = (round(load["sessions component_touched"]) for load in loads)
    assert f"| sessions component_touched | {whole:,} | {whole:,} **over** | {divided} |" in told
    assert '| `runs` | `{_id: "hashed"}` | `session_id`; `user_id`' in told
    assert "| `jobs` | not sharded" in told and "jobs_claims" not in told


def test_no_range_of_firestore_takes_more_than_it_may_where_listings_are_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what ascends of itself is exempt from the indexes. Of 600 turns, in six seconds so that times ascend."""
    monkeypatch.setattr(scale, "RATE", 100)
    usual, divided = scale.FirestoreLoad(), scale.FirestoreLoad((4, 4), exempt=True)
    scale.replay(600, usual, divided)
    rates = [{path: count / 600 * 1000 for path, count in load.ascending().items()} for load in (usual, divided)]
    over = [{path for path, rate in found.items() if rate > scale.ASCENDING_WRITES} for found in rates]
    assert over[0] >= {("sessions", "ix_all_touched"), ("sessions", "ix_component_touched"), ("runs", "created_at")}
    assert over[1] == set() and max(rates[1].values()) > 200, "and it is there what they write"


def test_an_agents_runs_become_smaller_than_prose_and_smaller_still_with_a_dictionary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encodings, "RUNS", 8)
    prose, agents = encodings.runs_of_prose(), encodings.runs_of_an_agent()
    assert len(agents) == 8 and len(agents[0]) > len(prose[0])
    alone = len(encodings.ENCODINGS["zlib, level 6"](agents[1])) / len(agents[1])
    assert encodings.with_dictionary(agents) < alone < encodings.with_dictionary(prose)
    assert f"| an agent's | {sum(map(len, agents)) / 8:,.0f} | bz2 |" in encodings.markdown({"an agent's": agents})


def test_an_empty_store_on_which_most_turns_begin_a_session_needs_four_shards() -> None:
    """A shard takes 500 sessions begun in a second: what is written once for each has half of the shards."""
    usual, wide = scale.DynamoLoad(), scale.DynamoLoad(shards=4, component_shards=4)
    scale.replay(600, usual, wide, before=0)
    loads = [{what: rate for what, _, rate, _ in scale.hottest(load, 600)} for load in (usual, wide)]
    assert loads[0]["sessions all_created"] > scale.PARTITION_WRITES > max(loads[1].values())
    assert (usual.queries("all_created"), usual.queries("all_touched")) == (1, 2)
    assert (wide.queries("all_created"), wide.queries("all_touched")) == (2, 4)


def test_what_tracing_adds_is_told_for_each_partition() -> None:
    """A shard takes a thousand writes: of a trace three units, of each span two."""
    narrow, wide = scale.DynamoLoad(), scale.DynamoLoad(shards=16)
    scale.replay_traces(100, narrow, wide)
    loads = [{what: rate for what, _, rate, _ in scale.hottest(load, 100)} for load in (narrow, wide)]
    assert all(load["traces agent_started"] == 3000 for load in loads), "one agent's are in one place"
    assert loads[0]["spans all_started"] > 4000 > 1500 > loads[1]["spans all_started"]
    assert "| traces agent_started | 3,000 | 3,000 **over** | 3,000 **over** |" in scale.traces_markdown(
        100, [narrow, wide]
    )


def test_what_the_queue_adds_is_told_for_each_partition() -> None:
    """A job that takes its turn changes what its entries tell with each of its five steps."""
    usual, wide = scale.DynamoLoad(), scale.DynamoLoad(shards=8)
    scale.replay_jobs(100, usual, wide)
    loads = [{what: rate for what, _, rate, _ in scale.hottest(load, 100)} for load in (usual, wide)]
    assert loads[0]["jobs all_created"] > loads[0]["jobs queue_due"] > scale.PARTITION_WRITES
    assert loads[1]["jobs all_created"] < 1500 > loads[1]["jobs queue_due"]
    assert "| jobs all_created | 5,000 |" in scale.queue_markdown(100, [usual, wide])


def test_units_are_those_that_dynamodb_bills() -> None:
    """A run of 5 KB; a session that is saved again. DynamoDB Local says 10 and 8: in a transaction it leaves out the
    entry of the local index, which the service bills as any other."""
    load = scale.DynamoLoad()
    db: Any = scale.SinkDocstore(load)
    session = session_of("s1")
    db.upsert_session(session)
    load.units.clear()
    db.upsert_run(run_of("s1", 0, 5 * KB), "s1", OWNER, 0)
    assert sum(load.units.values()) == 12, "run 6, its change 2, counters 2, claim 2"
    load.units.clear()
    db.io.now = lambda: time.time() + 1
    db.upsert_session(session)
    assert sum(load.units.values()) == 8, "itself 2, and its three entries by time, each removed and put"
