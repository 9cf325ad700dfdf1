import doctest
import json
import time

import pytest

from data_lake import pace
from data_lake.pace import Pace, View, sentence
from data_lake.progress import Work, counted, progress, show_inside, shown_to
from data_lake.progress_display import Lines, read_line


class Clock:
    """A clock that stands until it is put on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def left_after(moves: list[tuple[float, float]], total: float, later: float = 0.0) -> float | None:
    """Return the time left `later` seconds after the last of the moves (when, done)."""
    moved = Pace()
    for when, done in moves:
        moved.move(when, done)
    return moved.seconds_left((moves or [(0.0, 0.0)])[-1][0] + later, total)


def test_steady_work_ends_when_it_says() -> None:
    assert left_after([(second, 10.0 * second) for second in range(1, 31)], 1000) == pytest.approx(70)


def test_before_the_second_move_nobody_knows() -> None:
    assert left_after([], 1000, later=30) is left_after([(20, 10)], 1000, later=30) is None


def test_the_start_of_a_model_is_not_taken_for_slow_work() -> None:
    assert left_after([(20, 10), (21, 20)], 1000) == pytest.approx(98)


def test_what_was_there_at_once_is_not_taken_for_fast_work() -> None:
    assert left_after([(0.5, 900), (10.5, 901), (20.5, 902), (30.5, 903)], 1000) == pytest.approx(970)


def test_work_in_large_pieces_counts_the_piece_that_goes_on() -> None:
    pieces = [(60.0, 100.0), (120.0, 200.0)]
    assert left_after(pieces, 400, later=30) == pytest.approx(90)
    assert left_after(pieces, 400, later=600) == pytest.approx(60)  # it is late, and the next may still be as long


def test_work_that_slows_down_is_measured_by_its_later_half() -> None:
    fast, slow = (
        [(float(second), 10.0 * second) for second in range(1, 11)],
        [(10.0 + second, 100.0 + second) for second in range(11)],
    )
    assert left_after([*fast, *slow[1:]], 200) == pytest.approx(90)


def test_a_thousand_moves_are_remembered_as_well_as_ten() -> None:
    assert left_after([(second, 3.0 * second) for second in range(1, 1001)], 6000) == pytest.approx(1000)


@pytest.mark.parametrize("cost", [lambda done: 1.0, lambda done: 3.0 - 2.0 * done, lambda done: 1.0 + done])
def test_the_time_left_comes_true_within_a_factor_of_two(cost) -> None:
    """Texts by falling length cost three times as much at first; long histories at the end cost more."""
    moved, now, told = Pace(), 0.0, []
    for done in range(1, 401):
        now += cost(done / 400)
        moved.move(now, done)
        told.append((now, moved.seconds_left(now, 400)))
    for then, left in told[1:-8]:
        assert (now - then) / 2 <= left <= 2 * (now - then)


def test_a_part_counts_as_far_as_the_work_inside_it_has_come() -> None:
    clock = Clock()
    shards = Work("ground", 200, "rows", clock=clock)
    with shards.part(50):
        asking = Work("asking", 10, outer=shards, clock=clock)
        clock.now += 2
        asking.advance(4)
        clock.now += 2
        asking.advance(1)
        assert shards.view()[1:6] == (25, 200, "rows", 4, 70)
        Work("asking again", 4, outer=shards, clock=clock).advance(1)
        assert shards.view().done == 25
    assert shards.view().done == 50


def test_work_that_may_end_early_tells_the_soonest_time_as_well() -> None:
    clock = Clock()
    epochs = Work("training", 30, "epochs", clock=clock)
    epochs.least = 5
    for _ in range(2):
        clock.now += 10
        epochs.advance()
    assert (epochs.view().soonest, epochs.view().left) == (30, 280)
    epochs.least = 31
    assert epochs.view().soonest is None


class Seen:
    """A display that keeps what it is shown."""

    def __init__(self) -> None:
        self.views: list[list[View]] = []
        self.is_closed = False

    def show(self, views) -> None:
        self.views.append(list(views))

    def close(self) -> None:
        self.is_closed = True


def test_a_display_sees_the_works_that_go_on_and_those_of_another_process(monkeypatch) -> None:
    monkeypatch.setattr("data_lake.progress.LOOK_SECONDS", 0.01)
    seen = Seen()
    with shown_to(seen), progress("pretrain"):
        show_inside([View("epoch 1", 3, 9, "steps", 1.0, 2.0)])
        for number in counted(range(3), "blocks", 3, ""):
            if number == 2:
                before = len(seen.views)
                while len(seen.views) < before + 2:
                    time.sleep(0.001)
    shown = [[(view.what, view.done) for view in views] for views in seen.views]
    assert [("pretrain", 0.0), ("epoch 1", 3), ("blocks", 2.0)] in shown
    assert seen.is_closed


def test_a_log_gets_a_line_a_minute() -> None:
    clock, lines = Clock(), []
    display = Lines(lines.append, clock)
    for second in range(200):
        clock.now = 100.0 + second
        display.show([View("embed_items", second, 400, "rows", second, 400.0 - second)])
    assert lines == [
        "Still at embed_items: 60 of 400 rows, 6 min left",
        "Still at embed_items: 120 of 400 rows, 5 min left",
        "Still at embed_items: 180 of 400 rows, 4 min left",
    ]


def test_work_is_told_in_words() -> None:
    assert sentence(View("represent", 0, None, "", 130.0, None)) == "represent: 2 min"
    assert (
        sentence(View("reading a.csv", 2_500_000, 1e9, "bytes", 3.0, 45.0))
        == "reading a.csv: 2.5 of 1,000.0 MB, 45 s left"
    )
    view = View("training", 3.25, 30, "epochs", 60.0, 9000.0, soonest=300.0, note="loss 4.2")
    assert sentence(view) == "training: 3 of 30 epochs, 5 min to 2.5 h left, loss 4.2"


def test_times_read_as_their_examples_say() -> None:
    assert doctest.testmod(pace).failed == 0


def test_a_line_for_another_process_is_read_back_and_no_other_line_is() -> None:
    view = View("epoch 1", 3, 9, "steps", 1.0, None, note="loss 4.2")
    assert read_line(json.dumps([view])) == [view]
    assert read_line("[1, 2]") is read_line("[a]") is read_line("loss 4.2") is None
