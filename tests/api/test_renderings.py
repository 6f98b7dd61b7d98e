"""A tuned model is served, counted for and tuned further by the rendering that it was tuned with."""

import pytest
from sqlalchemy import select, update

from kastor.domain.job import Rendering
from kastor.store import tables
from kastor.store.blobs.manifests import write_manifest
from support.api_world import BASE, World, tuning_body

NUMBERS = "tunedModels/numbers"


def of_the_first_release(world: World) -> None:
    """The jobs as the first release stored them: it knew one rendering only."""
    with world.database.write() as connection:
        spec = connection.execute(select(tables.jobs.c.spec)).scalar_one()
        connection.execute(update(tables.jobs).values(spec={k: v for k, v in spec.items() if k != "rendering"}))


def used(world: World, model: str) -> list[Rendering]:
    """What the engine is asked to answer and to count with."""
    contents = [{"role": "user", "parts": [{"text": "1"}]}]
    for verb in ("generateContent", "countTokens"):
        assert world.call("POST", f"/v1beta/{model}:{verb}", json={"contents": contents}).status_code == 200
    return [world.generator.requests[-1].rendering, world.generator.counted_with[-1]]


def test_bases_answer_as_published_and_new_models_as_they_are_tuned(world: World) -> None:
    world.active()
    assert used(world, BASE) == [Rendering.PUBLISHED] * 2
    assert used(world, NUMBERS) == [Rendering.TUNED] * 2


def test_a_model_of_the_first_release_answers_by_the_first(world: World) -> None:
    world.active()
    of_the_first_release(world)
    assert used(world, NUMBERS) == [Rendering.FIRST] * 2
    assert used(world, BASE) == [Rendering.PUBLISHED] * 2


@pytest.mark.parametrize("first", [True, False])
def test_what_is_tuned_on_a_model_has_that_models_rendering(world: World, *, first: bool) -> None:
    adapter = world.blobs.adapter(world.active().id)
    adapter.mkdir(parents=True)
    write_manifest(adapter, {})
    if first:
        of_the_first_release(world)
    body = tuning_body(baseModel=NUMBERS)
    assert world.call("POST", "/v1beta/tunedModels?tunedModelId=more", json=body).status_code == 200
    made = world.jobs.get(world.models.get("more").job_id).spec
    assert made.rendering is (Rendering.FIRST if first else Rendering.TUNED)
