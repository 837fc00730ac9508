import torch

from benchmarks import larmi_training
from benchmarks.larmi_training import our_prefixes, ours, ported, ported_prefixes, routing_inputs


def test_the_loop_of_the_ports_and_ours_give_the_same_capsules_and_gradients():
    inputs = routing_inputs(6)
    for theirs, mine in ((ported, ours), (ported_prefixes, our_prefixes)):
        slow, quick = theirs(*inputs), mine(*inputs)
        torch.testing.assert_close(quick, slow, rtol=1e-3, atol=1e-4)
        gradient = torch.randn(slow.shape)
        want, got = (torch.autograd.grad(out, inputs[0], gradient)[0] for out in (slow, quick))
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_speedups_are_ratios_of_what_was_measured(monkeypatch):
    monkeypatch.setattr(larmi_training, "ROWS", 8)
    monkeypatch.setattr(larmi_training, "ROUTING_REPEATS", 1)
    found = larmi_training.routing()
    for name in ("routing", "routing_prefixes"):
        ratio = found[f"{name}_ported_ms"] / found[f"{name}_ms"]
        assert abs(found[f"{name}_speedup"] / ratio - 1) < 0.05
