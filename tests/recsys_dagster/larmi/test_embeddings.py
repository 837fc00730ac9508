"""Embeddings of a local model: a tiny one with random weights, saved by the test."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.clusters import Catalogue
from recsys_dagster.larmi.embeddings import MAX_TOKENS, embed
from recsys_dagster.larmi.local_clusterer import LocalClusterer, LocalClustererConfig

TEXTS = ["red pen", "red pen blue", "", "garden hose green", "garden hose", "pen " * 2_000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights and a tokenizer of whole words, as `save_pretrained` writes them."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(path)
    return path


def test_mean_of_the_tokens_whatever_stands_beside(folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    found = embed(TEXTS, str(folder))
    assert found.shape == (6, 16)
    assert found.dtype == np.float32
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(TEXTS):
        if not text:
            assert not found[row].any()
            continue
        with torch.inference_mode():
            alone = tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
            expected = model(**alone).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(found[row], expected.numpy(), atol=1e-5)


def test_texts_that_are_all_empty_ask_nothing_of_the_model(folder: Path) -> None:
    assert embed([""] * 70, str(folder)).tolist() == [[0.0] * 16] * 70


def test_clusters_by_embeddings_call_the_model_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys_dagster.larmi import embeddings

    calls = []

    def counted(texts: list[str], where: str) -> np.ndarray:
        calls.append(len(texts))
        return embed(texts, where)

    monkeypatch.setattr(embeddings, "embed", counted)
    texts = ["red pen", "red pen", "garden hose", "garden hose green", "", ""]
    catalogue = Catalogue(texts, texts)
    clusterer = LocalClusterer(LocalClustererConfig(embeddings=str(folder), near_share=0.05))
    first = clusterer.cluster(catalogue, [np.arange(6), np.array([2])])
    again = clusterer.cluster(catalogue, [np.arange(6)])
    assert calls == [6]
    assert again[0] == first[0]
    positions = [cluster.positions for cluster in first[0].clusters]
    assert sorted(p for members in positions for p in members) == list(range(6))
    assert any({0, 1} <= set(members) for members in positions)  # the same text
    assert (4,) in positions  # no text, no company
    assert (5,) in positions


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (lambda path: None, "there is no such folder"),
        (lambda path: path.mkdir(), "no config.json"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{}")), "transformers cannot read the model"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("not json")), "transformers cannot read"),
    ],
)
def test_a_folder_without_a_model_is_a_clear_error(tmp_path: Path, prepare, what: str) -> None:
    prepare(tmp_path / "model")
    with pytest.raises(RecsysError, match=what) as error:
        embed(["pen"], str(tmp_path / "model"))
    assert "To mend:" in str(error.value)


def test_a_missing_package_is_a_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecsysError, match=r"recsys-dagster\[embeddings\]"):
        embed(["pen"], str(folder))


def test_weights_in_a_pickle_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(RecsysError, match="cannot read the model"):
        embed(["pen"], str(tmp_path))


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    import subprocess

    code = (
        "import sys, recsys_dagster.larmi.local_clusterer, recsys_dagster.larmi.embeddings\n"
        "assert not {'torch', 'transformers', 'numba', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
