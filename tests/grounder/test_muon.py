import pytest
import torch

from biaslab.grounder.muon import Float32Muon
from biaslab.grounder.optimiser import MuonAdamW, working_dtype


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_in_float32_is_torchs_to_the_rounding_of_bfloat16(shape):
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(3)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    options = {"lr": 0.1, "momentum": 0.95, "weight_decay": 0.01}
    a, b = Float32Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(shape, generator=generator)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(p, q, atol=8e-3, rtol=0)
        assert (p - s).abs().mean() > 0.03  # it moved, by far more than they differ
        assert torch.equal(a.state[p]["momentum_buffer"], b.state[q]["momentum_buffer"])


def test_a_matrix_without_a_gradient_stays_and_a_closure_is_refused():
    p = torch.nn.Parameter(torch.ones(3, 3))
    optimiser = Float32Muon([p], lr=0.1)
    optimiser.step()
    assert torch.equal(p, torch.ones(3, 3))
    with pytest.raises(ValueError, match="no closure"):
        optimiser.step(lambda: 0.0)


def test_working_copies_decide_which_muon_updates_them():
    kinds = {}
    for dtype in (torch.float32, torch.bfloat16):
        named = [(n, torch.nn.Parameter(torch.ones(*shape, dtype=dtype))) for n, shape in (("a", (4, 4)), ("b", (4,)))]
        optimiser = MuonAdamW(named, muon_rate=0.1, adamw_rate=0.1, steps=2, warmup=1, final_rate=0.1)
        named[0][1].grad = torch.eye(4, dtype=dtype)
        optimiser.step()
        kinds[dtype] = type(optimiser._optimisers[0])
        assert named[0][1].dtype == dtype and not torch.equal(named[0][1], torch.ones(4, 4, dtype=dtype))
    assert kinds == {torch.float32: Float32Muon, torch.bfloat16: torch.optim.Muon}
    assert working_dtype(torch.device("cuda")) is torch.bfloat16
    assert working_dtype(torch.device("cpu")) in kinds
