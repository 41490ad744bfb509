"""A joint distribution whose every conditional is known in closed form, with its exact denoiser.

A record is a 2 x 2 image, age, weight (Gaussian given the labels), sex (2 labels) and diagnosis
(3 labels): a table of label probabilities, and for each of its 6 cells a mean and a covariance of
the 6 continuous dimensions. Two independent routes lead to the same conditionals: `conditional` by
conditioning Gaussians on a subset of the dimensions, `denoiser` by weighing the cells by the
likelihood of the whole noisy state. Everything is float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metavoxel.diffusion.categorical import CategoricalForward
from metavoxel.diffusion.config import ScheduleConfig
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.joint import JointForward, State, Times
from metavoxel.diffusion.schedule import Schedule, cosine
from metavoxel.inference.samplers import Denoiser


def all_subsets(names: Iterable[str]) -> list[tuple[str, ...]]:
    names = tuple(names)
    return [s for k in range(len(names) + 1) for s in itertools.combinations(names, k)]


@dataclass(frozen=True, eq=False)
class Toy:
    """shapes and labels in the order of the dimensions; table (*K,), mean (C, D), cov (C, D, D)."""

    shapes: dict[str, tuple[int, ...]]
    labels: dict[str, int]
    table: Tensor
    mean: Tensor
    cov: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.shapes, *self.labels)

    @cached_property
    def cells(self) -> dict[str, Tensor]:
        """The one-hot label of every cell of the table, (C, K), for each categorical."""
        index = torch.cartesian_prod(*[torch.arange(k) for k in self.labels.values()])
        index = index.view(-1, len(self.labels))
        return {
            v: torch.nn.functional.one_hot(index[:, i], k).double()
            for i, (v, k) in enumerate(self.labels.items())
        }

    def dims(self, names: Collection[str]) -> Tensor:
        """Which of the D dimensions belong to the named variables."""
        sizes = [torch.Size(s).numel() for s in self.shapes.values()]
        ends = list(itertools.accumulate(sizes))
        spans = zip(self.shapes, sizes, ends, strict=True)
        chosen = [torch.arange(e - n, e) for v, n, e in spans if v in names]
        return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long)

    def draw(self, n: int, generator: torch.Generator) -> State:
        """n records, z_0 of every variable, float32 as the model holds them."""
        cell = torch.multinomial(self.table.flatten(), n, replacement=True, generator=generator)
        noise = torch.randn((n, self.mean.shape[1]), generator=generator, dtype=torch.float64)
        x = self.mean[cell] + (torch.linalg.cholesky(self.cov)[cell] @ noise[..., None])[..., 0]
        out = {v: x[:, self.dims([v])].view(n, *s).float() for v, s in self.shapes.items()}
        return out | {v: onehot[cell].float() for v, onehot in self.cells.items()}

    def features(self, z: State, names: Collection[str]) -> Tensor:
        """The named variables as one vector per record: values and one-hot labels, (n, F)."""
        columns = [z[v].double().flatten(1) for v in self.names if v in names]
        return torch.cat(columns, 1)

    def columns(self, asked: Collection[str]) -> dict[str, slice]:
        """Where each asked variable lies in `features`."""
        sizes = {v: torch.Size(s).numel() for v, s in self.shapes.items()} | self.labels
        kept = [v for v in self.names if v in asked]
        ends = list(itertools.accumulate(sizes[v] for v in kept))
        return {v: slice(e - sizes[v], e) for v, e in zip(kept, ends, strict=True)}

    def conditional(self, known: State, asked: Collection[str]) -> tuple[Tensor, Tensor]:
        """Mean (n, F) and covariance (n, F, F) of the asked features given the known values.

        The mean of a one-hot label is its probability.
        """
        n = len(next(iter(known.values()))) if known else 1
        k, a = self.dims(known), self.dims(asked)
        log_weight = self.table.flatten().log().expand(n, -1)
        for v in self.labels.keys() & known.keys():
            log_weight = log_weight + (known[v].double() @ self.cells[v].T).log()
        mean, cov = self.mean[:, a].expand(n, -1, -1), self.cov[:, a][:, :, a]
        if len(k):
            x = self.features(known, known.keys() & self.shapes.keys())
            within = torch.distributions.MultivariateNormal(
                self.mean[:, k], self.cov[:, k][:, :, k]
            )
            log_weight = log_weight + within.log_prob(x[:, None])
            gain = self.cov[:, a][:, :, k] @ torch.linalg.inv(self.cov[:, k][:, :, k])
            mean = mean + torch.einsum("cak,nck->nca", gain, x[:, None] - self.mean[:, k])
            cov = cov - gain @ self.cov[:, k][:, :, a]
        onehots = [self.cells[v] for v in self.labels if v in asked]
        mean = torch.cat([mean, *[o.expand(n, *o.shape) for o in onehots]], -1)
        weight = log_weight.softmax(-1)
        first = torch.einsum("nc,ncf->nf", weight, mean)
        second = torch.einsum("nc,ncf,ncg->nfg", weight, mean, mean)
        second[:, : len(a), : len(a)] += torch.einsum("nc,cab->nab", weight, cov)
        return first, second - first[:, :, None] * first[:, None, :]

    def density(self, process: JointForward, z: State, t: Times) -> Tensor:
        """log q(z_t) of a noisy state, one time per variable, (n,)."""
        return self._cells_given(process, z, t)[0].logsumexp(-1)

    def denoiser(self, process: JointForward) -> Denoiser:
        """The one that a perfect training would give: E[z_0 | z_t], every conditional exact."""

        def denoise(z: State, t: Times, asked: Collection[str]) -> State:
            log_weight, mean = self._cells_given(process, z, t)
            weight = log_weight.softmax(-1)
            x0 = torch.einsum("nc,ncd->nd", weight, mean)
            out: State = {}
            for v in asked:
                said = weight @ self.cells[v] if v in self.labels else x0[:, self.dims([v])]
                out[v] = said.view(len(said), *process.shapes[v]).float()
            return out

        return denoise

    def _cells_given(self, process: JointForward, z: State, t: Times) -> tuple[Tensor, Tensor]:
        """log p(cell, z_t), (n, C), and E[x_0 | cell, z_t], (n, C, D).

        Within a cell, z_t = A x_0 + B noise is Gaussian, with A and B diagonal; at t = 0 it is x_0.
        """
        # The samplers move all records together: one covariance then serves them all.
        t = {v: time[:1] if bool((time == time[0]).all()) else time for v, time in t.items()}
        signal, spread = self._amplitudes(process, t)
        x = self.features(z, self.shapes.keys())
        # S (T or n, C, D, D) is the covariance of z_t within a cell.
        cross = self.cov * signal[:, None, None, :]
        noisy = signal[:, None, :, None] * cross + torch.diag_embed(spread**2)[:, None]
        root = torch.linalg.cholesky(noisy)
        white = torch.linalg.solve_triangular(root, torch.eye(x.shape[1]).double(), upper=False)
        residual = torch.einsum("ncde,nce->ncd", white, x[:, None] - signal[:, None] * self.mean)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_2pi = x.shape[1] * math.log(2 * math.pi)
        log_weight = self.table.flatten().log()
        log_weight = log_weight - (residual.square().sum(-1) + log_det + log_2pi) / 2
        mean = self.mean + torch.einsum("ncde,nce->ncd", cross @ white.mT, residual)
        for v in self.labels:
            p = process.variables[v]
            assert isinstance(p, CategoricalForward)
            a = p.schedule.alpha_bar(t[v]).double()[:, None, None]
            q = a * self.cells[v] + (1 - a) / p.K  # (1 or n, C, K)
            log_weight = log_weight + (q * z[v].double()[:, None]).sum(-1).log()
        return log_weight, mean

    def _amplitudes(self, process: JointForward, t: Times) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of every dimension, (1 or n, D)."""
        a = [
            process.variables[v]
            .schedule.alpha_bar(t[v])
            .double()[:, None]
            .expand(-1, len(self.dims([v])))
            for v in self.shapes
        ]
        rows = max(len(x) for x in a)
        bar = torch.cat([x.expand(rows, -1) for x in a], 1)
        return bar.sqrt(), (1 - bar).sqrt()


def make_toy() -> Toy:
    """Scales as the encoders leave them: image latents of std about 1, scalars of about 0.5."""
    generator = torch.Generator().manual_seed(7)
    cells, dims = 6, 6
    sex = torch.tensor([0, 0, 0, 1, 1, 1.0]).double()
    diagnosis = torch.tensor([0, 1, 2, 0, 1, 2.0]).double()
    # image (4 dims), age, weight: what one step of a label adds, and what the factors load on.
    by_sex = torch.tensor([0.5, -0.3, 0.0, 0.4, 0.0, 0.5]).double()
    by_diagnosis = torch.tensor([0.2, 0.3, -0.4, 0.0, 0.25, -0.1]).double()
    load = torch.tensor(
        [[0.6, 0.5, -0.6, 0.4, 0.42, 0.15], [0.4, -0.4, 0.2, 0.5, 0.0, 0.25]]
    ).double()
    mean = sex[:, None] * by_sex + diagnosis[:, None] * by_diagnosis
    mean = mean - mean.mean(0)
    own = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.2, 0.3]).double()
    tilt = 0.15 * torch.randn((cells, 2, dims), generator=generator, dtype=torch.float64)
    factors = load + tilt  # the covariance, too, depends on the labels
    cov = factors.mT @ factors + torch.diag(own**2)
    table = torch.tensor([[0.25, 0.15, 0.08], [0.30, 0.12, 0.10]]).double()
    return Toy(
        {"image": (1, 2, 2), "age": (1,), "weight": (1,)},
        {"sex": 2, "diagnosis": 3},
        table,
        mean,
        cov,
    )


def make_line(correlation: float, spread: float = 1.0, evidence: int = 1) -> Toy:
    """`evidence` scalars and `age`, each of std `spread`; each correlates with age as given."""
    names = [f"marker{i}" for i in range(evidence)]
    load = torch.full((1, evidence), abs(correlation) ** 0.5, dtype=torch.float64)
    cov = load.mT @ load
    cov.fill_diagonal_(1.0)
    across = torch.full((evidence, 1), correlation, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    cov = torch.cat([torch.cat([cov, across], 1), torch.cat([across.T, one], 1)])
    return Toy(
        dict.fromkeys((*names, "age"), (1,)),
        {"coin": 2},
        torch.tensor([0.5, 0.5]).double(),
        torch.zeros(2, evidence + 1, dtype=torch.float64),
        (spread**2 * cov).expand(2, -1, -1).contiguous(),
    )


def make_process(
    toy: Toy,
    zero_snr: bool = True,
    T: int = 1000,
    schedule: Schedule | None = None,
) -> JointForward:
    """The default schedules: images have their own. With a `schedule` all Gaussians follow it;
    without zero terminal SNR, as epsilon needs, the default without its rescaling."""
    of_images = cosine(T) if schedule is None and zero_snr else schedule
    schedule = schedule or ScheduleConfig(zero_terminal_snr=zero_snr).build(T)
    categorical = cosine(schedule.T)
    return JointForward(
        {
            v: GaussianForward((len(shape) > 1 and of_images) or schedule)
            for v, shape in toy.shapes.items()
        }
        | {v: CategoricalForward(categorical, k) for v, k in toy.labels.items()},
        toy.shapes | {v: (k,) for v, k in toy.labels.items()},
    )


def only(z: State, names: Sequence[str]) -> State:
    return {v: z[v] for v in names}


def regression(samples: Tensor, mean: Tensor, cov: Tensor) -> tuple[float, float]:
    """Slope of the samples on E[asked | known], and the variance about that line over the truth."""
    x, m = samples[:, 0] - samples[:, 0].mean(), mean[:, 0] - mean[:, 0].mean()
    slope = float((x * m).mean() / (m * m).mean())
    return slope, float((x - slope * m).var() / cov[:, 0, 0].mean())
