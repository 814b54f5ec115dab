"""The reward model: a token-classification model with two labels, and a projector for the contrastive loss.

The classifier is transformers' own, with dropout 0; its folder loads without this code. The projector is saved beside
it, in `projector.safetensors`. Hidden states are taken only at the separators.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agentark.hub import check_weights, loaded, model_config
from agentark.types import UserError

LABELS = {0: "wrong", 1: "right"}
PROJECTED = 256
"""Width of the vectors that the contrastive loss compares."""
PROJECTOR = "projector.safetensors"
ADAPTER = "adapter.safetensors"
FILL = 0.9
"""Rows run separately if a batch would have a smaller share of real tokens."""


class RewardModel(nn.Module):  # type: ignore[misc]
    """Logits at separators.

    Args:
        classifier: a transformers token-classification model with 2 labels; H its hidden size.
        projected: width of the projector's output; 0: no projector.
    """

    def __init__(self, classifier: Any, projected: int = 0) -> None:
        super().__init__()
        self.classifier = classifier
        hidden = classifier.config.get_text_config().hidden_size
        self.projector = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, projected)) if projected else None
        )
        self.packed = str(classifier.config._attn_implementation).startswith("flash_attention")
        self.split = True
        """Run rows of different lengths separately. Off if all ranks must make the same calls (ZeRO-3)."""
        self.max_tokens = 1 << 16
        """Most tokens in a call of a frozen backbone, including padding."""

    @property
    def config(self) -> Any:
        return self.classifier.config

    @property
    def backbone(self) -> Any:
        return getattr(self.classifier, self.classifier.base_model_prefix)

    @property
    def head(self) -> Any:
        return self.classifier.score

    @property
    def frozen(self) -> bool:
        """Whether the whole backbone is frozen."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.classifier.gradient_checkpointing_enable(**options)

    def train(self, mode: bool = True) -> "RewardModel":
        super().train(mode)
        if mode and self.frozen:
            self.backbone.eval()
        return self

    def forward(
        self, rows: Tensor, ends: Tensor, input_ids: Tensor | None = None, lengths: Tensor | None = None,
        states: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Args: rows, ends (S,); input_ids (B, T) and lengths (B,), or the backbone's states (S, H) at the separators.

        Returns:
            logits (S, 2), and embeddings (S, P) if there is a projector; in float32.
        """
        if states is None:
            assert input_ids is not None
            assert lengths is not None
            states = self.states(input_ids, lengths, rows, ends)
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(self.head.weight.dtype)
            outputs = {"logits": self.head(states).float()}
            if self.projector is not None:
                outputs["embeddings"] = self.projector(states).float()
        return outputs

    def states(self, input_ids: Tensor, lengths: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
        """The backbone's last hidden states at the separators: (S, H). Without gradient if the backbone is frozen.

        Padding is on the right and attention looks left, so no mask is needed.
        """
        sizes = lengths.tolist()
        most = self.max_tokens if self.frozen else None
        chunks = chunked(sizes, most, 0.0 if self.packed else FILL) if self.split else [list(range(len(sizes)))]
        pieces, positions = [], []
        with torch.no_grad() if self.frozen else nullcontext():
            for chunk in chunks:
                picked = torch.tensor(chunk, device=rows.device)
                local = torch.full((len(sizes),), -1, device=rows.device)
                local[picked] = torch.arange(len(chunk), device=rows.device)
                mine = (local[rows] >= 0).nonzero().squeeze(1)
                hidden = self._run(input_ids, chunk, sizes)
                pieces.append(hidden[local[rows[mine]], ends[mine]])
                positions.append(mine)
        return torch.cat(pieces)[torch.cat(positions).argsort()]

    def _run(self, input_ids: Tensor, chunk: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """(b, T, H) of the rows in `chunk`, T their longest."""
        width = max(sizes[row] for row in chunk)
        if not self.packed or len(chunk) == 1:
            ids = input_ids[list(chunk), :width]
            return self.backbone(input_ids=ids, use_cache=False).last_hidden_state
        ids = torch.cat([input_ids[row, : sizes[row]] for row in chunk])[None]
        positions = torch.cat([torch.arange(sizes[row], device=ids.device) for row in chunk])[None]
        hidden = self.backbone(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]
        split = hidden.split([sizes[row] for row in chunk])
        return nn.utils.rnn.pad_sequence(list(split), batch_first=True)


def chunked(sizes: Sequence[int], max_tokens: int | None, fill: float = FILL) -> list[list[int]]:
    """Rows, longest first, in groups that are at least `fill` full and hold at most max_tokens tokens with padding."""
    groups: list[list[int]] = []
    real = width = 0
    for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
        if groups and real + sizes[row] >= fill * width * (len(groups[-1]) + 1) and (
            max_tokens is None or width * (len(groups[-1]) + 1) <= max_tokens
        ):  # fmt: skip
            groups[-1].append(row)
            real += sizes[row]
        else:
            groups.append([row])
            real = width = sizes[row]
    return groups


# ---------------------------------------------------------------- loading and freezing


def load(
    name: str, flag: str, *, projected: int = 0, dtype: Any = torch.float32, attention: str | None = None
) -> RewardModel:
    """A reward model on top of a base model, or a saved reward model, with the projector if the folder has one.

    Args:
        name: hub id or folder.
        dtype: type of the weights, or "auto".

    Raises:
        UserError: the model does not exist, or has no head we know.
    """
    check_weights(name, flag)
    config = model_config(name, flag)
    config.num_labels = 2
    config.id2label, config.label2id = LABELS, {label: number for number, label in LABELS.items()}
    config.classifier_dropout = 0.0
    config.get_text_config().use_cache = False
    options = {"attn_implementation": attention} if attention else {}
    classifier = loaded("AutoModelForTokenClassification", name, flag, config=config, dtype=dtype, **options)
    if not isinstance(getattr(classifier, "score", None), nn.Linear):
        raise UserError(f"{flag} {name}: {type(classifier).__name__} has no head named `score`; use a decoder model")
    model = RewardModel(classifier, projected)
    file = Path(name) / PROJECTOR
    if projected and file.is_file():
        from safetensors.torch import load_file

        assert model.projector is not None
        model.projector.load_state_dict(load_file(file))
    return model


def freeze(model: RewardModel, stage: int, last_layer: bool) -> None:
    """Choose the trained parameters: head and projector, the last layer if asked for; in stage 2 everything."""
    model.requires_grad_(stage == 2)
    model.head.requires_grad_(True)
    if model.projector is not None:
        model.projector.requires_grad_(True)
    if stage == 1 and last_layer:
        layers = getattr(model.backbone, "layers", None)
        if not layers:
            raise UserError(f"--unfreeze_last_layer: {type(model.backbone).__name__} has no list of layers")
        layers[-1].requires_grad_(True)
    for part in (model.head, model.projector):  # parts trained from scratch stay in float32
        if part is not None and not any(hasattr(weight, "ds_id") for weight in part.parameters()):  # ZeRO-3: own types
            part.float()


def add_lora(model: RewardModel, rank: int, alpha: int) -> None:
    """Low-rank adapters on every linear layer of the backbone, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", exclude_modules=["score"]
    )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model.classifier)
    model.head.requires_grad_(True)
    if model.projector is not None:
        model.projector.requires_grad_(True)


# ---------------------------------------------------------------- saving


def plain(state: Mapping[str, Tensor], scaling: float = 1.0) -> dict[str, Tensor]:
    """The classifier's weights under transformers' names, with the adapters merged in.

    Args:
        state: state dict of a RewardModel.
        scaling: alpha / rank of the adapters, if there are any.
    """
    mine = {name.removeprefix("classifier."): value for name, value in state.items() if name.startswith("classifier.")}
    named = {}
    for name, value in mine.items():
        if ".lora_" in name:
            continue
        stem = name.replace(".base_layer.", ".").removesuffix(".weight")
        down, up = mine.get(f"{stem}.lora_A.default.weight"), mine.get(f"{stem}.lora_B.default.weight")
        if down is not None and up is not None and name.endswith(".weight"):
            value = (value.float() + scaling * (up.float() @ down.float())).to(value.dtype)
        named[name.replace(".base_layer.", ".")] = value
    return named


def save(model: RewardModel, folder: Path, state: Mapping[str, Tensor] | None, scaling: float | None) -> None:
    """Write the model's folder: a plain classifier, and projector and adapters in separate files."""
    from safetensors.torch import save_file

    state = model.state_dict() if state is None else state
    folder.mkdir(parents=True, exist_ok=True)
    model.classifier.save_pretrained(folder, state_dict=plain(state, scaling or 1.0))
    if model.projector is not None:
        part = {name: value.contiguous() for name, value in state.items() if name.startswith("projector.")}
        save_file({name.removeprefix("projector."): value for name, value in part.items()}, folder / PROJECTOR)
    if scaling is not None:
        part = {name: value.contiguous() for name, value in state.items() if ".lora_" in name}
        save_file(part, folder / ADAPTER, metadata={"scaling": json.dumps(scaling)})
    for file in folder.glob("*.safetensors"):  # readable by everyone who may read the folder
        shutil.copymode(folder / "config.json", file)


def restore_adapter(model: RewardModel, folder: Path) -> None:
    """Load adapters, head and projector of a checkpoint into the base model they were trained on."""
    from safetensors.torch import load_file

    saved = load_file(folder / ADAPTER)
    for file in sorted(folder.glob("model*.safetensors")):
        saved |= {f"classifier.{name}": value for name, value in load_file(file).items() if name.startswith("score.")}
    if model.projector is not None:
        saved |= {f"projector.{name}": value for name, value in load_file(folder / PROJECTOR).items()}
    missing = model.load_state_dict(saved, strict=False).unexpected_keys
    if missing:
        raise UserError(f"{folder / ADAPTER}: does not fit this model ({missing[0]})")
