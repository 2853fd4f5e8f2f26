"""`a2s ablate`: reproduce a table or figure of the paper and compare the numbers.

    a2s ablate tab4 --data images/ --truth train=masks/ --out runs/ablations
    a2s ablate tab6 --data images/ --test ecssd=e/images --truth ecssd=e/masks --out runs/ablations

OUT/ tab4.md tab4.csv tab4.svg …
     shared/  data tests/NAME cache stage1 labels/ stage2 maps/ scores/    settings as given
     rows/STAGE-SETTING-VALUE/                                             settings of a row
"""

from __future__ import annotations

import functools

from a2s.config.ablate import AblateConfig
from a2s.config.training import Stage1Config, Stage2Config
from a2s.paper.catalogue import find, pick
from a2s.paper.material import gather, quick_form
from a2s.paper.tables.rows import merged
from a2s.parallel.progress import say
from a2s.pipeline import Job, run_jobs, training_processes
from a2s.storage.run_folder import RunDir, claim
from a2s.training.preflight import HOW_TO_TRAIN, UNTRAINED, check_encoders, is_untrained


def run(config: AblateConfig) -> int:
    """Run the rows that are not done, then write and print the table.

    Raises:
        ConfigError: no such table or row, something that it needs is not given, or a command
            refuses its settings.
        WeightsError: the weights of an encoder are not available, damaged, or do not fit it.
    """
    entry = find(config.name)
    config = quick_form(config) if config.quick else config
    material = gather(config, entry.needs)
    rows = entry.rows(material)
    jobs = merged(pick(rows, config.rows, table=config.name))
    sections = {"stage1": config.stage1, "stage2": config.stage2}
    processes = training_processes("ablate", config.processes, sections)
    training = [
        one for one in map(Job.parsed, jobs) if isinstance(one, Stage1Config | Stage2Config)
    ]
    check_encoders(training)
    untrained = any(map(is_untrained, training))
    if untrained:
        say(f"ablate: {UNTRAINED}. Give the stages' encoder.weights {HOW_TO_TRAIN}.")
    with claim(config.out, command="ablate", config=config) as folder:
        log = functools.partial(_log, folder)
        code = run_jobs(jobs, name="ablate", processes=processes, log=log)
        if code:
            return code
        print(entry.finish(material, rows))
        folder.log(event="written", table=config.name)
    print(f"ablate: {entry.title} is in {config.out}/{config.name}.*")
    if untrained:
        print(f"ablate: {UNTRAINED}.")
    return 0


def _log(folder: RunDir, **fields: object) -> None:
    """Log a job with its folder relative to the output folder, which may be moved later."""
    out = str(fields.pop("out")).removeprefix(f"{folder.path}/")
    folder.log(**fields, out=out)
