"""The small trainer that made ``checkpoints/``: Muon for the matrices inside the blocks, AdamW for the rest."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..models import CausalLM
from .data import Rows


@dataclass(frozen=True)
class TrainingSettings:
    """The [training] table of a file in configs/training/.

    Attributes:
        steps, batch_size: updates, and rows per update.
        learning_rate: peak; Muon's updates are scaled so that one rate serves both optimizers.
        warmup_steps: linear rise; after it a linear fall to zero at the last step.
        weight_decay: on the matrices inside the blocks.
        eval_interval: steps between validation losses.
        save_steps: steps to hand to ``save`` besides the best ones.
        start_step: steps that the model already has behind it; 0 starts from random weights. ``steps`` counts on.
        save_best: hand over whatever has the lowest validation loss so far.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_interval: int = 200
    save_steps: tuple[int, ...] = ()
    save_best: bool = True
    start_step: int = 0
    seed: int = 1337
    bf16: bool = True


Save = Callable[[CausalLM, int, dict[str, float]], None]
Report = Callable[[int, dict[str, float], float], None]


def train(model: CausalLM, rows: Rows, settings: TrainingSettings, save: Save, report: Report) -> None:
    """Train in place. ``save(model, step, losses)`` is called at the best and at the asked-for steps, ``report(step,
    losses, seconds)`` at every evaluation. The caller's random state is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        if settings.start_step == 0:
            initialise(model)
        _train(model, rows, settings, save, report)


def _train(model: CausalLM, rows: Rows, settings: TrainingSettings, save: Save, report: Report) -> None:
    device = model.device
    generator = torch.Generator().manual_seed(settings.seed)
    optimizers = make_optimizers(model, settings)
    best, running, started = math.inf, math.nan, time.perf_counter()
    for step in tqdm(range(settings.start_step + 1, settings.steps + 1), desc="training", disable=None):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(step, settings)
        model.train()
        inputs, targets = (x.to(device) for x in rows.batch(settings.batch_size, generator))
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
        if step % settings.eval_interval == 0 or step in settings.save_steps or step == settings.steps:
            losses = {"train": running, "val": mean_loss(model, rows.val_rows())}
            report(step, losses, time.perf_counter() - started)
            if step in settings.save_steps or (settings.save_best and losses["val"] < best):
                save(model, step, losses)
            best = min(best, losses["val"])


def initialise(model: CausalLM) -> None:
    """Matrices N(0, 0.02), what writes into the residual stream zero, biases zero, norms one."""
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "bias")):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.ones_(parameter)


def make_optimizers(model: CausalLM, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) on matrices inside the blocks, AdamW on embeddings, norms and biases."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(
            matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]


def schedule(step: int, settings: TrainingSettings) -> float:
    """Share of the peak learning rate: linear up, then linear down to zero."""
    done, steps = step - settings.start_step, settings.steps - settings.start_step
    return min(done / settings.warmup_steps, (steps - done + 1) / (steps - settings.warmup_steps + 1))


@torch.inference_mode()
def mean_loss(model: CausalLM, rows: Tensor, batch_size: int = 64) -> float:
    """Mean cross-entropy in nats per id over all rows (N, T + 1), in float32."""
    model.eval()
    device = model.device
    total = 0.0
    for part in rows.split(batch_size):
        logits = model(part[:, :-1].to(device))
        total += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].to(device).flatten(), reduction="sum").item()
    return total / rows[:, 1:].numel()
