import pytest
import torch
from test_run import TINY, losses, same, weights

import perpixel
import perpixel.training.step
from perpixel.acceleration.accelerate import accelerate
from perpixel.errors import OutOfMemoryError
from perpixel.models.build import build
from perpixel.recipes.models import FCN, Model, ResNet
from perpixel.recipes.schema import Optimizer, Train
from perpixel.training.optimizer import make_optimizer, set_learning_rate

SMALL = Model(backbone=ResNet(depth=18, base_channels=8), head=FCN(num_convs=1, channels=8))


@pytest.mark.parametrize("change", ["stages", "norms"])
def test_a_run_that_recomputes_is_the_same_run(change: str, mini, tmp_path):
    short = perpixel.override(TINY, ["train.steps=2"])
    changed = perpixel.override(short, [f"train.activation_checkpointing={change}"])
    for name, recipe in (("usual", short), ("again", changed)):
        perpixel.train(recipe, data=mini, out=tmp_path / name, device="cpu")
    assert len(losses(tmp_path / "usual")) == 2
    assert losses(tmp_path / "again") == losses(tmp_path / "usual")
    assert same(weights(tmp_path / "again"), weights(tmp_path / "usual"))


def test_compiled_code_keeps_what_torch_chooses():
    with pytest.raises(ValueError, match=r"activation_checkpointing=norms with compile=default"):
        Train(compile="default", activation_checkpointing="norms")


def test_cuda_graphs_take_one_pass_a_step():
    with pytest.raises(ValueError, match=r"compile=reduce-overhead with grad_accum_steps"):
        Train(compile="reduce-overhead", grad_accum_steps=2)


def test_compiling_is_asked_for_with_the_mode(monkeypatch):
    asked = []
    model = build(SMALL, num_classes=2)
    monkeypatch.setattr(model, "compile", lambda **named: asked.append(named))
    monkeypatch.setenv("CXX", "python3")  # any program that there is
    device, dtype = torch.device("cpu"), torch.bfloat16
    accelerate(model, device=device, dtype=dtype, training=True)
    assert asked == []
    accelerate(model, device=device, dtype=dtype, training=True, compile="reduce-overhead")
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}]


def test_adamw_is_its_formula_and_spares_norms_and_biases():
    """Algorithm 2 of Loshchilov and Hutter in float64: decay on the weights, not in the moments."""
    betas, decay, lr = (0.8, 0.9), 0.1, 0.01
    spec = Optimizer(
        name="adamw", lr=lr, betas=betas, weight_decay=decay, decay_norm_and_bias=False
    )
    model = build(SMALL, num_classes=2)
    optimizer = make_optimizer(model, spec)
    wanted = {name: p.detach().double() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in wanted.items()}
    second = {name: torch.zeros_like(value) for name, value in wanted.items()}
    for step in range(1, 4):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            slope = parameter.grad.double()
            first[name] = betas[0] * first[name] + (1 - betas[0]) * slope
            second[name] = betas[1] * second[name] + (1 - betas[1]) * slope**2
            mean = first[name] / (1 - betas[0] ** step)
            spread = (second[name] / (1 - betas[1] ** step)).sqrt() + 1e-8
            kept = 1 - lr * decay if parameter.ndim > 1 else 1
            wanted[name] = kept * wanted[name] - lr * mean / spread
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.detach().double(), wanted[name], atol=1e-5), name


def test_the_optimizer_is_sgd_by_its_formula():
    """v = m v + (g + d w), w = w - lr v, in float64; one pass over the weights does it all."""
    spec = Optimizer(lr=0.1, momentum=0.9, weight_decay=0.01, backbone_lr_mult=0.5)
    model = build(SMALL, num_classes=2)
    optimizer = make_optimizer(model, spec)
    wanted = {name: p.detach().double() for name, p in model.named_parameters()}
    speed = {name: torch.zeros_like(value) for name, value in wanted.items()}
    for step in range(3):
        lr = 0.1 / (step + 1)
        set_learning_rate(optimizer, lr)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            slope = parameter.grad.double() + 0.01 * wanted[name]
            speed[name] = 0.9 * speed[name] + slope
            scale = 0.5 if name.startswith("backbone.") else 1.0
            wanted[name] = wanted[name] - lr * scale * speed[name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        error = (parameter.detach().double() - wanted[name]).abs().max()
        assert error < 1e-6 * wanted[name].abs().max().clamp(min=1), name
    assert all(group["fused"] for group in optimizer.param_groups)


def test_too_little_memory_says_what_takes_less(mini, tmp_path, monkeypatch):
    def hungry(*_: object, **__: object) -> torch.Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(perpixel.training.step, "loss_from_logits", hungry)
    with pytest.raises(
        OutOfMemoryError, match=r"2 crops of 32x32 at once, on cpu: .*grad_accum_steps=2"
    ):
        perpixel.train(TINY, data=mini, out=tmp_path, device="cpu")
