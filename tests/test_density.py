"""The entropy models are CompressAI's: the same keys, initial values, likelihoods, gradients."""

import pytest
import torch
from compressai import entropy_models as published

from sic.codec.density import EntropyBottleneck, GaussianConditional, quantize_ste


def pair(ours, theirs):
    built = []
    for build in (ours, theirs):
        torch.manual_seed(0)
        built.append(build())
    return built


def assert_same_state(ours, theirs) -> None:
    states = [
        {k: (v.shape, v.dtype, v.tolist()) for k, v in module.state_dict().items()}
        for module in (ours, theirs)
    ]
    assert states[0] == states[1]


@pytest.mark.parametrize("training", [True, False])
def test_the_bottleneck_is_compressais(training):
    ours, theirs = pair(lambda: EntropyBottleneck(4), lambda: published.EntropyBottleneck(4))
    assert_same_state(ours, theirs)
    results = []
    for module in (ours.train(training), theirs.train(training)):
        torch.manual_seed(1)
        z = (20 * torch.randn(2, 4, 3, 5)).requires_grad_()
        likelihood = module(z) if module is ours else module(z)[1]
        (-torch.log2(likelihood).sum() + module.loss()).backward()
        results.append([likelihood.detach(), z.grad, *(p.grad for p in module.parameters())])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("training", [True, False])
def test_the_gaussian_is_compressais(training):
    ours, theirs = pair(GaussianConditional, lambda: published.GaussianConditional(None))
    assert_same_state(ours, theirs)
    results = []
    for module in (ours.train(training), theirs.train(training)):
        torch.manual_seed(1)
        y, mu = (torch.randn(2, 4, 3, 5).requires_grad_() for _ in range(2))
        scale = (torch.rand(2, 4, 3, 5) * 3 - 0.5).requires_grad_()  # below the bound, too
        likelihood = module(y, scale, mu) if module is ours else module(y, scale, mu)[1]
        (-torch.log2(likelihood).sum()).backward()
        grads = [t.grad for t in (y, scale, mu) if t.grad is not None]
        results.append([likelihood.detach(), *grads])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_rounding_lets_gradients_through():
    x = torch.tensor([0.4, 0.5, 1.5, -2.6], requires_grad=True)
    y = quantize_ste(x)
    y.sum().backward()
    assert y.tolist() == [0, 0, 2, -3]
    assert x.grad.tolist() == [1, 1, 1, 1]
