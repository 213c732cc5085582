"""Decisions of an exported planner with NumPy and ONNX Runtime alone: no PyTorch, no diffplan.

`diffplan export` puts a copy of this one file beside the graphs; on a robot it is all there is:

    from diffplan_runtime import load  # with diffplan: from diffplan.runtime import load

    agent = load("folder")
    action, state = agent.predict(observation)
    action, state = agent.predict(observation, state)

`predict` gives the actions of `diffplan.agents.PlannerAgent.predict`. What both share, random
numbers and graphs, stands here alone. One file, and so a long one: it is copied.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

try:
    from diffplan.errors import DiffplanError
except ImportError:  # a copy of this file, on its own

    class DiffplanError(Exception):  # type: ignore[no-redef]
        """A user's mistake: one line that says what was given and what was expected."""


FORMAT = 2
MOVES = "moves.npz"
LARGEST_PRODUCT = "product.onnx"
"""In exports of 8-bit graphs; see `multiplies_exactly`."""

Arrays = Sequence[Any]
"""Inputs of a graph in order, None where there is none."""


def onnxruntime() -> ModuleType:
    """ONNX Runtime, imported in one place: it is told to talk to nobody before it is loaded.

    From 1.32 on the library writes a device id under the home folder when it is imported, and looks
    up a telemetry host seconds later; only this variable, set before, stops both. A user's own
    choice stands. Raises ImportError where it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as module

    return module


# --- Random numbers ------------------------------------------------------------------------------

# Counter-based: number i of a row is a hash of (seed, count, i), so that no state has to be kept,
# rows do not depend on their neighbours, and every device draws the same numbers (up to the
# rounding of logarithm and cosine). The hash is the finaliser of SplitMix64 (Steele et al. 2014,
# "Fast splittable pseudorandom number generators", figure 17), in wrapping 64-bit arithmetic, as
# signed integers hold it. The arithmetic is the same for NumPy's arrays and PyTorch's tensors.
_GOLDEN, _FIRST, _SECOND = (
    value - (1 << 64) if value >= 1 << 63 else value
    for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def uniform(seeds: Any, counts: Any, n: int, library: Any = np) -> Any:
    """[B, n] float32, uniform in (0, 1), from int64 seeds and counts [B] of the library."""
    bits = _shifted(_bits(seeds, counts, n, library), 41)
    return (library.asarray(bits, dtype=library.float32) + 0.5) * 2.0**-23


def standard_normal(seeds: Any, counts: Any, n: int, library: Any = np) -> Any:
    """[B, n] float32, standard normal (Box & Muller 1958), from int64 seeds and counts [B].

    Two numbers of 24 bits make two normal ones, so that none lies beyond 5.9 standard deviations.
    """
    bits = _bits(seeds, counts, (n + 1) // 2, library)
    # half a step off the grid, so that the logarithm never sees 0
    radius = (library.asarray(_shifted(bits, 40), dtype=library.float32) + 0.5) * 2.0**-24
    radius = library.sqrt(library.log(radius) * -2.0)
    angle = library.asarray(bits & 0xFFFFFF, dtype=library.float32) * (2.0**-24 * 2 * math.pi)
    both = (radius * library.cos(angle), radius * library.sin(angle))
    return library.concatenate(both, 1)[:, :n]


def _bits(seeds: Any, counts: Any, n: int, library: Any) -> Any:
    """n 64-bit integers per row [B, n] from seeds and counts [B] int64."""
    key = _mix(_mix(seeds + _GOLDEN) ^ (counts + 1) * _FIRST)
    steps = library.arange(1, n + 1, device=seeds.device)
    return _mix(key[:, None] + steps * _GOLDEN)


def _mix(x: Any) -> Any:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Any, bits: int) -> Any:
    """Logical shift to the right: signed integers' own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


# --- Graphs --------------------------------------------------------------------------------------


class Graph:
    """A graph for batches of one size, loaded. Its inputs are named input_0, input_1, ..."""

    def __init__(self, graph: bytes, size: int, threads: int = 1) -> None:
        options = onnxruntime().SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1  # a plan is one chain: nothing runs beside it
        self._session = onnxruntime().InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self._size = size
        # an input that nothing reads is no input of the graph
        names = [entry.name for entry in self._session.get_inputs()]
        self._used = [(name, int(name.rsplit("_", 1)[1])) for name in names]

    def run(self, inputs: Arrays, rows: int) -> list[np.ndarray]:
        """inputs: all of the step's, in order. rows: how many of the size count."""
        feeds = {name: inputs[index] for name, index in self._used}
        if rows != self._size:
            feeds = {name: _filled(array, self._size) for name, array in feeds.items()}
        made: list[np.ndarray] = self._session.run(None, feeds)
        return made if rows == self._size else [x[:rows] for x in made]


def multiplies_exactly(product: bytes) -> bool:
    """Whether 8-bit products are what they should be here, by the graph of the largest one.

    Processors with neither VNNI nor dot products add two of them in 16 bits, which overflow.
    """
    (found,) = Graph(product, 1).run([np.full((1, 64), 255, np.uint8)], 1)
    return bool((found == 64 * 255 * 127).all())


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    # copies, not zeros: whatever is computed of them is as finite as the first row's
    return np.concatenate([array, np.repeat(array[:1], size - len(array), 0)])


def parts(rows: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """How a batch is run at some ascending sizes: (first row, rows, size), one after the other.

    A size is filled up where more than half of it is used; else the next smaller one takes what it
    can and the rest goes on: 65 rows are 64 and 1, not 256.
    """
    first = 0
    while first < rows:
        left = rows - first
        index = next((i for i, size in enumerate(sizes) if size >= left), len(sizes) - 1)
        if index and 2 * left <= sizes[index]:
            index -= 1
        taken = min(left, sizes[index])
        yield first, taken, sizes[index]
        first += taken


def run_in_parts(
    inputs: Arrays, sizes: Sequence[int], graph: Callable[[int], Graph]
) -> list[np.ndarray]:
    """What a graph puts out for all rows of the inputs. graph: gives that of a size."""
    rows = len(next(x for x in inputs if x is not None))
    every = list(parts(rows, sizes))
    if len(every) == 1:
        return graph(every[0][2]).run(inputs, rows)
    made = []
    for first, taken, size in every:
        given = [None if x is None else x[first : first + taken] for x in inputs]
        made.append(graph(size).run(given, taken))
    if not made:  # no rows: shapes alone
        given = [None if x is None else np.zeros((1, *x.shape[1:]), x.dtype) for x in inputs]
        return [x[:0] for x in graph(sizes[0]).run(given, 1)]
    return [np.concatenate(part) for part in zip(*made, strict=True)]


# --- The planner ---------------------------------------------------------------------------------


class Plan(NamedTuple):
    """B plans in environment units: states [B, H+1, D], first action [B, A], and, where plans hold
    them, actions [B, H * stride, A], one for every environment step, or features [B, H, F] that
    actions on the way are read from.
    """

    states: np.ndarray
    first: np.ndarray
    actions: np.ndarray | None = None
    features: np.ndarray | None = None


@dataclass(frozen=True)
class State:
    """What is remembered between calls; its fields are those of `diffplan.agents.AgentState`."""

    plan: Plan
    goals: np.ndarray | None
    age: np.ndarray
    seeds: np.ndarray
    count: np.ndarray
    step: np.ndarray
    target_return: np.ndarray
    history: np.ndarray | None = None
    detour: Detour | None = None
    errand: Errand | None = None


class Errand(NamedTuple):
    """What rows see to.

    thing: [B], of the goal. now: [B], that which is to be moved at present, as the thing may need
    another one elsewhere. aim: [B, G], what is aimed at. moved: [B], whether the thing has been
    since. place: [B, G], where it last lay, rest: [B], for so many steps by now.
    """

    thing: np.ndarray
    now: np.ndarray
    aim: np.ndarray
    moved: np.ndarray
    place: np.ndarray
    rest: np.ndarray


class Needs(NamedTuple):
    """What it takes to bring a thing to a place.

    others: things and the places [G] they have to be in. carrier: one that takes it along, as a
    drawer what lies in it, from a place start [G] of all things to end [G]; -1 for none.
    """

    others: list[tuple[int, np.ndarray]]
    carrier: int
    start: np.ndarray
    end: np.ndarray


class Errands:
    """Has goals about several things brought about one thing at a time.

    The one that is farthest from its goal comes first; when it lies still again after it was moved,
    wherever that is, or at its goal, the farthest is chosen anew. What it needs is brought about
    before, and left so until nothing that needs it has a way to go. That is told by moves of the
    data that ended nearest to where the thing is to go: another thing that was in one place in
    nearly all of them, and is not always there, is needed there (a lock that is open, the lower one
    of a stack), and what comes there only by another that takes it along is brought to where that
    took it up. Things that are not seen to are asked to stay where they are: data in which one
    thing is moved after the other know no more than one on its way.
    """

    def __init__(
        self,
        things: Sequence[int],
        scale: Sequence[float],
        after: int,
        moved: Sequence[int],
        start: Any,
        end: Any,
    ) -> None:
        """things: [G] that of each column of the goal, negative for one that is none's.

        scale: [G], environment units that count as one. after: steps of rest that end an errand.
        moved: [M], the things of moves. start, end: [M, G], all things before and after them.
        """
        self._of, self._scale = np.asarray(things), np.asarray(scale, np.float32)
        self._things, self._after = range(max(things) + 1), after
        self._member = (self._of[:, None] == np.arange(len(self._things))).astype(np.float32)
        start, end = (np.asarray(x, np.float32).reshape(-1, len(self._of)) for x in (start, end))
        went = self.distances(start, end) > _OFF
        # what is nearly always in one place is there by itself
        self._usual = self._spread(start) / 2
        self._moves = []
        for thing in self._things:
            own = (np.asarray(moved) == thing) & went[:, thing]  # a nudge says nothing
            others = went[own]
            others[:, thing] = False
            self._moves.append((start[own], end[own], others))
        self._known: dict[tuple[int, bytes], Needs] = {}

    def follow(
        self, before: Errand | None, begins: np.ndarray, places: np.ndarray, goals: np.ndarray
    ) -> tuple[Errand, np.ndarray, np.ndarray]:
        """What rows see to whose things are at places [B, G] now.

        goals: [B, G]. begins: [B] rows whose episode begins, or whose goal is another. Returns also
        which [B] of them aim elsewhere from here on, and at what all aim [B, G].
        """
        rows = np.arange(len(places))
        if before is None:
            none = np.zeros(len(places), np.int64)
            before = Errand(none, none, places, none.astype(bool), places, none)
            begins = np.ones(len(places), bool)
        gone = (self.distances(places, before.place)[rows, before.thing] > _LITTLE) & ~begins
        moved, rest = before.moved | gone, np.where(gone, 0, before.rest + 1)
        there = self.distances(places, goals)[rows, before.thing] <= _OFF
        ends = begins | ((moved | there) & (rest >= self._after))
        thing, now = before.thing.copy(), before.now.copy()
        aims = places.astype(np.float32)
        for row, (here, goal) in enumerate(zip(places, goals, strict=True)):
            if ends[row]:
                thing[row] = self._choose(here, goal, -1 if begins[row] else thing[row])
            now[row], wanted, asked = self._next(thing[row], here, goal)
            aims[row] = np.where(asked, wanted, here)
            aims[row, self._of < 0] = goal[self._of < 0]
        place = np.where((gone | ends)[:, None], places, before.place).astype(np.float32)
        errand = Errand(thing, now, aims, moved & ~ends, place, np.where(ends, 0, rest))
        elsewhere = self.distances(aims, before.aim)[rows, now] > _LITTLE
        return errand, begins | (now != before.now) | elsewhere, aims

    def _choose(self, here: np.ndarray, goal: np.ndarray, last: int) -> int:
        """The thing that comes next: the farthest that no other is in need of.

        Of two that are as far the last one goes on, -1 for none.
        """
        left = self.distances(here, goal)
        ready = left.copy()
        for thing in self._things:
            if left[thing] > _OFF:
                needs = self._needs(thing, goal)
                needed = [other for other, _ in needs.others]
                ready[needed + [needs.carrier] * (needs.carrier >= 0)] = -1
        # where all that are off need each other, the farthest may as well begin
        wanting = ready if ready.max() > _OFF else left
        return int((wanting + _LITTLE * (np.array(self._things) == last)).argmax())

    def _next(
        self, thing: int, here: np.ndarray, goal: np.ndarray
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """What to move now, so that a thing comes to its goal, where to, and columns asked for."""
        now, wanted, also = thing, goal, self._of == thing
        for _ in range(2 * len(self._things)):  # what is needed may need another
            before = self._before(now, wanted, here, goal)
            if before is None:
                break
            now, wanted, along = before
            also = (self._of == now) | (self._of == along)
        return now, wanted, also

    def _before(
        self, thing: int, wanted: np.ndarray, here: np.ndarray, goal: np.ndarray
    ) -> tuple[int, np.ndarray, int] | None:
        """What to move where before, or instead, and what goes along; None: the thing itself."""
        needs = self._needs(thing, wanted)
        if needs.carrier >= 0:
            if self.distances(here, needs.start)[thing] > _OFF:
                return thing, needs.start, -1
            near = self.distances(goal, needs.end)[needs.carrier] <= _OFF
            place = np.where(self._of == thing, wanted, goal if near else needs.end)
            return needs.carrier, place, thing
        for other, place in needs.others:
            if self.distances(here, place)[other] > _OFF:
                near = self.distances(goal, place)[other] <= _OFF
                return other, goal if near else place, -1
        return None

    def _needs(self, thing: int, wanted: np.ndarray) -> Needs:
        """What it takes to bring a thing to where it is wanted, kept for as long as it is asked."""
        key = thing, wanted[self._of == thing].tobytes()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = self._known[key] = self._look(thing, wanted)
        return found

    def _look(self, thing: int, wanted: np.ndarray) -> Needs:
        start, end, others = self._moves[thing]
        gap = self.distances(end, wanted)[:, thing]
        carried = others.any(1)
        alone, along = _least(gap[~carried]), _least(gap[carried])
        by_hand, by_another = (
            len(each) >= _SEEN // 2 and each[_SEEN // 2 - 1] <= _OFF for each in (alone, along)
        )
        if by_another and not by_hand:
            nearest = int(np.where(carried, gap, np.inf).argmin())
            return Needs([], int(others[nearest].argmax()), start[nearest], end[nearest])
        found = []
        if len(alone) == _SEEN:
            # all that are as near: the first of many alike have an episode in common
            seen = start[~carried & (gap <= max(alone[-1], _LITTLE))]
            spread = self._spread(seen)
            same, told = spread < _ONE_PLACE, spread < self._usual
            for other in self._things:
                its = self._of == other
                if other != thing and same[its].all() and told[its].any():
                    found.append((other, np.median(seen, 0)))
        nowhere = np.zeros(len(self._of), np.float32)
        return Needs(found, -1, nowhere, nowhere)

    def _spread(self, places: np.ndarray) -> np.ndarray:
        """Within how much four of five places [n, G] lie, by column [G]; 0 of none."""
        if not len(places):
            return np.zeros(len(self._of))
        low, high = np.quantile(places / self._scale, (0.1, 0.9), axis=0)
        spread: np.ndarray = high - low
        return spread

    def distances(self, places: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How far things are at places [..., G] from others, in what counts as one: [..., K]."""
        found: np.ndarray = np.sqrt(((others - places) / self._scale) ** 2 @ self._member)
        return found


_LITTLE = 0.05  # of what counts as one: what has gone no farther lies still
_OFF = 0.5  # of what counts as one: what is farther off is not where it should be
_SEEN = 16  # moves of the data that say what it takes
_ONE_PLACE = 0.6  # of what counts as one: within that four of five places are the same
_KEPT = 4096  # answers


def _least(gaps: np.ndarray) -> np.ndarray:
    """The smallest `_SEEN` gaps, ascending."""
    near = np.partition(gaps, _SEEN)[:_SEEN] if len(gaps) > _SEEN else gaps
    return np.sort(near)


class Detour(NamedTuple):
    """How rows get on.

    place: [B, G], where each was when it last had got somewhere, since: [B] steps ago. aim: [B, G]
    of a detour, left: [B] its steps that are left, 0 of none.
    """

    place: np.ndarray
    since: np.ndarray
    aim: np.ndarray
    left: np.ndarray


class Detours:
    """Has bodies that got nowhere aim at a place near them for a while, and then on at the goal.

    A leg that a corner has caught comes free on the way elsewhere. To have got nowhere is to be
    within a sixteenth of what the data's motion covers in `after` steps. The place is a landmark
    between a quarter and all of a plan's reach away; a detour takes half of `after`.
    """

    def __init__(self, landmarks: Any, speed: float, after: int, reach: float) -> None:
        """landmarks: [M, G], environment units. speed: units a step. after, reach: steps."""
        self._landmarks, self._after = np.asarray(landmarks, np.float32), after
        self._little, self._far = speed * after / 16, speed * reach

    def follow(
        self,
        before: Detour | None,
        begins: np.ndarray,
        places: np.ndarray,
        goals: np.ndarray,
        seeds: np.ndarray,
        steps: np.ndarray,
    ) -> tuple[Detour, np.ndarray]:
        """How rows get on that are at places [B, G] now, and which [B] of them turn.

        begins: [B] rows whose episode begins. seeds, steps: of rows and in their episodes, which
        the places of detours follow from.
        """
        if before is None:
            zeros = np.zeros(len(places), np.int64)
            before = Detour(places, zeros, places, zeros)
            begins = np.ones(len(places), bool)
        gone = begins | (np.linalg.norm(places - before.place, axis=1) > self._little)
        since = np.where(gone, 0, before.since + 1)
        place = np.where(gone[:, None], places, before.place).astype(np.float32)
        left = np.where(begins, 0, np.maximum(before.left - 1, 0))
        arrived = np.linalg.norm(places - goals, axis=1) <= self._little
        stuck = (since >= self._after) & (left == 0) & ~arrived
        turns = stuck | ((before.left > 0) & (left == 0) & ~begins)
        aim = before.aim.astype(np.float32)
        for row in np.flatnonzero(stuck):
            aim[row] = self._near(places[row], seeds[row], steps[row])
        left = np.where(stuck, max(self._after // 2, 1), left)
        return Detour(place, np.where(stuck, 0, since), aim, left), turns

    def _near(self, place: np.ndarray, seed: int, step: int) -> np.ndarray:
        """A landmark [G] near a place [G]; plans draw by other counts."""
        gap = np.linalg.norm(self._landmarks - place, axis=1)
        near = np.flatnonzero((gap >= self._far / 4) & (gap <= self._far))
        if not len(near):
            near = np.argsort(gap)[1:2]
        share = uniform(np.array([seed]), np.array([(1 << 62) + int(step)]), 1)[0, 0]
        return self._landmarks[near[min(int(share * len(near)), len(near) - 1)]]


def load(folder: str | Path, threads: int = 1, seed: int = 0) -> Agent:
    """The planner that `diffplan export` wrote into a folder, all of its graphs ready.

    threads: ONNX Runtime's. seed: of row 0's planning noise, row b has seed + b.
    Raises DiffplanError for no such folder, for files that are missing or were changed, and for
    8-bit graphs on a processor that cannot run them.
    """
    path = Path(folder)
    manifest = _json(path, (path / "manifest.json"))
    if manifest.get("diffplan_export") != FORMAT:
        raise DiffplanError(
            f"{path} has export format {manifest.get('diffplan_export')}, this runtime reads "
            f"{FORMAT}; export the run anew, or use the runtime in the folder"
        )
    files, held = manifest.get("files"), {}
    if not isinstance(files, dict) or "settings.json" not in files:
        raise DiffplanError(f"{path / 'manifest.json'} is damaged: it names no files")
    for name, digest in files.items():
        if not (path / name).is_file():
            raise DiffplanError(f"{path} lacks {name}; copy the whole folder, or export anew")
        held[name] = (path / name).read_bytes()
        if hashlib.sha256(held[name]).hexdigest() != digest:
            raise DiffplanError(f"{path / name} is damaged or was changed: its checksum is wrong")
    if LARGEST_PRODUCT in held and not multiplies_exactly(held[LARGEST_PRODUCT]):
        raise DiffplanError(
            f"{path} holds 8-bit graphs, and this processor's 8-bit products overflow (it has "
            "neither VNNI nor dot products); export with --engine onnx"
        )
    seed = whole_number(seed, "seed")
    settings = json.loads(held["settings.json"])
    if settings["errands"] is not None:
        with np.load(io.BytesIO(held[MOVES])) as moves:
            settings["errands"] |= dict(moves)
    graphs = {
        (key, size): Graph(held[f"{key}-{size}.onnx"], size, threads)
        for key, sizes in settings["graphs"].items()
        for size in sizes
    }
    return Agent(settings, graphs, seed)


def whole_number(value: Any, name: str, least: int = 0) -> int:
    """A seed or a count. DiffplanError for what is none, below `least` or beyond 64 bits."""
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if not least <= found < 1 << 63:
        raise DiffplanError(f"{name} is {value!r}, expected a whole number from {least} on")
    return found


def real_numbers(value: Any, name: str) -> np.ndarray:
    """An array of real numbers from anything array-like: lists, tensors, arrays of any strides.

    DiffplanError for anything else, and for an array whose entries are masked.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DiffplanError(f"{name} is a masked array with masked entries; fill them in first")
    if hasattr(value, "detach"):  # a tensor, perhaps with a gradient, perhaps elsewhere
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise DiffplanError(f"{name} is ragged, expected rows of numbers of one width") from None
    if array.dtype.kind not in "fiub":
        first = array.flat[0] if array.size else None
        raise DiffplanError(f"{name} holds {array.dtype.name} ({first!r}), expected real numbers")
    return array


def _numbers(value: Any, width: int, name: str, offset: Sequence[float] = ()) -> np.ndarray:
    """As float32 [B, width] or [width], less an offset that is subtracted in float64.

    DiffplanError for another shape and what is not finite.
    """
    array = real_numbers(value, name)
    if array.ndim not in (1, 2) or array.shape[-1] != width:
        raise DiffplanError(f"{name} has shape {array.shape}, expected [B, {width}] or [{width}]")
    with np.errstate(over="ignore"):
        shifted = array.astype(np.float64) - offset if offset else array
        numbers = np.ascontiguousarray(shifted, np.float32)
    if not np.isfinite(numbers).all():
        raise DiffplanError(f"{name} holds numbers that are not finite")
    return numbers


def _json(folder: Path, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except OSError:
        raise DiffplanError(
            f"{folder} has no {file.name}; expected a folder that `diffplan export` wrote"
        ) from None
    except ValueError as error:
        raise DiffplanError(f"{file} is damaged: {error}") from None
    return found if isinstance(found, dict) else {}


class Agent:
    """An exported planner. What changes is in the `State`, so that threads may share it."""

    def __init__(
        self, settings: dict[str, Any], graphs: Mapping[tuple[str, int], Graph], seed: int = 0
    ) -> None:
        """settings: what settings.json holds. graphs: by step and size of a batch."""
        self.settings, self.seed = settings, seed
        self._graphs, self._layout = graphs, settings["layout"]
        self._stride, self._horizon = settings["stride"], settings["horizon"]
        self._lookahead = settings["lookahead"]
        self._planning = settings["planning"]
        self._goal_tolerance = np.asarray(settings["goal_tolerance"])
        self._tasks = settings["tasks"]
        told = self._tasks["told"]
        self._told = None if told is None else np.array(told, np.float32)
        self._remembers: bool = self._tasks["remembers"]
        detours = settings["detours"]
        self._detours = None if detours is None else Detours(**detours)
        errands = settings["errands"]
        self._errands = None if errands is None else Errands(**errands)

    def __repr__(self) -> str:
        settings = self.settings
        return (
            f"Agent: {settings['name']} of {settings['data']}, for {settings['env_id']}; plans "
            f"{self._horizon} states {self._stride} environment steps apart, anew every "
            f"{self._planning['replan_every']} steps; observations {self._observed()}"
        )

    def _observed(self) -> str:
        layout = self._layout
        if not layout["dict_keys"]:
            return f"[B, {layout['state_dim']}]"
        goal = f" and desired_goal [B, {layout['goal_dim']}]" if layout["goal_dim"] else ""
        return (
            f"a dict of {', '.join(layout['dict_keys'])}: [B, {layout['state_dim']}] in all{goal}"
        )

    # --- Which task ------------------------------------------------------------------------------

    def for_task(self, task: int | None) -> Agent:
        """This agent, told that its task is number `task`; None: it is not told."""
        known, given = self._tasks, self._tasks["given"]
        if task is None and given is not None:
            return self._knowing(known["unknown"])
        if given != "id" or task is None or not 0 <= task < len(known["codes"]):
            names = ", ".join(f"{i} {name}" for i, name in enumerate(known["names"]))
            raise DiffplanError(f"task is {task}, expected one of: {names or 'none are told'}")
        return self._knowing(known["codes"][task])

    def for_demonstration(self, states: Any) -> Agent:
        """This agent, shown the states [n, D] of one episode of its task, in environment units."""
        found = _numbers(states, self._layout["state_dim"], "demonstration")
        if found.ndim != 2 or not len(found):
            raise DiffplanError(f"the demonstration has shape {found.shape}, expected [n, D]")
        return self._knowing(self._shown(found))

    def from_history(self) -> Agent:
        """This agent, which infers its task from the states it has been in this episode."""
        self._check_shown()
        return self._knowing(None, remembers=True)

    def _knowing(self, told: Any, remembers: bool = False) -> Agent:
        twin = Agent(self.settings, self._graphs, self.seed)
        twin._told = None if told is None else np.array(told, np.float32)
        twin._remembers = remembers
        return twin

    def _check_shown(self) -> None:
        if self._tasks["given"] != "prompt":
            raise DiffplanError("this model is not told its task by states (data.tasks prompt)")

    def _shown(self, states: np.ndarray) -> np.ndarray:
        """Code [F] of the task that states [n, D] are from."""
        self._check_shown()
        index = np.linspace(0, len(states) - 1, self._tasks["prompt"]).round().astype(np.int64)
        code: np.ndarray = self._graphs["task", 1].run([states[None, index]], 1)[0][0]
        return code

    # --- Stable-Baselines3's interface -----------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> tuple[np.ndarray, State]:
        """Actions for a batch of observations (or for one), and the next state.

        observation: [B, D], or for goals a dict of arrays [B, ...]; without the batch axis the
        action has none either. state: None at first, then what the last call returned.
        episode_start: [B] true where a row begins an episode. deterministic: False draws the
        noise of plans afresh, from `seed` where one is given.
        Returns actions [B, A] in environment units and the next state, whose `plan` is followed.
        Raises DiffplanError for a wrong shape or key, what is no finite number, or another state.
        """
        states, goals = self._split(observation)
        if single := states.ndim == 1:
            states, goals = states[None], None if goals is None else goals[None]
        rows, reuse = len(states), self._planning["reuse"]
        state = self._blank(rows) if state is None else state
        self._check_state(state, rows)
        fresh = np.zeros(rows, bool) if episode_start is None else np.asarray(episode_start, bool)
        if fresh.size != rows:
            raise DiffplanError(
                f"episode_start has {fresh.size} entries, the observation {rows} rows"
            )
        begins = fresh.reshape(-1) | (state.count == 0)
        age, step = state.age + 1, np.where(begins, 0, state.step + 1)
        target = np.where(begins, np.nan, state.target_return)
        anew = begins
        if goals is not None and state.goals is not None:
            anew = anew | (np.abs(goals - state.goals) > self._goal_tolerance).any(-1)
        another = anew  # goal than before
        detour, aims = state.detour, goals
        if self._detours is not None and goals is not None:
            here = states[:, self._layout["goal_columns"]]
            detour, turns = self._detours.follow(detour, begins, here, goals, state.seeds, step)
            anew = anew | turns
            aims = np.where(detour.left[:, None] > 0, detour.aim, goals)
        errand = state.errand
        if self._errands is not None and goals is not None:
            here = states[:, self._layout["goal_columns"]]
            errand, turns, aims = self._errands.follow(errand, another, here, goals)
            anew = anew | turns
        due = anew | (age >= self._planning["replan_every"])
        plan, history = state.plan, self._remember(state.history, states, step)
        if due.any():
            target[due] = self._targets(step[due], target[due])
            seeds = state.seeds
            if not deterministic:
                seeds = fresh_seeds(rows, seed)
            again = due & ~anew & reuse
            for key, marked in (("plan", due & ~again), ("again", again)):
                if not marked.any():
                    continue
                left = None
                if key == "again":  # what is left of the plan before
                    done = self._planning["replan_every"] // self._stride
                    left = state.plan.states[marked, done + 1 :]
                made = self._plan(
                    key,
                    [
                        states[marked],
                        None if aims is None else aims[marked],
                        target[marked].astype(np.float32) if self.settings["returns"] else None,
                        left,
                        self._codes(history, step, marked),
                        None,  # a clock is for constraints, which are not exported
                    ],
                    seeds[marked],
                    state.count[marked],
                )
                plan = made if marked.all() else _replaced(plan, marked, made)
            age = np.where(due, 0, age)
        action = plan.first if due.all() else self._act(states, plan, age)
        if not np.isfinite(action).all():
            row = int(np.flatnonzero(~np.isfinite(action).all(-1))[0])
            raise DiffplanError(
                f"the networks give no finite action for row {row}, whose observation reaches "
                f"{np.abs(states[row]).max():g}: it lies too far outside the training data"
            )
        if goals is not None:  # those the plans were made for, and a copy
            goals = (
                goals.copy() if state.goals is None else np.where(due[:, None], goals, state.goals)
            )
        count = state.count + due
        following = State(
            plan, goals, age, state.seeds, count, step, target, history, detour, errand
        )
        return (action[0] if single else action), following

    def observe(self, state: State, rewards: np.ndarray, rows: np.ndarray) -> State:
        """Tell what the last actions earned, which `planning.target` decremented needs."""
        if self._planning["target"] != "decremented":
            return state
        left = (state.target_return - rewards) / self.settings["discount"]
        return dataclasses.replace(state, target_return=np.where(rows, left, state.target_return))

    def reset_rows(self, state: State | None, rows: np.ndarray, seeds: np.ndarray) -> State:
        """Start new episodes in the rows marked [B] with these seeds [B]."""
        state = self._blank(len(rows)) if state is None else state
        return dataclasses.replace(
            state,
            seeds=np.where(rows, seeds, state.seeds).astype(np.int64),
            count=np.where(rows, 0, state.count),
        )

    # --- Inside ----------------------------------------------------------------------------------

    def _split(self, observation: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """State [..., D] and goal [..., G] of an observation, None without one."""
        layout = self._layout
        keys, asks, offset = layout["dict_keys"], layout["goal_dim"] > 0, layout["offset"]
        wanted = [*keys, *(["desired_goal"] if asks else [])]
        if not keys:
            if isinstance(observation, Mapping):
                raise DiffplanError("the observation is dict, expected an array")
            return _numbers(observation, layout["state_dim"], "observation", offset), None
        if not isinstance(observation, Mapping) or not set(wanted) <= set(observation):
            found = sorted(observation) if isinstance(observation, Mapping) else type(observation)
            raise DiffplanError(f"the observation is {found}, expected a dict with {wanted}")
        parts = [real_numbers(observation[key], key) for key in keys]
        try:
            state = np.concatenate(parts, -1)
        except ValueError:
            shapes = ", ".join(f"{k} {part.shape}" for k, part in zip(keys, parts, strict=True))
            raise DiffplanError(f"these parts of the observation do not fit: {shapes}") from None
        state = _numbers(state, layout["state_dim"], "observation", offset)
        if not asks:
            return state, None
        offset = [offset[column] for column in layout["goal_columns"]] if offset else offset
        goal = _numbers(observation["desired_goal"], layout["goal_dim"], "desired_goal", offset)
        if goal.shape[:-1] != state.shape[:-1]:
            raise DiffplanError(
                f"observation {state.shape} and desired_goal {goal.shape} differ in batch shape"
            )
        return state, goal

    def _blank(self, rows: int) -> State:
        width, zeros = len(self.settings["action_low"]), np.zeros(rows, np.int64)
        states = np.zeros((rows, self._horizon + 1, self._layout["state_dim"]), np.float32)
        actions = None
        if self.settings["plans_act"]:
            actions = np.zeros((rows, self._horizon * self._stride, width), np.float32)
        features = None
        if many := self.settings["features"]:
            features = np.zeros((rows, self._horizon, many), np.float32)
        plan = Plan(states, np.zeros((rows, width), np.float32), actions, features)
        seeds = self.seed + np.arange(rows)
        return State(plan, None, zeros, seeds, zeros, zeros, np.full(rows, np.nan))

    def _check_state(self, state: Any, rows: int) -> None:
        if not isinstance(state, State):
            raise DiffplanError(
                f"state is a {type(state).__name__}, expected None or what predict returned"
            )
        own = (rows, self._horizon + 1, self._layout["state_dim"])
        brings = (state.plan.actions is not None, state.plan.features is not None)
        if brings != (self.settings["plans_act"], self.settings["features"] > 0):
            raise DiffplanError("the state is another agent's; pass state=None")
        if state.plan.states.shape != own:
            raise DiffplanError(
                f"the state holds plans of shape {list(state.plan.states.shape)}, expected "
                f"{list(own)}; pass state=None when agent or number of rows change"
            )

    def _run(self, key: str, inputs: Arrays) -> list[np.ndarray]:
        return run_in_parts(inputs, self.settings["graphs"][key], lambda n: self._graphs[key, n])

    def _plan(self, key: str, given: Arrays, seeds: np.ndarray, counts: np.ndarray) -> Plan:
        sizes, k = self.settings["draws"][key], self.settings["gumbel"]
        normal = standard_normal(seeds, counts, sum(sizes))
        gumbel = normal[:, :0]
        if k:  # other counts, so that the choice does not depend on the plans' noise
            gumbel = -np.log(-np.log(uniform(seeds, ~counts, k)))
        draws = np.split(normal, np.cumsum(sizes)[:2], axis=1)
        states, first, *rest = self._run(key, [*given, *draws, gumbel])
        actions = rest.pop(0) if self.settings["plans_act"] else None
        return Plan(states, first, actions, *rest)

    def _act(self, states: np.ndarray, plan: Plan, age: np.ndarray) -> np.ndarray:
        if plan.actions is not None:
            found: np.ndarray = plan.actions[np.arange(len(age)), age]
            return found
        # on the way to a plan state ahead, with the strides that are left
        place = np.minimum(age // self._stride + self._lookahead, self._horizon)
        lag = ((place * self._stride - age) / self._stride).astype(np.float32)
        return self._run("act", [states, plan.states, place, lag, plan.features])[0]

    def _targets(self, step: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return-to-go [B] to ask for at these steps; target: what is left of the one before."""
        known, kind = self.settings["target"], self._planning["target"]
        if kind == "fixed":
            return np.full(len(step), known["first"])
        if kind == "by-step":
            table = known["by_step"]
            # a bin's quantile stands at its centre
            return np.interp(step / known["width"] - 0.5, np.arange(len(table)), table)
        least = -np.inf if known["least"] is None else known["least"]
        return np.where(np.isnan(target), known["first"], np.maximum(target, least))

    def _codes(
        self, history: np.ndarray | None, step: np.ndarray, marked: np.ndarray
    ) -> np.ndarray | None:
        """What the networks are told of the tasks of the marked rows: [b, F]."""
        if self._told is not None:
            return np.tile(self._told, (int(marked.sum()), 1))
        if history is None:
            return None
        many = np.minimum(step // self._stride, history.shape[1] - 1) + 1
        return np.stack([self._shown(history[b, : many[b]]) for b in np.flatnonzero(marked)])

    def _remember(
        self, history: np.ndarray | None, states: np.ndarray, step: np.ndarray
    ) -> np.ndarray | None:
        """The history with the states that end a stride; the last place holds the newest."""
        if not self._remembers:
            return None
        if history is None:
            length = self._tasks["remembered"]
            history = np.zeros((len(states), length, states.shape[1]), np.float32)
        history, rows = history.copy(), np.flatnonzero(step % self._stride == 0)
        place = np.minimum(step // self._stride, history.shape[1] - 1)
        history[rows, place[rows]] = states[rows]
        return history


def fresh_seeds(rows: int, seed: int | None) -> np.ndarray:
    """Seeds [B] of noise that no other call draws, unless it is given the same seed."""
    rng = np.random.default_rng(None if seed is None else whole_number(seed, "seed"))
    return rng.integers(np.iinfo(np.int64).max, size=rows)


def _replaced(plan: Plan, marked: np.ndarray, made: Plan) -> Plan:
    """A copy whose marked rows are those that were made."""
    fields: list[np.ndarray | None] = []
    for old, new in zip(plan, made, strict=True):
        if old is not None:
            old = old.copy()
            old[marked] = new
        fields.append(old)
    return Plan(*fields)  # type: ignore[arg-type]
