"""vLLM as rollout engine inside the trainer: after an update it writes with the changed weights."""

from pathlib import Path

import pytest
import torch
from grpo_cases import Scorer, made_inputs, settings

from agentark.engines.vllm import CPU_ENVIRONMENT
from distill.grpo.on_trl import run as grpo_trl
from distill.grpo.run import Run

CPU = {
    **CPU_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
}  # fmt: skip

TIE = 1e-3
"""Log-probability by which two engines may disagree on which token is best."""


@pytest.mark.slow
def test_vllm_follows_the_weights(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    if not torch.cuda.is_available():
        for name, value in CPU.items():
            monkeypatch.setenv(name, value)
    config = settings(small_model, tmp_path / "run", generation="vllm", vllm_gpu_memory_utilization=0.3)
    run = Run(config)
    run.open()
    inputs = made_inputs(config, small_model)
    scorer = Scorer(inputs.tokenizer, lambda question, step, number: 0.5)
    trainer = grpo_trl.build(config, inputs, run, scorer)
    trainer.vllm_generation.temperature = 0.0
    prompts = [inputs.tokenizer.encode(one.text, add_special_tokens=False) for one in inputs.prompts[:4]]
    trainer._rows = [0, 1, 2, 3]

    def vllm() -> list[list[int]]:
        return trainer._generate_single_turn(prompts, None, {}, 1)[0]

    def short_of_best(responses: list[list[int]]) -> float:
        """How far below the trainer's best token any of these is, in log-probability, by the trainer's own forward."""
        worst = 0.0
        for prompt, response in zip(prompts, responses, strict=True):
            ids = torch.tensor([prompt + response], device=trainer.accelerator.device)  # (1, P + T)
            with torch.no_grad():
                logp = trainer.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)  # (T, V)
            chosen = logp.gather(1, ids[0, len(prompt) :, None]).squeeze(1)  # (T,)
            worst = max(worst, float((logp.max(1).values - chosen).max()))
        return worst

    before = vllm()
    assert short_of_best(before) < TIE
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    assert short_of_best(before) > 100 * TIE
    assert vllm() == before  # nobody has told it yet
    trainer.state.global_step += 1
    assert short_of_best(vllm()) < TIE
