"""What fits where, as properties over random hosts and wishes, and the reasons as a person reads them."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.endpoints.placement import GIB, Device, Need, lint_placement, lint_staging, place

KINDS = st.sampled_from(["cpu", "gpu"])
DEVICES = st.lists(
    st.builds(
        Device,
        name=st.sampled_from(["d0", "d1", "d2"]),
        kind=KINDS,
        memory_bytes=st.integers(0, 100),
        max_instances=st.integers(0, 4),
    ),
    max_size=3,
    unique_by=lambda d: d.name,
)
NEEDS = st.lists(
    st.builds(
        Need,
        name=st.sampled_from([f"eu-{i}" for i in range(6)]),
        memory_bytes=st.integers(0, 60),
        kind=KINDS,
        running_on=st.sampled_from([None, "d0", "d1", "gone"]),
    ),
    max_size=8,
)


@given(DEVICES, NEEDS)
def test_no_device_is_ever_given_more_than_it_declares(devices, needs):
    placed = place(devices, needs).placed
    size = {need.name: need for need in reversed(needs)}
    for device in devices:
        here = [size[name] for name, where in placed.items() if where.name == device.name]
        assert sum(need.memory_bytes for need in here) <= device.memory_bytes
        assert len(here) <= device.max_instances
        assert all(need.kind == device.kind for need in here)


@given(DEVICES, NEEDS)
def test_everything_wanted_is_placed_or_waits_with_a_reason_that_names_it(devices, needs):
    found = place(devices, needs)
    assert {*found.placed, *found.waiting} == {need.name for need in needs}
    assert not {*found.placed} & {*found.waiting}
    assert all(name in reason for name, reason in found.waiting.items())


@given(DEVICES, NEEDS, st.integers(0, 8))
def test_what_is_less_important_displaces_nothing(devices, needs, count):
    first = place(devices, needs[:count])
    everything = place(devices, needs)
    assert first.placed.items() <= everything.placed.items()
    assert first.waiting.items() <= everything.waiting.items()


@given(DEVICES, NEEDS)
def test_a_running_instance_is_never_moved(devices, needs):
    names = {d.name: d.kind for d in devices}
    first = {need.name: need for need in reversed(needs)}
    for name, device in place(devices, needs).placed.items():
        need = first[name]
        if need.running_on and names.get(need.running_on) == need.kind:
            assert device.name == need.running_on


def test_two_versions_fit_side_by_side_where_memory_allows():
    device = Device("gpu0", "gpu", 80 * GIB)
    live, staged = Need("eu-a", 30 * GIB, "gpu"), Need("eu-b", 30 * GIB, "gpu")
    assert set(place([device], [live, staged]).placed) == {"eu-a", "eu-b"}


def test_the_reason_to_wait_says_what_is_needed_and_what_is_left():
    device = Device("gpu0", "gpu", 40 * GIB)
    found = place([device], [Need("eu-a", 30 * GIB, "gpu"), Need("eu-b", 30 * GIB, "gpu"), Need("eu-c", 1, "cpu")])
    assert found.waiting == {
        "eu-b": "eu-b needs 30.0 GiB; gpu0 has 10.0 GiB left of 40.0 GiB",
        "eu-c": "eu-c needs a cpu and this host declares none",
    }


def test_a_catalog_that_cannot_be_live_together_is_refused_by_channel():
    devices = [Device("gpu0", "gpu", 40 * GIB)]
    channels = {c: Need(f"{c}-live", 18 * GIB, "gpu") for c in ("eu", "ca", "gl")}
    problems = lint_placement(devices, channels)
    assert problems == (
        "channel gl cannot be live together with the others: gl-live needs 18.0 GiB; gpu0 has 4.0 GiB left of 40.0 GiB",
    )
    assert lint_placement(devices, {"iberian": Need("iberian-live", 18 * GIB, "gpu")}) == ()


def test_a_channel_without_room_for_a_candidate_is_named():
    devices = [Device("gpu0", "gpu", 40 * GIB)]
    assert lint_staging(devices, {"eu": Need("eu-live", 18 * GIB, "gpu")}) == ()
    (note,) = lint_staging(devices, {"eu": Need("eu-live", 30 * GIB, "gpu")})
    assert "a candidate for eu does not fit beside what is live" in note
