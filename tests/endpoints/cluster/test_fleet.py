"""Making, repairing and taking away instances, with what may have been left half done."""

import pytest

from tasks.endpoints.cluster import fleet as fleet_module
from tasks.endpoints.cluster.fleet import Fleet
from tests.endpoints.cluster.test_objects import CPU, PLAN, wish

NAME = "empelt-eu-3f2a00112233"
INSTANCE = "eu-3f2a00112233"


@pytest.fixture
def fleet(cluster):
    return Fleet(cluster, PLAN)


def make(fleet, **more):
    fleet.look()
    fleet.make(wish(**more), CPU, weights_bytes=0)
    return fleet.look()


def test_what_is_there_is_found_by_its_notes_and_made_once(api, fleet):
    listed = make(fleet)
    assert set(listed) == {INSTANCE}
    assert set(listed[INSTANCE].objects) == {"Deployment", "Service"}
    assert listed[INSTANCE].served["image"] == PLAN.serving_image
    assert "--dtype float32" in listed[INSTANCE].served["flags"]
    make(fleet)
    assert api.count("PATCH") == 2


def test_what_somebody_changed_by_hand_is_put_back_after_a_while(api, fleet, monkeypatch):
    make(fleet)
    api.edit("deployments", NAME, ("spec", "replicas"), 0)
    make(fleet)
    assert api.objects["deployments", NAME]["spec"]["replicas"] == 0
    monkeypatch.setattr(fleet_module, "REPAIR_SECONDS", 0.0)  # its time has come: the clock is not waited for
    make(fleet)
    assert api.objects["deployments", NAME]["spec"]["replicas"] == 1


def test_a_part_that_is_missing_is_made_again(api, fleet):
    make(fleet)
    del api.objects["services", NAME]
    assert set(make(fleet)[INSTANCE].objects) == {"Deployment", "Service"}


def test_what_was_left_half_removed_is_removed(api, fleet):
    make(fleet)
    del api.objects["services", NAME]
    fleet.look()
    fleet.stop(INSTANCE)
    assert api.objects["deployments", NAME]["metadata"]["deletionTimestamp"]
    deletions = api.count("DELETE")
    assert fleet.look()[INSTANCE].is_going
    fleet.stop(INSTANCE)
    assert api.count("DELETE") == deletions, "it is asked for once"


def test_nothing_is_applied_to_what_is_being_deleted(api, fleet):
    make(fleet)
    fleet.stop(INSTANCE)
    applied = api.count("PATCH")
    make(fleet)
    assert api.count("PATCH") == applied


def test_an_instance_that_was_made_anew_meanwhile_is_not_deleted(api, fleet):
    make(fleet)
    for plural in ("deployments", "services"):
        api.objects[plural, NAME]["metadata"]["uid"] = "another"
    fleet.stop(INSTANCE)
    assert not api.objects["deployments", NAME]["metadata"].get("deletionTimestamp")
    assert ("services", NAME) in api.objects


def test_an_object_with_our_mark_and_no_notes_is_known_by_its_own_name(api, fleet):
    make(fleet)
    for plural in ("deployments", "services"):
        api.objects[plural, NAME]["metadata"]["annotations"] = {}
    assert set(fleet.look()) == {NAME}
    fleet.stop(NAME)
    assert ("services", NAME) not in api.objects
