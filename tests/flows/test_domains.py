import pyarrow.compute as pc
import pytest

from pipeline.sample_world.simulate import SimulateConfig
from tests.flows.by_default import ON_BY_DEFAULT


@pytest.mark.slow
def test_three_domains_go_the_whole_way(new_place, tmp_path):
    place = new_place(tmp_path, SimulateConfig(users=30, items=40, domains=("food", "kitchen", "garden")))
    assert place.run() == list(ON_BY_DEFAULT)
    domains = {"food", "kitchen", "garden"}
    assert set(place.lake.read("recommendations")["domain"].to_pylist()) == domains
    generated = place.lake.read("generated_items")
    assert len(set(zip(generated["from_domain"].to_pylist(), generated["to_domain"].to_pylist(), strict=True))) == 6
    assert set(place.lake.read("domain_profiles")["domain"].to_pylist()) == domains
    tested = place.lake.read("metrics").filter(pc.field("split") == "test")
    assert set(tested["domain"].to_pylist()) == {*domains, None}
