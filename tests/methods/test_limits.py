"""No count of a method or task takes a number that no machine could hold."""

import pytest

from agentark.config import Config, build
from agentark.tasks import TASKS, get_task
from agentark.types import UserError
from methods import METHODS, method_class

CONFIGS = {**{name: method_class(name).Config for name in METHODS}, **{name: get_task(name).options for name in TASKS}}
COUNTS = [
    (name, key)
    for name, config in CONFIGS.items()
    for key, field in config.model_fields.items()
    if field.annotation in (int, int | None) and "seed" not in key
]


@pytest.mark.parametrize(("name", "key"), COUNTS)
def test_a_billion_is_refused_by_name(name: str, key: str) -> None:
    config: type[Config] = CONFIGS[name]
    with pytest.raises(UserError, match=f"^--config: {key} = 1000000000: "):
        build(config, {key: 1_000_000_000}, "--config")


def test_every_method_with_agents_or_rounds_is_tried() -> None:
    assert {"llm_debate", "dylan", "self_consistency", "mav", "agentverse", "camel"} <= {name for name, _ in COUNTS}
