"""Changes: what the journal keeps is what the source stated, and small facts merge."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.changes import (
    Change,
    Section,
    decode_artifact,
    decode_head,
    encode,
    encode_head,
    merge_small,
)
from syncd.core.facts import (
    ArtifactSeen,
    DatasetInput,
    ExperimentSeen,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    RunSeen,
    SubjectKey,
    TagsDeleted,
    TagsSet,
)

RUN = SubjectKey("run", "r1")
EXPERIMENT = SubjectKey("experiment", "0", "a/mlruns")
TEXTS = st.text(st.characters(), max_size=20)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=5)


@given(TEXTS, st.one_of(st.none(), st.integers(-(2**63), 2**63)), TEXTS)
def test_heads_come_back_as_they_were(name, time_ms, user):
    for head in (
        RunSeen(RUN, EXPERIMENT, name, "FAILED", time_ms, None, user, "parent"),
        ExperimentSeen(EXPERIMENT, name, {name: user}),
        ModelSeen(SubjectKey("model", "m-1"), EXPERIMENT, name, "t", "READY", "r1", time_ms, {name: user}, {}),
    ):
        assert decode_head(encode_head(head)) == head
        assert encode(head).section is Section.HEAD


@given(TEXTS)
def test_artifacts_come_back_and_weigh_their_size(path):
    artifact = ArtifactSeen(RUN, path, "/root", 123, 456)
    encoded = encode(artifact)
    assert decode_artifact(RUN, encoded.body) == artifact
    assert (encoded.section, encoded.size_bytes) == (Section.ARTIFACTS, 123)


def test_points_are_kept_as_they_are():
    encoded = encode(MetricsLogged(RUN, b"{}\n{}", 2))
    assert (encoded.body, encoded.items, encoded.section) == (b"{}\n{}", 2, Section.METRICS)


def change(seq, fact):
    encoded = encode(fact)
    return Change(seq, encoded.kind, encoded.body, encoded.items)


STEPS = st.lists(
    st.one_of(
        MAPS.map(lambda tags: TagsSet(RUN, tags)),
        st.lists(TEXTS, max_size=4).map(lambda keys: TagsDeleted(RUN, keys)),
        MAPS.map(lambda params: ParamsLogged(RUN, params)),
    ),
    max_size=8,
)


@given(MAPS, STEPS)
def test_sending_the_merged_value_has_the_effect_of_sending_all_in_order(before, facts):
    tags, params = dict(before), {}
    for fact in facts:
        match fact:
            case TagsSet():
                tags.update(fact.tags)
            case TagsDeleted():
                for key in fact.keys:
                    tags.pop(key, None)
            case ParamsLogged():
                params.update(fact.params)
    merged = merge_small(change(seq, fact) for seq, fact in enumerate(facts))
    after = {key: value for key, value in {**before, **merged.tags}.items() if key not in merged.untag}
    assert after == tags
    assert merged.params == params


def test_inputs_and_outputs_merge_by_their_identity():
    data = DatasetInput("d", "1", "local", "{}", tags={"mlflow.data.context": "training"})
    merged = merge_small(
        [
            change(1, InputsLogged(RUN, [data], ["m-1"])),
            change(2, InputsLogged(RUN, [data], ["m-1", "m-2"])),
            change(3, OutputsLogged(RUN, [("m-3", 0)])),
            change(4, OutputsLogged(RUN, [("m-3", 5)])),
        ]
    )
    assert merged.datasets == (data,)
    assert merged.model_inputs == ("m-1", "m-2")
    assert merged.model_outputs == (("m-3", 5),)
