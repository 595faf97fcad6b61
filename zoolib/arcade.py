"""Tables and figures of Atari transfer: scores, reward against steps, the weights over an episode. No torch."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from zoolib import games
from zoolib.palette import member_colours, method_colour, styled
from zoolib.paths import packaged_weights
from zoolib.results import RECOMPUTED, Result, machine_of
from zoolib.spec import ControlSettings, RunSpec, ZoolibError, reason
from zoolib.tables import NOT_RUN, plus_minus

_DASHES: dict[str, object] = {"": "-", "seaquest": (0, (4, 1.5)), "riverraid": (0, (1, 1.2))}


def opening(specs: Sequence[RunSpec]) -> str:
    """What the short runs of a page are, in one sentence."""
    spec = specs[0]
    names = ", ".join(dict.fromkeys(games.title(s.method) for s in specs))
    return (
        f"**{games.GAMES[spec.dataset].title}** (`{spec.dataset}`); sources: "
        f"{', '.join(games.GAMES[name].title for name in games.SOURCES)}; short runs: profile `{spec.profile}`, "
        f"{spec.settings.steps:,} steps, methods {names}. The committed runs below are those of the profile `lab`: "
        f"{games.PROFILES['lab'][1].steps:,} steps."
    )


def scores(frame: pd.DataFrame, specs: Iterable[RunSpec]) -> pd.DataFrame:
    """One row a planned method: final score, mean ± standard deviation (n - 1), beside the two yardsticks.

    A seed's score is the mean of its final policy's evaluation games. The deviation is over seeds; where there is one
    seed, over that run's games; the column "± over" says which. Methods without a record say "not run"; the published
    random and human scores end the table. Raises ZoolibError when the specifications mix games or profiles.
    """
    specs = list(specs)
    (name,) = _one(specs, "dataset")
    _one(specs, "profile")
    game = games.GAMES[name]
    frame = frame[(frame["dataset"] == name) & (frame["split"] == "test")]
    rows = {}
    for method, member in dict.fromkeys((spec.method, spec.member) for spec in specs):
        planned = sum((spec.method, spec.member) == (method, member) for spec in specs)
        chosen = frame[(frame["method"] == method) & (frame["member"] == member)]
        episodes = chosen[chosen["metric"] == "episodes"]["value"].sum()
        rows[games.title(method, member)] = _row(game, _measured(chosen), planned, int(episodes), _stamps(chosen))
    rows["Random, published"] = _row(game, (game.random, np.nan, "", 1), 0, 0, "quoted")
    rows["Human, published"] = _row(game, (game.human, np.nan, "", 1), 0, 0, "quoted")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _stamps(frame: pd.DataFrame) -> str:
    """Where the numbers of records come from: `recomputed here`, `committed` with the commits, or both."""
    found = dict.fromkeys(frame[["origin", "commit"]].itertuples(index=False, name=None))
    commits: dict[str, list[str]] = {}
    for origin, commit in found:
        commits.setdefault(origin, []).append(str(commit)[:7])
    return ", ".join(name if name == RECOMPUTED else f"{name} {', '.join(each)}" for name, each in commits.items())


def _one(specs: Sequence[RunSpec], name: str) -> set[str]:
    found = {str(getattr(spec, name)) for spec in specs}
    if len(found) != 1:
        raise ZoolibError(f"a table of scores shows one {name}, not {', '.join(sorted(found)) or 'none'}")
    return found


Measured = tuple[float, float, str, int]  # mean, standard deviation, what that is over, seeds


def _measured(frame: pd.DataFrame) -> Measured:
    """The score of one method's records on one game; the spread is over seeds, or over the games of a single run."""
    values, games_of_one = (frame[frame["metric"] == name]["value"] for name in ("score", "score_std"))
    if len(values) > 1:
        return float(values.mean()), float(values.std()), "seeds", len(values)
    spread = float(games_of_one.mean()) if len(values) else np.nan
    return float(values.mean()), spread, "" if np.isnan(spread) else "games of one seed", len(values)


def _row(game: games.Game, measured: Measured, planned: int, episodes: int, stamp: str) -> dict[str, str]:
    mean, std, over, seeds = measured
    if not seeds:
        return {"score": NOT_RUN, "± over": "", "human-normalised (%)": "", "seeds": "", "computed": ""}
    played = f"{episodes} game" + ("s" if episodes != 1 else "")
    return {
        "score": plus_minus(mean, std),
        "± over": "" if not episodes else f"seeds, {played}" if over == "seeds" else played,
        "human-normalised (%)": f"{100 * game.human_normalised(mean):.1f}",
        "seeds": "" if not planned else str(seeds) if seeds >= planned else f"{seeds} of {planned}",
        "computed": stamp,
    }


def random_difference(frame: pd.DataFrame, game: str, method: str = "scratch") -> str:
    """A method beside random play on a game, both measured, in one sentence; says so where one is missing.

    Each number has its standard deviation and says what that is over, as in `scores`.
    """
    frame = frame[(frame["dataset"] == game) & (frame["split"] == "test")]
    ours, random = (_measured(frame[frame["method"] == name]) for name in (method, "random"))
    name = games.GAMES[game].title
    if not (ours[-1] and random[-1]):
        return f"{name}: {games.title(method)} or {games.title('random')} has not been run."
    return f"{name}: {games.title(method)} scores {_words(ours)}, random play {_words(random)}."


def _words(measured: Measured) -> str:
    mean, std, over, seeds = measured
    over = f"{seeds} seeds" if over == "seeds" else over
    return plus_minus(mean, std).replace(" ± ", "\u00a0±\u00a0") + (f" (over {over})" if over else "")


def source_table() -> pd.DataFrame:
    """The shipped source policies: score, random score, commit; empty where none is packaged.

    Raises ZoolibError where their notes are damaged.
    """
    path = packaged_weights("atari/provenance.json")
    try:
        notes = json.loads(path.read_text()) if path.is_file() else []
        rows = {
            games.GAMES[note["game"]].title: {
                "score": f"{note['score']:,.1f}",
                "random": f"{note['random_score']:,.1f}",
                "steps": f"{note['spec']['settings']['steps']:,}",
                "commit": str(note["commit"])[:7],
                "machine": machine_of(note),
            }
            for note in notes
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ZoolibError(f"{path}: damaged ({reason(error)}); restore it with git checkout") from None
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """What each method costs in each game and on each machine, as text: the mean of the metrics over `runs` records.

    Seconds of different machines are never averaged, nor those of games, whose networks and emulators differ: a method
    that ran on several has a row for each. Random play, which is not trained, has none.
    """
    shown = {"seconds": ("training (s)", 0), "steps_per_second": ("steps/s", 1), "params_m": ("params (M)", 2),
             "gmacs": ("GMACs", 4), "peak_memory_mb": ("memory (MB)", 0)}  # fmt: skip
    frame = frame[frame["split"] == "cost"]
    titles, rows = [], []
    for game, method in product(games.GAMES, games.METHODS):
        for machine, mine in frame[(frame["dataset"] == game) & (frame["method"] == method)].groupby("machine"):
            means = mine.groupby("metric")["value"].mean()
            if not means.index.isin(list(shown)).any():
                continue
            cells = {
                head: f"{means[name]:,.{digits}f}" if name in means else "—" for name, (head, digits) in shown.items()
            }
            titles.append(f"{games.GAMES[game].title} · {games.title(method)}")
            rows.append({**cells, "runs": str(mine["run_id"].nunique()), "machine": str(machine)})
    return pd.DataFrame(rows, index=pd.Index(titles, name="game · method", dtype=object))


def differences(specs: Iterable[RunSpec]) -> pd.DataFrame:
    """Settings of the runs that are not those of the `paper` profile: setting, here, paper."""
    paper, found = games.PROFILES["paper"][1], {}
    for spec in specs:
        for field in fields(ControlSettings):
            here, there = getattr(spec.settings, field.name), getattr(paper, field.name)
            if here != there and field.name not in ("eval_every", "compile"):
                found[field.name] = {"here": str(here), "paper": str(there)}
    return pd.DataFrame.from_dict(found, orient="index", columns=["here", "paper"]).rename_axis("setting")


@styled
def rewards(curves: pd.DataFrame, names: Sequence[str], random: pd.DataFrame | None = None) -> Figure:
    """Evaluation score against agent steps, a panel a game, a line a method: the mean over seeds, their span as a band.

    `random`, a frame of records, adds the measured score of random play. Raises ZoolibError without any evaluation.
    """
    points = curves[(curves["split"] == "eval") & (curves["term"] == "score") & (curves["method"] != "random")]
    if points.empty:
        raise ZoolibError("nothing to draw: no run has been evaluated; compute the runs first")
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    every = figure.subplots(1, len(names), squeeze=False, sharex=True)[0]  # also of a game that was not run
    for axes, name in zip(every, names, strict=True):
        axes.set_title(games.GAMES[name].title)
        axes.set_xlabel("Agent steps (thousands)")
        mine = points[points["dataset"] == name]
        for method, member in _drawn(mine):
            chosen = mine[(mine["method"] == method) & (mine["member"] == member)]
            seeds = chosen.groupby(["iteration", "seed"])["value"].mean().groupby("iteration")
            steps = seeds.mean().index.to_numpy() / 1000
            colour = method_colour(method)
            axes.plot(steps, seeds.mean(), color=colour, ls=_DASHES[member], label=games.title(method, member))
            if chosen["seed"].nunique() > 1:
                axes.fill_between(steps, seeds.min(), seeds.max(), color=colour, alpha=0.15, lw=0)
        if mine.empty:
            axes.annotate(NOT_RUN, (0.5, 0.5), xycoords="axes fraction", ha="center")
        level = None if random is None else _random(random, name)
        if level is not None:
            axes.axhline(level, color="0.35", lw=1, ls=(0, (3, 2)), label="Random play")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="0.9")
    every[0].set_ylabel("Score")
    handles = {label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    return figure


def _drawn(points: pd.DataFrame) -> list[tuple[str, str]]:
    found = set(points[["method", "member"]].itertuples(index=False, name=None))
    order = [(name, member) for name in games.METHODS for member in ("", *games.SOURCES)]
    return [pair for pair in order if pair in found]


def _random(frame: pd.DataFrame, name: str) -> float | None:
    chosen = frame[(frame["dataset"] == name) & (frame["method"] == "random") & (frame["metric"] == "score")]
    return float(chosen["value"].mean()) if len(chosen) else None


@styled
def episode(samples: pd.DataFrame, pictures: int = 8) -> Figure:
    """One game of a final policy: screens on top, below them what the encoder weighed at every step.

    `samples` is a record's: step, reward, frame (PNG or None), and `weight:` or `gate:` columns.
    """
    names = [name for name in samples.columns if name.startswith(("weight:", "gate:"))]
    groups = dict.fromkeys(name.rsplit(":", 1)[0] for name in names)
    shown = samples[[isinstance(frame, bytes) for frame in samples["frame"]]]
    shown = shown.iloc[np.linspace(0, len(shown) - 1, min(pictures, len(shown))).round().astype(int)]
    figure = Figure(figsize=(7.0, 1.3 + 1.2 * max(len(groups), 1)), layout="constrained")
    rows = figure.add_gridspec(1 + max(len(groups), 1), 1, height_ratios=[1.2, *[1] * max(len(groups), 1)])
    strip = rows[0].subgridspec(1, len(shown), wspace=0.03)
    for column, (step, frame) in enumerate(zip(shown["step"], shown["frame"], strict=True)):
        axes = figure.add_subplot(strip[column])
        axes.imshow(np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")), aspect="auto")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{step}", labelpad=1)
    colours = member_colours(list(dict.fromkeys(name.rsplit(":", 1)[1] for name in names)))
    for row, group in enumerate(groups or [""], start=1):
        axes = figure.add_subplot(rows[row])
        mine = [name for name in names if name.rsplit(":", 1)[0] == group]
        for name in mine:
            source = name.rsplit(":", 1)[1]
            label = games.GAMES[source].title if source in games.GAMES else source
            axes.plot(samples["step"], samples[name], color=colours[source], lw=0.9, label=label)
        if mine:
            axes.set_ylim(-0.04, 1.04)  # a saturated gate is a line, not the panel's edge
            axes.set_ylabel(group.replace("weight", "Weight").replace("gate:", "Gate, "))
        else:
            axes.plot(samples["step"], samples["reward"].cumsum(), color="#222222")
            axes.set_ylabel("Score")
        axes.set_xlim(0, max(len(samples) - 1, 1))
        if row == 1 and mine:
            axes.legend(loc="best", ncols=len(mine))
    figure.axes[-1].set_xlabel("Step of the game")
    return figure


def recorded(records: Sequence[Result], game: str, method: str) -> Result | None:
    """The first record of a method on a game that holds an episode: the longest run, the lowest seed."""
    found = [r for r in records if (r.spec.dataset, r.spec.method) == (game, method) and r.samples is not None]
    return min(found, key=lambda result: (-result.spec.settings.steps, result.spec.seed), default=None)
