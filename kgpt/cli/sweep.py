"""`kgpt sweep`: many runs of one configuration, to find the best values of its options."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from kgpt.cli.environment import choose_backend
from kgpt.cli.sweep_results import show
from kgpt.cli.train import split_flags
from kgpt.config import Config, SweepConfig, parse_overrides, read_yaml
from kgpt.errors import RunError, UsageError
from kgpt.runs import new_run

if TYPE_CHECKING:
    from kgpt.lab.sweeps.settings import SweepSettings

FLAGS = (
    "--space", "--name", "--data", "--resume", "--png", "--html", "--json", "--quiet", "--debug",
)  # fmt: skip


def sweep(
    config: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    space: str | None = None,
    name: str | None = None,
    data: str | None = None,
    options: Annotated[SweepConfig | None, Parameter(name="*")] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    png: str | None = None,
    html: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a configuration many times with other values of some options, and find the best.

    Trials are runs named NAME-0000 and so on. The same command, or --resume, goes on with a sweep
    that was interrupted or killed, and shows the results of one that has ended.

    Parameters
    ----------
    config
        The name of a preset, or a YAML file. With --resume it is left out.
    space
        A YAML file of the options to vary, by section, each with a range such as 1e-4..1e-2:log or
        a list of values. The same on the command line: --space.train.learning-rate 1e-4..1e-2:log.
    name
        The name of the sweep; the configuration's name and -sweep if not given.
    data
        A data set made by `kgpt data prepare`.
    resume
        Go on with the sweep NAME as it was started; --workers and, without --pruner halving,
        --trials may change.
    png
        Also write a figure of the results to this file.
    html
        Also write the results to this page, which needs no other file.
    as_json
        Print the results as one JSON object.
    quiet
        Print no progress.
    """
    from kgpt.lab.sweeps.figure import write_figure
    from kgpt.lab.sweeps.page import write_page
    from kgpt.lab.sweeps.results import read_results
    from kgpt.lab.sweeps.sweep import Sweep

    config, flags = split_flags(config, overrides)
    if resume:
        if config is not None or flags or space or data:
            raise UsageError("--resume goes on as the sweep was started; give only --name with it.")
        if name is None:
            raise UsageError("Name the sweep to resume with --name.")
        settings = _resumed(name, options or SweepConfig())
    else:
        settings = _settings(config, flags, space, data, options or SweepConfig())
        name = name or f"{Path(config or '').stem}-sweep"
    choose_backend()
    console = Console(stderr=as_json, quiet=quiet, highlight=False)
    done = Sweep(name, settings, lambda text: console.print(Text(text), soft_wrap=True)).run()
    results = read_results(name)
    if png is not None:
        write_figure(results, Path(png))
    if html is not None:
        write_page(results, Path(html))
    if as_json:
        print(json.dumps(asdict(results), ensure_ascii=False))
    else:
        show(results, Console(quiet=quiet))
    if not done:
        print(f"kgpt: Interrupted; `kgpt sweep --name {name} --resume` goes on.", file=sys.stderr)
        return 130
    if results.best is None:
        errors = [trial.error for trial in results.trials if trial.error]
        why = f"the last failed: {errors[-1]}" if errors else "all were stopped."
        raise RunError(f"No trial of the sweep {name} was completed; {why}")
    return 0


def _settings(
    config: str | None,
    flags: Sequence[str],
    space: str | None,
    data: str | None,
    options: SweepConfig,
) -> SweepSettings:
    """What the command line asks for."""
    from kgpt.lab.sweeps.settings import SweepSettings

    if config is None:
        raise UsageError("Name a preset or a YAML file, or a sweep with --name NAME --resume.")
    domains, others = split_space(flags)
    changes = parse_overrides(others, FLAGS)
    if data is not None:
        changes["data.dir"] = data
    if space is not None:
        sections = read_yaml(Path(space))
        listed = {
            f"{name}.{key}": one for name, keys in sections.items() for key, one in keys.items()
        }
        domains = listed | domains
    return SweepSettings(Config.load(config, changes), domains, options)


def split_space(flags: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The domains of flags such as --space.train.seed 1,2, and the other flags."""
    domains: dict[str, Any] = {}
    others, pending = [], list(flags)
    while pending:
        word = pending.pop(0)
        if not word.startswith("--space."):
            others.append(word)
            continue
        key, _, value = word.removeprefix("--space.").partition("=")
        if not value and not (pending and not pending[0].startswith("--")):
            raise UsageError(f"--space.{key} needs a range such as 2..8, or values such as 8,16.")
        domains[key.replace("-", "_")] = value or pending.pop(0)
    return domains, others


def _resumed(name: str, options: SweepConfig) -> SweepSettings:
    """The settings of a sweep, with the options that are given now."""
    from kgpt.lab.sweeps.settings import SweepSettings

    settings = SweepSettings.read(new_run(name).path)
    given = options.model_dump(include=options.model_fields_set)
    changed = settings.options.model_copy(update=given)
    return SweepSettings(settings.config, settings.space, changed)
