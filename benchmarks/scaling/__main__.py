"""Prints what the scaling policy costs, and who waits. ``python -m benchmarks.scaling``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from benchmarks.scaling import oracle, traces
from benchmarks.scaling.simulator import Outcome, Simulation, World
from benchmarks.scaling.traces import Trace
from polyrank.scaler.policy import Scaling

HEAD = """\
# The scaling policy over traces of requests

By `make bench-scaling`: `polyrank.scaler.policy.decide` in a simulated world with a simulated
clock, so it is the same on every machine. A replica is ready {startup:g} s after its start. *Cost*
is in replica-seconds, start-ups included, as a multiple of the oracle's, which knows every request
in advance and with the fewest replica-seconds lets none wait; whoever lets requests wait may be
cheaper than it. *Waits* are until a replica works on the request.

Requests come at random times, and take an exponentially distributed time of the mean that is
named. docs/scaling.md says what the options mean; those that are not named have their
defaults, so a replica is kept for 60 s."""


def cases() -> Iterator[tuple[str, Trace, Scaling, World]]:
    """What is shown, in order: a title, and a row for each way to scale."""
    world = World()
    trace = traces.steady(rate=1, length_s=7200, service_s=5)
    title = "Steady: one request a second for two hours, 5 s of work each"
    for scaling in (
        Scaling(),
        Scaling(scaling_delay=5),
        Scaling(keep_alive=300),
        Scaling(min_concurrency=8),
        Scaling(concurrency_buffer=2),
        Scaling(max_concurrency=6),
        Scaling(max_multiplexing=4),
    ):
        yield title, trace, scaling, world
    trace = traces.bursts(size=50, every_s=600, times=12, service_s=5)
    title = "Bursts: 50 requests within a second, every ten minutes, 5 s of work each"
    for scaling in (
        Scaling(),
        Scaling(keep_alive=20),
        Scaling(max_concurrency=8),
        Scaling(max_concurrency=8, min_concurrency=1),
        Scaling(concurrency_buffer=5),
    ):
        yield title, trace, scaling, world
    trace = traces.rare(every_s=300, count=300, service_s=5)
    title = "Rare: one request in five minutes, 5 s of work each"
    for scaling in (Scaling(), Scaling(keep_alive=10), Scaling(keep_alive=600)):
        yield title, trace, scaling, world
    yield title, trace, Scaling(min_concurrency=1), world
    trace = traces.daily(count=100_000, service_s=2)
    title = "A day of 100,000 requests, 2 s of work each; by night a tenth of noon's"
    for scaling in (
        Scaling(),
        Scaling(scaling_delay=2),
        Scaling(concurrency_buffer_perc=20),
        Scaling(max_multiplexing=4),
    ):
        yield title, trace, scaling, world
    title += "; one start in ten fails, and a replica crashes once an hour"
    yield title, trace, Scaling(), World(failing_starts=0.1, life_s=3600)
    trace = traces.daily(count=1_000_000, service_s=1)
    title = "A day of 1,000,000 requests, 1 s of work each"
    yield title, trace, Scaling(), world
    yield title, trace, Scaling(scaling_delay=1), world


def row(trace: Trace, scaling: Scaling, world: World, outcome: Outcome) -> list[str]:
    """The cells of one way to scale."""
    least = oracle.cost(trace, world.startup_s, scaling.max_multiplexing)
    return [
        said(scaling),
        f"{outcome.cost / least:.2f}",
        f"{outcome.starts}",
        f"{outcome.most}",
        f"{outcome.waits.mean():.2f} s",
        *(f"{outcome.wait(share):.1f} s" for share in (0.5, 0.95, 0.99, 1.0)),
    ]


def said(scaling: Scaling) -> str:
    """The options that are not the defaults."""
    given = {each.name: getattr(scaling, each.name) for each in fields(scaling)}
    return (
        ", ".join(
            f"`{name}={value:g}`"
            for name, value in given.items()
            if value != getattr(Scaling, name)
        )
        or "defaults"
    )


def main() -> None:
    """Prints the tables."""
    columns = ["options", "cost / oracle", "starts", "most at once"]
    columns += ["mean wait", "median", "p95", "p99", "longest"]
    print(HEAD.format(startup=World().startup_s))
    shown = None
    for title, trace, scaling, world in cases():
        if title != shown:
            shown = title
            print(f"\n## {title}\n")
            print(f"| {' | '.join(columns)} |")
            print(f"|---|{'---:|' * (len(columns) - 1)}")
        outcome = Simulation(trace, scaling, world).run()
        print(f"| {' | '.join(row(trace, scaling, world, outcome))} |", flush=True)


if __name__ == "__main__":
    main()
