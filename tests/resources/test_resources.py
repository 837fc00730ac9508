import os
import signal
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from recsys_dagster.errors import RecsysError
from resources.compute import ComputeResource
from resources.gpu import GpuResource
from resources.llm import LlmResource


def arrays(n: int) -> dict[str, np.ndarray]:
    return {"whole": np.arange(n), "none": np.zeros(0), "number": np.array(7)}


def scaled(value: int, shared: dict[str, np.ndarray]) -> list[int]:
    assert not shared["whole"].flags.writeable
    assert (len(shared["none"]), int(shared["number"])) == (0, 7)
    return (value * shared["whole"]).tolist()


def refuse(value: int) -> None:
    raise RecsysError("no good.", mend="a better one")


def die(value: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_cpu_needs_no_torch_and_passes_settings_on():
    runtime = GpuResource(device="cpu", precision="bf16", seed=7, deterministic=False, compile=True).runtime()
    settings = {"precision": "bf16", "compile": True, "seed": 7, "deterministic": False}
    assert runtime == {"device": "cpu", "devices": 1, **settings}


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", ""])
def test_unknown_device_is_refused_with_the_choices(device):
    with pytest.raises(ValidationError, match="expected auto, cpu, cuda"):
        GpuResource(device=device)


def test_absent_device_is_an_error_not_a_silent_cpu():
    torch = pytest.importorskip("torch")
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=f"gpu.device is '{absent}'.*set it to auto or cpu"):
        GpuResource(device=absent).resolve()
    assert GpuResource(device="auto").resolve() == ("cuda" if torch.cuda.is_available() else "cpu")


def test_several_devices_are_of_one_kind_there_and_not_compiled():
    assert GpuResource(device="cpu", devices=3).runtime()["devices"] == 3
    with pytest.raises(ValueError, match=r"devices is 2 and gpu.device 'mps'; set gpu.device to cuda or cpu"):
        GpuResource(device="mps", devices=2)._require_devices("mps")
    with pytest.raises(ValueError, match=r"gpu.devices is 2 and gpu.compile true; set one of them back"):
        GpuResource(device="cpu", devices=2, compile=True).runtime()
    with pytest.raises(ValueError, match=r"gpu.devices is 99, but torch sees \d+ CUDA devices here"):
        GpuResource(device="cuda", devices=99)._require_devices("cuda")


def test_usage_reports_device_and_memory():
    usage = GpuResource(device="cpu").usage("cpu")
    assert usage["device"] == "cpu"
    assert 10 < usage["peak_memory_mb"] < 100_000


def test_key_is_never_part_of_the_resource(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret-value")
    llm = LlmResource(backend="openai", api_key_env="SOME_KEY", base_url="http://localhost:1/v1")
    assert llm.api_key().get_secret_value() == "sk-secret-value"
    assert "secret" not in repr(llm) + str(llm) + str(llm.describe()) + llm.model_dump_json() + repr(llm.api_key())


def test_cap_in_run_config_needs_prices():
    with pytest.raises(ValidationError, match="spending_cap needs input_price and output_price"):
        LlmResource(backend="openai", spending_cap=5.0)
    assert LlmResource(spending_cap=5.0, input_price=1.0, output_price=2.0).spending_cap == 5.0


def test_a_key_in_place_of_its_name_is_refused_without_repeating_it():
    with pytest.raises(ValidationError) as caught:
        LlmResource(backend="openai", api_key_env="sk-abcdef123")
    assert "NAME of an environment variable" in str(caught.value)
    assert "sk-abcdef123" not in str(caught.value)


def test_cache_lies_under_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    assert LlmResource().cache_path() == tmp_path / "cache" / "llm.sqlite"
    assert LlmResource(cache=str(tmp_path / "x.db")).cache_path() == tmp_path / "x.db"


def test_processes_keep_the_order_and_share_arrays():
    with ComputeResource(processes=2).open() as engine:
        shared = engine.share(arrays, 3)
        assert list(engine.map(scaled, range(20), shared)) == [[0, value, 2 * value] for value in range(20)]
        with pytest.raises(RecsysError, match=r"no good\. To mend: a better one"):
            list(engine.map(refuse, [1]))


def test_a_killed_process_is_told():
    with ComputeResource(processes=2).open() as engine, pytest.raises(RuntimeError, match=r"fewer compute\.processes"):
        list(engine.map(die, range(3)))


def test_ray_that_is_absent_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'recsys-dagster\[ray\]'"):
        ComputeResource(engine="ray").open()


def test_unknown_engines_and_addresses_are_refused():
    with pytest.raises(ValidationError, match="'local' or 'ray'"):
        ComputeResource(engine="spark")
    with pytest.raises(ValidationError, match="expected host:port"):
        ComputeResource(engine="ray", address="ray://head:10001")


def test_resources_import_nothing_heavy():
    import subprocess

    code = (
        "import resources.gpu, resources.llm, resources.compute, resources.storage, sys; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
