import asyncio
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.config import Healthcheck, Mount, Resources, RestartPolicy, VolumeOptions
from runtime.containers.container import Container
from runtime.containers.record import State
from runtime.containers.waiting import Condition, WaitResult
from runtime.errors import Conflict, EngineError, InvalidParameter, NotFound, NotModified
from runtime_world import RuntimeWorld, runtime_world

MIB = 1 << 20
FOREVER = ("sleep", "1000")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeWorld]:
    with runtime_world(tmp_path_factory.mktemp("engine")) as world:
        yield world


@pytest.fixture
def world(engine: RuntimeWorld) -> Iterator[RuntimeWorld]:
    yield engine
    engine.remove_all()


def test_what_it_says_reaches_who_attached_before_the_start_and_the_log(world: RuntimeWorld) -> None:
    web = world.new("sh", "-c", "echo hi; exit 3", name="web")
    assert world.output(web) == b"hi\n"
    world.until_state(web, State.EXITED)
    assert (web.record.life.exit_code, web.record.life.pid) == (3, 0)
    assert web.log_path is not None
    assert re.fullmatch(r'{"log":"hi\\n","stream":"stdout","time":"20[^"]+Z"}\n', web.log_path.read_text())
    assert world.engine.told(web) == ["create", "start", "die"]


def test_waits_are_met_in_the_order_of_end_and_removal(world: RuntimeWorld) -> None:
    order: list[str] = []

    async def ended(web: Container, condition: Condition) -> None:
        order.append(f"{condition} {(await world.containers.wait(web, condition)).code}")

    async def story() -> None:
        web = await world.engine.new("sh", "-c", "exit 4", auto_remove=True)
        waits = asyncio.gather(*(ended(web, condition) for condition in (Condition.REMOVED, Condition.NEXT_EXIT)))
        await asyncio.sleep(0)
        await world.containers.start(web)
        await waits

    world.run(story())
    assert order == ["next-exit 4", "removed 4"]
    assert world.containers.all() == []


def test_waiting_for_one_that_does_not_run_answers_at_once(world: RuntimeWorld) -> None:
    web = world.new("true")

    async def story() -> WaitResult:
        return await world.containers.wait(web, Condition.NOT_RUNNING)

    assert world.run(story()) == WaitResult(0)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("nothing-of-that-name", 127, 'exec: "nothing-of-that-name": executable file not found in $PATH: unknown'),
        ("/etc", 126, "permission denied"),
    ],
)
def test_a_program_that_cannot_be_run_is_the_requests_fault(world: RuntimeWorld, command: str, code: int, words: str) -> None:
    web = world.new(command)
    with pytest.raises(InvalidParameter) as refused:
        world.start(web)
    assert words in str(refused.value)
    assert (web.state, web.record.life.exit_code, web.record.life.error) == (State.CREATED, code, str(refused.value))
    assert not world.host.call(web.bundle.exists)


def test_a_container_to_be_removed_at_its_end_goes_when_it_cannot_be_started_too(world: RuntimeWorld) -> None:
    web = world.new("nothing-of-that-name", auto_remove=True, volumes={"/kept": {}})
    with pytest.raises(InvalidParameter):
        world.start(web)
    assert world.containers.all() == []
    assert world.engine.volumes.list({}, lambda _: []) == []


def test_stopping_asks_first_and_then_makes_it_end(world: RuntimeWorld) -> None:
    polite = world.started("sh", "-c", "trap 'echo asked; exit 5' TERM; while :; do sleep 0.01; done")
    deaf = world.started(*FOREVER)
    time.sleep(0.2)  # until the shell has set its trap
    world.run(world.containers.stop(polite, 10))
    world.run(world.containers.stop(deaf, 0))
    assert (polite.record.life.exit_code, deaf.record.life.exit_code) == (5, 137)
    assert world.engine.told(deaf)[2:] == ["kill", "kill", "die", "stop"]
    with pytest.raises(NotModified):
        world.run(world.containers.stop(deaf))


def test_it_may_be_killed_while_somebody_waits_for_it_to_stop(world: RuntimeWorld) -> None:
    deaf = world.started(*FOREVER)

    async def story() -> None:
        stopping = asyncio.ensure_future(world.containers.stop(deaf, -1))
        await asyncio.sleep(0.05)
        await world.containers.kill(deaf)
        await stopping

    world.run(story())
    assert deaf.state is State.EXITED


def test_signals_go_to_the_first_process_by_name_or_number(world: RuntimeWorld) -> None:
    web = world.new("sh", "-c", "trap 'exit 9' USR1; echo; while :; do sleep 0.01; done")
    world.start(web)
    assert web.log_path is not None
    log = web.log_path
    world.until(lambda: log.stat().st_size > 0, "trap set")
    world.run(world.containers.kill(web, "SIGUSR1"))
    world.until_state(web, State.EXITED)
    assert web.record.life.exit_code == 9
    with pytest.raises(Conflict, match=f"^cannot kill container: {web.name}: container {web.id} is not running"):
        world.run(world.containers.kill(web, "USR1"))


def test_a_paused_container_does_nothing_until_it_goes_on_or_is_killed(world: RuntimeWorld) -> None:
    web = world.started("sh", "-c", "while :; do echo; sleep 0.01; done")
    assert web.log_path is not None
    world.run(world.containers.pause(web))
    size = web.log_path.stat().st_size
    time.sleep(0.1)
    assert web.log_path.stat().st_size <= size + 64  # what was in the pipe
    world.run(world.containers.unpause(web))
    world.run(world.containers.pause(web))
    world.run(world.containers.kill(web))
    assert (web.state, web.record.life.exit_code) == (State.EXITED, 137)


def test_restart_policies_start_again_until_they_give_up(world: RuntimeWorld) -> None:
    web = world.new("sh", "-c", "echo again; exit 1", restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=2))
    world.start(web)
    world.until(lambda: web.state is State.EXITED, "given up")
    assert (web.record.life.restart_count, world.engine.told(web).count("start")) == (2, 3)


def test_a_stopped_container_is_not_started_again(world: RuntimeWorld) -> None:
    web = world.started("sh", "-c", "exit 1", restart_policy=RestartPolicy(name="always"))
    world.until_state(web, State.RESTARTING)
    world.run(world.containers.stop(web))
    time.sleep(0.3)
    assert web.state is State.EXITED


def test_restart_keeps_the_container_and_what_it_wrote(world: RuntimeWorld) -> None:
    web = world.started("sh", "-c", "echo life >>/lives; sleep 1000", auto_remove=True)
    world.until(lambda: (web.upper / "lives").exists(), "written")
    world.run(world.containers.restart(web, 0))
    world.until(lambda: (web.upper / "lives").read_text() == "life\n" * 2, "written twice")
    assert web.state is State.RUNNING


def test_removing_wants_it_stopped_or_force(world: RuntimeWorld) -> None:
    web = world.started(*FOREVER, name="web")
    with pytest.raises(Conflict, match=r'^cannot remove container "/web": container is running'):
        world.run(world.containers.remove(web))
    world.run(world.containers.remove(web, force=True))
    with pytest.raises(NotFound, match=r"^No such container: web$"):
        world.containers.find("web")
    assert not web.directory.exists()


def test_pruning_takes_what_does_not_run_and_is_chosen(world: RuntimeWorld) -> None:
    idle, kept, running = world.new("true"), world.new("true", labels={"keep": "yes"}), world.started(*FOREVER)
    writer = world.new("sh", "-c", "echo 12345 >/written")
    world.output(writer)
    world.until_state(writer, State.EXITED)
    pruned = world.run(world.containers.prune({"label!": ["keep"]}))
    assert (set(pruned.ids), pruned.bytes) == ({idle.id, writer.id}, 6)
    assert set(world.containers.all()) == {kept, running}


def test_a_name_is_one_containers(world: RuntimeWorld) -> None:
    web, other = world.new("true", name="web"), world.new("true")
    with pytest.raises(Conflict, match=f'The container name "/web" is already in use by container "{web.id}"'):
        world.new("true", name="web")
    with pytest.raises(Conflict):
        world.run(world.containers.rename(other, "web"))
    world.run(world.containers.rename(web, "old"))
    world.run(world.containers.rename(other, "web"))
    assert (world.containers.find("web"), world.containers.find("old")) == (other, web)


def test_limits_change_while_it_runs(world: RuntimeWorld) -> None:
    web = world.started(*FOREVER, memory=64 * MIB)
    asked = Resources(memory=32 * MIB, memory_swap=64 * MIB)
    world.run(world.containers.update(web, asked, RestartPolicy(name="unless-stopped")))
    assert web.record.host.memory == 32 * MIB
    files = [
        Path("/sys/fs/cgroup", *tail)
        for tail in (("memory", "tartan", web.id, "memory.limit_in_bytes"), ("tartan", web.id, "memory.max"))
    ]
    assert int(next(file for file in files if file.exists()).read_text()) == 32 * MIB


def test_one_that_wants_too_much_memory_is_killed_and_says_so(world: RuntimeWorld) -> None:
    web = world.new("sh", "-c", "head -c 100000000 /dev/zero | tail", memory=16 * MIB, memory_swap=16 * MIB)
    world.start(web)
    world.until_state(web, State.EXITED)
    assert web.record.life.oom_killed
    assert "oom" in world.engine.told(web)


def test_volumes_take_over_what_the_image_has_and_outlive_their_container(world: RuntimeWorld) -> None:
    web = world.new("sh", "-c", "ls /etc/passwd >/dev/null && echo mine >/etc/mine", binds=("store:/etc",))
    world.start(web)
    world.until_state(web, State.EXITED)
    world.run(world.containers.remove(web, volumes=True))
    kept = world.engine.volumes.path("store")
    assert {"passwd", "mine"} <= set(os.listdir(kept))
    reader = world.new("cat", "/data/mine", mounts=(Mount(type="volume", source="store", target="/data", read_only=True),))
    assert world.output(reader) == b"mine\n"
    world.remove_all()
    world.run(world.engine.volumes.remove("store", False, world.containers.of_volume))


def test_anonymous_volumes_go_with_their_container_unless_another_took_them(world: RuntimeWorld) -> None:
    web = world.new("sh", "-c", "echo mine >/data/x", volumes={"/data": {}}, name="web")
    (volume,) = web.record.owned_volumes
    world.start(web)
    heir = world.new("cat", "/data/x", volumes_from=("web:ro",))
    world.until_state(web, State.EXITED)
    world.run(world.containers.remove(web, volumes=True))
    assert world.output(heir) == b"mine\n"
    assert world.containers.of_volume(volume) == [heir.id]
    world.remove_all()
    world.run(world.engine.volumes.remove(volume, False, world.containers.of_volume))


def test_a_bound_path_is_made_for_v_and_missed_for_mount(world: RuntimeWorld, tmp_path: Path) -> None:
    web = world.new("sh", "-c", "echo x >/in/file", binds=(f"{tmp_path}/new:/in",))
    assert world.output(web) == b""
    assert (tmp_path / "new/file").read_text() == "x\n"
    with pytest.raises(InvalidParameter, match=f"bind source path does not exist: {tmp_path}/gone$"):
        world.new("true", mounts=(Mount(type="bind", source=f"{tmp_path}/gone", target="/in"),))
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /in"):
        world.new("true", binds=(f"{tmp_path}:/in", "store:/in/"))


def test_an_image_is_mounted_read_only(world: RuntimeWorld) -> None:
    mounts = (Mount(type="image", source="busybox", target="/image"),)
    web = world.new("sh", "-c", "ls /image/bin/sh; touch /image/x 2>&1", mounts=mounts)
    assert world.output(web) == b"/image/bin/sh\ntouch: /image/x: Read-only file system\n"
    assert [use.container_id for use in world.containers.of_image(web.record.image_id)] == [web.id]


def test_a_part_of_a_volume_is_mounted_and_never_what_a_link_in_it_names(world: RuntimeWorld) -> None:
    writer = world.new("sh", "-c", "mkdir /v/sub; echo in >/v/sub/file; ln -s /etc /v/out", binds=("parts:/v",))
    world.output(writer)

    def part(subpath: str) -> Container:
        mount = Mount(type="volume", source="parts", target="/p", volume_options=VolumeOptions(subpath=subpath))
        return world.new("cat", "/p/file", mounts=(mount,))

    world.until_state(writer, State.EXITED)
    assert world.output(part("sub")) == b"in\n"
    with pytest.raises(InvalidParameter, match=r"cannot access path .*/out: no such file or directory"):
        world.start(part("out"))
    world.remove_all()
    world.run(world.engine.volumes.remove("parts", False, world.containers.of_volume))


def test_a_half_made_container_leaves_nothing(world: RuntimeWorld) -> None:
    options = VolumeOptions(subpath="", labels={"a": "b"})
    broken = Mount(type="volume", source="no/such/name", target="/data", volume_options=options)
    with pytest.raises(InvalidParameter):
        world.new("true", name="web", volumes={"/anonymous": {}}, mounts=(broken,))
    with pytest.raises(InvalidParameter, match="network nowhere not found"):
        world.run(world.engine.new("true", name="web", network="nowhere"))
    assert world.containers.all() == []
    assert world.engine.volumes.list({}, lambda _: []) == []
    world.new("true", name="web")


def test_the_working_directory_is_made_inside(world: RuntimeWorld) -> None:
    web = world.new("pwd", working_dir="/made/for/it")
    assert world.output(web) == b"/made/for/it\n"
    inside = world.new("sh", "-c", "ln -s /tmp/real /link; mkdir /tmp/real")
    world.output(inside)


def test_a_terminal_has_a_size_and_echoes(world: RuntimeWorld) -> None:
    web = world.new("sh", "-c", "read line; stty size", tty=True, open_stdin=True)

    async def story() -> bytes:
        stream = await world.containers.attach(web, True, True, True)
        await world.containers.start(web)
        await world.containers.resize(web, 30, 90)
        stream.writer.write(b"go\n")
        said = await stream.reader.read()
        stream.writer.close()
        return said

    assert world.run(story()) == b"go\r\n30 90\r\n"


def test_containers_share_memory_when_one_lets_others(world: RuntimeWorld) -> None:
    donor = world.started("sh", "-c", "echo shared >/dev/shm/x; sleep 1000", ipc_mode="shareable", name="donor")
    world.until(lambda: world.host.call((donor.bundle / "shm/x").exists), "written")
    assert world.output(world.new("sh", "-c", "cat /dev/shm/x", ipc_mode="container:donor")) == b"shared\n"
    world.started(*FOREVER, name="private")
    with pytest.raises(Conflict, match="non-shareable IPC"):
        world.start(world.new("true", ipc_mode="container:private"))


def test_processes_of_another_container_are_seen_in_its_namespace(world: RuntimeWorld) -> None:
    other = world.new(*FOREVER, name="other")
    guest = world.new("ps", pid_mode="container:other")
    with pytest.raises(Conflict, match=f"container {other.id} is not running"):
        world.start(guest)
    world.start(other)
    assert b"sleep 1000" in world.output(guest)


def test_health_follows_the_probes(world: RuntimeWorld) -> None:
    check = Healthcheck(test=("CMD-SHELL", "echo looked; test -e /well"), interval=50_000_000, retries=2)
    web = world.started(*FOREVER, healthcheck=check)
    assert web.record.life.health is not None
    world.until(lambda: "health_status: unhealthy" in world.engine.told(web), "unhealthy")
    world.exec(web, "touch", "/well")
    world.until(lambda: "health_status: healthy" in world.engine.told(web), "healthy")
    health = web.record.life.health
    assert (health.status, health.failing_streak, health.log[-1].output) == ("healthy", 0, "looked\n")


def test_a_client_that_hangs_up_leaves_no_container_in_between(world: RuntimeWorld) -> None:
    async def story() -> list[State]:
        made = [await world.engine.new(*FOREVER) for _ in range(3)]
        for delay_s, container in zip((0.0, 0.005, 0.03), made, strict=True):
            starting = asyncio.ensure_future(world.containers.start(container))
            await asyncio.sleep(delay_s)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        async with made[0].lock, made[1].lock, made[2].lock:
            return [container.state for container in made]

    assert world.run(story()) == [State.RUNNING] * 3


def test_verbs_from_all_sides_end_in_a_legal_state(world: RuntimeWorld) -> None:
    web = world.started(*FOREVER)

    async def story() -> None:
        verbs = (world.containers.start, world.containers.kill, world.containers.pause, world.containers.unpause)
        calls = [verb(web) for _ in range(4) for verb in verbs]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(result is None or isinstance(result, EngineError) for result in results), results

    world.run(story())
    assert web.state in (State.RUNNING, State.PAUSED, State.EXITED)
    assert web.is_running == (web.record.life.pid > 0)
