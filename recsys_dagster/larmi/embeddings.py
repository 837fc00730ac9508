"""Sentence embeddings by a model on this machine's disk. Nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.errors import RecsysError
from recsys_dagster.progress import Progress

MAX_TOKENS = 256
"""Tokens of a text that are read: a title and its categories, with room to spare."""

_BATCH = 64


def embed(texts: list[str], folder: str) -> NDArray[np.float32]:
    """Mean of the last hidden states over a text's tokens (the pooling of most sentence-embedding models).

    Args:
        texts: what to embed; "" is allowed.
        folder: holds config.json, model.safetensors and the tokenizer, as `save_pretrained` writes them.

    Returns:
        float32 [texts, d], neither centred nor of length 1; 0 for an empty text.

    Raises:
        RecsysError: torch or transformers is not installed; the folder is missing, holds no model that transformers
            can read without running foreign code, or a model that is no plain encoder of text.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise RecsysError(
            f"Setting embeddings = {folder!r}: "
            + ("the folder has no config.json." if path.is_dir() else "there is no such folder."),
            mend="give the folder of a model in the transformers format, copied to this machine beforehand.",
        )
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError as error:
        raise RecsysError(
            f"Setting embeddings = {folder!r} needs the package {error.name}, which is not installed.",
            mend="pip install 'recsys-dagster[embeddings]', or leave embeddings empty.",
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise RecsysError(
            f"Setting embeddings = {folder!r}: transformers cannot read the model there ({type(error).__name__}).",
            mend="the folder needs config.json, model.safetensors and tokenizer.json of one encoder such as BERT.",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    # Texts of like length stand together, so that little is computed for padding.
    order = sorted((row for row, text in enumerate(texts) if text), key=lambda row: len(texts[row]))
    found = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
    positions = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS
    limit = min(MAX_TOKENS, positions) if positions > 0 else MAX_TOKENS
    with torch.inference_mode(), Progress("embeddings of items", len(order), "items") as progress:
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            try:
                hidden = model(**batch).last_hidden_state.float()
            except (TypeError, ValueError, AttributeError, IndexError) as error:
                raise RecsysError(
                    f"Setting embeddings = {folder!r}: the model ({type(model).__name__}) does not turn text into "
                    f"hidden states ({type(error).__name__}).",
                    mend="give an encoder such as BERT, not a sequence-to-sequence or an image model.",
                ) from error
            mask = batch["attention_mask"][:, :, None].float()
            found[rows] = ((hidden * mask).sum(1) / mask.sum(1).clamp_min(1)).numpy()
            progress.update(len(rows))
    return found
