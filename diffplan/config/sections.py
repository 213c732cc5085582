"""The sections of a configuration: frozen dataclasses whose docstrings are the help text."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

from pydantic import ConfigDict
from tyro.conf import DisallowNone  # on the command line a flag, --x or --no-x

from diffplan.config import choices
from diffplan.config.kinds import HEADS, HeadsKind
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.nn import NETWORKS

Modality = Literal["actions", "rewards", "returns", "goal", "task"]
"""Names of `diffplan.model.modalities.MODALITIES`."""

STRICT = ConfigDict(extra="forbid")
_T = TypeVar("_T")
AUTO: Any = None
if TYPE_CHECKING:
    # whoever reads such a setting reads it settled, but for `diffplan.config.config`
    Auto = Annotated[_T, "a value"]
else:
    Auto = Optional  # None: decided from the data, or by their kind
_FEATURES = 128  # of the time and of the conditions, where the network says nothing else


@dataclass(frozen=True)
class PlanSpaceConfig:
    """The plan tensor: how long, how coarse, in which units."""

    __pydantic_config__ = STRICT

    horizon: Auto[int] = AUTO
    """Future states in a plan, H. None: 8, with a goal 16 unless the data say less."""
    stride: Auto[int] = AUTO
    """Environment steps between two plan states. None: by the data."""
    space: Literal["displacement", "absolute"] = "displacement"
    """Scaled differences from the current state, or states of which the first is pinned."""
    columns: Auto[Literal["all", "goal"]] = AUTO
    """goal: plans hold only the columns of the state that hold the achieved goal, and the inverse
    dynamics leads the whole state along them: where a body has to be walked there. None: all,
    unless the data say that the others are a gait."""
    pin_goal: bool = False
    """Hold the goal columns of the last plan state at the goal: planning as inpainting."""


@dataclass(frozen=True)
class DataConfig:
    """How windows, goals and returns are drawn from the dataset."""

    __pydantic_config__ = STRICT

    discount: Auto[float] = AUTO
    """Discount of the return-to-go per environment step; 1 for the undiscounted one. None: .99 with
    a goal, else .999."""
    relabel: Auto[Literal["stitched", "hindsight", "arrivals"]] = AUTO
    """Goals come from the same episode (hindsight: any later state, values' too; arrivals: where
    what the goal is about comes to rest) or, by shortest paths, also from others. None: stitched;
    arrivals where the data say that the goal's columns stand still while others move."""
    best_of_windows: Auto[int] = AUTO
    """Starts drawn per window and action (without a goal); one of good return is kept. None: 16
    without a goal, unless the data say that a high return is nothing to ask for."""
    termination_penalty: float = 0.0
    """Added to the reward of a step that ends an episode before its time limit, without a goal:
    returns then tell falling from running on. -100 in Diffuser and those after it."""
    condition_on_returns: DisallowNone[Auto[bool]] = AUTO
    """Condition on the return-to-go. Neither said: where there is no goal, unless the data say that
    a high return is nothing to ask for."""
    tasks: Literal["id", "prompt", "none"] = "id"
    """What a model of several tasks is told of each: its number, states of a demonstration or of
    the past, or nothing."""


@dataclass(frozen=True)
class ProposerConfig:
    """The model that proposes a trajectory."""

    __pydantic_config__ = STRICT

    kind: Literal["markov", "gru", "transformer", "one-shot"] = "markov"
    """Autoregressive: markov, gru, transformer (as the paper, cached). one-shot: all at once."""
    training: Literal["free-running", "teacher-forced"] = "free-running"
    """The loss is on the model's own unrolled trajectory, or on steps from the data's true past."""
    width: int = 256
    """Hidden width."""
    depth: int = 3
    """Hidden layers (markov, gru, one-shot) or transformer blocks."""


@dataclass(frozen=True)
class DenoiserConfig:
    """The diffusion model that optimises the proposal."""

    __pydantic_config__ = STRICT

    network: choices.Network = "mlp"
    """Residual MLP (light on a CPU), the published temporal U-Net, or transformer over the plan."""
    width: int = 256
    """Width of the mlp or dit; base channels of the unet."""
    depth: int = 2
    """Blocks of the mlp or dit."""
    prediction: Literal["x0", "eps", "v", "velocity", "resnoise"] = "x0"
    """What the network puts out (velocity: interpolants, resnoise: Resfusion). It is read as x0."""
    condition_on_proposal: bool = True
    """Give the proposal to the network beside the noisy plan. Two samples in five then come
    without one, as plain DDPM, so that it can also plan from noise."""
    process: choices.Process = "rddm"
    """Forward process from data to the proposal and noise; ddpm: to noise alone, so that
    the proposal is only an input."""
    levels: int = 20
    """Noise levels of the schedule; rddm, interpolant and rectified-flow have half as many."""
    schedule: choices.Schedule = "cosine"
    """Noise schedule of ddpm, resfusion and diffuse-vae, and of planning without a proposal."""
    drop_condition: float = 0.1
    """Probability of dropping the goal in training, and that of dropping the return-to-go, so
    that guidance has a model without."""

    @property
    def features(self) -> int:
        """Size of the time and condition features."""
        # said by the network, as a published size is its own affair
        return self.width if NETWORKS[self.network].features_of_width else _FEATURES

    @property
    def to_noise(self) -> bool:
        """Whether the forward process leads to noise alone, wherever a proposal is."""
        return self.process == "ddpm"

    @property
    def uses_proposals(self) -> bool:
        """Whether the process leads to the proposal, or the network sees it."""
        return not self.to_noise or self.condition_on_proposal

    @property
    def learns_from_noise(self) -> bool:
        """Whether training has plain DDPM samples, so that plans can come from noise."""
        return self.to_noise or self.condition_on_proposal

    @property
    def noise_draws(self) -> int:
        """Noise draws per window and update: two share a proposal, which costs most."""
        return 2 if self.uses_proposals else 1

    @property
    def share_without_proposal(self) -> float:
        """Share of training samples that are plain DDPM: enough to plan from noise, most for the
        process that is planned with."""
        return 0.4 if self.condition_on_proposal else 0.0


@dataclass(frozen=True)
class HeadsConfig:
    """What gives actions and values: networks of their own, or the denoiser's."""

    __pydantic_config__ = STRICT

    kind: Literal["separate", "shared", "streams", "in-plan"] = "separate"
    """separate: inverse dynamics and value networks. shared: heads on the denoiser's features
    (MT-Diffusion). streams: the denoiser plans states, actions and the return, each at a noise
    level of its own. in-plan: it plans the actions beside the states (Diffuser)."""
    modalities: tuple[Modality, ...] = ("actions", "returns")
    """shared: what there are heads for, beside the plan's states."""
    aggregation: float = 0.0
    """shared: weight with which these data enter the forward process; 0: they are only told."""
    width: int = 256
    """Hidden width of the separate networks; of heads half, which read features."""
    lookahead: Auto[int] = AUTO
    """Plan states ahead that the inverse dynamics leads to: one, or more where a single stride
    says less of the way than of the gait. None: by the data."""
    gain: Auto[float] = AUTO
    """The inverse dynamics is asked to lead so many times as far as the plan goes; its training
    does not read it. None: 1, unless the data show a gait and turn within a plan."""
    train_on_proposals: DisallowNone[Auto[bool]] = AUTO
    """Train the inverse dynamics, or the head of actions, also on proposed states, not on true ones
    alone. Neither said: where there is no goal."""
    expectile: float = 0.7
    """Expectile of the value regression; 0.5 is the mean."""
    value: Literal["auto", "returns", "bootstrapped", "critic", "none"] = "auto"
    """returns: V on the data's returns-to-go (with a goal, from steps-to-goal). bootstrapped: V on
    reward plus its own value one step on (implicit Q-learning without actions). critic: Q of the
    current state and first action on returns-to-go (as published). none: no network for it. auto:
    returns if planning chooses among candidates, else none."""
    value_ensemble: Auto[int] = AUTO
    """Value networks that are averaged. None: 1 with a goal, else 4."""

    @property
    def facts(self) -> HeadsKind:
        """What this kind means for the plan and the networks."""
        return HEADS[self.kind]


@dataclass(frozen=True)
class PlanningConfig:
    """How a plan is made from the trained networks; may be changed after training."""

    __pydantic_config__ = STRICT

    start: Auto[Literal["process", "sdedit", "raw", "noise", "teleport", "none"]] = AUTO
    """process: its far end, for rddm proposal plus scaled noise. sdedit: the proposal noised.
    raw: the proposal as it is (as published). noise: no proposal. teleport: as noise, but for the
    first levels, whose way is that of a Gaussian; needs `diffplan calibrate --start teleport`.
    none: not refined. None: process with a goal, else raw."""
    denoising_steps: Auto[int] = AUTO
    """Reverse steps. None: 3 with a goal, else 5."""
    start_level: int | None = None
    """First noise level of sdedit (None: that whose noise to signal is the proposals' held-out
    error), of teleport (None: what the Gaussian leaves open) and raw (None: denoising_steps)."""
    sampler: choices.Sampler = "ddim"
    """How a reverse step is taken. dpm-solver-v3 needs `diffplan calibrate`; evodiff is
    experimental."""
    grid: choices.Grid = "uniform"
    """Which levels are visited: even in the level, or in log signal to noise."""
    eta: float = 0.0
    """Noise of ddim steps; 1 is ancestral."""
    noise_scale: float = 1.0
    """Scale of the start noise and of the steps' noise; below 1: low-temperature sampling."""
    clip: float | None = 5.0
    """Bound on the predicted clean plan, in plan units; None: no bound."""
    candidates: int = 1
    """Plans per decision, K. More than one needs a value, which is trained where they are asked
    for in training; choosing paid on none of the tasks it was tried on."""
    temperature: Auto[float] = AUTO
    """Scale of the proposer's noise in candidates 2 to K; the first is always the mean. None: 0.5
    with a goal, else 0."""
    select: Literal["value", "softmax"] = "value"
    """The highest value, or a draw by softmax over values."""
    guidance_weight: float = 1.0
    """w of classifier-free guidance, eps_u + w (eps_c - eps_u): 1 is conditional. That of Ho &
    Salimans is one less."""
    value_guidance: float = 0.0
    """Weight of the noisy value's gradient in every step, in units of the return (Diffuser).
    Above 0 in training, the value of noisy plans is learned, which guidance needs."""
    value_guidance_until: int = 3
    """Noise level, 1 the least, below which the gradient no longer guides."""
    replan_every: Auto[int] = AUTO
    """Environment steps that a plan is followed before the next one is made. None: half a plan,
    unless the data say less."""
    subgoal_steps: int | None = None
    """With stitched goals: a plan aims at most so many environment steps ahead on the data's
    shortest way to the goal; 0: at the goal. None: as far as a plan spans."""
    detour_after: Auto[int] = AUTO
    """Environment steps after which a body that got nowhere aims at a place near it for a while,
    where goals are stitched; 0: never. None: 0, unless the data show a gait."""
    reuse: bool = False
    """At a replan go on from the plan before: propose only the missing tail, refine a little."""
    target: Auto[Literal["fixed", "by-step", "decremented"]] = AUTO
    """Target return-to-go. fixed: one for the whole episode. by-step: what the data reach from the
    episode's present step on. decremented: the first step's, less each reward (as published).
    None: by-step without a goal, unless a return is given."""
    target_quantile: float | None = None
    """Asked for is this quantile of the data's returns-to-go: over all states (fixed), or over
    those at the same step of their episodes (by-step, decremented). None: the mean return of the
    windows that training draws."""
    target_return: float | None = None
    """Asked for instead of the quantile, in the discounted returns of the data (fixed,
    decremented)."""

    @property
    def proposes(self) -> bool:
        """Whether plans begin at proposals."""
        return self.start not in ("noise", "teleport")

    @property
    def chooses(self) -> bool:
        """Whether there are several candidates, and they are no copies of one."""
        drawn = self.start not in ("raw", "none") or self.temperature > 0
        stepping = self.start != "none" and self.denoising_steps > 0
        return self.candidates > 1 and (
            drawn or (stepping and SAMPLERS[self.sampler].eta(self.eta) > 0)
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation. No schedule depends on the total number of steps."""

    __pydantic_config__ = STRICT

    batch_size: int = 64
    """Windows per update and process; inverse dynamics and value see at least 256 samples."""
    learning_rate: float = 1e-3
    """Peak learning rate (AdamW)."""
    decay_after: int = 2000
    """The rate falls as sqrt(decay_after / update) after this many updates."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    ema: float = 0.998
    """Decay of the weight average; min(ema, (1 + update) / (10 + update)) early on."""
    bf16: bool = False
    """Run the networks in bfloat16 under autocast."""


@dataclass(frozen=True)
class Sections:
    """All sections together, whether they fit each other or not."""

    __pydantic_config__ = STRICT

    name: str = "trajectory-diffuser"
    """Label in results and tables."""
    plan: PlanSpaceConfig = field(default_factory=PlanSpaceConfig)
    data: DataConfig = field(default_factory=DataConfig)
    proposer: ProposerConfig = field(default_factory=ProposerConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def is_open(self, *settings: str) -> bool:
        """Whether one of these, "section.key", is None: nobody gave it a value."""
        return any(attrgetter(setting)(self) is None for setting in settings)

    def has_head(self, name: Modality) -> bool:
        """Whether the denoiser has a head for this."""
        return self.heads.facts.on_features and name in self.heads.modalities

    @property
    def actions_in_plan(self) -> bool:
        """Whether the plan tensor holds actions."""
        return self.heads.facts.in_plan

    @property
    def learns_actions(self) -> bool:
        """Whether windows need their actions: the denoiser plans or tells them."""
        return self.actions_in_plan or self.has_head("actions")

    @property
    def tells_returns(self) -> bool:
        """Whether the denoiser tells the return of a plan: no value network is needed."""
        return not self.heads.facts.value or self.has_head("returns")

    @property
    def trains_value(self) -> bool:
        """Whether there is a value network; of settled settings."""
        return self.heads.value != "none" and not self.tells_returns
