"""The lab's Markdown: the table of methods beside the lecture's, its evidence, and the distances."""

from __future__ import annotations

import math

import torch

from gankernels.lab import distances, dynamics
from gankernels.lab.dynamics import RADIUS, STEP, STEPS, Evidence
from gankernels.lab.games import BOWL, DIRAC, GAMES, MEAN
from gankernels.lab.methods import CLIP, GAMMA, LAMBDA, METHODS, SIGMA, closed_form, norm_method, r1_method
from gankernels.lab.progress import Curve

YES = {True: "yes", False: "no"}


def evidence() -> list[Evidence]:
    """Every method on every game that decides the table."""
    return [dynamics.examine(m, g, closed_form(m.name, g)) for m in METHODS for g in GAMES]


def verdicts(found: list[Evidence]) -> dict[str, tuple[bool, bool]]:
    """{method: (absolutely continuous, general)}: it converges on every game of the column."""
    return {
        method.name: tuple(
            all(e.converges for e in found if e.method is method and e.game.continuous == column)
            for column in (True, False)
        )
        for method in METHODS
    }


def write(found: list[Evidence], curves: list[Curve]) -> str:
    """All of it."""
    parts = (_table(found), _games(), _cells(found), _r1(), _large_steps(), _dragan(), _distances(), _progress(curves))
    return "\n\n".join(parts) + "\n"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _table(found: list[Evidence]) -> str:
    computed, rows, differ = verdicts(found), [], []
    for method in METHODS:
        cells = [method.name]
        for ours, lecture in zip(computed[method.name], method.lecture, strict=True):
            cells.append(YES[ours] if ours == lecture else f"**{YES[ours]}** (lecture: {YES[lecture]})")
        differ += [method.name] * (computed[method.name] != method.lecture)
        rows.append(cells)
    said = f"They differ on {', '.join(differ)}; both sides are below." if differ else "They agree in every cell."
    return f"""# Which methods converge

Written by `gankernels lab --out docs`; the pictures beside it too. Local convergence of gradient descent of both
players, computed on small games: the methods are the functions of `gankernels.losses` that training uses, derivatives
are autograd's. Where nothing else is said a cell equals the lectures' table.

{_rows(["method", "absolutely continuous", "general"], rows)}

{said}
A "yes" says: on both games of the column; it is evidence, no proof. A "no" says: not on all of them, and one is enough.

![Vector fields](convergence-fields.png)"""


def _games() -> str:
    rows = [[g.name, "absolutely continuous" if g.continuous else "general", g.title] for g in (*GAMES, BOWL)]
    return f"""## The games

{_rows(["game", "column", "what"], rows)}

Expectations are means over fixed points of equal weight (64 quantiles of a normal, 16 heights of a segment). The last
game serves DRAGAN's row alone. G's loss is the saturating one, so that the game is zero-sum as in the lectures; at the
equilibrium the non-saturating one has the same Jacobian. Strengths: R1 and R2 gamma {GAMMA:g}, Roth and ConOpt 1, noise
of deviation {SIGMA:g}, norm penalties {LAMBDA:g}, WGAN's weights clipped to +-{CLIP:g}. Strengths, the step and
the distance that trajectories start at are set by hand. Eigenvalues say what holds for any small step; where they do
not exist, a verdict from trajectories is one of these settings."""


def _cells(found: list[Evidence]) -> str:
    rows = []
    for e in found:
        smooth = e.values is not None
        rows.append(
            [
                e.method.name,
                e.game.name,
                _numbers(e.values) if smooth else "not smooth there",
                "" if e.closed is None else _numbers(e.closed),
                f"{dynamics.largest_step(e.values):.2f}" if smooth else "",
                *(f"{ratio:.0e}" for ratio in e.shrunk),
                YES[e.converges],
            ]
        )
    head = ["method", "game", "eigenvalues, autograd", "by hand", "largest step", "simultaneous", "alternating", ""]
    return f"""## Cell by cell

Eigenvalues are those of the Jacobian of both players' descent at the equilibrium; all must lie left of the imaginary
axis. The largest step is that below which simultaneous updates contract, min 2 |Re| / |lambda|^2; 0: none does. Then
the largest ratio of last to first distance from the equilibrium over {dynamics.STARTS} trajectories that start
{RADIUS:g} away ({STEPS} steps of {STEP:g}); at most {dynamics.CONVERGED:g} counts as converged. Penalties on norms are
not smooth where the gradient vanishes, so trajectories alone judge them; on the Dirac-GAN they come to rest beside the
data, at |theta| = 2 lambda (WGAN-GP) and 4 lambda (DRAGAN), where penalty and loss balance on one side of psi = 0.

{_rows(head, rows)}

By hand, for the Dirac-GAN: f is the logistic f(t) = -log(1 + exp(-t)) with f'(0) = 1/2, f''(0) = -1/4. Unregularised
-+f'(0) i; WGAN -+i; instance noise f''(0) s^2 +- sqrt(f''(0)^2 s^4 - f'(0)^2); ConOpt -g f'(0)^2 +- f'(0) i; Roth
-g/4 +- sqrt(g^2/16 - f'(0)^2); R1, R2 -g/2 +- sqrt(g^2/4 - f'(0)^2)."""


def _r1() -> str:
    rows = []
    for gamma in (0.25, 0.5, 2.0, 4.0):
        found = dynamics.eigenvalues(dynamics.jacobian(DIRAC, r1_method(gamma), DIRAC.equilibrium))
        forms = [_pair(gamma, under) for under in (gamma**2 / 4, gamma / 4)]
        rows.append([f"{gamma:g}", _numbers(found), *map(_numbers, forms)])
    head = ["g", "autograd", "-g/2 +- sqrt(g^2/4 - f'(0)^2)", "as printed: -g/2 +- sqrt(g/4 - f'(0)^2)"]
    return f"""## R1's eigenvalues: g^2/4 under the root

With D(x) = psi x the penalty is g/2 psi^2, so the descent of psi has -g psi more: the Jacobian at 0 is
[[0, f'(0)], [-f'(0), -g]], its characteristic polynomial lambda^2 + g lambda + f'(0)^2, and
lambda = -g/2 +- sqrt(g^2/4 - f'(0)^2). The slide prints g/4 under the root; computed:

{_rows(head, rows)}"""


def _pair(gamma: float, under: float) -> torch.Tensor:
    root = torch.sqrt(torch.tensor(under - 0.25, dtype=torch.complex128))
    return torch.stack([-gamma / 2 - root, -gamma / 2 + root])


def _large_steps() -> str:
    rows = []
    for method in METHODS:
        if not method.smooth:
            continue
        matrix = dynamics.jacobian(DIRAC, method, DIRAC.equilibrium)
        most = dynamics.largest_step(dynamics.eigenvalues(matrix))
        near, cells = dynamics.starts(DIRAC, distance=1e-4), []
        for part in (0.9, 1.1):
            if most:
                path, _ = dynamics.trajectories(DIRAC, method, near, part * most, 200)
                cells.append(f"{dynamics.ratio(DIRAC, path):.0e}")
            else:
                cells.append("")
        turning = dynamics.radius(DIRAC, matrix, 0.1, alternating=True)
        rows.append([method.name, f"{most:.3f}", *cells, f"{turning:.4f}"])
    head = ["method", "largest step", "at 0.9 of it", "at 1.1 of it", "radius of alternating steps of 0.1"]
    return f"""## Small steps converge, large ones do not

The Dirac-GAN, simultaneous: ratio of last to first distance over 200 updates that start 0.0001 away. Unregularised GAN
and WGAN converge at no step: every simultaneous update leads outwards, alternating ones turn in place (radius 1).

{_rows(head, rows)}

![Step sizes](convergence-steps.png)"""


def _dragan() -> str:
    rows = []
    for weight, step, count in ((0.1, 0.1, 500), (1.0, 0.1, 500), (10.0, 0.01, 2000)):
        path, _ = dynamics.trajectories(MEAN, norm_method("DRAGAN", weight), dynamics.starts(MEAN), step, count)
        late = path.norm(dim=2)[count // 2 :]
        rows.append([f"{weight:g}", f"{step:g}", f"{late.min():.2f} to {late.max():.2f}"])
    flat, _ = dynamics.trajectories(MEAN, norm_method("DRAGAN", target=0.0), dynamics.starts(MEAN))
    bowl = []
    for name in ("DRAGAN", "WGAN-GP"):
        for lean in (-1.0, 1.0):
            method = norm_method(name)
            path, _ = dynamics.trajectories(BOWL, method, dynamics.starts(BOWL, around=_bowl(lean)), steps=600)
            end = path[-1].mean(0)
            far = path[-1, :, :2].norm(dim=1).max()
            values = ""
            if far < 1e-2:
                end[:2] = 0
                values = _numbers(dynamics.eigenvalues(dynamics.jacobian(BOWL, method, end)))
            bowl.append([name, f"{lean:+g}", f"{far:.1e}", f"{end[2]:+.2f}", values])
    head = [
        "method",
        "psi2 starts near",
        "last distance of (theta, psi1) from 0",
        "psi2 at the end",
        "eigenvalues there",
    ]
    return f"""## DRAGAN: where the computation and the table part

Against the table: on the Gaussian mean game, whose distributions have densities, DRAGAN does not converge. With a
target norm k = 1 the penalty is lambda (|psi| - 1)^2: at psi = 0, the only discriminator that leaves the generator at
rest, it falls by 2 lambda |psi| to either side, however small lambda is, and no curvature of the logistic loss
outweighs a kink. Distance from the equilibrium over the second half of simultaneous trajectories:

{_rows(["lambda", "step", "distance from the equilibrium"], rows)}

With target norm 0 the kink is gone, and the same trajectories shrink to {dynamics.ratio(MEAN, flat):.0e} of their first
distance.

For the table: DRAGAN does converge with densities where the discriminator can have slopes of norm near 1 and still pull
the generator nowhere. The bowl game has such a one, D about -(sqrt(1 + x^2) - 1): the generator rests at theta = 0,
and the penalty itself damps psi1. It takes a start on that side; on the other, where D rises outwards, it does not
settle:

{_rows(head, bowl)}

WGAN-GP settles there too, which takes nothing from its "no": that says there are games where it does not. So DRAGAN's
"yes" holds of games and starts like these, not of all with densities; its cell is "no" by the rule of the table."""


def _bowl(lean: float) -> torch.Tensor:
    return torch.tensor([0.0, 0.0, 1.3 * lean], dtype=torch.float64)


def _distances() -> str:
    rows = []
    for shift in (0.0, 1.0, 2.0, 3.0, 4.0, 10.0):
        moved = distances.worked_example(shift)
        jsd = distances.divergence_of_example(shift)
        rows.append([f"{shift:g}", f"{moved.cost:.6f}", f"{moved.dual + 0.0:.6f}", f"{jsd:.6f}"])
    _, p, q = distances.two_normals()
    found, value = distances.optimal_discriminator(p, q)
    off = (found - p / (p + q)).abs().max()
    identity = 2 * distances.jensen_shannon(p, q) - math.log(4)
    return f"""## Distances

Masses 1/4, 1/2, 1/4 at 0, 1, 2, and the same moved by a shift. From shift 3 on the supports are disjoint: W1 = 3 there
and goes on growing with the shift, JSD stays at log 2 = {math.log(2):.6f} and its gradient is 0. The plan and the
Kantorovich-Rubinstein dual come out of two linear programs.

{_rows(["shift", "W1, by the plan", "W1, by the dual", "JSD"], rows)}

The best discriminator between N(-1, 1) and N(1, 0.49), found by minimising the logistic loss, differs from p / (p + q)
by at most {off:.0e}; its value {value:.9f} is 2 JSD - log 4 = {identity:.9f}.

![Distances](convergence-distances.png)"""


def _progress(curves: list[Curve]) -> str:
    rows = [[c.objective, str(c.seed), f"{c.agreement:.2f}"] for c in curves]
    return f"""## The loss as a measure of progress

A dense generator learns two bumps in the plane, five discriminator steps to each of its own, with learning rate and
penalty set by hand and seeds as they come; the picture shows seed 0. Rank correlation, over the generator's steps, of
minus the discriminator's loss with the exact W1 between samples and data:

{_rows(["objective", "seed", "rank correlation"], rows)}

Mode collapse on a ring of eight Gaussians, and what R1 and WGAN-GP do to it: `gankernels lab --only ring`;
[convergence-ring.md](convergence-ring.md)."""


def _numbers(values: torch.Tensor) -> str:
    """Complex numbers to three places, conjugates as one."""
    said = []
    for v in values.tolist():
        real, imaginary = round(v.real, 3) + 0.0, round(abs(v.imag), 3)
        one = f"{real:.3f}" if imaginary == 0 else f"{real:.3f} +- {imaginary:.3f}i"
        if imaginary == 0 or one not in said:
            said.append(one)
    return ", ".join(said)
