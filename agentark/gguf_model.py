"""A GGUF file as a transformers folder: weights, tokenizer, chat template, ends of a turn.

transformers has a loader for such files, which reads each three times and gets tokenizers wrong: it loses the
separate splitting of digits (`"\\n\\n1"` then becomes other ids than the model was trained on) and calls another
token the end of a turn. So everything is built here, as upstream defines it, from one reading.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentark.quiet import hide_loading_bars
from agentark.types import UserError


@dataclass(frozen=True)
class Rules:
    """What the GGUF file of a model family does not say, or says otherwise than upstream."""

    context: int
    """Tokens of context."""

    dtype: str
    """Type of the weights on disk."""

    norm_eps: float
    """Stored as the nearest float32, printed with its tail."""

    pad: str
    bos: str | None
    unk: str | None
    ends: tuple[str, ...] = ("<|im_end|>",)
    """Tokens that end a reply; the first ends a turn."""

    pattern: str | None = None
    """Pre-tokenizer's regular expression; None: single digits first, then GPT-2's expression."""


NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of weights, and transformers'."""

SMOLLM2 = Rules(context=8192, dtype="float32", norm_eps=1e-5, pad="<|im_end|>", bos="<|im_start|>", unk="<|endoftext|>")
"""In float32: a dequantised value is `scale * q + minimum` with two half-precision factors."""

QWEN2 = Rules(
    context=32768,
    dtype="bfloat16",
    norm_eps=1e-6,
    pad="<|endoftext|>",
    bos=None,
    unk=None,
    ends=("<|im_end|>", "<|endoftext|>"),
    pattern=(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
)


def convert(source: Path, rules: Rules, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as a transformers folder.

    Raises:
        UserError: a package is missing.
    """
    try:
        import torch
        from gguf import GGUFReader
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise UserError(
            f"embedded models are converted with torch, transformers and gguf; {error.name} is missing: make .venv"
        ) from None
    reader = GGUFReader(source)
    config = _config(reader, rules)
    weights = _weights(reader, config)
    hide_loading_bars()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, assign=True)
    model.tie_weights()
    save(model, tokenizer_of(reader, rules), rules, folder)


def _config(reader: Any, rules: Rules) -> Any:
    """transformers' configuration of the model in a file."""
    import torch
    from transformers import AutoConfig

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    kind = field("general.architecture")
    return AutoConfig.for_model(
        kind,
        dtype=getattr(torch, rules.dtype),
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=field(f"{kind}.embedding_length"),
        intermediate_size=field(f"{kind}.feed_forward_length"),
        num_hidden_layers=field(f"{kind}.block_count"),
        num_attention_heads=field(f"{kind}.attention.head_count"),
        num_key_value_heads=field(f"{kind}.attention.head_count_kv"),
        max_position_embeddings=field(f"{kind}.context_length"),
        rope_parameters={"rope_theta": field(f"{kind}.rope.freq_base"), "rope_type": "default"},
        rms_norm_eps=rules.norm_eps,
        tie_word_embeddings=True,
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )


def _weights(reader: Any, config: Any) -> dict[str, Any]:
    """The tensors of a file by transformers' names. Of two copies of the embedding, the output's, which is finer."""
    import torch
    from gguf import dequantize

    weights = {}
    tied = {tensor.name for tensor in reader.tensors} >= {"output.weight", "token_embd.weight"}
    for tensor in reader.tensors:
        if tied and tensor.name == "token_embd.weight":
            continue
        values = dequantize(tensor.data, tensor.tensor_type)
        head, _, rest = tensor.name.partition(".")
        if head != "blk":
            name = NAMES[tensor.name]
        else:
            layer, part, kind = rest.split(".")
            name = f"model.layers.{layer}.{NAMES[part]}.{kind}"
            if config.model_type == "llama" and part in ("attn_q", "attn_k"):  # halves of rotary heads alternate
                heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
                values = values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        weights[name] = torch.from_numpy(values.copy()).to(config.dtype)
    return weights


def save(model: Any, tokenizer: Any, rules: Rules, folder: Path) -> None:
    """Save both, with the ends of a reply, readable by all who may read the folder."""
    from transformers import GenerationConfig

    ends = tokenizer.convert_tokens_to_ids(list(rules.ends))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def tokenizer_of(reader: Any, rules: Rules) -> Any:
    """The tokenizer from the vocabulary, merges and chat template of a GGUF file (a `gguf.GGUFReader`)."""
    from gguf import TokenType
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = reader.fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    known = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != TokenType.UNUSED}
    backend = Tokenizer(models.BPE(vocab=known, merges=merges))
    if rules.pattern is None:
        split: list[Any] = [pre_tokenizers.Digits(individual_digits=True)]
    else:
        backend.normalizer = normalizers.NFC()
        split = [pre_tokenizers.Split(Regex(rules.pattern), behavior="isolated")]
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rules.pattern is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, spelling])
    backend.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED):
            backend.add_tokens([AddedToken(token, normalized=False, special=kind == TokenType.CONTROL)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=rules.bos,
        eos_token=rules.ends[0],
        pad_token=rules.pad,
        unk_token=rules.unk,
        chat_template=fields["tokenizer.chat_template"].contents(),
        model_max_length=rules.context,
        clean_up_tokenization_spaces=False,
    )
