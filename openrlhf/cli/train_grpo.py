"""Finetune a policy with GRPO on process and verifiable rewards (distill/grpo/__main__.py).

    python -m openrlhf.cli.train_grpo --pretrain Qwen/Qwen3-0.6B --reward_pretrain outputs/prm_qmsum \
        --save_path outputs/grpo_qmsum --n_samples_per_prompt 8 --reward_mode PRMVR
"""

from agentark import cli
from distill.grpo.__main__ import main

if __name__ == "__main__":
    cli.entry(main)
