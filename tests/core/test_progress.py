"""Progress without a terminal: plain lines now and then, on standard error; and numbers for people."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core import progress
from zhixing.core.errors import BadInput
from zhixing.core.progress import human_bytes, human_count, human_time, is_quiet, parse_bytes, progress_bar, set_quiet


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (1536, "1.5 KB"),
        (999_960, "1.0 MB"),
        (20_000_000, "20.0 MB"),
        (1.25e9, "1.2 GB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_bytes(count, text):
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1234, "1.23 k"),
        (999_999, "1 M"),
        (1_234_567, "1.23 M"),
        (-5000, "-5 k"),
        (7.5e9, "7.5 B"),
        (2e12, "2 T"),
    ],
)
def test_counts(count, text):
    assert human_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.7, "1 min 0 s"),
        (75, "1 min 15 s"),
        (119.7, "2 min 0 s"),
        (3600, "1 h 0 min"),
    ],
)
def test_times(seconds, text):
    assert human_time(seconds) == text


@given(st.floats(0, 120) | st.floats(3500, 3700) | st.floats(0, 200_000))
def test_a_time_never_has_sixty_seconds_or_minutes(seconds):
    assert "60 s" not in human_time(seconds)
    assert "60 min" not in human_time(seconds)


@given(st.floats(0, 9e14) | st.integers(995, 1005) | st.integers(999_000, 1_001_000))
def test_a_count_is_never_written_with_an_exponent(count):
    assert "e" not in human_count(count)


@given(st.floats(0, 1e17) | st.integers(999_000, 1_001_000))
def test_bytes_never_need_four_digits_below_the_largest_unit(count):
    number, unit = human_bytes(count).split()
    assert unit == "TB" or float(number) < 1000


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by five seconds at each look."""
    ticks = itertools.count(0.0, 5.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


def test_lines_instead_of_a_bar(clock, capsys):
    with progress_bar("Counting", 10) as bar:
        for _ in range(10):
            bar.advance(1, "sheep")
        bar.say("done [bold]")
    out, err = capsys.readouterr()
    assert out == "", "standard output is for results"
    assert err.splitlines() == ["Counting 30 % sheep", "Counting 60 % sheep", "Counting 90 % sheep", "done [bold]"]


def test_lines_without_a_total(clock, capsys):
    with progress_bar("Counting") as bar:
        for _ in range(3):
            bar.advance()
    assert capsys.readouterr().err == "Counting\n"


def test_no_more_than_a_line_now_and_then(capsys):
    with progress_bar("Counting", 1000) as bar:
        for _ in range(1000):
            bar.advance(1)
    assert capsys.readouterr().err == ""


def test_quiet(clock, capsys):
    assert not is_quiet()
    set_quiet(True)
    try:
        assert is_quiet()
        with progress_bar("Counting", 10) as bar:
            for _ in range(10):
                bar.advance(1)
            bar.say("nothing")
    finally:
        set_quiet(False)
    assert capsys.readouterr() == ("", "")


def test_the_live_bar_takes_titles_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar("Reading", 3) as bar:
        bar.advance(1, "[a]")
        bar.advance(1)
        bar.say("kept [bold]line[/bold] 文")
    out, err = capsys.readouterr()
    assert out == ""
    assert "kept [bold]line[/bold] 文" in err


def test_an_error_inside_passes_through():
    with pytest.raises(KeyError), progress_bar("Counting", 1):
        raise KeyError


@pytest.mark.parametrize(
    ("text", "count"),
    [("5GB", 5 * 10**9), ("500 MB", 5 * 10**8), ("2GiB", 2 << 30), ("1000", 1000), ("1.5k", 1500), ("3 b", 3)],
)
def test_sizes_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "five GB", "-1GB", "0", "1XB", "1 2", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(BadInput, match="not a size"):
        parse_bytes(text)
