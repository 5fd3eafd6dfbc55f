"""`simulate`: thousands of histories with your own timers, in which everything goes wrong, on this machine alone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Scope, common, say

if TYPE_CHECKING:
    from failover.sim.campaign import Tally
    from failover.sim.run import Result
    from failover.sim.setting import Setting

PROFILES = ("fast", "lan", "default", "wan")


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=500, show_default=True, help="How many histories.")
@click.option("--seed", type=click.IntRange(0), help="The first one, or, without --seeds, the only one: its story is told.")
@click.option("--profile", type=click.Choice(PROFILES), help="The clocks, without a file. Default: fast.")
@click.option("--mutants", is_flag=True, help="Break the product on purpose, one rule at a time: each must be caught.")
@common
def simulate(scope: Scope, seeds: int, seed: int | None, profile: str | None, mutants: bool) -> int:
    """Play histories of a simulated cluster: the product's own daemons, with everything around them made to fail.

    With --config (or a file in its usual place) the timers, the replication and the number of members are yours. Nothing real is
    touched: no network, no ZooKeeper, no database. A history that breaks a promise is made small and told as a timeline;
    the same seed always gives the same history. Exit code 10 if a promise was broken.
    """
    context = click.get_current_context()
    alone = seed is not None and context.get_parameter_source("seeds") is click.core.ParameterSource.DEFAULT
    base, varied, words = _setting(scope, profile)
    if mutants:
        return _hunt(scope)
    if alone:
        assert seed is not None
        return _tell_one(scope, base, varied, seed)
    return _campaign(scope, base, varied, range(seed or 1, (seed or 1) + seeds), words)


def _setting(scope: Scope, profile: str | None) -> tuple[Setting, bool, str]:
    """The cluster that is simulated, whether its promises are varied by seed, and what to call it."""
    import os

    from failover.config import DEFAULT_FILE, load
    from failover.sim.setting import of_cluster, of_profile

    if profile is not None and scope.config is not None:
        raise click.UsageError("--profile and --config: one of them says which clocks")
    given = scope.config is not None or "FAILOVER_CONFIG" in os.environ or DEFAULT_FILE.exists()
    if profile is None and given:
        settings = load(scope.config)
        cluster = settings.cluster(scope.cluster)
        return of_cluster(cluster), False, f"{cluster.name} as in {settings.source}"
    name = profile or "fast"
    return of_profile(name), True, f"profile {name}, two or three members, strict, sync and async"


def _campaign(scope: Scope, base: Setting, varied: bool, seeds: range, words: str) -> int:
    from failover.sim.campaign import run, setting_of, smallest
    from failover.sim.run import play

    shows = sys.stderr.isatty() and not scope.json
    if not scope.json:
        click.echo(f"{len(seeds)} histories from seed {seeds.start}: {words}")

    def told(tally: Tally) -> None:
        line = f"{tally.seeds} of {len(seeds)}, {tally.seeds_per_minute:.0f} a minute, {len(tally.found)} broken"
        if shows:
            click.echo(f"\r{line}", nl=False, err=True)

    tally = run(base, seeds, varied, told)
    if shows:
        click.echo("\r\033[K", nl=False, err=True)
    small = []
    for found in () if tally.interrupted else tally.found[:3]:
        setting = setting_of(found.seed, base, varied)
        small.append(smallest(setting, play(setting, found.seed)))
    _show(scope, tally, small, words)
    if tally.interrupted:
        say(f"interrupted after {tally.seeds} of {len(seeds)}")
        return options.INTERRUPTED
    return options.PROBLEMS if tally.found else options.DONE


def _show(scope: Scope, tally: Tally, small: list[Result], words: str) -> None:
    from failover.cli.printing import emit_json, span
    from failover.sim.campaign import story

    if scope.json:
        emit_json({
            "of": words, "seeds": tally.seeds, "seeds_per_minute": round(tally.seeds_per_minute),
            "took_s": round(tally.took_s, 1), "events": tally.events, "virtual_s": round(tally.virtual_s, 1),
            "distinct_states": len(tally.states), "promotions": tally.promotions, "acknowledged_writes": tally.acknowledged,
            "worst_outage_s": round(tally.worst_outage_s, 3), "worst_outage_seed": tally.worst_seed,
            "violations": [
                {"seed": f.seed, "promise": f.promise, "says": f.says, "at_s": round(f.at_s, 3)} for f in tally.found
            ],
            "stories": [story(result) for result in small],
        })  # fmt: skip
        return
    for result in small:
        click.echo("")
        for line in story(result):
            click.echo(line)
    for found in tally.found:
        click.echo(f"BROKEN  seed {found.seed}: {found.promise} at {found.at_s:.3f} s: {found.says}")
    click.echo(
        f"{tally.seeds} histories ({tally.virtual_s / 3600:.1f} virtual hours), {tally.seeds_per_minute:.0f} a minute; "
        f"{tally.promotions} promotions, {tally.acknowledged} acknowledged writes, {len(tally.states)} distinct states"
    )
    click.echo(f"longest write outage: {span(tally.worst_outage_s)} (seed {tally.worst_seed})")
    click.echo(f"broken promises: {len(tally.found)}")
    if tally.found:
        say(f"next: `failoverctl simulate --seed {tally.found[0].seed}` tells that history whole")


def _tell_one(scope: Scope, base: Setting, varied: bool, seed: int) -> int:
    from failover.cli.printing import emit_json
    from failover.sim.campaign import setting_of, story
    from failover.sim.run import play

    result = play(setting_of(seed, base, varied), seed)
    broken = result.violation
    if scope.json:
        emit_json({
            "seed": seed, "digest": result.digest, "events": result.events, "virtual_s": round(result.virtual_s, 3),
            "violation": None if broken is None else {"promise": broken.promise, "says": broken.says, "at_s": broken.at_s},
            "worst_outage_s": round(result.worst_outage_s, 3), "story": story(result),
        })  # fmt: skip
    else:
        for line in story(result):
            click.echo(line)
        click.echo(f"BROKEN: {broken}" if broken is not None else "every promise was kept")
    return options.DONE if broken is None else options.PROBLEMS


def _hunt(scope: Scope) -> int:
    """Every mutant: its recorded history first, then seed by seed until it is caught or its time is over."""
    from time import monotonic

    from failover.cli.printing import emit_json
    from failover.sim.mutants import MUTANTS, hunt, told

    rows: list[dict[str, object]] = []
    for mutant in MUTANTS:
        began_s = monotonic()
        caught = hunt(mutant, HUNT_S)
        took_s = monotonic() - began_s
        broken = caught.violation if caught is not None else None
        rows.append({
            "name": mutant.name, "caught": broken is not None, "promise": broken.promise if broken else None,
            "seed": caught.seed if caught is not None else None, "took_s": round(took_s, 2),
        })  # fmt: skip
        if not scope.json:
            click.echo(told(mutant, caught, took_s))
    missed = [str(row["name"]) for row in rows if not row["caught"]]
    if scope.json:
        emit_json({"mutants": rows, "missed": missed})
    else:
        click.echo(f"{len(rows) - len(missed)} of {len(rows)} caught" + (f"; missed: {', '.join(missed)}" if missed else ""))
    return options.PROBLEMS if missed else options.DONE


HUNT_S = 60.0
