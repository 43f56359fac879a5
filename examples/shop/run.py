"""Runs the shop with its mesh and under load, and says what came of it: `run.py [--profile dev] [--for 20s]`.

Start the mesh → wait until all of it is ready → load and live view → stop the load → stop the mesh → verdict.
Exit code: 0; 1 if a failure is unexplained, the mesh ended early or left something behind, or a run with `--for` did
not show what its stage is to show; 75 if it did not become ready, 130 if a run with `--for` was interrupted. Without
`--for`, Ctrl-C is the ordinary end.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import board
import client
import ledger
import load
import mix
import summary
import table
import trio
from client import Response
from mesh import HERE, Mesh, last_lines, leftovers, open_mesh
from pannier.shared.duration import seconds
from screen import Screen
from stages import stage
from story import Story
from watch import Watch, read_urls

RUN = HERE.parents[1] / "build" / "run"
LOG = RUN / "shop.log"
SUMMARY = RUN / "summary.json"
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    profile: str
    seconds: float | None
    rate: float


@dataclass(slots=True)
class Ending:
    """Why the run ends before its time, and what that cuts short: the wait for readiness, the sending."""

    reason: str = ""
    starting: trio.CancelScope = field(default_factory=trio.CancelScope)
    sending: trio.CancelScope = field(default_factory=trio.CancelScope)

    def come(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.starting.cancel()
        self.sending.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    return trio.run(run, parse(arguments), Screen(sys.stdout))


def parse(arguments: Sequence[str] | None) -> Options:
    """The options; ends the process with 2 if they make no sense."""
    parser = argparse.ArgumentParser(description="The shop, its mesh, and a load on both.")
    parser.add_argument("--profile", default="dev", help="the stage to run on (default: dev)")
    parser.add_argument("--for", dest="seconds", type=seconds, metavar="20s", help="end by itself after this long")
    parser.add_argument("--rate", type=float, default=load.RATE, help="requests a second (default: %(default)g)")
    given = parser.parse_args(arguments)
    if given.rate <= 0:
        parser.error("--rate must be above 0")
    return Options(given.profile, given.seconds, given.rate)


async def run(options: Options, screen: Screen) -> int:
    services = tomllib.loads((HERE / "pannier.toml").read_text())["apps"]
    names = tuple(services)
    shutil.rmtree(ledger.FOLDER, ignore_errors=True)
    ledger.FOLDER.mkdir(parents=True)
    SUMMARY.unlink(missing_ok=True)

    ending, notes, story = Ending(), load.Notes(), Story(stage(options.profile))
    watch = Watch(names, heed=story.heed)
    async with trio.open_nursery() as signals:
        await signals.start(_heed_signals, ending)
        screen.say(f"starting {len(names)} services on profile {options.profile}; their output: {LOG}")
        instances = story.stage.instances
        async with open_mesh(options.profile, instances=instances, ledgers=ledger.FOLDER, log=LOG) as mesh:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_heed_early_end, mesh, ending)
                nursery.start_soon(watch.run)
                if not await _ready(watch, mesh, ending, screen):
                    nursery.cancel_scope.cancel()
                    await trio.lowlevel.checkpoint()
                story.begin()
                urls = read_urls(names)
                nursery.start_soon(story.play, urls)
                nursery.start_soon(partial(_show, options, watch, story, notes, screen=screen, urls=urls))
                await _load(options, services, notes, ending)
                await watch.refresh()
                nursery.cancel_scope.cancel()
            screen.say("", "stopping")
        signals.cancel_scope.cancel()

    left = leftovers(names, watch.statuses)
    for name in left:
        screen.say(f"left behind: {name}")
    if not notes.latencies:
        if ending.reason != "interrupted":
            screen.say(*last_lines(LOG, 20))
        return {"interrupted": 130, "not ready": 75}.get(ending.reason, 1)
    evidence = story.evidence(ledger.FOLDER, options.rate)
    missing = story.stage.missing(evidence)
    verdict = ledger.judge(notes.failures, notes.placed, story.explaining(evidence))
    moments = evidence.moments
    document = summary.summarise(options.profile, notes, verdict, watch.statuses, moments=moments, missing=missing)
    summary.write(SUMMARY, document)
    screen.say(*summary.closing_lines(document, verdict, SUMMARY), *summary.shown_lines(story.stage, missing))
    if mesh.ended_early:
        screen.say(f"the mesh ended early (exit code {mesh.process.returncode}); its last lines:", *last_lines(LOG, 20))
    if mesh.ended_early or left or verdict.unexplained:
        return 1
    if missing and options.seconds is not None and not ending.reason:
        return 1
    return 130 if ending.reason and options.seconds is not None else 0


async def _ready(watch: Watch, mesh: Mesh, ending: Ending, screen: Screen) -> bool:
    ending.starting.deadline = trio.current_time() + READY_SECONDS
    with ending.starting:
        await mesh.wait_instances()
        await watch.wait_ready()
        return True
    if not ending.reason:
        ending.reason = "not ready"
        waiting = watch.waiting_for() or ["a further instance"]
        screen.say(f"not ready after {READY_SECONDS:g} s: {', '.join(waiting)}")
    return False


async def _load(options: Options, services: dict[str, dict[str, int]], notes: load.Notes, ending: Ending) -> None:
    if options.seconds is not None:
        ending.sending.deadline = trio.current_time() + options.seconds
    async with AsyncExitStack() as stack:
        pools = {
            name: await stack.enter_async_context(client.open_pool("127.0.0.1", services[name]["port"]))
            for name in mix.SERVICES
        }

        async def exchange(ask: mix.Ask) -> Response:
            return await pools[ask.service].exchange(ask.request)

        await load.drive(exchange, notes, until=ending.sending, rate=options.rate)


async def _show(
    options: Options,
    watch: Watch,
    story: Story,
    notes: load.Notes,
    *,
    screen: Screen,
    urls: Mapping[str, Mapping[str, str]],
) -> None:
    begun = trio.current_time()
    whole = f" of {options.seconds:.0f}" if options.seconds is not None else ""
    while True:
        await trio.sleep(screen.every)
        now = trio.current_time()
        window = min(now - begun, load.WINDOW_SECONDS)
        figures = table.load_figures(notes.window(now), window, len(notes.failures))
        screen.show(
            [
                f"the shop on profile {options.profile}: {now - begun:.0f}{whole} s, "
                f"{len(notes.latencies)} requests, {figures.failed} failed (payments refuses 2%); Ctrl-C ends it",
                "",
                *board.lines(story, watch, time.time()),
                *table.golden_lines(figures, watch.rows),
                "",
                *table.process_lines(watch.statuses),
                "",
                *table.url_lines(urls),
            ]
        )


async def _heed_signals(ending: Ending, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for _ in received:
            ending.come("interrupted")


async def _heed_early_end(mesh: Mesh, ending: Ending) -> None:
    await mesh.wait_early_end()
    ending.come("the mesh ended")


if __name__ == "__main__":
    sys.exit(main())
