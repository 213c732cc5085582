"""The training loop: every part learns in every update, from the same batch.

Readable top to bottom: set up, then for each update draw a batch, take the losses, step, average
the weights. Random numbers come from one generator per process, so that a resumed run continues
exactly.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import GeneralTracker
from tqdm import tqdm

from diffplan.config.config import Config, adopted, config_to_dict, settled
from diffplan.config.decisions import Decision
from diffplan.data.episodes import Episodes, fingerprint
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import save_checkpoint
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import Header, find_checkpoint, list_checkpoints, own_version
from diffplan.model.spec import ModelSpec
from diffplan.nn.device import find_device
from diffplan.training.defaults import decide
from diffplan.training.learner import Learner, learning_rate
from diffplan.training.log import Diverged, Means, MetricsFile
from diffplan.training.memory import check_size
from diffplan.training.run import Evaluated, Progress, RunOptions, find_previous
from diffplan.training.state import not_finite
from diffplan.training.trackers import check_trackers, describe, make_trackers, show_picture

_RESIDUAL_EVERY = 100  # updates between measurements of the free-running error
_LOG_EVERY = 50
_SHORT = {  # names in the progress bar
    "loss/proposer": "propose",
    "loss/denoiser": "denoise",
    "loss/denoiser_plain": "plain",
    "loss/inverse_dynamics": "act",
    "loss/inverse_dynamics_proposed": "follow",
    "loss/value": "value",
    "loss/head_actions": "act",
    "loss/head_returns": "value",
    "loss/head_task": "task",
}


def train(episodes: Episodes, config: Config, options: RunOptions) -> Path:
    """Train a planner; returns the last checkpoint's folder, also where `options.stop` ended it.

    Writes checkpoints, metrics.jsonl and what trackers keep under `options.out`. With
    `options.resume` a run continues exactly where its last checkpoint stood; on the CPU the
    result is bit-identical to a run that was never interrupted. On a GPU the data lie there too
    if they fit beside the training, batches are drawn there from the same law as on a CPU, and one
    CUDA graph makes an update (`training.graph`). What the configuration leaves open
    is decided from the data (`diffplan.training.defaults`) and saved with the reasons.

    Raises DiffplanError for data that `Episodes.validate` refuses, for a sampler that does not suit
    the process, and for what does not fit what `options.out` holds, see `find_previous`.
    """
    threads = torch.get_num_threads()
    on_gpu = find_device(options.device).type == "cuda"
    products = torch.get_float32_matmul_precision() if on_gpu else None
    torch.set_num_threads(options.threads)
    try:
        return _train(episodes, config, options)
    finally:
        torch.set_num_threads(threads)
        if products is not None:
            torch.set_float32_matmul_precision(products)


def _train(episodes: Episodes, config: Config, options: RunOptions) -> Path:
    run = options.out
    check_trackers(options.track)
    previous = find_previous(config, options)
    episodes.validate()
    identity = fingerprint(episodes)
    if previous is not None and previous[1].fingerprint != identity:
        raise DiffplanError(
            f"{run} was trained on other data ({previous[1].info.id}, {previous[1].fingerprint}) "
            f"than {episodes.info.id} ({identity}); resume with the same dataset"
        )
    asked, header = config, None if previous is None else previous[1]
    decisions: tuple[Decision, ...]
    if header is None:
        config, decisions = decide(asked, episodes)
    else:
        goal, tasks = bool(episodes.layout.goal_dim), len(episodes.info.tasks)
        config = settled(adopted(asked, header.config), goal, tasks)
        decisions = tuple(each for each in header.decisions if asked.is_open(each.setting))
    check_size(ModelSpec.of(episodes, config), config, run)
    torch.manual_seed(options.seed)  # of the first weights, the same in every process
    step, seconds = (0, 0.0) if header is None else (header.step, header.seconds)
    accelerator = _accelerator(options, step)
    learner = Learner(episodes, config, options.seed, accelerator)
    if previous is not None:
        learner.resume(previous[0])
    learner.prepare()
    main = accelerator.is_main_process
    if main:
        run.mkdir(parents=True, exist_ok=True)
        if options.record is not None:
            (run / "run.yaml").write_text(options.record)
        options.tell(decisions)
    trackers = _begin_trackers(accelerator, options, config, episodes, step)

    def save() -> Path:
        training = learner.state()  # of all processes, so all of them take part
        averaged = learner.average.module.state_dict()
        # every loss may have been finite, and an infinite gradient come last
        if (name := not_finite({**averaged, **training})) is not None:
            raise Diverged(f"{name} is not finite after update {step}")
        if not main:
            return run
        model = learner.average.module
        assert isinstance(model, PlannerModel)
        settings = (config, model.spec, episodes.layout, episodes.info)
        header = Header(
            *(*settings, identity, step, options.seed, seconds),
            command=options.command,
            decisions=decisions,
        )
        return save_checkpoint(run, header, averaged, training)

    last = run if step < options.steps else find_checkpoint(run)
    bar = tqdm(
        total=options.steps,
        initial=step,
        desc="training",
        unit="update",
        disable=not (options.progress and main),
        dynamic_ncols=True,
    )
    with _told_of_divergence(run), bar, MetricsFile(run / "metrics.jsonl", step, main) as metrics:
        began = time.perf_counter() - seconds
        means = Means(config.training.batch_size * accelerator.num_processes)
        aside = {"time/save": 0.0, "time/evaluate": 0.0}  # seconds in all
        while step < options.steps:
            if step % _RESIDUAL_EVERY == 0 and (error := learner.measure()) is not None:
                metrics.add("error/free_running", error)
            means.add(learner.update(step))
            step += 1
            seconds = time.perf_counter() - began
            bar.update()
            stop = _agreed(options.stop, step, accelerator)
            tried = options.evaluate is not None and _every(options.evaluate_every, step)
            due = step == options.steps or stop or tried or _every(options.checkpoint_every, step)
            if step % _LOG_EVERY == 0 or due:
                metrics.add("samples_per_second", means.windows_per_second())
                values = means.take(step)
                more = {"learning_rate": learning_rate(config.training, step - 1)}
                row = metrics.write(step, seconds, {**values, **more, **learner.split(), **aside})
                accelerator.log(row, step=step)
                shown = {_SHORT.get(k, k): f"{v:.3f}" for k, v in values.items()}
                bar.set_postfix({**shown, "windows/s": f"{row['samples_per_second']:.0f}"})
                if not tried and not stop:
                    at = Progress(step, options.steps, seconds, row, None, _held(last, run))
                    stop = _wanted(options, at, accelerator)
            if due or stop:
                with _timed(aside, "time/save"):
                    last = save()
            if tried:
                with _timed(aside, "time/evaluate"):
                    played = _evaluated(options, last, accelerator)
                began += aside["time/evaluate"] - row["time/evaluate"]  # is no training
                if main:
                    accelerator.log(metrics.write(step, seconds, dict(played.scores)), step=step)
                    for name, file in played.pictures.items():
                        show_picture(trackers, name, file, step)
                at = Progress(step, options.steps, seconds, row, played.scores, _held(last, run))
                stop = _wanted(options, at, accelerator) or stop
            if not means.count:
                means.restart()  # neither saving nor logging counts as training
            if stop:
                break
    accelerator.wait_for_everyone()  # nobody leaves while another still talks to it
    accelerator.end_training()
    return last


def _every(count: int, step: int) -> bool:
    return count > 0 and step % count == 0


def _held(last: Path, run: Path) -> Path | None:
    return None if last == run else last


@contextlib.contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - begin


def _evaluated(options: RunOptions, last: Path, accelerator: Accelerator) -> Evaluated:
    """The evaluation of a checkpoint in the main process; the training draws as if without it."""
    assert options.evaluate is not None
    if not accelerator.is_main_process:
        return Evaluated({})
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        return options.evaluate(last)


def _wanted(options: RunOptions, at: Progress, accelerator: Accelerator) -> bool:
    """Whether the callback, which hears of progress in the main process, asks to stop."""
    if options.callback is None:
        return False
    asked = accelerator.is_main_process and options.callback(at) is True
    return _any(asked, accelerator)


def _begin_trackers(
    accelerator: Accelerator, options: RunOptions, config: Config, episodes: Episodes, step: int
) -> list[GeneralTracker]:
    """The trackers, which are told what the run is."""
    accelerator.init_trackers("diffplan")
    trackers: list[GeneralTracker] = accelerator.trackers
    about = {"dataset": episodes.info.id, "steps": options.steps, "seed": options.seed}
    describe(trackers, {**config_to_dict(config), **about, "version": own_version()}, step)
    return trackers


@contextlib.contextmanager
def _told_of_divergence(run: Path) -> Iterator[None]:
    try:
        yield
    except Diverged as error:
        found = list_checkpoints(run)
        kept = f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was made"
        raise DiffplanError(
            f"training diverged: {error}; {kept}; lower --training.learning-rate"
        ) from None


def _agreed(stop: Callable[[], bool], step: int, accelerator: Accelerator) -> bool:
    """Whether to stop after `step`: all processes at once, as all of them save."""
    if accelerator.num_processes == 1:
        return stop()
    if step % _LOG_EVERY:
        return False
    return _any(stop(), accelerator)


def _any(asked: bool, accelerator: Accelerator) -> bool:
    """Whether one of the processes, all of which ask, says so."""
    if accelerator.num_processes == 1:
        return asked
    counted = torch.tensor(float(asked), device=accelerator.device)
    return bool(accelerator.reduce(counted, "sum") > 0)


def _accelerator(options: RunOptions, step: int = 0) -> Accelerator:
    """Where to train. DiffplanError where a GPU is asked for that is not there."""
    device = find_device(options.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    known = PartialState._shared_state.get("device")
    if known is not None and known.type != device.type:
        # accelerate stays where an earlier training of this process was, whatever it is asked for
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        # said outright: without a GPU accelerate would leave torchrun's processes alone
        cpu=device.type == "cpu",
        log_with=make_trackers(options.track, options.out, step) or None,
        project_dir=str(options.out),
        # a condition that is never dropped leaves its null vector without a gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, see docs/gpu.md
    return accelerator
