"""Stage 3 as a task: what a policy is told, what it has to say, and all that stands between that and units."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors, trained
from lapa_jax.actions import flow, inputs, planning, regression, tokens
from lapa_jax.actions.head import Head
from lapa_jax.data import action_bins, action_examples, layouts, statistics

KINDS: dict[str, type[Head]] = {
    "latents": regression.FromLatents,
    "features": regression.FromFeatures,
    "bins": tokens.AsTokens,
    "l1": regression.InParallel,
    "flow": flow.ByFlow,
}
"""Heads by their name in `head.kind`."""

DEFAULTS = {"kind": "latents", "depth": 2, "flow_steps": 10, "flow_draws": 8}
"""Of `head`, for policies from before there were these keys."""

NEW = r"lora_[ab]$|(^|/)(embed|head)_action/"
"""Parameters of a planner that a VLM need not have: they begin anew."""


@dataclasses.dataclass(frozen=True)
class ActionTask:
    """
    Attributes:
        planner: the VLM; with a table of actions where the head wants it.
        options: the `head` section of the config: kind, horizon, width, ...
        statistics: of the actions; `proprio`: of the proprioception, None where it is not read.
        cameras: names in an observation; the first is the main one, "image".
        history: steps from one look to the next, after which the policy is told the latents that it planned last;
            0: it is not told.
        bins: of the actions, for heads that answer in ids.
        action_space: what the numbers of an action are, as the dataset's table declares it; None: nobody says.

    Raises:
        UserError: no such head, or one that cannot do what is asked.
    """

    planner: trained.Planner
    options: Mapping[str, Any]
    statistics: statistics.Statistics
    proprio: statistics.Statistics | None = None
    cameras: tuple[str, ...] = ("image",)
    history: int = 0
    bins: action_bins.ActionBins | None = None
    action_space: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        kind = self.options["kind"]
        if kind not in KINDS:
            raise errors.UserError(f"no head {kind!r}: choose one of {', '.join(KINDS)}")
        if self.options["horizon"] < 1:
            raise errors.UserError(f"head.horizon={self.options['horizon']} holds no action; use 1 or more")
        if self.history and not KINDS[kind].plans:
            able = ", ".join(name for name, one in KINDS.items() if one.plans)
            raise errors.UserError(f"head.kind={kind} plans no latents to be told of: set history=0, or use {able}")
        if not 0 <= self.history <= self.horizon:
            raise errors.UserError(
                f"history={self.history}: a policy looks again after 1 to head.horizon={self.horizon} actions"
            )
        names = (self.action_space or {}).get("names")
        if names and len(names) != self.action_dim:
            raise errors.UserError(
                f"{len(names)} names, {','.join(map(str, names))}, for actions of {self.action_dim}: name each"
            )
        if KINDS[kind].tokens and self.bins is None:
            raise errors.UserError(f"head.kind={kind} needs bins of the actions")
        if self.bins is not None and len(self.bins.edges) != self.action_dim:
            dims = len(self.bins.edges)
            raise errors.UserError(f"bins of {dims} dimensions for actions of {self.action_dim}: give others")

    @classmethod
    def of(cls, planner: trained.Planner, options: Mapping[str, Any], *rest: Any, **more: Any) -> "ActionTask":
        """A task from a VLM that may have no table of actions yet, or no LoRA."""
        bins = more.get("bins")
        if bins is not None:
            planner = with_actions(planner, int(bins.counts.max()))
        return cls(planner, {**DEFAULTS, **options}, *rest, **more)

    @property
    def action_dim(self) -> int:
        return len(self.statistics.mean)

    @property
    def horizon(self) -> int:
        return self.options["horizon"]

    @property
    def layout(self) -> layouts.Layout:
        """Of prompts: an image a camera, and what the head answers with."""
        answer = "action" if self.head.tokens else "latent"
        length = self.horizon * self.action_dim if self.head.tokens else None
        changes = dict(images=len(self.cameras), answer=answer, answer_length=length)
        return dataclasses.replace(self.planner.layout, **changes)

    @property
    def beside(self) -> action_examples.Beside:
        """What its examples hold beside the main image, the prompt and the actions."""
        return action_examples.Beside(self.cameras[1:], self.proprio, self.bins, self.history)

    @property
    def head(self) -> Head:
        """Knows how to train and decode."""
        sides = (len(self.proprio.mean) if self.proprio else 0) + (self._plan_size if self.history else 0)
        kind = KINDS[self.options["kind"]]
        return kind(self.planner, self.horizon, self.action_dim, sides, self.options, self.bins)

    @property
    def _plan_size(self) -> int:
        return self.planner.layout.code_length * self.planner.model.vocabs["latent"]

    def init_fn(self) -> Callable[[jax.Array], Any]:
        """key -> initial flax variables, with room for the frozen encoder of the images."""
        planner = self.planner.init_fn()

        def init(key: jax.Array) -> Any:
            of_planner, of_head = jax.random.split(key)
            variables = dict(planner(of_planner))
            head = self.head.start(of_head)
            own = {"action_head": head} if jax.tree.leaves(head) else {}
            return {**variables, "params": {"planner": variables["params"], **own}}

        return init

    def loss(
        self, params: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """(loss, what to log) of a batch of `loader.action_stream`."""
        given = self._inputs({**variables, "params": params}, batch)
        return self.head.loss(params, given, batch, key)

    def predict(
        self, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """
        Args:
            variables: with "params".
            batch: prompts, image uint8[B, H, W, 3] or [B, E, H, W, 3], and where they are read proprio float[B, P],
                normalised, and last_latents int[B, N], -1 where none were planned.
            key: to draw with; None: the same answer always.

        Returns:
            actions float32[B, horizon, A] in the data's units, and latents int32[B, N] where they are planned.
        """
        said = self.head.predict(variables["params"], self._inputs(variables, batch), key)
        actions = self._middles(said.actions) if self.head.tokens else self._in_units(said.actions)
        return {"actions": actions} | ({} if said.latents is None else {"latents": said.latents})

    def normalised(self, variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        """`predict`, its actions normalised as those of the batch are."""
        centre, width = self.statistics.affine
        return (self.predict(variables, batch)["actions"] - centre) / width

    def _in_units(self, actions: jax.Array) -> jax.Array:
        centre, width = self.statistics.affine
        return actions * width + centre

    def _middles(self, ids: jax.Array) -> jax.Array:
        """Ids int[B, horizon, A] -> the middles of their bins."""
        rows = np.arange(int(self.bins.counts.max()))[:, None]
        table = self.bins.decode(np.broadcast_to(rows, (len(rows), self.action_dim))).astype(np.float32)
        return jnp.asarray(table)[ids, jnp.arange(self.action_dim)]

    def _inputs(self, variables: Any, batch: Mapping[str, jax.Array]) -> inputs.Inputs:
        prompt, seen = inputs.look(self.planner, variables, batch, batch["image"])
        side = [batch["proprio"]] if self.proprio else []
        if self.history:
            codes = self.planner.model.vocabs["latent"]
            last = jax.nn.one_hot(self._last(variables, batch), codes)  # -1 is a row of zeros
            side.append(last.reshape(len(last), -1))
        rows = len(prompt.ids)
        return inputs.Inputs(prompt, seen, jnp.concatenate([jnp.zeros((rows, 0)), *side], axis=-1))

    def _last(self, variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        """int[B, N]: what was planned at the last look: as told, else as it would have been planned there."""
        if "last_latents" in batch:
            return batch["last_latents"]
        prompt, seen = inputs.look(self.planner, variables, batch, batch["last_image"])
        params, count = variables["params"]["planner"], self.planner.layout.code_length
        planned = planning.ids(self.planner.model, params, prompt, seen, count)
        return jnp.where(batch["last_known"][:, None], planned, -1)

    def to_json(self) -> dict[str, Any]:
        """The JSON-able assets of a policy's checkpoint; `from_json` needs nothing else."""
        bins = self.bins and {"edges": [edges.tolist() for edges in self.bins.edges], "gripper": self.bins.gripper}
        return {
            **self.planner.to_json(),
            "statistics": self.statistics.to_json(),
            "proprio_statistics": self.proprio and self.proprio.to_json(),
            "head": dict(self.options),
            "action_dim": self.action_dim,
            "cameras": list(self.cameras),
            "history": self.history,
            "bins": bins,
            "action_space": self.action_space and dict(self.action_space),
        }

    @classmethod
    def from_json(cls, assets: Mapping[str, Any]) -> "ActionTask":
        """What `to_json` wrote, also in the form of earlier versions."""
        bins, proprio = assets.get("bins"), assets.get("proprio_statistics")
        if bins:
            edges = tuple(np.asarray(row, np.float64) for row in bins["edges"])
            bins = action_bins.ActionBins(edges, bins["gripper"])
        return cls(
            trained.Planner.from_json(assets),
            {**DEFAULTS, **assets["head"]},
            statistics.Statistics.from_json(assets["statistics"]),
            proprio and statistics.Statistics.from_json(proprio),
            tuple(assets.get("cameras", ("image",))),
            assets.get("history", 0),
            bins,
            assets.get("action_space"),
        )


def wants_bins(kind: str) -> bool:
    """Whether a head of that name answers in ids of bins."""
    return kind in KINDS and KINDS[kind].tokens


def may_be_new(name: str) -> bool:
    """Whether a parameter of the planner, by its path, may begin anew."""
    return re.search(NEW, name) is not None


def with_actions(planner: trained.Planner, num_ids: int) -> trained.Planner:
    """The same VLM with a table and a head of actions, of at least so many ids."""
    config = dict(planner.config)
    have = dict(config["vocabs"]).get("action", 0)
    if have and have < num_ids:
        raise errors.UserError(f"the VLM has {have} ids of actions and there are {num_ids} bins: ask for fewer")
    config["vocabs"] = {**config["vocabs"], "action": have or num_ids}
    config["heads"] = tuple(dict.fromkeys((*config["heads"], "action")))
    return changed(planner, config)


def with_lora(planner: trained.Planner, lora: Mapping[str, Any]) -> trained.Planner:
    """The same VLM with thin matrices beside its kernels; one that has some keeps them as they are."""
    if (planner.config.get("lora") or {}).get("rank"):
        return planner
    return changed(planner, {**planner.config, "lora": dict(lora)})


def changed(planner: trained.Planner, config: Mapping[str, Any]) -> trained.Planner:
    rest = (planner.layout, planner.encoder, planner.image_size, planner.resize)
    return trained.Planner.of(config, *rest)

