"""pfl 0.6 on the benchmark's people: its FederatedAveraging, its central Gaussian mechanism, one user after the other.

``python -E pfl_side.py SPEC.json`` in an environment of its own (see ``simulations.bench.fleet``). Cohorts, start and
people are those of the comparison; all data lies in memory as tensors.
"""

from __future__ import annotations

import json
import logging
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism
from turns import Turns


class SmallNetwork(torch.nn.Sequential):
    """Linear maps and ReLUs."""

    def __init__(self, widths: list[int]) -> None:
        layers: list[torch.nn.Module] = []
        for ins, outs in pairwise(widths):
            layers += [torch.nn.Linear(ins, outs), torch.nn.ReLU()]
        super().__init__(*layers[:-1])

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        return {"loss": Weighted(float(self.loss(x, y).detach()) * len(y), len(y))}


class FramedLinear(torch.nn.Module):
    """A frozen map with trained coordinates R: W x + U R V x."""

    u: torch.Tensor
    v: torch.Tensor

    def __init__(self, base: torch.nn.Linear, u: np.ndarray, v: np.ndarray) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("u", torch.from_numpy(u).to(base.weight.dtype))
        self.register_buffer("v", torch.from_numpy(v).to(base.weight.dtype))
        self.r = torch.nn.Parameter(torch.zeros(u.shape[1], v.shape[0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = (x @ self.v.T).float() @ self.r.T
        out: torch.Tensor = self.base(x) + inside.to(x.dtype) @ self.u.T
        return out


class LanguageModel(torch.nn.Module):
    """The serving file as transformers reads it, with coordinates on the frame's maps; nothing else is trained."""

    def __init__(self, gguf: Path, number_format: str, frame: dict[str, Any], arrays: Any) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__()
        self.lm = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, number_format), local_files_only=True
        )
        self.lm.requires_grad_(False)
        for place, name in enumerate(frame["modules"]):
            parent_name, child_name = name.rsplit(".", 1)
            parent = self.lm.get_submodule(parent_name)
            framed = FramedLinear(getattr(parent, child_name), arrays[f"u{place}"], arrays[f"v{place}"])
            setattr(parent, child_name, framed)

    def loss(self, tokens: torch.Tensor, there: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.lm(input_ids=tokens, attention_mask=there, labels=labels).loss
        return loss

    def metrics(self, tokens: torch.Tensor, there: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        return {"people": Weighted(1, 1)}


class InTurns(TrainingProcessCallback):  # type: ignore[misc]
    """Reports every round, and starts the next one when asked."""

    def __init__(self, turns: Turns, rounds: int) -> None:
        self._turns, self._rounds = turns, rounds

    def on_train_begin(self, *, model: Any) -> Metrics:
        self._turns.begin()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self._turns.end()
        if central_iteration + 1 < self._rounds:
            self._turns.begin()
        return False, Metrics()


def tensors_of(spec: dict[str, Any], person: int) -> tuple[torch.Tensor, ...]:
    """A person's examples."""
    folder = Path(spec["folder"])
    if spec["task"] == "network":
        x, y = (np.load(folder / name, mmap_mode="r")[person] for name in ("features.npy", "labels.npy"))
        return torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y, dtype=np.int64))
    held = np.load(folder / f"person{person}.npz")
    return tuple(torch.from_numpy(held[name]) for name in ("tokens", "there", "labels"))


def model_of(spec: dict[str, Any]) -> torch.nn.Module:
    """The model, at the start of the comparison."""
    start = torch.from_numpy(np.load(spec["start"])).float()
    if spec["task"] == "network":
        model: torch.nn.Module = SmallNetwork(spec["widths"])
    else:
        arrays = np.load(Path(spec["folder"]) / "frame.npz")
        model = LanguageModel(Path(spec["model"]), spec["number_format"], spec["frame"], arrays)
    torch.nn.utils.vector_to_parameters(start, trained(model))
    return model


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that are trained, in the order of theta."""
    return [each for each in model.parameters() if each.requires_grad]


def main(spec: dict[str, Any]) -> None:
    torch.set_num_threads(spec["threads"])
    logging.disable(logging.WARNING)
    turns, rounds = Turns(), len(spec["cohorts"])
    everybody = sorted({person for cohort in spec["cohorts"] for person in cohort})
    people = {each: PyTorchTensorDataset(tensors_of(spec, each), user_id=str(each)) for each in everybody}
    sampled = iter([person for cohort in spec["cohorts"] for person in cohort])
    data = FederatedDataset(people.__getitem__, lambda: next(sampled))
    model = model_of(spec)
    optimiser = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[spec["optimiser"]]
    wrapped = PyTorchModel(
        model,
        lambda parameters, lr: optimiser(trained(model), lr=lr),
        torch.optim.SGD(trained(model), lr=spec["server_rate"]),
    )
    mechanism = GaussianMechanism(spec["clip_norm"], spec["noise_multiplier"])
    backend = SimulatedBackend(data, data, postprocessors=[CentrallyAppliedPrivacyMechanism(mechanism)])
    turns.say(ready=True)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,  # in the first round, which is not timed
            train_cohort_size=len(spec["cohorts"][0]),
            val_cohort_size=None,
        ),
        backend,
        wrapped,
        NNTrainHyperParams(
            local_batch_size=spec["batch_size"],
            local_num_epochs=spec["epochs"],
            local_learning_rate=spec["rate"],
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[InTurns(turns, rounds)],
        send_metrics_to_platform=False,
    )
    np.save(spec["result"], torch.nn.utils.parameters_to_vector(trained(model)).detach().numpy())
    turns.say(done=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))
