"""Two processes that train together, on the CPU through gloo, against one: gradients, weights, ranks, failures."""

import logging
import os

import numpy as np
import pandas as pd
import pytest
import torch
from distributed_cases import CASES, fail, figures_of, learn_all, learn_one
from safetensors.torch import load_file

from recsys_dagster.errors import RecsysError
from recsys_dagster.training import distributed
from recsys_dagster.training.batching import SequenceBatch, pad
from recsys_dagster.training.runtime import Runtime

TWO = Runtime(devices=2)


@pytest.fixture(scope="module")
def trained(toy_data, tmp_path_factory):
    """Folders of all cases as one process and as two trained them, and what `learn_all` returned."""
    folders, told = [], []
    for number, runtime in enumerate((Runtime(), TWO)):
        folder = tmp_path_factory.mktemp(f"processes-{number + 1}")
        (folder / "dropout").mkdir()
        told.append(learn_all(toy_data, folder, runtime))
        folders.append(folder)
    return folders, told


@pytest.mark.parametrize("case", CASES)
def test_the_gradients_of_a_step_are_those_of_one_process(trained, case):
    one, two = (load_file(folder / f"{case}.gradients") for folder in trained[0])
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(
            two[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(gradient.abs().max() for gradient in one.values()) > 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_short_training_ends_with_the_weights_of_one_process(trained, case):
    one, two = (load_file(folder / case / "model.safetensors") for folder in trained[0])
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        # where the true gradient is 0 (a bias under a softmax) Adam makes steps of full size out of rounding errors
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=5e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_dropout_masks_of_several_processes_are_others(trained):
    one, two = (load_file(folder / "dropout" / "sasrec" / "model.safetensors") for folder in trained[0])
    assert (one["items.weight"] - two["items.weight"]).abs().max() > 1e-5  # without dropout: 1e-8


def test_figures_found_together_are_exactly_those_of_one_process(trained, toy_data):
    assert [size for size, _ in trained[1]] == [1, 2]
    together, alone = trained[1][1][1], figures_of(trained[0][1] / "sasrec", toy_data, Runtime())
    pd.testing.assert_frame_equal(together.metrics, alone.metrics, check_exact=True)
    pd.testing.assert_frame_equal(together.per_user, alone.per_user, check_exact=True)
    assert len(alone.per_user) == 2 * toy_data.n_users


def test_a_killed_training_resumes_to_the_weights_of_an_undisturbed_one(trained, toy_data, tmp_path, caplog):
    state = tmp_path / "state"
    with pytest.raises(RecsysError, match="process 1 of 2 was ended by SIGKILL"):
        learn_one("bert4rec", toy_data, tmp_path, TWO, state, dies_in_epoch=2)
    assert [path.name for path in state.iterdir()] == ["last.safetensors"]
    with caplog.at_level(logging.INFO, logger="recsys_dagster"):
        facts = learn_one("bert4rec", toy_data, tmp_path, TWO, state)
    assert not state.exists()
    assert facts["epochs"] == 2
    # the first epoch was not learned again, and each line is told once
    assert sum("epoch 2, loss" in line for line in caplog.messages) == 1
    assert not any("epoch 1, loss" in line for line in caplog.messages)
    undisturbed, resumed = (
        load_file(folder / "bert4rec" / "model.safetensors") for folder in (trained[0][1] / "dropout", tmp_path)
    )
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_what_a_process_raises_is_raised_and_the_others_end():
    with pytest.raises(RecsysError, match=r"row 3 is odd\. To mend: make it even\.") as ours:
        fail(TWO)
    assert ours.value.mend == "make it even."


def test_parts_of_a_batch_are_all_of_it_and_know_their_place(toy_data):
    whole = pad(toy_data.train, np.arange(7), 6)
    draws = torch.Generator()
    parts = [whole.part(index, 3, draws) for index in range(3)]
    assert sorted(torch.cat([part.users for part in parts]).tolist()) == list(range(7))
    for part in parts:
        assert isinstance(part, SequenceBatch)
        assert part.place.draws is draws
        assert torch.equal(part.place.whole.items[part.place.rows], part.items)
        rows, positions = part.place.own(*whole.mask.nonzero(as_tuple=True))
        assert torch.equal(part.items[rows, positions], part.items[part.mask])
    # too few rows for everyone: each process takes all of them, and each counts for a part
    assert whole.part(1, 8, draws).users.tolist() == list(range(7))


def test_alone_nothing_is_shared():
    assert (distributed.rank(), distributed.size()) == (0, 1)
    mean = torch.tensor(3.0)
    assert distributed.share_of_mean(mean, 5) is mean
    assert distributed.batch_mean(torch.empty(0)) == 0
    assert distributed.gathered("x") == ["x"]
    assert distributed.sum_figures({"loss": 2.0}) == {"loss": 2.0}
    assert distributed.seed_epoch(3) is None
    assert torch.initial_seed() == 3
    assert os.environ.get("GLOO_SOCKET_IFNAME") is None
