"""The training loop: the seven steps of the source chapter's Figure 2, once, for every method.

All randomness in a step is derived from the run's seed and the step's number alone. Therefore a
run that was killed resumes on a CPU bit for bit as if nothing had happened. A GPU may add the same
numbers in another order, so there the last digits can differ.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from cmssf_lib.data.image_text import Batch, ImageTextData
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

    A run with a folder writes a checkpoint every few minutes, after every epoch, and when it is
    interrupted (Ctrl-C, SIGTERM). Call `fit` again with the same folder to resume. However
    training ends, the method is left in evaluation mode on its original device, and the global
    random state is restored.

    If ``accelerate launch`` starts several processes, each takes its part of every batch, and the
    weights are the same in all of them. Only the first process evaluates and writes files.

    Args:
        method: The method to train.
        data: The training set.
        config: How to train.
        run: A folder, a `Run` with its configuration filled in, or ``None`` to keep the record
            in memory only.
        each_epoch: Called with the method before the first step and after each epoch; the numbers
            that it returns are added to ``run.start`` and to the history.
        watch: Called with the run after each epoch, to update a live figure for example.
        progress: Show a progress bar with the loss, images per second and the time left.

    Returns:
        The run. Its history has one row an epoch.

    Raises:
        ValueError: If the configuration is inconsistent, the data are smaller than one batch, or
            the folder holds a run with another configuration (the message names the field) or
            a damaged checkpoint.
        RuntimeError: If another process is training in the folder.
        FloatingPointError: If the loss or the gradient is not finite. On a CPU training stops
            before the update, on a GPU up to 50 steps later. The last checkpoint is kept.
        KeyboardInterrupt: After Ctrl-C, once the checkpoint (after the last step: the weights) is
            written.
        CollapseWarning: A warning, once, if the history shows a collapse after the first quarter
            of the training.
        MemoryError: If the first step needs more memory than is free.
        OSError: If the disk is full, or has no room for the checkpoints.
    """
    run = run if isinstance(run, Run) else Run(run)
    # The session handles everything around the steps: device, record, checkpoints, signals, random
    # state, progress bar, and how a run resumes and ends.
    with Session(method, data, config, run, each_epoch, watch, progress).open() as session:
        accelerator, model, optimizer = session.accelerator, session.model, session.optimizer
        trained = [p for p in model.parameters() if p.requires_grad]
        largest = config.clip if config.clip > 0 else math.inf

        def step(batch: Batch) -> None:
            # 2. to 5. Augment, encode, project, compare: all inside the method.
            with session.forward():
                losses = model(batch)

            # 6. Backpropagate.
            accelerator.backward(losses["loss"])
            norm = accelerator.clip_grad_norm_(trained, largest)
            session.check(losses, norm)  # stops here if one is not finite

            # 7. Update.
            optimizer.step()
            optimizer.zero_grad()

        fast_step = session.fast(step)  # does the same; a GPU may replay it
        for _ in session.epochs():
            # 1. Load: the next pictures and their captions, and the random numbers of this step.
            for batch in session.batches():
                for group in optimizer.param_groups:
                    rate = learning_rate(session.done, session.steps, config)
                    group["lr"] = rate * group["lr_factor"]
                fast_step(batch)
                session.done += 1
                method.after_step(session.done / session.steps)
                session.save_or_stop()
    return run
