import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

from runtime.config import RestartPolicy
from runtime.containers.record import State
from runtime_world import RuntimeWorld, WorldEngine, runtime_world

ALWAYS = RestartPolicy(name="always")
UNLESS_STOPPED = RestartPolicy(name="unless-stopped")
TICKS = ("sh", "-c", "while :; do echo tick; sleep 0.02; done")


async def several_states(engine: WorldEngine) -> None:
    await engine.started(*TICKS, name="ticks")
    await engine.started("sh", "-c", "sleep 0.5; exit 3", name="ends")
    await engine.started("sh", "-c", "sleep 0.5; exit 4", name="gone", auto_remove=True, volumes={"/data": {}})
    await engine.started("sh", "-c", "test -e /once && sleep 1000; touch /once; sleep 0.5", name="again", restart_policy=ALWAYS)
    await engine.containers.pause(await engine.started("sleep", "1000", name="paused"))
    for name, policy in (("always", ALWAYS), ("stopped", UNLESS_STOPPED)):
        await engine.containers.stop(await engine.started("sleep", "1000", name=name, restart_policy=policy), 0)
    attached = await engine.new("true", name="attached")
    await engine.containers.attach(attached, False, True, True)


def test_containers_survive_the_engines_death_and_their_ends_are_known(tmp_path: Path) -> None:
    with runtime_world(tmp_path) as world:
        world.kill_engine(several_states)
        time.sleep(0.6)
        world.restart_engine()
        find = world.containers.find
        for name in ("ticks", "always", "again"):
            world.until_state(find(name), State.RUNNING)
        states = {container.name: container.state for container in world.containers.all()}
        world.until(lambda: "gone" not in {container.name for container in world.containers.all()}, "gone")
        assert (states["paused"], states["ends"], states["stopped"]) == (State.PAUSED, State.EXITED, State.EXITED)
        assert find("ends").record.life.exit_code == 3
        assert find("attached").state is State.CREATED
        assert world.engine.volumes.list({}, lambda _: []) == []
        _goes_on(world)


def _goes_on(world: RuntimeWorld) -> None:
    """What was taken over is as good as new."""
    ticks = world.containers.find("ticks")
    assert world.exec(ticks, "echo", "in")[1] == b"in\n"
    assert ticks.log_path is not None
    log, size = ticks.log_path, ticks.log_path.stat().st_size
    world.until(lambda: log.stat().st_size > size, "log grows")
    world.run(world.containers.unpause(world.containers.find("paused")))
    world.run(world.containers.stop(ticks, 0))
    assert ticks.record.life.exit_code == 137


async def one(engine: WorldEngine) -> None:
    await engine.started("sleep", "1000", name="web")


def test_one_whose_record_is_gone_is_ended(tmp_path: Path) -> None:
    with runtime_world(tmp_path) as world:
        world.kill_engine(one)
        web = world.containers.find("web")
        world.run(world.engine.close())
        shutil.rmtree(web.directory)
        world._open()
        assert world.containers.all() == []


def test_what_was_never_made_and_what_was_being_deleted_is_swept_away(tmp_path: Path) -> None:
    with runtime_world(tmp_path) as world:
        layout = world.engine.layout
        for half in (layout.containers / ("ab" * 32) / "upper", layout.temporary / f"removed-{'cd' * 32}" / "upper"):
            half.mkdir(parents=True)
        world.restart_engine()
        assert list(layout.containers.iterdir()) == list(layout.temporary.iterdir()) == []


async def starting(engine: WorldEngine) -> None:
    made = [await engine.new("sleep", "1000") for _ in range(6)]
    tasks = [asyncio.ensure_future(engine.containers.start(container)) for container in made]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def test_starts_that_were_cut_short_are_undone_or_done(tmp_path: Path) -> None:
    with runtime_world(tmp_path) as world:
        world.kill_engine(starting)
        states = {container.state for container in world.containers.all()}
        assert State.RUNNING in states
        assert states <= {State.RUNNING, State.CREATED, State.EXITED}
        for container in world.containers.all():
            assert world.host.call(container.bundle.exists) == container.is_running
            if not container.is_running:
                world.start(container)


def test_after_a_reboot_what_ran_has_ended_and_policies_start_it_again(tmp_path: Path) -> None:
    with runtime_world(tmp_path) as world:
        plain, wanted = world.started("sleep", "1000"), world.started("sleep", "1000", restart_policy=ALWAYS)
        guest = world.started("sleep", "1000", restart_policy=ALWAYS, network=f"container:{wanted.id}")
        pids = [container.record.life.pid for container in (plain, wanted, guest)]
        _reboot(world, pids)
        assert world.containers.find(plain.id).record.life.exit_code == 255
        for container in (wanted, guest):
            world.until_state(world.containers.find(container.id), State.RUNNING)


def _reboot(world: RuntimeWorld, pids: list[int]) -> None:
    """All processes end at once, and what is in /run and in control groups is gone."""
    world.run(world.engine.close())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for container in world.containers.all():
        world.until(lambda bundle=container.bundle: world.host.call((bundle / "exit").exists), "exit noted")  # type: ignore[misc]
        world.run(world.engine.containers._launcher._parts.runc.delete(container.id))
        world.host.call(_unmount_and_delete, container.rootfs, container.bundle)
    world._open()


def _unmount_and_delete(rootfs: Path, bundle: Path) -> None:
    from flanneld.linux.netns import unmount

    unmount(rootfs)
    shutil.rmtree(bundle)


def test_a_container_whose_monitor_is_killed_is_ended(tmp_path: Path) -> None:
    with runtime_world(tmp_path) as world:
        web = world.started("sleep", "1000")
        parent = int(Path(f"/proc/{web.record.life.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        world.until_state(web, State.EXITED)
        assert web.record.life.exit_code == 255
        assert not world.host.call(web.bundle.exists)
