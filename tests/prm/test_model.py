"""The reward model: what is frozen, what is saved, and that batches, chunks and packing give the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from prm_cases import chains

from agentark.types import UserError
from prm import data, features, model
from prm.data import Item, collate
from prm.model import chunked
from prm.sampler import QuestionBatches
from prm.settings import Flags, PRMConfig
from prm.steps import StepCodec, load_tokenizer


@pytest.fixture(scope="module")
def items(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    codec = StepCodec.of(load_tokenizer(str(small_model), "--x"), "\n", "step", 512)
    path = chains(tmp_path_factory.mktemp("data") / "a.jsonl", 16)
    prm = PRMConfig(model_name_or_path="base", train_data_path=str(path), step_label="judge")
    found = data.load(Flags(prm, {"seed": 0}), codec)[0].items
    return [
        found[0],
        *(Item(one.id, one.question, one.ids[9:], [end - 9 for end in one.ends], one.labels) for one in found[1:]),
    ]


@pytest.fixture
def reward(small_model: Path) -> model.RewardModel:
    torch.manual_seed(1)
    return model.load(str(small_model), "--x", projected=8).eval()


def forward(reward: model.RewardModel, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = reward(batch["rows"], batch["ends"], batch["input_ids"], batch["lengths"])
    return found


def test_logits_are_those_of_plain_transformers(reward: model.RewardModel, items: list[Item]) -> None:
    batch = collate(items[:5])
    found = forward(reward, batch)["logits"]
    at = 0
    for item in items[:5]:
        plain = reward.classifier(input_ids=torch.tensor([item.ids])).logits[0, item.ends]
        assert torch.allclose(found[at : at + len(item.ends)], plain, atol=1e-5)
        at += len(item.ends)
    assert reward.config.classifier_dropout == 0.0


def test_chunks_and_packing_change_nothing(reward: model.RewardModel, items: list[Item]) -> None:
    batch = collate(items)
    whole = forward(reward, batch)
    reward.split = False
    assert torch.allclose(forward(reward, batch)["logits"], whole["logits"], atol=1e-5)
    reward.split = reward.packed = True  # the same call that flash-attention gets, through the mask sdpa makes of it
    packed = forward(reward, batch)
    assert torch.allclose(packed["logits"], whole["logits"], atol=1e-5)
    assert torch.allclose(packed["embeddings"], whole["embeddings"], atol=1e-5)
    reward.requires_grad_(False)
    reward.packed, reward.max_tokens = False, 200
    assert torch.allclose(forward(reward, batch)["logits"], whole["logits"], atol=1e-5)


def test_chunks_are_full() -> None:
    sizes = [100, 37, 99, 98, 36, 35, 90, 12]
    groups = chunked(sizes, None)
    assert sorted(row for group in groups for row in group) == list(range(len(sizes)))
    assert groups == [[0, 2, 3, 6], [1, 4, 5], [7]]
    assert chunked(sizes, 200) == [[0, 2], [3, 6], [1, 4, 5], [7]]
    assert chunked([], None) == []


def test_stage_1_trains_the_head_alone(reward: model.RewardModel, items: list[Item]) -> None:
    model.freeze(reward, 1, last_layer=False)
    named = {name for name, one in reward.named_parameters() if one.requires_grad}
    assert {name.partition(".")[0] for name in named} == {"classifier", "projector"}
    assert {name for name in named if "classifier" in name} == {"classifier.score.weight", "classifier.score.bias"}
    reward.train()
    assert not reward.backbone.training
    batch = collate(items[:2])
    assert not reward.states(batch["input_ids"], batch["lengths"], batch["rows"], batch["ends"]).requires_grad
    found = forward(reward, batch)
    (found["logits"].sum() + found["embeddings"].square().sum()).backward()
    assert all(one.grad is not None for one in reward.projector.parameters())
    assert all(one.grad is None for one in reward.backbone.parameters())


def test_the_last_layer_can_be_trained_too(reward: model.RewardModel, items: list[Item]) -> None:
    model.freeze(reward, 1, last_layer=True)
    forward(reward, collate(items[:2]))["logits"].sum().backward()
    layers = reward.backbone.layers
    assert all(one.grad is not None for one in layers[-1].parameters())
    assert all(one.grad is None for one in layers[0].parameters())
    error = features.refuse_unfrozen(64, items[:1], 4)
    size = len(items[0].ids)
    assert f"{size} tokens x 64 x 4 bytes" in str(error)
    model.freeze(reward, 2, last_layer=False)
    assert all(one.requires_grad for one in reward.parameters())


def test_states_from_disk_are_the_same(reward: model.RewardModel, items: list[Item], tmp_path: Path) -> None:
    batch = collate(items)
    model.freeze(reward, 1, last_layer=False)
    fresh = reward.states(batch["input_ids"], batch["lengths"], batch["rows"], batch["ends"])
    for limit in (1 << 20, 1000):  # one shard, and many
        folder = tmp_path / str(limit)
        found = features.prepare(reward, items, folder, "cpu", "base", max_tokens=300, shard_bytes=limit)
        assert torch.allclose(torch.cat([found[place] for place in range(len(items))]), fresh, atol=1e-5)
        assert (len(list(folder.glob("states-*.safetensors"))) > 1) == (limit == 1000)
    before = (folder / "index.json").stat().st_mtime_ns
    features.prepare(reward, items, folder, "cpu", "base")
    assert (folder / "index.json").stat().st_mtime_ns == before
    features.prepare(reward, items[1:], folder, "cpu", "base")
    assert (folder / "index.json").stat().st_mtime_ns != before


def test_adapters_are_added_into_the_saved_model(
    reward: model.RewardModel, items: list[Item], tmp_path: Path, small_model: Path
) -> None:
    model.add_lora(reward, 4, 8)
    for name, one in reward.named_parameters():
        assert one.requires_grad == (".lora_" in name or "score" in name or "projector" in name)
        if ".lora_B." in name:
            torch.nn.init.normal_(one, std=0.1)
    batch = collate(items[:4])
    adapted = forward(reward, batch)["logits"]
    model.save(reward, tmp_path, None, 2.0)
    again = model.load(str(tmp_path), "--x").eval()
    assert torch.allclose(forward(again, batch)["logits"], adapted, atol=1e-5)
    fresh = model.load(str(small_model), "--x", projected=8).eval()
    model.add_lora(fresh, 4, 8)
    model.restore_adapter(fresh, tmp_path)
    restored = forward(fresh, batch)
    assert torch.allclose(restored["logits"], adapted, atol=1e-6)
    assert torch.equal(restored["embeddings"], forward(reward, batch)["embeddings"])


def test_models_without_a_head_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--x .*nothing: cannot be loaded"):
        model.load(str(tmp_path / "nothing"), "--x")


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("size", "world"), [(4, 1), (8, 2), (3, 2), (100, 3), (1, 2)])
def test_questions_stay_together(size: int, world: int) -> None:
    lengths = [10 + 7 * (place % 11) for place in range(44)]
    questions = [place // 4 for place in range(44)]
    ranks = [QuestionBatches(lengths, questions, size, 5, rank, world, 3) for rank in range(world)]
    plans = []
    for epoch in range(5):
        for one in ranks:
            one.epoch = epoch
        found = [list(one) for one in ranks]
        assert {len(one) for one in found} == {len(ranks[0])}
        flat = [batch for one in found for batch in one]
        assert max(map(len, flat)) <= size
        assert {place for batch in flat for place in batch} == set(range(44))
        if size >= 4:
            homes = [{batch for batch, held in enumerate(flat) if place in held} for place in range(44)]
            assert all(homes[place] & homes[place - place % 4] for place in range(44))
        if size * world < 44:
            assert sum(map(len, flat)) == 44
        plans.append(found)
    assert plans[0] != plans[1]
    assert plans[0] == [list(QuestionBatches(lengths, questions, size, 5, rank, world, 3)) for rank in range(world)]


def test_batches_hold_sequences_of_like_length() -> None:
    lengths = [100 if place % 2 else 10 for place in range(400)]
    sampler = QuestionBatches(lengths, list(range(400)), 8)
    mixed = [batch for batch in sampler if len({lengths[place] for place in batch}) > 1]
    assert len(mixed) <= 1
