"""Trains a model of RecBole by the library's own configuration, loaders and trainer; run with RecBole's Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.exchange import Task
from benchmarks.peers.worker import Pace, Score, Size, installed, serve, use_torch

SEQUENTIAL = ("SASRec", "GRU4Rec", "BERT4Rec")
NAME = "exchange"
USER, ITEM, ITEMS, LENGTH = "user_id", "item_id", "item_id_list", "item_length"
BERT_BATCH = 256
"""BERT4Rec has ten gaps a sample, each with a softmax over the catalogue: the library's 2,048 samples do not fit."""


def settings(task: Task) -> dict[str, Any]:
    """The library's defaults but for what is asked for and where files lie."""
    request = task.request
    sequential = request.model in SEQUENTIAL
    default = BERT_BATCH if request.model == "BERT4Rec" else 2048
    values: dict[str, Any] = {
        "data_path": str(task.folder),
        "benchmark_filename": ["train", "valid", "valid"],  # the third would be the test split, which stays with us
        "USER_ID_FIELD": USER,
        "ITEM_ID_FIELD": ITEM,
        "load_col": {"inter": [USER, ITEM, ITEMS] if sequential else [USER, ITEM], "user": [USER], "item": [ITEM]},
        "MAX_ITEM_LIST_LENGTH": request.max_length,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        # the loader of pairs counts (user, item) cells, that of sequences users
        "eval_batch_size": 256 if sequential else 256 * (request.n_items + 1),
        "epochs": request.epochs,
        "train_batch_size": request.batch_size or default,
        "seed": request.seed,
        "reproducibility": True,
        "use_gpu": request.device != "cpu",
        "checkpoint_dir": str(task.folder / "saved"),
        "show_progress": False,
        "embedding_size": request.dimension,
        "n_layers": request.layers,
    }
    if sequential:
        # full cross-entropy, so no negatives are drawn
        values |= {"loss_type": "CE", "train_neg_sample_args": None, "alias_of_item_id": [ITEMS]}
    if request.model in ("SASRec", "BERT4Rec"):
        sizes = {"hidden_size": request.dimension, "inner_size": 4 * request.dimension, "n_heads": request.heads}
        values |= sizes
    return values


def write_files(task: Task) -> None:
    """The library's atomic files: every prefix of a train sequence with its next item, or the bare pairs."""
    request = task.request
    place = task.folder / NAME
    place.mkdir()
    for field, count in ((USER, request.n_users), (ITEM, request.n_items)):
        text = "\n".join([f"{field}:token", *(str(number) for number in range(count))])
        (place / f"{NAME}.{'user' if field == USER else 'item'}").write_text(text + "\n", encoding="utf-8")
    if request.model in SEQUENTIAL:
        head, train, valid = f"{USER}:token\t{ITEMS}:token_seq\t{ITEM}:token", prefixes(task), next_items(task)
    else:
        head, train, valid = f"{USER}:token\t{ITEM}:token", pairs(task.train), pairs(task.validation)
    for part, rows in (("train", train), ("valid", valid)):
        with (place / f"{NAME}.{part}.inter").open("w", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in (head, *rows))


def prefixes(task: Task) -> Iterator[str]:
    """One row a train target."""
    for user in range(task.request.n_users):
        words = [str(item) for item in task.train.of(user).tolist()]
        for end in range(1, len(words)):
            yield f"{user}\t{' '.join(words[max(end - task.request.max_length, 0) : end])}\t{words[end]}"


def next_items(task: Task) -> Iterator[str]:
    """The first validation item of each user after the train items."""
    for user in range(task.request.n_users):
        history, wanted = task.train.of(user)[-task.request.max_length :], task.validation.of(user)
        if len(history) and len(wanted):
            yield f"{user}\t{' '.join(map(str, history.tolist()))}\t{wanted[0]}"


def pairs(split: Any) -> Iterator[str]:
    """One row an interaction."""
    for user, item in zip(split.users.tolist(), split.items.tolist(), strict=True):
        yield f"{user}\t{item}"


def fit(task: Task, pace: Pace) -> Score:
    """Train by the library's trainer, keep the epoch that it finds best on the validation split."""
    torch = use_torch(task)
    from recbole.config import Config  # type: ignore[import-not-found,unused-ignore]
    from recbole.data import create_dataset, data_preparation  # type: ignore[import-not-found,unused-ignore]
    from recbole.utils import (  # type: ignore[import-not-found,unused-ignore]
        get_model,
        get_trainer,
        init_seed,
    )

    write_files(task)
    config = Config(model=task.request.model, dataset=NAME, config_dict=settings(task))
    init_seed(config["seed"], config["reproducibility"])
    torch.set_num_threads(task.request.threads)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    watch(trainer, pace, size_of(task))
    best: dict[str, Any] = {}

    def keep(epoch: int, value: float) -> None:
        if trainer.cur_step == 0:  # evaluations since the last better one
            best.update({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})

    watched = task.request.mode == "scores"
    trainer.fit(train, valid if watched else None, saved=False, verbose=False, callback_fn=keep)
    if best:
        model.load_state_dict(best)
    for name in getattr(model, "other_parameter_name", []):
        setattr(model, name, None)  # vectors cached for the last epoch
    model.eval()
    return scorer(task, model, dataset, torch)


def watch(trainer: Any, pace: Pace, size: Callable[[Any], Size]) -> None:
    """Let the trainer's own loop over an epoch draw its batches through the pace."""
    loop = trainer._train_epoch

    def paced(batches: Any, *arguments: Any, **named: Any) -> Any:
        return loop(pace.over(batches, size), *arguments, **named)

    trainer._train_epoch = paced


def size_of(task: Task) -> Callable[[Any], Size]:
    """Sizes of the library's batches: one target a row."""

    def size(batch: Any) -> Size:
        rows = len(batch)
        if task.request.model not in SEQUENTIAL:
            return Size(rows, rows, rows)
        return Size(rows, int(batch[LENGTH].sum()), rows * batch[ITEMS].shape[1])

    return size


def scorer(task: Task, model: Any, dataset: Any, torch: Any) -> Score:
    """Scores in our ids, by the library's own prediction over all items."""
    from recbole.data.interaction import Interaction  # type: ignore[import-not-found,unused-ignore]

    users_of, items_of = (
        torch.tensor([dataset.field2token_id[field][str(number)] for number in range(count)])
        for field, count in ((USER, task.request.n_users), (ITEM, task.request.n_items))
    )
    device = next(model.parameters()).device

    @torch.no_grad()
    def score(users: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = {USER: users_of[torch.from_numpy(users)]}
        lengths = np.ones(len(users), dtype=np.int64)
        if task.request.model in SEQUENTIAL:
            cut, lengths = task.histories(users)
            padded = torch.zeros(len(users), task.request.max_length, dtype=torch.int64)
            for row, history in enumerate(cut):
                padded[row, : len(history)] = items_of[torch.from_numpy(history.astype(np.int64))]
            batch |= {ITEMS: padded, LENGTH: torch.from_numpy(lengths.clip(min=1))}
        found = model.full_sort_predict(Interaction(batch).to(device)).view(len(users), -1)[:, items_of.to(device)]
        found[torch.from_numpy(lengths == 0).to(device)] = 0.0  # nothing to go by: all items alike
        scores: NDArray[np.float32] = found.float().cpu().numpy()
        return scores

    return score


if __name__ == "__main__":
    serve(fit, lambda: installed("recbole", "torch", "numpy"))
