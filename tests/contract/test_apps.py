"""What is deployed, over SQLite and over Postgres."""

from typing import Any

import pytest

from polyrank.store.apps import HISTORY_S, Apps, NotDeployed, ReplicaRow, Revision, full_name
from polyrank.store.database import Database


@pytest.fixture
def apps(database: Database, clock: Any) -> Apps:
    return Apps(database, clock, server="here")


async def begin(apps: Apps, alias: str = "paint", environment: str = "main") -> Revision:
    return await apps.begin(
        owner="ann",
        alias=alias,
        environment=environment,
        manifest={"ref": "app.py", "options": {"keep_alive": 5}},
        code_hash="c0de",
        created_by="key:1",
    )


def test_an_apps_name_tells_its_environment_unless_it_is_the_main_one() -> None:
    assert full_name("ann", "paint") == "ann/paint"
    assert full_name("ann", "paint", "staging") == "ann/paint--staging"


async def test_a_revision_serves_once_it_is_made_the_current_one(apps: Apps) -> None:
    first = await begin(apps)
    assert (first.number, first.state) == (1, "deploying")
    assert (await apps.get("ann/paint")).revision is None
    await apps.note_ready(first.id, routes=[{"path": "/"}], limits={"auth": "public"}, openapi=None)
    await apps.set_current("ann/paint", first.id)
    app = await apps.get("ann/paint")
    kept = await apps.revision(first.id)
    assert (app.revision, app.alias, app.owner) == (first.id, "paint", "ann")
    assert (kept.state, kept.routes, kept.openapi) == ("ready", [{"path": "/"}], None)


async def test_revisions_count_up_within_an_app(apps: Apps) -> None:
    numbers = [(await begin(apps)).number for _ in range(3)]
    assert (await begin(apps, environment="staging")).number == 1
    assert numbers == [1, 2, 3]
    assert [each.number for each in await apps.revisions("ann/paint")] == [3, 2, 1]
    by_number = await apps.find_revision("ann/paint", "2")
    assert (await apps.find_revision("ann/paint", by_number.id)) == by_number
    with pytest.raises(NotDeployed, match="no revision '4'"):
        await apps.find_revision("ann/paint", "4")


async def test_a_deployment_that_a_server_did_not_end_has_failed(
    apps: Apps, database: Database
) -> None:
    unfinished, finished = await begin(apps), await begin(apps)
    elsewhere = await begin(Apps(database, server="there"))
    await apps.note_ready(finished.id, routes=[], limits={}, openapi={"openapi": "3.1.0"})
    await apps.fail_unfinished("the server ended")
    assert (await apps.revision(unfinished.id)).error == "the server ended"
    assert (await apps.revision(finished.id)).state == "ready"
    assert (await apps.revision(elsewhere.id)).state == "deploying"


async def test_scaling_is_kept_apart_from_revisions_and_an_app_goes_as_a_whole(apps: Apps) -> None:
    revision = await begin(apps)
    await apps.set_scaling("ann/paint", {"max_concurrency": 3})
    assert (await apps.get("ann/paint")).scaling == {"max_concurrency": 3}
    await apps.delete("ann/paint")
    for gone in (apps.get("ann/paint"), apps.revision(revision.id), apps.delete("ann/paint")):
        with pytest.raises(NotDeployed):
            await gone


async def test_replicas_are_remembered_for_a_while(apps: Apps, clock: Any) -> None:
    await apps.add_replica(ReplicaRow("a", "ann/paint", "r1", "server", ["GPU-1"], created_at=1.0))
    for _ in range(2):  # the first may have broken off just when it was done
        await apps.add_replica(ReplicaRow("b", "ann/paint", "r1", "server", created_at=2.0))
    await apps.update_replica("a", ended_at=clock.now, reason="killed by SIGKILL")
    assert [each.id for each in await apps.replicas(since=clock.now + 1)] == ["b"]
    listed = await apps.replicas("ann/paint", since=clock.now - 1)
    assert [(each.id, each.reason) for each in listed] == [("b", None), ("a", "killed by SIGKILL")]
    clock.now += HISTORY_S + 1
    assert await apps.sweep_replicas() == ["a"]
    assert await apps.replica("a") is None and await apps.replica("b") is not None


async def test_outcomes_are_counted_by_app_and_state(apps: Apps) -> None:
    await begin(apps)
    await apps.note_failed((await begin(apps)).id, "no weights")
    await begin(apps, "write")
    assert await apps.outcomes() == {
        ("ann/paint", "deploying"): 1,
        ("ann/paint", "failed"): 1,
        ("ann/write", "deploying"): 1,
    }
