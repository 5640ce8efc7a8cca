"""The report of a finished sweep, made from its trials.json: best trials, figures, sweeps compared at equal cost."""

import json
from collections.abc import Sequence
from pathlib import Path

from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.reporting import html, search, tables
from cnnjax.training import workdir as workdirs

from . import space as spaces


def report(workdir: Path, against: Sequence[Path] = ()) -> Path:
    """Prints the best trials of `workdir`; writes table.md, best.json, figures and report.html from trials.json."""
    config, found = workdirs.read_config(workdir), read_trials(workdir)
    header, body = search.table(found)
    complete = search.ranked(found)
    states = [sum(t["state"] == s for t in found.trials) for s in ("complete", "pruned", "fail")]
    sentences = [f"{len(found.trials)} trials: {states[0]} complete, {states[1]} pruned, {states[2]} failed; "
                 f"{sum(t.get('steps', 0) for t in found.trials):,} training steps in all.",
                 *(f"Trial {t['number']}: {t['reason']}." for t in found.trials if "reason" in t)]
    parts = []
    if complete:
        best = complete[0]
        own = spaces.trial_config(config, best.get("values", best["params"]))
        workdirs.write(workdir / "best.json", configs.dump(own))
        test = f", {search.words(found.test)} {100 * best[found.test]:.2f} %" if found.test in best else ""
        sentences.append(f"Best by {search.words(found.score)}: trial {best['number']}, {100 * best['value']:.2f} %"
                         f"{test}; its config is best.json, for `cnnjax train --config`.")
        parts = [html.image(path, caption) for path, caption in search.pictures(found, workdir / "figures")]
    comparison = None
    if against:
        sweeps = [(folder.absolute().name, workdirs.read_config(folder).sweep, read_trials(folder))
                  for folder in (workdir, *against)]
        comparison = search.equal_cost(sweeps)
    markdown = tables.markdown(header, body)
    if comparison is not None:
        markdown += "\n" + tables.markdown(*comparison)
        parts += [html.heading("At equal cost"), html.table(*comparison)]
    parts += [html.heading("All trials"), html.table(header, body), html.heading("Config"),
              html.code((workdir / "config.json").read_text())]
    workdirs.write(workdir / "table.md", markdown)
    path = workdir / "report.html"
    title = f"Sweep {config.sweep.study or workdir.absolute().name}"
    workdirs.write(path, html.page(title, [html.paragraph(s) for s in sentences] + parts))
    tables.show(header, body[:10], title="The best trials")
    if comparison is not None:
        tables.show(*comparison, title="At equal cost")
    print("\n".join(sentences))
    print(f"report: {path}")
    return path


def read_trials(workdir: Path) -> search.Trials:
    """What `trials.json` holds. Raises UserError for a folder that holds no sweep."""
    path = workdir / "trials.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no finished sweep: it has no trials.json")
    found = json.loads(path.read_text())
    best = found.get("best", {"score": "validation_error", "end": "min"})
    return search.Trials(best["score"], best["end"], found["trials"], found["importance"])
