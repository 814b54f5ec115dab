"""An adapter that changes what a model says."""

import json
from pathlib import Path
from typing import Any


def bare(folder: Path, rank: Any = 4) -> Path:
    """An adapter without a weight in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(b"\2" + b"\0" * 7 + b"{}")
    return folder


def adapted(model: Path, folder: Path) -> Any:
    """The model under a random adapter, which is saved to `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["v_proj", "o_proj"])
        made = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).eval()
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=1.0)
    made.save_pretrained(folder)
    return made
