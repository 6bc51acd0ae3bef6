import pytest

from runtime.config import LogConfig
from runtime.containers.log_options import Rotation, rotation
from runtime.errors import InvalidParameter

DEFAULT = Rotation(1000, 5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, DEFAULT),
        ({"max-size": "10m"}, Rotation(10 << 20, 5)),
        ({"max-size": "1g", "max-file": "2"}, Rotation(1 << 30, 2)),
        ({"max-size": "-1"}, Rotation(0, 5)),
        ({"max-file": "1"}, Rotation(1000, 1)),
    ],
)
def test_what_is_not_said_is_the_engines(options: dict[str, str], expected: Rotation) -> None:
    assert rotation(LogConfig(type="json-file", config=options), DEFAULT) == expected


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (LogConfig(type="papyrus"), 'error looking up logging plugin papyrus: plugin "papyrus" not found'),
        (LogConfig(config={"max-age": "3"}), "unknown log opt 'max-age' for json-file log driver"),
        (LogConfig(config={"max-size": "many"}), "invalid size: 'many'"),
        (LogConfig(config={"max-size": "0"}), "invalid size: '0'"),
        (LogConfig(config={"max-file": "0"}), "max-file cannot be less than 1"),
    ],
)
def test_nonsense_is_refused_in_dockers_words(config: LogConfig, why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        rotation(config, DEFAULT)
