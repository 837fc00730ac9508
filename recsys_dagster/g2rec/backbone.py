"""The decoder under G2Rec: a small Llama from scratch, or a pretrained causal language model with LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.config import G2RecConfig

if TYPE_CHECKING:
    from peft import PeftModel


class DroppedLinear(nn.Linear):
    """A linear layer whose output is dropped out. It keeps the names of the weights that it takes over."""

    def __init__(self, linear: nn.Linear, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias, self.dropout = linear.weight, linear.bias, dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The linear map, then dropout while training."""
        return functional.dropout(super().forward(x), self.dropout, self.training)


class Backbone(nn.Module):
    """Maps token vectors of size d to states of size d through a causal decoder.

    Attributes:
        decoder: the `transformers` model.
        bos: its start-of-sequence token id.
    """

    def __init__(self, config: G2RecConfig, max_tokens: int) -> None:
        super().__init__()
        d = config.dimension
        if config.backbone == "llama":
            self.decoder: Any = small_llama(config, max_tokens)
            self.bos = 0
        else:
            self.decoder, self.bos = pretrained(config)
        hidden = self.decoder.config.hidden_size
        self.enter: nn.Module = nn.Identity() if hidden == d else nn.Linear(d, hidden, bias=False)
        self.leave: nn.Module = nn.Identity() if hidden == d else nn.Linear(hidden, d, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Put BOS before float [batch, length, d] and return states float [batch, length + 1, d].

        Tokens are padded on the right; the causal mask keeps real positions from seeing padding.
        """
        states = self.decoder(inputs_embeds=self._inputs(tokens), use_cache=False).last_hidden_state
        left: torch.Tensor = self.leave(states)
        return left

    def at(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """One state a row without dropout, float [batch, d]: `forward` at int64 [batch], where BOS is 0.

        Of the small Llama's last layer only keys and values are made at all places, the rest at these alone.
        """
        rows = torch.arange(len(tokens), device=tokens.device)
        if not isinstance(self.decoder, LlamaModel):
            return self(tokens)[rows, places]
        states, last, turns = self._up_to_the_last(tokens)
        here = torch.arange(states.shape[1], device=states.device)
        normed, attention = last.input_layernorm(states), last.self_attn
        query, key, value = (
            made.view(len(rows), -1, self.decoder.config.num_attention_heads, attention.head_dim).transpose(1, 2)
            for made in (
                attention.q_proj(normed[rows, places]), attention.k_proj(normed), attention.v_proj(normed),
            )
        )  # fmt: skip
        query, _ = apply_rotary_pos_emb(query, query, *(each[0, places][:, None] for each in turns))
        key, _ = apply_rotary_pos_emb(key, key, *turns)
        seen = (here <= places[:, None])[:, None, None]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self._out_of(last, states[rows, places] + attention.o_proj(attended.flatten(1)))

    def some(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """States float [m, d] at numbers int64 [m], each once, into the flattened [batch, 1 + length] of `forward`.

        The feed-forward part of the small Llama's last layer is made at these places alone.
        """
        if not isinstance(self.decoder, LlamaModel):
            return self(tokens).flatten(0, 1).index_select(0, places)
        states, last, turns = self._up_to_the_last(tokens)
        attended, _ = last.self_attn(
            hidden_states=last.input_layernorm(states), position_embeddings=turns, attention_mask=None
        )
        return self._out_of(last, (states + attended).flatten(0, 1).index_select(0, places))

    def _up_to_the_last(self, tokens: torch.Tensor) -> tuple[torch.Tensor, Any, tuple[torch.Tensor, torch.Tensor]]:
        """States below the small Llama's last layer, that layer, and the cosines and sines of the positions."""
        states = self._inputs(tokens)
        places = torch.arange(states.shape[1], device=states.device)
        turns: tuple[torch.Tensor, torch.Tensor] = self.decoder.rotary_emb(states, places[None])
        *layers, last = self.decoder.layers
        for layer in layers:
            states = layer(states, position_embeddings=turns)
        return states, last, turns

    def _out_of(self, last: Any, states: torch.Tensor) -> torch.Tensor:
        """What comes after the attention of the small Llama's last layer, for states float [m, hidden]."""
        states = states + last.mlp(last.post_attention_layernorm(states))
        left: torch.Tensor = self.leave(self.decoder.norm(states))
        return left

    def _inputs(self, tokens: torch.Tensor) -> torch.Tensor:
        start = self.decoder.get_input_embeddings().weight[self.bos].to(tokens.dtype)
        return torch.cat([start.expand(len(tokens), 1, -1), self.enter(tokens)], dim=1)


def small_llama(config: G2RecConfig, max_tokens: int) -> LlamaModel:
    """A Llama decoder of a few layers, with the dropout that small data needs and Llama itself lacks."""
    decoder: Any = LlamaModel(
        LlamaConfig(
            vocab_size=1,  # BOS; items come as vectors
            hidden_size=config.dimension,
            intermediate_size=4 * config.dimension,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=max_tokens,
            attention_dropout=config.dropout,
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    for layer in decoder.layers:
        layer.self_attn.o_proj = DroppedLinear(layer.self_attn.o_proj, config.dropout)
        layer.mlp.down_proj = DroppedLinear(layer.mlp.down_proj, config.dropout)
    small: LlamaModel = decoder
    return small


def pretrained(config: G2RecConfig) -> tuple[PeftModel, int]:
    """A pretrained causal language model, frozen, with LoRA adapters; and its BOS token id.

    Raises:
        RecsysError: the extra `peft` is not installed, or the model cannot be read.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise RecsysError(
            f"Setting backbone = {config.backbone!r} needs the package peft, which is not installed.",
            mend="pip install 'recsys-dagster[peft]', or set backbone to 'llama'.",
        ) from error
    try:
        base = AutoModel.from_pretrained(config.backbone)
    except (OSError, ValueError) as error:
        raise RecsysError(
            f"Setting backbone = {config.backbone!r} is neither 'llama' nor a model that transformers can read "
            f"({type(error).__name__}).",
            mend="give a folder with config.json and model.safetensors, or the name of a model in the local hub cache.",
        ) from error
    lora = LoraConfig(r=config.lora_rank, lora_alpha=2 * config.lora_rank, lora_dropout=config.lora_dropout,
                      target_modules="all-linear")  # fmt: skip
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable()
    bos = base.config.bos_token_id
    return get_peft_model(base, lora), bos if isinstance(bos, int) else 0
