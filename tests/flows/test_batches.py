"""A stage that asks by batches: what it sent stands in the lake before it is answered."""

import hashlib

import pytest

import pipeline.llm.openai_batch as module
from data_lake.errors import UserError
from tests.pipeline.batch_endpoint import BatchEndpoint


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(module, "FIRST_POLL", 0.01)
    with BatchEndpoint() as server:
        server.answer = lambda prompt: hashlib.sha256(prompt.encode()).hexdigest()[:20]
        yield server


def test_a_stage_whose_run_ended_while_it_waited_pays_for_no_batch_twice(place, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    endpoint.refusals = {("GET", "batches/batch_0"): [(500, {})]}
    overrides = (
        "enrich.generator=openai", "enrich.rows_per_shard=1000", "llm.model=m", "llm.max_alike=1",
        f"openai.base_url={endpoint.url}", "openai.batch=true", "openai.retries=0",
    )  # fmt: skip

    def generate_items():
        with place.open(*overrides, only="generate_items") as run:
            [stage] = run.selection.apply(run.stages)
            return run.lake.run(stage)

    with pytest.raises(UserError, match="answers 500"):
        generate_items()
    made = generate_items()
    assert endpoint.sent == (2, 2)  # the files and batches of a part of users, and of the probes
    assert made.figures["failed"] == {}
    assert made.figures["ok"] == made.outputs["generated_items"].rows
    assert not [path for path in place.folder.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
