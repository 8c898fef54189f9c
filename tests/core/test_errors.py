"""Messages for users: cause, place, remedy; the nearest name; commands that can be typed."""

import shlex

from zhixing.core.errors import BadInput, Interrupted, MissingResource, command, missing_extra, nearest, unknown_name


def test_a_message_has_place_cause_and_remedy():
    assert str(BadInput("it is bad", where="here:3", remedy="mend it")) == "here:3: it is bad\n  mend it"
    assert str(BadInput("it is bad")) == "it is bad"
    assert [kind.exit_code for kind in (BadInput, MissingResource, Interrupted)] == [2, 3, 130]


def test_unknown_names_come_with_the_nearest_one():
    error = unknown_name("fruit", "aple", ["pear", "apple"], where="basket")
    assert str(error) == "basket: unknown fruit 'aple'\n  did you mean 'apple'? known: apple, pear"
    assert "did you mean" not in str(unknown_name("fruit", "zzz", ["pear"]))
    assert nearest("stps", ["steps", "tokens"]) == "steps"
    assert nearest("qqqq", ["steps"]) is None


def test_a_missing_package_comes_with_its_command():
    assert "pip install 'zhixing[data]'" in str(missing_extra("pyarrow", "data", "reading Parquet"))


def test_commands_can_be_typed():
    assert command("zhixing", "resume", "runs/first") == "zhixing resume runs/first"
    assert shlex.split(command("rm", "-r", "a 文 'b' $c")) == ["rm", "-r", "a 文 'b' $c"]
