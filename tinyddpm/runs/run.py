"""Training runs: a folder that remembers the run, and going on from there.

RUN/checkpoint.npz holds the whole state, RUN/log.jsonl one line of JSON for each logged step.
However the process ends, resuming gives the bits of a run that never stopped: a step's log line is
on disk before the checkpoint of that step, and the log drops what came after the checkpoint that a
run goes on from.
"""

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..backend import NAMES, get, reason
from ..backend import about as describe
from ..datasets import sets
from ..errors import InputError, TinyDDPMError
from ..model import Model
from ..nn import params
from ..nn.ops import Ops
from ..schedule import Schedule
from ..settings import Recipe, split
from ..training import Trainer, TrainState, read_record
from . import checkpoint, files, lock, threads
from .kept import RunSettings
from .load import from_checkpoint, net_to_meta
from .log import NAME as LOG
from .log import RunLog
from .new import check_memory, fresh_trainer, numbered
from .progress import watching
from .source import as_trained, check_digest, check_trained
from .start import start


def train(
    images: ArrayLike,
    steps: int = Recipe.steps,
    *,
    labels: ArrayLike | None = None,
    net: Any = None,
    schedule: Schedule | str | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Model:
    """Train on images or points (Ho20 Algorithm 1); returns the Model with averaged parameters.

    Args:
        images: (N, H, W, C) images or (N, D) points, floats in [-1, 1], bytes in 0..255, or what
            value_range says.
        steps: of training.
        labels: (N,) integers or names, for a model that can be asked for classes, or None.
        net: a UNet or MLP, or "unet" or "mlp" for the default one, which None is too.
        schedule: a Schedule, or "linear", "cosine" or "sigmoid" for one of 1000 steps; by default
            cosine.
        out: a new run folder for checkpoints and the log, or None.
        settings: the fields of `settings.Recipe` (seed, batch, lr, ...) and of `RunSettings`
            (backend, progress, save_every, value_range, ...).

    Raises:
        InputError: for bad data or settings, and for what would take more memory than is free.
        TinyDDPMError: training diverges, or the disk refuses.
    """
    own = ("labels", "net", "schedule", "out")
    recipe, how = split(settings, Recipe, RunSettings, own=own)
    kept = RunSettings(**how)
    data = as_trained(images, labels, kept.value_range)
    recipe["steps"] = steps
    ops = kept.team.use(get(kept.backend or "numpy", kept.precision or "fp32"))
    begun = start(kept.start, recipe, net, schedule)
    trainer = fresh_trainer(data, recipe, begun, ops, kept.limit, kept.progress is True)
    about = {**_about(trainer, data), **kept.counts, "backend": kept.backend or "numpy"}
    extra = {"meta": kept.meta, "data": kept.data}
    about |= {name: value for name, value in extra.items() if value is not None} | begun.meta
    if kept.value_range is not None:
        about["range"] = list(map(float, kept.value_range))
    about = checkpoint.plain(about)  # what cannot be kept is refused before the first step
    _agree(kept, trainer, about)
    with contextlib.ExitStack() as stack:
        kept.team.once(lambda: _hold_new(out, stack))
        return _Run(trainer, out, about, kept).to_the_end()


def _hold_new(out, stack):
    """Hold a run folder, until the stack is closed. Raises InputError where a run is in it."""
    stack.enter_context(_held(out))
    if out is not None and checkpoint.holds_run(out):
        raise InputError(f"{out} already holds a run: resume it, or choose another folder")


def _about(trainer, data):
    """What a checkpoint keeps of a run, beside its arrays."""
    return {
        "net": net_to_meta(trainer.net),
        "recipe": asdict(trainer.recipe),
        "shape": list(data.x.shape[1:]),
        "classes": list(data.classes)
        or np.unique(() if data.labels is None else data.labels).tolist(),
        "digest": sets.digest(data),
        "precision": trainer.ops.precision,
    }


def resume(
    out: str | Path,
    images: ArrayLike,
    steps: int | None = None,
    *,
    labels: ArrayLike | None = None,
    expect: dict[str, Any] | None = None,
    **settings: Any,
) -> Model:
    """Go on with a run on the same data, bit for bit as if it had never been interrupted.

    Args:
        out: the run folder.
        images: what the run was trained on.
        steps: where to end; by default the run's own. Others change how the learning rate falls
            (unless decay is "constant"), and so the bits.
        labels: those that the run was trained on, or None.
        expect: settings of the network and the recipe by name, which must be the run's.
        settings: the fields of `RunSettings` but for meta; backend and counts are the run's unless
            given.

    Returns:
        The Model, with averaged (EMA) parameters.

    Raises:
        InputError: the folder holds no run, or one of other settings (each is named); another
            process trains there; the images are not those it was trained on.
    """
    kept = RunSettings(**split(settings, RunSettings, own=("steps", "labels", "expect"))[0])
    if kept.meta is not None or kept.start is not None:
        raise InputError("meta and start are of a run's first step: they cannot be given again")
    with contextlib.ExitStack() as stack:
        arrays, meta = kept.team.once(lambda: _hold_old(out, stack))
        trained = from_checkpoint(arrays, meta)
        with checkpoint.content_errors_as_input(out):
            _check_settings(out, meta, expect or {})
            spans = kept.value_range or meta.get("range")
            data = as_trained(images, labels if trained.classes else None, spans)
            check_digest(out, meta, data)
            state = _state(arrays, meta, trained.net)
            recipe = _recipe(out, meta, steps)
        ops = kept.team.use(goes_on_with(kept.backend, kept.precision, meta))
        known = numbered(data.labels)
        net, s, show = trained.net, trained.schedule, kept.progress is True
        check_memory(net, recipe, s, data.x, ops, kept.limit, show)
        trainer = Trainer(net, s, data.x, recipe, state.on(ops), ops, known)
        own = {"recipe": asdict(recipe), "backend": ops.name, "precision": ops.precision}
        about = checkpoint.plain({**meta, **own, **_changed(kept, settings)})
        _agree(kept, trainer, about)
        return _Run(trainer, out, about, kept).to_the_end()


def _agree(kept, trainer, about):
    """Raise InputError where processes cannot share the batch, or are to do different things."""
    kept.team.check(len(trainer.parts))
    if kept.team.size > 1:
        settings = {**about["net"], **about["recipe"], "the data's digest": about["digest"][:16]}
        settings["precision"] = trainer.ops.precision
        kept.team.same({**settings, about["backend"]: describe(about["backend"])})


def _changed(kept, given):
    """What was given of the settings that a checkpoint keeps and that may change."""
    changed = {name: value for name, value in kept.counts.items() if name in given}
    return changed if kept.data is None else {**changed, "data": kept.data}


def _recipe(out, meta, steps):
    """A run's recipe, to so many steps. Raises InputError where it has gone beyond them."""
    recipe = Recipe(**meta["recipe"])
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    if recipe.steps < meta["step"]:
        reached = f"{out} has already reached step {meta['step']}"
        raise InputError(f"{reached}, beyond {recipe.steps}")
    return recipe


def goes_on_with(backend: str | None, precision: str | None, meta: dict[str, Any]) -> Ops:
    """What a run goes on with: what is given, else its own. Raises InputError where it is not."""
    name = backend or meta.get("backend", "numpy")
    why = reason(name) if name in NAMES else "this program has none of that name"
    if why and backend is None:
        raise InputError(
            f"the run was trained with the backend {name!r:.40}: {why}; choose another to go on, "
            "such as numpy: it rounds in its own way"
        )
    return get(name, precision or meta.get("precision", "fp32"))


def _hold_old(out, stack):
    """Hold the folder of a run, until the stack is closed; returns its (arrays, meta)."""
    if not checkpoint.holds_run(out):
        raise InputError(f"no checkpoint in the folder {out}")
    stack.enter_context(_held(out))
    return checkpoint.load(out)


def _check_settings(out, meta, expect):
    """Raises InputError where a run's settings are not what is expected, or cannot be."""
    check_trained(meta, out)
    differs = checkpoint.differences({**meta["net"], **meta["recipe"]}, expect)
    if differs:
        raise InputError(f"{out} is another run: {'; '.join(differs)}")
    _check_counts(**{name: meta[name] for name in ("save_every", "log_every", "keep")})


@dataclass
class _Run:
    """A run in progress: its trainer, its folder, and the settings saved in its checkpoints."""

    trainer: Trainer
    out: str | Path | None
    about: dict[str, Any]  # the settings that a checkpoint keeps
    kept: RunSettings
    log: RunLog | None = field(default=None, init=False)
    record: dict[str, Any] | None = field(default=None, init=False)  # of the last step
    saved: int = field(default=0, init=False)  # the step of the last good checkpoint

    def to_the_end(self) -> Model:
        """Step, log and save; at the end, or when told to stop, save and return the model."""
        trainer, state = self.trainer, self.trainer.state
        team, stop = self.kept.team, self.kept.stop
        self.saved, self.out = state.step, self.out if team.first else None
        threads.keep_pages()
        try:
            self.log = None if self.out is None else RunLog(self.out, state.step)
            steps, count = trainer.recipe.steps, len(team.mine(len(trainer.parts)))
            shown = self.kept.progress if team.first else False
            with (
                threads.workers(count, team.neighbours) as share,
                watching(shown, steps, state.step) as tell,
            ):
                while state.step < steps:
                    tell(self._step(share))
                    if team.most(stop is not None and stop()):
                        break
                    if self._due("save_every") and state.step < trainer.recipe.steps:
                        self._save()
            self._save()
        except InputError:
            raise
        except (TinyDDPMError, MemoryError) as error:
            what = f"not enough memory: {error}" if isinstance(error, MemoryError) else str(error)
            raise TinyDDPMError(what if self.out is None else f"{what}; {self._kept()}") from None
        finally:
            if self.log:
                self.log.close()
        meta = {**self.about, "step": state.step}
        net, s, recipe, shape = trainer.net, trainer.schedule, trainer.recipe, trainer.x.shape[1:]
        return Model(net, state.ema, s, shape, recipe.target, meta, trainer.ops)

    def _due(self, setting):
        return self.trainer.state.step % self.about[setting] == 0

    def _step(self, share):
        """One step, and its line in the log where one is due; returns the step's record."""
        self.record = self.trainer.step(share, self.kept.team)
        step = self.trainer.state.step
        if self._due("log_every") or step in (1, self.trainer.recipe.steps):
            self.record = read_record(self.record)
            if self.log:
                self.log.append({**self.record, **self._precise()})
        return self.record

    def _precise(self):
        """What a line of the log says of the products' precision: nothing where it is float32's."""
        precision = self.trainer.ops.precision
        return {} if precision == "fp32" else {"precision": precision}

    def _save(self):
        """A checkpoint, after the log that leads to it is on disk; without a folder checks alone.

        Raises TinyDDPMError where a number is not finite.
        """
        if self.record is not None:
            read_record(self.record)  # a lazy backend's step has not been looked at yet
        trainer, state = self.trainer, self.trainer.state
        arrays = {name: trainer.ops.to_host(x) for name, x in state.arrays().items()}
        for name, array in arrays.items():  # the step's loss was that of the weights before it
            if not np.isfinite(array).all():
                raise TinyDDPMError(
                    f"training diverged at step {state.step}: {name} is no longer finite; "
                    f"try a smaller learning rate than {trainer.recipe.lr:.3g}"
                )
        team = self.kept.team
        if team.size > 1:  # equal steps from equal gradients, unless a machine errs
            team.same({"the parameters": zlib.crc32(arrays["theta"])})
        if self.out is None:
            return
        arrays["beta"] = trainer.schedule.beta
        self.log.sync()
        meta = {**self.about, "step": state.step}
        checkpoint.save_run(self.out, arrays, meta, self.about["keep"])
        self.saved = state.step

    def _kept(self):
        """What is left of a run that failed, for its error."""
        path, step = Path(self.out) / checkpoint.NAME, self.saved
        with contextlib.suppress(TinyDDPMError):  # a save may have failed after it had replaced it
            step = checkpoint.load(path)[1]["step"]
        if not step:
            return "no checkpoint had been saved yet"
        return f"{path} of step {step} is the last good one"


def _state(arrays, meta, net):
    """The state in a checkpoint. Raises InputError where its vectors are not the network's."""
    state = TrainState(meta["step"], *(arrays[name] for name in ("theta", "ema", "m", "v")))
    _check_counts(step=state.step)
    size = params.size(net.spec())
    for name, vector in state.arrays().items():
        if vector.shape != (size,) or vector.dtype != np.float32:
            raise InputError(
                f"the checkpoint's {name} is {vector.dtype} {vector.shape}, its network needs "
                f"float32 ({size},)"
            )
    return state


def _check_counts(**counts):
    for name, value in counts.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} must be at least 1, got {value!r}")


@contextlib.contextmanager
def _held(out: str | Path | None) -> Iterator[None]:
    """Hold the run folder, made where it is missing, without temporary files of a killed process.

    None holds nothing.
    """
    if out is None:
        yield
        return
    path = files.named(out)
    made = [folder for folder in (path, *path.parents) if not files.kind(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from None
    try:
        with lock.hold(out):
            files.clear(out)
            yield
    except BaseException:
        _leave(path, made)
        raise


def _leave(out, made):
    """Remove the folders made for a run that ended before anything was kept in them."""
    with contextlib.suppress(OSError):
        if made and (out / LOG).stat().st_size == 0:
            (out / LOG).unlink()
    with contextlib.suppress(OSError):  # one that is not empty stays
        for folder in made:
            folder.rmdir()
