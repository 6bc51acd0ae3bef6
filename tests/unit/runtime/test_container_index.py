from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from runtime.config import ContainerConfig, HostConfig
from runtime.containers.container import Container
from runtime.containers.index import Index
from runtime.containers.names import ADJECTIVES, SURNAMES, check_name, free_name
from runtime.containers.record import Life, Record, State
from runtime.containers.records import read_records, write_record
from runtime.errors import Conflict, InvalidParameter, NotFound
from runtime.layout import Layout

if TYPE_CHECKING:
    from runtime.images.layers import Layers


def container(identity: str, name: str, layout: Layout) -> Container:
    record = Record(id=identity, name=name, created=identity, image_id="i", config=ContainerConfig(), host=HostConfig())
    return Container(record, layout, cast("Layers", None))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root", tmp_path / "run")


def test_found_by_id_by_name_and_by_the_beginning_of_an_id(layout: Layout) -> None:
    index = Index()
    one, two = container("ab" * 32, "one", layout), container("ac" * 32, "two", layout)
    index.add(one)
    index.add(two)
    assert index.find("one") is index.find("/one") is index.find("ab") is index.find(one.id) is one
    assert index.all() == [two, one]
    with pytest.raises(InvalidParameter, match="multiple IDs found with provided prefix: a"):
        index.find("a")
    with pytest.raises(NotFound, match=r"^No such container: three$"):
        index.find("three")
    with pytest.raises(NotFound):
        index.find("")


def test_a_name_is_taken_while_a_container_is_made_for_it(layout: Layout) -> None:
    index = Index()
    with index.claimed("web", "ab" * 32), pytest.raises(Conflict, match='"/web" is already in use by container "abab'):
        index.take("/web", "cd" * 32)
    with index.claimed("web", "cd" * 32):
        index.add(container("cd" * 32, "web", layout))
    with pytest.raises(Conflict):
        index.take("web", "ef" * 32)


@pytest.mark.parametrize("name", ["a", "-ab", "a/b", "a b", "../x", "é" * 3, "a\n", "x" * 256])
def test_names_that_are_not_allowed_are_refused_in_dockers_words(name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^Invalid container name \("):
        check_name(name)


def test_a_free_name_is_a_legal_name_that_is_not_taken() -> None:
    plain = {f"{adjective}_{surname}" for adjective in ADJECTIVES for surname in SURNAMES}
    name = free_name(plain.__contains__)
    assert name[-1].isdigit()
    assert check_name(name) == name


def test_records_come_back_as_they_were_and_a_broken_one_is_left_alone(layout: Layout) -> None:
    record = container("ab" * 32, "web", layout).record
    (layout.containers / record.id).mkdir(parents=True)
    write_record(layout.containers / record.id, record)
    broken = layout.containers / ("cd" * 32)
    broken.mkdir()
    (broken / "record.json").write_text("{")
    assert list(read_records(layout.containers)) == [record]
    assert (broken / "record.json").exists()


def test_a_container_never_changes_its_state_but_along_the_table(layout: Layout) -> None:
    web = container("ab" * 32, "web", layout)
    web.live(state=State.RUNNING, pid=7)
    assert web.record.life == Life(state=State.RUNNING, pid=7)
    with pytest.raises(AssertionError):
        web.live(state=State.REMOVING)
