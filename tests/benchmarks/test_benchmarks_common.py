import json

import numpy as np
import pytest

from benchmarks.common import main


def test_last_line_is_one_json_object(capsys):
    def run(options):
        print("working")
        return {"value": np.float64(0.5), "sizes": np.array([1, 2]), "n": options.n}

    main(run, lambda parser: parser.add_argument("--n", type=int, default=3), ["--json", "--n", "4"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["value"], result["sizes"], result["n"]) == (0.5, [1, 2], 4)
    assert result["seconds"] >= 0
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["torch"]
    assert len(result["machine"]["date"]) == 10


def test_text_without_json(capsys):
    main(lambda options: {"value": 2}, argv=[])
    assert "value: 2" in capsys.readouterr().out.splitlines()


def test_values_that_json_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        main(lambda options: {"value": float("nan")}, argv=["--json"])
