"""Messages of exceptions: what they keep when they are long."""

import pickle

import pytest

from fastncf.errors import MAX_MESSAGE_LENGTH, ConfigError, DataError, DataNotFoundError, DeviceError, FastNCFError

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
