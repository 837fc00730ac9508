import numpy as np
import pandas as pd
import pytest
import torch
from g2rec_cases import GRAPH, SMALL, build, decoded, memberships
from safetensors.torch import load_file
from torch.nn import functional

from recsys_dagster.data.features import item_features
from recsys_dagster.data.histories import TEST
from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec import model as module
from recsys_dagster.g2rec.backbone import Backbone
from recsys_dagster.g2rec.model import fitted, train_g2rec
from recsys_dagster.layers.repeats import UNIT
from recsys_dagster.models import load_model
from recsys_dagster.training.batching import SequenceBatch, pad
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.loop import validation_recall
from recsys_dagster.training.ranking import target_ranks, top_n
from recsys_dagster.training.runtime import Runtime

pytestmark = pytest.mark.usefixtures("small_cutoff")


def dense_p(level):
    """P of one level, [N, C]."""
    table = memberships()
    table = table[table["level"] == level]
    return table.pivot_table(index="item_id", columns="prototype_id", values="probability", fill_value=0.0).to_numpy()


def train_batch(data, n=12):
    whole = pad(data.train, np.arange(n), data.max_length + 1)
    return SequenceBatch(whole.users, whole.items[:, :-1], whole.lengths - 1, whole.items[:, 1:])


def test_profiles_are_the_sparse_product(toy_data):
    model = build(toy_data)
    v = model.prototypes.detach().numpy()
    want = (dense_p(0) @ v[:2] + dense_p(1) @ v[2:]) / 2
    np.testing.assert_allclose(model.profiles().detach().numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layout", "similarity"), [("interleaved", "inner"), ("fused", "inner"), ("fused", "cosine")])
def test_loss_equals_the_equations_one_position_at_a_time(toy_data, layout, similarity, monkeypatch):
    monkeypatch.setattr(module, "PROFILE_SHARE", 1.0)
    model = build(toy_data, layout=layout, profile_weight=0.7, similarity=similarity)
    with torch.no_grad():
        model.repeats.by_lag.fill_(0.25)  # of every lag; the toy users repeat nothing
    batch = train_batch(toy_data)
    got, parts = model.loss(batch, 0)
    y, x = model.profiles(), model.items.weight
    if similarity == "cosine":
        v = functional.normalize(x + y) / model.next_item.similarity.log_temperature.exp()
        c = functional.normalize(model.prototypes) / model.next_item.similarity.log_temperature.exp()
    else:
        v, c = x + y, model.prototypes
    normed = functional.normalize if similarity == "cosine" else lambda states, dim: states
    item_losses, profile_losses = [], []
    for row in range(len(batch.users)):
        items = [*batch.items[row, : batch.lengths[row]].tolist(), int(batch.targets[row, batch.lengths[row] - 1])]
        if layout == "interleaved":
            tokens = torch.stack([t for i in items for t in (model.items.weight[i], y[i])])
        else:
            tokens = torch.stack([model.items.weight[i] + y[i] for i in items])
        tokens = model.token_norm(tokens)[None]
        for t in range(1, len(items) + 1):  # t as in the paper
            if layout == "interleaved":
                before = model.backbone(tokens[:, : 2 * t - 1])[0, -1]  # R up to 2t: BOS .. x_t
                after = model.backbone(tokens[:, : 2 * t])[0, -1]  # R up to 2t + 1: BOS .. y_t
            else:
                before = model.backbone(tokens[:, : t - 1])[0, -1]
                after = model.backbone(tokens[:, :t])[0, -1]
            logits = c @ normed(before, dim=0)
            by_level = [
                -(torch.tensor(dense_p(level)[items[t - 1]], dtype=torch.float32) * part.log_softmax(0)).sum()
                for level, part in enumerate((logits[:2], logits[2:]))
            ]
            profile_losses.append(torch.stack(by_level).mean())
            if t < len(items):
                scores = v @ normed(after, dim=0)
                for seen in set(items[:t]):
                    scores = scores + 0.25 * UNIT * functional.one_hot(torch.tensor(seen), len(scores))
                item_losses.append(-scores.log_softmax(0)[items[t]])
    item_loss, profile_loss = torch.stack(item_losses).mean(), torch.stack(profile_losses).mean()
    assert parts["item_loss"] == pytest.approx(item_loss.item(), rel=1e-4)
    assert parts["profile_loss"] == pytest.approx(profile_loss.item(), rel=1e-4)
    torch.testing.assert_close(got, item_loss + 0.7 * profile_loss, rtol=1e-4, atol=1e-5)


def test_the_profile_loss_of_some_positions_has_the_mean_of_all(toy_data, monkeypatch):
    model, batch = build(toy_data), train_batch(toy_data)
    estimates = torch.tensor([model.loss(batch, 0)[1]["profile_loss"] for _ in range(300)])
    monkeypatch.setattr(module, "PROFILE_SHARE", 1.0)
    whole = model.loss(batch, 0)[1]["profile_loss"]
    assert estimates.std() > 0, "a step looks at some positions alone"
    assert abs(estimates.mean() - whole) < 4 * estimates.std() / 300**0.5


@pytest.mark.parametrize("layout", ["interleaved", "fused"])
def test_padding_and_company_change_no_score(toy_data, layout):
    model = build(toy_data, layout=layout)
    history = toy_data.history(TEST)
    together = model.score(np.arange(20), history)
    assert torch.equal(together, model.score(np.arange(20), history))
    alone = torch.cat([model.score(np.array([user]), history) for user in range(20)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_profile_term_is_the_mixture_over_prototypes(toy_data):
    model = build(toy_data)
    batch = pad(toy_data.history(TEST), np.arange(5), toy_data.max_length)
    with torch.no_grad():
        scores, terms = model.score_terms(batch, ["profile"])
        _, states = decoded(model, batch)
        for row in range(5):
            state = functional.normalize(states[row, model.after(batch.lengths[row] - 1)], dim=0)
            logits = functional.normalize(model.prototypes) @ state / model.next_item.similarity.log_temperature.exp()
            p = [part.softmax(0).double().numpy() for part in (logits[:2], logits[2:])]
            fit = (dense_p(0) @ p[0] + dense_p(1) @ p[1]) / 2
            np.testing.assert_allclose(terms["profile"][row].numpy(), np.log(fit), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.score_batch(batch).detach().numpy(), scores.numpy())  # no weights yet


def test_features_are_part_of_the_model(toy_data, tmp_path):
    words = [f"side_{item // 12} word_{item % 5}" for item in range(24)]
    features = item_features(pd.DataFrame({"text": words}))
    embeddings = np.random.default_rng(1).normal(size=(24, 16)).astype(np.float32)
    config = SMALL.model_copy(update={"features": True, "epochs": 1})
    train_g2rec(
        toy_data,
        GRAPH,
        memberships(),
        tokens(toy_data),
        embeddings,
        config,
        Runtime(),
        tmp_path / "g2rec",
        features=features,
    )
    model = load_model(tmp_path / "g2rec")
    assert features.names[-1] == "word_4"
    of_item_3 = [features.names[k] for k in features.features[features.indptr[3] : features.indptr[4]]]
    assert of_item_3 == ["side_0", "word_3"]
    rows = [features.names.index(name) for name in of_item_3]
    want = model.items.weight[3] + model.features.vectors[rows].mean(0)
    torch.testing.assert_close(model.item_vectors()[3], want)


def tokens(data):
    rng = np.random.default_rng(0)
    ids = np.array([12, 0, 11, 10, 1])  # in another order than the columns of P
    return {
        "prototype_ids": ids,
        "prototype_embeddings": np.repeat(ids[:, None], 16, 1).astype(np.float32) / 10,
        "item_tokens": rng.normal(size=(data.n_items, 16)).astype(np.float32),
    }


def test_training_starts_from_the_tokens_learns_and_is_read_back(toy_data, tmp_path, monkeypatch):
    from recsys_dagster.training import train

    started = {}
    real = train.fit

    def spy(model, *arguments, **named):
        started["items"], started["prototypes"] = model.items.weight.clone(), model.prototypes.clone()
        return real(model, *arguments, **named)

    monkeypatch.setattr(train, "fit", spy)
    embeddings = np.random.default_rng(1).normal(size=(24, 16)).astype(np.float32)
    # without decoding: the figure of the training is the decoder's alone
    config = SMALL.model_copy(update={"decoding": False, "start": "sasrec"})
    facts = train_g2rec(
        toy_data, GRAPH, memberships(), tokens(toy_data), embeddings, config, Runtime(), tmp_path / "g2rec"
    )
    assert started["items"].detach().numpy().tolist() == embeddings.tolist()
    torch.testing.assert_close(started["prototypes"][:, 0], torch.tensor([0, 1, 10, 11, 12]) / 10)
    curve = pd.read_parquet(tmp_path / "g2rec" / "training.parquet")
    assert curve["item_loss"].iloc[-1] < curve["item_loss"].iloc[0]
    assert validation_recall(load_model(tmp_path / "g2rec"), toy_data) == pytest.approx(facts["validation_recall"])


def test_places_that_people_come_back_to_are_ranked_as_training_saw_it(tmp_path):
    """Each user goes to and fro between two places: the last one but one comes next, the last one never does."""
    rng, rows = np.random.default_rng(0), []
    for user in range(100):
        pair, length = rng.choice(24, 2, replace=False), int(rng.integers(6, 9))
        rows += [(user, pair[t % 2], t, t, max(0, t - length + 3)) for t in range(length)]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position", "split"])
    data = SequenceData.from_tables(table, n_users=100, n_items=24, max_length=6)
    assert not data.mask_seen, "history items are candidates: every target is one"
    config = SMALL.model_copy(update={"epochs": 2, "learning_rate": 1e-2})
    nothing = np.zeros((24, 16), dtype=np.float32)
    train_g2rec(data, GRAPH, memberships(), tokens(data), nothing, config, Runtime(), tmp_path)
    model, history = load_model(tmp_path), data.history(TEST)
    assert model.repeats.by_lag[1] > 0 > model.repeats.by_lag[0]

    def found():
        best, _ = top_n(model, np.arange(data.n_users), history, n=1, mask_seen=data.mask_seen)
        ranks, _ = target_ranks(model, history, data.targets(TEST), mask_seen=data.mask_seen)
        assert (ranks.ranks == 1).tolist() == (best[:, 0] == data.test.items).tolist(), "lists show what is measured"
        return (ranks.ranks == 1).mean()

    assert found() > 0.95, "the bias reaches the final ranking, decoding included"
    model.repeats = None
    assert found() < 0.5, "the decoder without it"


def test_embeddings_of_another_size_keep_their_products():
    vectors = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    assert fitted(vectors, 32) is vectors
    wider = fitted(vectors, 48)
    torch.testing.assert_close(wider @ wider.T, vectors @ vectors.T, rtol=1e-3, atol=1e-3)
    narrower = fitted(vectors, 16)
    assert narrower.shape == (400, 16)
    assert narrower.square().sum().item() == pytest.approx(vectors.square().sum().item(), rel=0.1)


@pytest.fixture
def pretrained(tmp_path):
    """Settings with a tiny language model that lies on disk as its backbone."""
    from transformers import LlamaConfig, LlamaModel

    base = LlamaConfig(
        vocab_size=20, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, bos_token_id=1
    )
    torch.manual_seed(3)
    LlamaModel(base).save_pretrained(tmp_path / "base")
    return SMALL.model_copy(update={"backbone": str(tmp_path / "base"), "lora_rank": 4, "epochs": 2})


def train_pretrained(data, config, output, checkpoint=None):
    embeddings = np.zeros((24, 16), np.float32) + 0.1
    return train_g2rec(
        data, GRAPH, memberships(), tokens(data), embeddings, config, Runtime(), output, checkpoint
    )  # fmt: skip


def test_a_killed_lora_run_resumes_to_the_same_weights(toy_data, tmp_path, pretrained, monkeypatch):
    from recsys_dagster.training.checkpoint import Checkpoint

    train_pretrained(toy_data, pretrained, tmp_path / "whole")
    real = Checkpoint.save

    def killed(self, *arguments):
        real(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_pretrained(toy_data, pretrained, tmp_path / "cut", tmp_path / "checkpoint")
    monkeypatch.setattr(Checkpoint, "save", real)
    train_pretrained(toy_data, pretrained, tmp_path / "resumed", tmp_path / "checkpoint")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_gradient_checkpointing_changes_no_gradient(toy_data, pretrained):
    losses, gradients = [], []
    for checkpointing in (False, True):
        model = build(
            toy_data, **pretrained.model_dump() | {"gradient_checkpointing": checkpointing, "lora_dropout": 0.0}
        )
        model.train()
        loss, _ = model.loss(train_batch(toy_data), 0)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_lora_over_a_pretrained_model_from_disk(toy_data, tmp_path, pretrained):
    config = pretrained.model_copy(update={"decoding": False})  # the figure of the training is the decoder's alone
    backbone = Backbone(config, max_tokens=20)
    trainable = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("lora_" in name or name.startswith(("enter", "leave")) for name in trainable)
    facts = train_pretrained(toy_data, config, tmp_path / "g2rec")
    stored = load_file(tmp_path / "g2rec" / "model.safetensors")
    assert any("lora_B" in name and tensor.abs().max() > 0 for name, tensor in stored.items())
    assert not any("base_layer" in name for name in stored)  # the pretrained weights stay where they are
    assert validation_recall(load_model(tmp_path / "g2rec"), toy_data) == pytest.approx(facts["validation_recall"])


def test_a_backbone_that_is_not_there_is_a_clear_error(tmp_path):
    config = SMALL.model_copy(update={"backbone": str(tmp_path / "nothing")})
    with pytest.raises(RecsysError, match="backbone"):
        Backbone(config, max_tokens=10)
