"""The training loop: the seven steps of the source chapter's Figure 2, once, for every method.

What is random in a step follows from the run's seed and the step's number, and from nothing
else. That is why a run that was killed goes on bit for bit as if nothing had happened.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from cmssf_lib.data.image_text import ImageTextData
from cmssf_lib.methods.base import Method
from cmssf_lib.runs import Run
from cmssf_lib.train.session import Session
from cmssf_lib.train.steps import TrainConfig, learning_rate


def fit(
    method: Method,
    data: ImageTextData,
    config: TrainConfig,
    *,
    run: Run | str | Path | None = None,
    each_epoch: Callable[[Method], Mapping[str, float]] | None = None,
    watch: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train a method and keep a record of it.

    A run with a folder writes a checkpoint every few minutes, after every epoch, and when it
    is interrupted (Ctrl-C, SIGTERM). Called again with the same folder it goes on from there.
    However it ends, the method is left in evaluation mode, on the device where it was, and the
    global random state as it was.

    Started by ``accelerate launch`` in several processes, each takes its part of every batch, and
    the weights stay the same in all. The first one alone evaluates and writes.

    Args:
        method: What is trained.
        data: The training set.
        config: How to train.
        run: A folder, a `Run` with its configuration filled in, or ``None`` to keep the record
            in memory only.
        each_epoch: Called with the method after each epoch; what it returns joins the history.
        watch: Called with the run after each epoch, for a live figure say.
        progress: Show a progress bar with loss, images a second and the time left.

    Returns:
        The run. Its history has a row an epoch.

    Raises:
        ValueError: If the configuration is inconsistent, the data too small for a batch, or
            the folder holds a run with another configuration (the message names the field) or
            a damaged checkpoint.
        RuntimeError: If another process is training in the folder.
        FloatingPointError: If the loss or the gradient is not finite. The run stops before the
            step is taken and the last checkpoint stays.
        KeyboardInterrupt: After Ctrl-C, once the checkpoint is written, or after the last step
            the weights.
        CollapseWarning: A warning, once, if the history shows a collapse after the first quarter
            of the training.
        MemoryError: If the first step would take more memory than there is.
        OSError: If the disk is full, or would be after the first checkpoint.
    """
    run = run if isinstance(run, Run) else Run(run)
    # What surrounds the steps (device, record, checkpoints, signals, random state, the bar) is the
    # session's: see there how a run goes on, and how it ends.
    with Session(method, data, config, run, each_epoch, watch, progress).open() as session:
        accelerator, model, optimizer = session.accelerator, session.model, session.optimizer
        trained = [p for p in model.parameters() if p.requires_grad]
        largest = config.clip if config.clip > 0 else math.inf
        for _ in session.epochs():
            # 1. Load: the next pictures and their captions, and the random numbers of this step.
            for batch in session.batches():
                for group in optimizer.param_groups:
                    rate = learning_rate(session.done, session.steps, config)
                    group["lr"] = rate * group["lr_factor"]

                # 2. to 5. Augment, encode, project, compare: the method's own business.
                with session.forward():
                    losses = model(batch)

                # 6. Backpropagate.
                accelerator.backward(losses["loss"])
                norm = accelerator.clip_grad_norm_(trained, largest)
                session.require_finite(losses["loss"], norm)

                # 7. Update.
                optimizer.step()
                optimizer.zero_grad()
                session.done += 1
                method.after_step(session.done / session.steps)
                session.note(losses)
    return run
