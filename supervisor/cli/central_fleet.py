"""`pannier central fleet`: a day of many hosts on a virtual clock, to find out how large a Central must be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import click
from pannier.shared.errors import UsageError
from pannier.supervisor.cli.central_simulate import numbers
from pannier.supervisor.cli.output import output_option, print_json, print_table

if TYPE_CHECKING:
    from pannier.supervisor.central_fleet import Assumed, Outcome

_HEADINGS: Final = (
    "CORES",
    "USED",
    "SENT/CAN",
    "RELIEVED %",
    "STARVING H",
    "SAVED P50",
    "P99",
    "MOST",
    "EACH ALONE",
    "FAILED %",
    "BROKEN MIN",
    "RELIEF P50 S",
    "P99 S",
    "TURNS",
)


@click.command("fleet")
@click.option("--hosts", type=click.IntRange(1, 20_000), default=1_000, help="How many (default: 1000).")
@click.option("--peaks", type=click.Choice(["correlated", "spread"]), default="correlated", help="Everybody's at once?")
@click.option(
    "--central-cores", "cores", type=float, multiple=True, metavar="N", help="Of a Central; repeat to compare."
)
@click.option("--centrals", type=click.IntRange(1, 64), default=1, help="How many Centrals (default: 1).")
@click.option("--tokens/--no-tokens", default=True, help="Whether Centrals grant what hosts may send.")
@click.option("--from", "begins", type=click.FloatRange(0, 24), default=0.0, metavar="HOUR", help="Of the day (0).")
@click.option("--hours", type=click.FloatRange(0.001, 168), default=24.0, help="How long (default: 24).")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, help="For load and noise (default: 1).")
@click.option("--assume", "assumed", multiple=True, metavar="NAME=VALUE", help="As host.app_us=1000; see below.")
@click.option("-p", "--profile", help="Whose controller (default: that of a bare [central]).")
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="As central.enter.host_pressure=60.")
@output_option
def command(
    *,
    hosts: int,
    peaks: str,
    cores: tuple[float, ...],
    centrals: int,
    tokens: bool,
    begins: float,
    hours: float,
    seed: int,
    assumed: tuple[str, ...],
    profile: str | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Simulate a day of many hosts and a Central, with the real controller and real tokens: how many Central cores
    relieve how much, and what that saves. docs/central-mesh.md has the model and its numbers for --assume:
    load.{night, width_h, utilisation, spread, bursts, burst_adds, burst_s}, host.{cores, app_us, mesh_us, redirect,
    relay, relayed, late_ms, shed_ms}, central.{request_us, granted, ahead, warm, standby,
    deadline_ms, queue_ms, retried, slow_ms}.
    """
    import msgspec
    from pannier.supervisor.central_fleet import simulate

    found = numbers(profile, assignments)
    controller = None if found is None else msgspec.msgpack.decode(found)
    given: dict[str, Assumed] = {"hosts": hosts, "hours": hours, "from_h": begins, "seed": seed}
    given |= {"load.peaks": peaks, "central.count": centrals, "central.tokens": tokens}
    given |= _assumed(assumed)
    outcomes: list[tuple[float, Outcome]] = []
    for each in cores or (100.0,):
        try:
            outcomes.append((each, simulate(given | {"central.cores": each}, controller)))
        except ValueError as error:
            raise UsageError(str(error), hint="pannier central fleet --help") from error
    if output == "json":
        print_json([_plain(given, each, outcome) for each, outcome in outcomes])
        return
    print_table(_HEADINGS, [_row(each * centrals, outcome) for each, outcome in outcomes])
    alone = outcomes[0][1].alone
    missed = 100 * (alone.late + alone.shed) / max(alone.served + alone.late + alone.shed, 1)
    click.echo(
        f"\n{hosts} hosts, {hours:g} h; with everything at home they starve for {alone.starving_s / 3_600:.1f} "
        f"host-hours, and {missed:.2f} % of requests are late or shed"
    )


def _assumed(words: Iterable[str]) -> dict[str, Assumed]:
    found: dict[str, Assumed] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            found[name.strip()] = float(text) if "." in text or "e" in text else int(text)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"{word!r} assumes no number", hint="write it as host.app_us=1000")
    return found


def _plain(given: dict[str, Assumed], cores: float, outcome: Outcome) -> dict[str, Any]:
    import msgspec

    return {"assumed": given | {"central.cores": cores}, **msgspec.to_builtins(outcome)}


def _row(cores: float, outcome: Outcome) -> tuple[float | str, ...]:
    central, saved, relief = outcome.central, outcome.saved, outcome.first_relief
    return (
        round(cores, 2),
        round(central.cores.most, 1),
        round(central.most_offered / central.can, 2),
        round(100 * outcome.relieved, 1),
        round(outcome.here.starving_s / 3_600, 1),
        round(saved.p50, 2),
        round(saved.p99, 1),
        round(saved.most, 1),
        round(outcome.saved_each, 1),
        round(100 * central.failed / max(central.offered, 1), 2),
        round(central.broken_s / 60, 1),
        relief.p50,
        relief.p99,
        outcome.reversals,
    )
