import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.containers.container import Container
from runtime.containers.execs import ExecConfig
from runtime.errors import Conflict, InvalidParameter, NotFound
from runtime_world import RuntimeWorld, runtime_world, unframed


def asked(*command: str, **given: Any) -> ExecConfig:
    """With its output."""
    return ExecConfig(cmd=command, attach_stdout=True, attach_stderr=True, **given)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeWorld]:
    with runtime_world(tmp_path_factory.mktemp("execs")) as world:
        yield world


@pytest.fixture(scope="module")
def web(world: RuntimeWorld) -> Container:
    return world.started("sleep", "1000", name="web", env=("GIVEN=yes",))


def test_input_goes_in_output_comes_out_and_the_code_is_kept(world: RuntimeWorld, web: Container) -> None:
    config = asked("sh", "-c", "cat; echo $GIVEN >&2; exit 7", attach_stdin=True)

    async def story() -> tuple[str, bytes]:
        identity = await world.containers.execs.create(web, config)
        stream = await world.containers.execs.start(identity)
        assert stream is not None
        stream.writer.write(b"given\n")
        stream.writer.write_eof()
        said = await stream.reader.read()
        stream.writer.close()
        return identity, said

    identity, said = world.run(story())
    assert sorted(unframed(said).split()) == [b"given", b"yes"]
    execs = world.containers.execs
    world.until(lambda: execs.inspect(identity).exit_code == 7, "ended with 7")
    assert (execs.inspect(identity).running, execs.of(web)) == (False, [])
    assert [action.partition(":")[0] for action in world.engine.told(web)[-3:]] == ["exec_create", "exec_start", "exec_die"]


def test_a_detached_one_runs_by_itself(world: RuntimeWorld, web: Container) -> None:
    async def story() -> str:
        identity = await world.containers.execs.create(web, ExecConfig(cmd=("sleep", "1000")))
        assert await world.containers.execs.start(identity, detach=True) is None
        return identity

    identity = world.run(story())
    record = world.containers.execs.inspect(identity)
    assert record.running
    assert record.pid > 0
    with pytest.raises(Conflict, match=f"exec command {identity} is already running"):
        world.run(world.containers.execs.start(identity))


def test_a_terminal_is_as_large_as_the_users(world: RuntimeWorld, web: Container) -> None:
    async def story() -> bytes:
        config = asked("stty", "size", tty=True, attach_stdin=True)
        identity = await world.containers.execs.create(web, config)
        stream = await world.containers.execs.start(identity, size=(33, 44))
        assert stream is not None
        said = await stream.reader.read()
        stream.writer.close()
        return said

    assert world.run(story()) == b"33 44\r\n"


def test_who_it_is_and_where_it_works_can_be_said(world: RuntimeWorld, web: Container) -> None:
    code, said = world.exec(web, "sh", "-c", "id -u; pwd; echo $MORE", user="1234", working_dir="/etc", env=("MORE=1",))
    assert (code, said) == (0, b"1234\n/etc\n1\n")


def test_a_program_that_is_not_there_is_refused_in_dockers_words(world: RuntimeWorld, web: Container) -> None:
    async def story() -> str:
        identity = await world.containers.execs.create(web, asked("nothing"))
        with pytest.raises(InvalidParameter, match=r'OCI runtime exec failed: .*"nothing": executable file not found in \$PATH'):
            await world.containers.execs.start(identity)
        return identity

    assert world.containers.execs.inspect(world.run(story())).exit_code == 127


def test_what_takes_too_long_is_killed(world: RuntimeWorld, web: Container) -> None:
    with pytest.raises(TimeoutError):
        world.exec(web, "sleep", "999", timeout_s=0.2)
    world.until(lambda: b"sleep 999" not in world.exec(web, "ps")[1], "killed")


def test_output_without_end_is_bounded(world: RuntimeWorld, web: Container) -> None:
    config = ExecConfig(cmd=("sh", "-c", "head -c 3000000 /dev/zero"))
    result = world.run(world.containers.execs.run(web, config, 10, 4096))
    assert (result.code, len(result.output)) == (0, 4096)


def test_who_hangs_up_kills_what_was_run_for_him(world: RuntimeWorld, web: Container) -> None:
    async def story() -> None:
        config = ExecConfig(cmd=("sleep", "998"))
        running = asyncio.ensure_future(world.containers.execs.run(web, config, None, 100))
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    world.run(story())
    world.until(lambda: b"sleep 998" not in world.exec(web, "ps")[1], "killed")


def test_only_a_running_container_takes_one(world: RuntimeWorld) -> None:
    idle = world.new("true")
    with pytest.raises(Conflict, match=f"^container {idle.id} is not running$"):
        world.run(world.containers.execs.create(idle, ExecConfig(cmd=("true",))))
    with pytest.raises(NotFound, match=r"^No such exec instance: abc$"):
        world.containers.execs.inspect("abc")


def test_all_end_with_the_container(world: RuntimeWorld) -> None:
    web = world.started("sleep", "1000")

    async def story() -> tuple[str, bytes]:
        identity = await world.containers.execs.create(web, asked("sleep", "1000"))
        stream = await world.containers.execs.start(identity)
        assert stream is not None
        await world.containers.kill(web)
        said = await stream.reader.read()
        stream.writer.close()
        return identity, said

    identity, said = world.run(story())
    assert said == b""
    world.until(lambda: world.containers.execs.inspect(identity).exit_code == 137, "killed too")
    world.start(web)
    with pytest.raises(NotFound):
        world.containers.execs.inspect(identity)
