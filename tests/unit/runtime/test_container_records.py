from pathlib import Path

import pytest

from runtime.config import ContainerConfig, HostConfig
from runtime.containers.record import Record
from runtime.containers.records import has_record, read_records, write_record

ID = "ab" * 32


def record(name: str = "web") -> Record:
    return Record(id=ID, name=name, created="", image_id="", config=ContainerConfig(), host=HostConfig())


@pytest.mark.parametrize("durable", [True, False])
def test_a_record_comes_back_as_it_was_last_written(tmp_path: Path, *, durable: bool) -> None:
    (tmp_path / ID).mkdir()
    for name in ("web", "db"):
        write_record(tmp_path / ID, record(name), durable=durable)
    assert [found.name for found in read_records(tmp_path)] == ["db"]
    assert [path.name for path in (tmp_path / ID).iterdir()] == ["record.json"]


def test_what_power_loss_made_empty_was_never_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ID).mkdir()
    assert not has_record(tmp_path / ID)
    (tmp_path / ID / "record.json").touch()
    assert not has_record(tmp_path / ID)
    assert list(read_records(tmp_path)) == []
    assert not caplog.records


def test_one_that_cannot_be_read_stays_for_somebody_to_look_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ID).mkdir()
    (tmp_path / ID / "record.json").write_text("{")
    assert has_record(tmp_path / ID)
    assert list(read_records(tmp_path)) == []
    assert "unreadable" in caplog.text
