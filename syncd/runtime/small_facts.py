"""Delivers params, tags, dataset inputs and links to models of one run; refused ones are singled out.

What the destination has no room for goes to the overflow, whether its limits say so before or it says so itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest

from syncd.core import source_tags
from syncd.core.changes import Change, Section, SmallFacts, merge_small
from syncd.core.facts import DatasetInput
from syncd.core.places import RunPlaces
from syncd.core.planner import Fit, cut_values, fit_values
from syncd.core.reconcile import changed_values
from syncd.core.requests import DeleteTags, LogBatch, LogInputs, LogOutputs, Request
from syncd.core.run_tags import fit_run_tags
from syncd.destinations.base import RemoteRun
from syncd.errors import OverLimit, Rejected, SubjectGone
from syncd.journal import bindings, deliveries, subjects
from syncd.journal.bindings import Binding
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.subjects import Subject
from syncd.runtime.channel import Channel
from syncd.runtime.identities import Identities
from syncd.runtime.overflow import Overflow
from syncd.runtime.wanted import is_wanted

MOST_CHANGES = 5000
# So long a link waits for its model without more ado (either way: the clock may have been set back). After that its
# source is read wholly, if it has not been since; one that is told by messages states nothing a second time.
LINK_PATIENCE_MS = 10_000
# So long where another daemon may have the model's own messages, and creates it; a stop does not wait for it.
SHARED_LINK_PATIENCE_MS = 60_000


class SmallFactDelivery:
    """One pass over the small facts of a run: they are merged, sent, and settled together at the end."""

    def __init__(
        self,
        channel: Channel,
        identities: Identities,
        subject: Subject,
        binding: Binding,
        overflow: Overflow,
        held: RemoteRun | None,
        places: RunPlaces,
        created_tags: Mapping[str, str],
        wall_ms: Callable[[], int],
    ) -> None:
        self._channel = channel
        self._identities = identities
        self._subject = subject
        self._binding = binding
        self._overflow = overflow
        self._held = held
        self._places = places
        self._created_tags = created_tags
        self._dead: list[DeadLetter] = []
        self._limits_are_known = False
        self._is_shared = subject.source_id in channel.shared
        self._wall_ms = wall_ms
        self.waits = False  # whether a link was left for later

    async def run(self) -> None:
        """Deliver everything that waits."""
        changes: Sequence[Change] = await self._channel.journal.do(
            deliveries.pending, self._channel.id, self._subject.id, Section.SMALL, limit=MOST_CHANGES
        )
        if not changes:
            return
        changes, later = await self._without_early_links(changes)
        self.waits = bool(later)
        small = merge_small(changes)
        await self._send_values(small)
        if small.untag:
            await self._overflow.release("tags", small.untag)
            await self._send_or_bury(DeleteTags(self._binding.remote_id, small.untag), "untag", list(small.untag))
            self._places.tags.difference_update(small.untag)
        for dataset in small.datasets:
            await self._send_dataset(dataset)
        await self._link_models(small)
        await self._channel.journal.do(
            deliveries.settle,
            self._channel.id,
            self._subject.id,
            [(Section.SMALL, change.seq) for change in changes],
            dead=self._dead,
        )

    async def _without_early_links(self, changes: Sequence[Change]) -> tuple[list[Change], list[Change]]:
        """Divide off the links to models of which it is not yet certain what they are called there."""
        now: list[Change] = []
        later: list[Change] = []
        for change in changes:
            early = change.kind in ("inputs", "outputs") and await self._links_early(change)
            (later if early else now).append(change)
        return now, later

    async def _links_early(self, change: Change) -> bool:
        """Whether a model is not stated yet (it may be), or may still give way to a twin.

        A link cannot be taken back, so it waits until the model was looked up once more after its create.
        """
        if not self._channel.logged_models:
            return False
        links = merge_small([change])
        for key in [*links.model_inputs, *(key for key, _ in links.model_outputs)]:
            model = await self._channel.journal.do(subjects.find_subject, self._subject.source_id, "model", key)
            binding = None
            if model is not None:
                binding = await self._channel.journal.do(bindings.binding, self._channel.id, model)
                if binding is None:
                    if not await is_wanted(self._channel, await self._channel.journal.do(subjects.subject, model)):
                        continue
                    binding = await self._identities.adopt_model(model) if self._is_shared else None
            if binding is None:
                if await self._may_be_stated(change):
                    return True
                binding = await self._identities.remote_model(self._subject.source_id, key)
            if binding is not None and not (binding.adopted or binding.checked):
                return True
        return False

    async def _may_be_stated(self, link: Change) -> bool:
        """Whether the model that is linked to may be stated yet."""
        waits_long = self._is_shared and not self._channel.hurries
        patience_ms = SHARED_LINK_PATIENCE_MS if waits_long else LINK_PATIENCE_MS
        if abs(self._wall_ms() - link.at_ms) < patience_ms:
            return True
        if not self._channel.is_yet_to_be_read(self._subject.source_id, link.seq):
            return False
        await self._channel.read_again(self._subject.source_id, "")
        return True

    # -- params and tags -------------------------------------------------------------------------------------------

    async def _send_values(self, small: SmallFacts) -> None:
        """Send params and tags, again for as long as the destination turns out to take less than expected."""
        params, tags = await self._wanted(small)
        while True:
            try:
                await self._send_fitting(params, tags)
            except OverLimit as error:
                self._limits_are_known = not self._channel.learn(error)
                held = await self._channel.courier.call(lambda: self._channel.reader.run(self._binding.remote_id))
                self._places.params, self._places.tags = set(held.params), set(held.tags)
            else:
                return

    async def _send_fitting(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        limits = self._channel.limits
        fit_params = fit_values(
            params,
            key_length=limits.param_key_length,
            value_length=limits.param_value_length,
            room=limits.params_per_run,
            known=self._places.params,
        )
        fit_tags = fit_run_tags(tags, limits, self._places.tags)
        await self._keep_overflow("params", fit_params)
        await self._keep_overflow("tags", fit_tags)
        param_groups = cut_values(fit_params.fits, most=limits.batch_params, limits=limits)
        tag_groups = cut_values(fit_tags.fits, most=limits.batch_tags, limits=limits)
        for some_params, some_tags in zip_longest(param_groups, tag_groups):
            await self._send_batch(some_params or {}, some_tags or {})

    async def _wanted(self, small: SmallFacts) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return the params and tags that the destination does not have yet, in its own ids."""
        tags = dict(small.tags)
        parent = tags.get(source_tags.PARENT_RUN_ID)
        if parent:
            remote = await self._identities.remote_run(self._subject.source_id, parent)
            tags[source_tags.PARENT_RUN_ID] = remote.remote_id if remote else parent
        if not tags.get(source_tags.RUN_NAME, "x"):
            del tags[source_tags.RUN_NAME]  # the name is the head's; an empty one cannot be set
        tags = changed_values(tags, self._created_tags)
        if self._held is None:
            return small.params, tags
        return changed_values(small.params, self._held.params), changed_values(tags, self._held.tags)

    async def _keep_overflow(self, section: str, fit: Fit) -> None:
        if fit.over:
            await self._overflow.keep(section, fit.over)
        if fit.fits:
            await self._overflow.release(section, list(fit.fits))

    async def _send_batch(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Send params and tags; cut a refused batch in two until the refused value stands alone.

        Raises:
            OverLimit: unless nothing more can be learned from it; the limits are to be looked at again.
        """
        if not params and not tags:
            return
        request = LogBatch(self._binding.remote_id, params=params, tags=tags)
        try:
            await self._channel.courier.call(lambda: self._channel.destination.send(request))
        except SubjectGone as error:
            self._bury_values(params, tags, error)
        except Rejected as error:
            if isinstance(error, OverLimit) and not self._limits_are_known:
                raise
            if len(params) + len(tags) == 1:
                await self._keep_or_bury(params, tags, error)
            elif params and tags:
                await self._send_batch(params, {})
                await self._send_batch({}, tags)
            else:
                for half in _halves(params or tags):
                    await self._send_batch(half if params else {}, half if tags else {})
        else:
            self._places.params.update(params)
            self._places.tags.update(tags)

    async def _keep_or_bury(self, params: Mapping[str, str], tags: Mapping[str, str], error: Rejected) -> None:
        """Keep in the overflow what is over a limit of any kind; anything else is refused for good."""
        if not isinstance(error, OverLimit):
            self._bury_values(params, tags, error)
        elif params:
            await self._overflow.keep("params", params)
        else:
            await self._overflow.keep("tags", tags)

    def _bury_values(self, params: Mapping[str, str], tags: Mapping[str, str], error: Rejected) -> None:
        for kind, values in (("params", params), ("tags", tags)):
            if values:
                self._bury(kind, dict(values), len(values), error)

    # -- inputs and models -----------------------------------------------------------------------------------------

    async def _send_dataset(self, dataset: DatasetInput) -> None:
        identity = (dataset.name, dataset.digest)
        most = self._channel.limits.inputs_per_run
        if identity not in self._places.datasets and most is not None and len(self._places.datasets) >= most:
            await self._keep_dataset(dataset)
            return
        request = LogInputs(self._binding.remote_id, datasets=[dataset])
        try:
            await self._channel.courier.call(lambda: self._channel.destination.send(request))
        except OverLimit as error:
            self._channel.learn(error)
            await self._keep_dataset(dataset)
        except Rejected as error:
            self._bury("inputs", {"datasets": [asdict(dataset)], "models": []}, 1, error)
        else:
            self._places.datasets.add(identity)

    async def _keep_dataset(self, dataset: DatasetInput) -> None:
        value = json.dumps(asdict(dataset), ensure_ascii=False)
        await self._overflow.keep("inputs", {f"{dataset.name} {dataset.digest}": value})

    async def _link_models(self, small: SmallFacts) -> None:
        inputs = {key: await self._remote_model(key) for key in small.model_inputs}
        outputs = {key: (await self._remote_model(key), step) for key, step in small.model_outputs}
        found_inputs = [remote for remote in inputs.values() if remote]
        found_outputs = [(remote, step) for remote, step in outputs.values() if remote]
        if found_inputs:
            await self._send_or_bury(
                LogInputs(self._binding.remote_id, models=found_inputs),
                "inputs",
                {"datasets": [], "models": list(inputs)},
            )
        if found_outputs:
            await self._send_or_bury(
                LogOutputs(self._binding.remote_id, models=found_outputs),
                "outputs",
                [[key, step] for key, step in small.model_outputs],
            )
        await self._bury_unknown_models(
            [key for key, remote in inputs.items() if not remote],
            [[key, step] for key, (remote, step) in outputs.items() if not remote],
        )

    async def _remote_model(self, key: str) -> str | None:
        if not self._channel.logged_models:
            return None
        binding = await self._identities.remote_model(self._subject.source_id, key)
        return binding.remote_id if binding else None

    async def _bury_unknown_models(self, inputs: list[str], outputs: list[list[object]]) -> None:
        error = Rejected(
            "the linked model is not on the destination"
            if self._channel.logged_models
            else "this server has no logged models (they came with MLflow 3)",
            code="MODEL_NOT_HELD",
            hint="retry it when the model is there",
        )
        if inputs:
            self._bury("inputs", {"datasets": [], "models": inputs}, len(inputs), error)
        if outputs:
            self._bury("outputs", outputs, len(outputs), error)

    # -- what is refused -------------------------------------------------------------------------------------------

    async def _send_or_bury(self, request: Request, kind: str, body: object) -> None:
        try:
            await self._channel.courier.call(lambda: self._channel.destination.send(request))
        except Rejected as error:
            self._bury(kind, body, 1, error)

    def _bury(self, kind: str, body: object, items: int, error: Rejected) -> None:
        encoded = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._dead.append(DeadLetter(Section.SMALL, kind, encoded, items, str(error), error.code, error.status))


def _halves(values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    items = list(values.items())
    return dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])
