"""Slots that have room for more projections than adapters target."""

from __future__ import annotations

import pytest

from sim.build import Deployment, deploy
from sim.config import load_config
from sim.files.yamlfile import ConfigError
from sim.models import ALL_MODULES


def deployed(*changes: str) -> Deployment:
    return deploy(load_config("vllm", ("workload.requests=4", *changes)))


def test_vllms_slots_have_room_for_all_linear_layers_whatever_adapters_target() -> None:
    found = deployed("adapters.max_rank=128")
    assert found.limits.slot_bytes == found.model.adapter_bytes(128, ALL_MODULES)
    assert max(one.size_bytes for one in found.adapters if one) == found.model.adapter_bytes(128, ("q", "k", "v", "o"))


def test_slots_without_modules_of_their_own_have_those_of_the_adapters() -> None:
    found = deployed("adapters.slot_modules=null", "adapters.modules=[q,v]", "adapters.max_rank=128")
    assert found.limits.slot_bytes == found.model.adapter_bytes(128, ("q", "v"))


@pytest.mark.parametrize("changes", [("adapters.slot_modules=[q,k,v,o]",), ("adapters.max_rank=256",)])
def test_the_kernels_run_over_the_projections_and_ranks_of_the_slots(changes: tuple[str, ...]) -> None:
    one, other = (deployed(*given).costs.explain_decode(1, 10, 0, 0, 0, 0)["lora_slots"] for given in ((), changes))
    assert one != other


def test_slots_must_have_room_for_what_adapters_target() -> None:
    with pytest.raises(ConfigError, match=r"adapters\.slot_modules: slots have no room for k, o, which"):
        deployed("adapters.slot_modules=[q,v]")


@pytest.mark.parametrize("key", ["modules", "slot_modules"])
def test_an_unknown_projection_is_named_with_its_key(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"adapters\.{key}: unknown module 'qq'.* did you mean 'q'"):
        load_config("vllm", (f"adapters.{key}=[qq]",))


def test_a_projection_may_have_pefts_name() -> None:
    assert load_config("vllm", ("adapters.modules=[q_proj,v_proj]",)).config.adapters.modules == ("q", "v")
