"""Messages of exceptions: what they keep when they are long."""

import pickle

import pytest

from fastncf.errors import (
    MAX_MESSAGE_LENGTH,
    ConfigError,
    DataError,
    DataNotFoundError,
    DeviceError,
    FastNCFError,
    counted,
    first_line,
    printable,
)

ERRORS = [FastNCFError, DataError, DataNotFoundError, ConfigError, DeviceError]


@pytest.mark.parametrize("kind", ERRORS)
def test_a_long_message_keeps_its_begin_and_its_end(kind):
    message = str(kind(f"ratings.csv: has no column {'x' * 10_000}; expected a user column"))
    assert len(message) <= MAX_MESSAGE_LENGTH
    assert message.startswith("ratings.csv: has no column x")
    assert message.endswith("x; expected a user column")
    assert " ... " in message


@pytest.mark.parametrize("kind", ERRORS)
def test_a_short_message_is_kept_whole(kind):
    message = "x" * MAX_MESSAGE_LENGTH
    error = pickle.loads(pickle.dumps(kind(message)))
    assert type(error) is kind
    assert str(error) == message


@pytest.mark.parametrize("kind", ERRORS)
def test_a_terminal_finds_nothing_to_obey_in_a_message(kind):
    error = kind("\x1b]0;title\x07 \x9b31m \r\n \u202e \u2066 \u2028 \x7f \udc80 \u4e2d \\ [red]")
    expected = r"\x1b]0;title\x07 \x9b31m \r\n \u202e \u2066 \u2028 \x7f \udc80 " + "\u4e2d \\ [red]"
    assert str(error) == expected
    assert str(pickle.loads(pickle.dumps(error))) == expected


def test_printable_text_is_kept():
    text = "Zoë \u4e2d\u3000\u6587 \U0001f468\u200d\U0001f469 \\x1b"  # with an ideographic space and a joined emoji
    assert printable(text) == text
    assert all(printable(printable(chr(code))) == printable(chr(code)) for code in range(0x3000))
    assert all(printable(chr(code)).isprintable() for code in [*range(0x20), *range(0x7F, 0xA0)])


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a\nb"), "a"), (OSError(), "OSError"), (KeyError(), "KeyError"), (ValueError("\n\n"), "ValueError")],
)
def test_the_first_line_of_an_error_is_never_missing(error, line):
    assert first_line(error) == line


def test_a_number_of_things_agrees_with_its_words():
    assert [counted(number, "user") for number in (0, 1, 2, 1000)] == ["0 users", "1 user", "2 users", "1,000 users"]
    assert [counted(number, "row lacks", "rows lack") for number in (1, 21)] == ["1 row lacks", "21 rows lack"]
