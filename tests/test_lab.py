"""The lab: eigenvalues against those by hand, trajectories, distances, and the page that it wrote."""

import math
from pathlib import Path

import pytest
import torch

from gankernels.cli import main
from gankernels.errors import ConfigError
from gankernels.lab import distances, dynamics, lab, progress, report, ring
from gankernels.lab.games import BOWL, DIRAC, GAMES, MEAN, SEGMENTS
from gankernels.lab.methods import METHODS, Method, closed_form, norm_method, plain, r1_method
from gankernels.lab.toy import ToyRun

BY_NAME = {method.name: method for method in METHODS}
DOCS = Path(__file__).parents[1] / "docs"


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("game", [DIRAC, MEAN], ids=lambda game: game.name)
@pytest.mark.parametrize("name", [method.name for method in METHODS if method.smooth])
def test_eigenvalues_are_those_by_hand(name, game):
    found = dynamics.eigenvalues(dynamics.jacobian(game, BY_NAME[name], game.equilibrium))
    torch.testing.assert_close(found.real, closed_form(name, game).real, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.imag, closed_form(name, game).imag, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.25, 2.0, 4.0])
def test_r1_has_the_square_under_the_root(gamma):
    found = dynamics.eigenvalues(dynamics.jacobian(DIRAC, r1_method(gamma), DIRAC.equilibrium))
    root = torch.sqrt(torch.tensor(gamma**2 / 4 - 0.25, dtype=torch.complex128))
    expected = dynamics.eigenvalues(torch.diag(torch.stack([-gamma / 2 - root, -gamma / 2 + root])))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_field_of_the_dirac_gan():
    state = draw(5, 2)
    theta, psi = state.T
    slope = torch.sigmoid(theta * psi)
    expected = torch.stack([psi * slope, -theta * slope], 1)
    torch.testing.assert_close(dynamics.field(DIRAC, BY_NAME["unregularised"], state), expected)
    r1 = expected - torch.stack([0 * psi, 0.5 * psi], 1)
    torch.testing.assert_close(dynamics.field(DIRAC, r1_method(0.5), state), r1)
    squares = (slope**2 * (theta**2 + psi**2)).sum()
    assert squares > 0
    consensus = dynamics.field(DIRAC, BY_NAME["ConOpt"], state) - expected
    leaf = state.clone().requires_grad_()
    a, b = leaf.T
    total = (torch.sigmoid(a * b) ** 2 * (a**2 + b**2)).sum() / 2
    torch.testing.assert_close(consensus, -torch.autograd.grad(total, leaf)[0])


@pytest.mark.parametrize("game", [*GAMES, BOWL], ids=lambda game: game.name)
def test_the_equilibrium_generates_the_data(game):
    theta, _ = game.split(game.equilibrium[None])
    torch.testing.assert_close(game.generate(theta)[0], game.points)
    if game is not BOWL:
        still = [m for m in METHODS if m.smooth]
        assert all(dynamics.field(game, m, game.equilibrium[None]).abs().max() < 1e-12 for m in still)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_copies_are_played_apart(method):
    states = draw(3, 4) * 0.3
    together = dynamics.field(SEGMENTS, method, states)
    apart = torch.cat([dynamics.field(SEGMENTS, method, state[None]) for state in states])
    torch.testing.assert_close(together, apart)


def test_non_saturating_has_the_same_jacobian():
    other = Method("ns", lambda play: plain(play, "gan-ns"), (True, False))
    for game in GAMES:
        jacobians = [dynamics.jacobian(game, m, game.equilibrium) for m in (BY_NAME["unregularised"], other)]
        torch.testing.assert_close(*jacobians)


def test_small_steps_converge_and_large_ones_do_not():
    matrix = dynamics.jacobian(DIRAC, r1_method(), DIRAC.equilibrium)
    most = dynamics.largest_step(dynamics.eigenvalues(matrix))
    assert most == pytest.approx(2.0)
    near = dynamics.starts(DIRAC, distance=1e-4)
    small, large = (dynamics.trajectories(DIRAC, r1_method(), near, part * most, 100)[0] for part in (0.8, 1.2))
    assert dynamics.ratio(DIRAC, small) < 1e-2
    assert dynamics.ratio(DIRAC, large) > 1e2
    for step, below in ((1.9, True), (2.1, False)):
        assert (dynamics.radius(DIRAC, matrix, step, alternating=False) < 1) == below
    free = dynamics.jacobian(DIRAC, BY_NAME["unregularised"], DIRAC.equilibrium)
    assert dynamics.largest_step(dynamics.eigenvalues(free)) == 0
    assert dynamics.radius(DIRAC, free, 0.1, alternating=False) > 1
    assert dynamics.radius(DIRAC, free, 0.1, alternating=True) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "game", "converges"),
    [("unregularised", DIRAC, False), ("R1", DIRAC, True), ("WGAN", MEAN, False), ("DRAGAN", MEAN, False)],
)
def test_verdicts(name, game, converges):
    assert dynamics.examine(BY_NAME[name], game).converges == converges


def test_dragan_without_its_kink_converges_and_so_it_does_in_a_bowl():
    path, _ = dynamics.trajectories(MEAN, norm_method("DRAGAN", target=0.0), dynamics.starts(MEAN), steps=400)
    assert dynamics.ratio(MEAN, path) < 0.05
    start = dynamics.starts(BOWL, around=torch.tensor([0.0, 0.0, -1.3], dtype=torch.float64))
    path, _ = dynamics.trajectories(BOWL, norm_method("DRAGAN"), start, steps=400)
    assert path[-1, :, :2].norm(dim=1).max() < 1e-2


def test_transport():
    example = distances.worked_example()
    assert example.cost == pytest.approx(3)
    assert example.dual == pytest.approx(3)
    torch.testing.assert_close(example.plan.sum(1), torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64))
    torch.testing.assert_close(example.plan.sum(0), torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64))
    assert example.potential.diff().abs().max() <= 1 + 1e-9
    x, y = torch.tensor([0.0, 4.0]).double(), torch.tensor([1.0, 2.0]).double()
    half = torch.tensor([0.5, 0.5]).double()
    assert distances.transport(x, half, y, half).cost == pytest.approx(0.5 * 1 + 0.5 * 2)


def test_jensen_shannon_saturates():
    assert [distances.divergence_of_example(s) for s in (3.0, 10.0)] == pytest.approx([math.log(2)] * 2)
    assert distances.divergence_of_example(0.0) == pytest.approx(0, abs=1e-12)
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.0, 0.5, 0.5]).double()
    assert distances.jensen_shannon(p, q) == pytest.approx(math.log(2) / 2)


def test_the_best_discriminator():
    _, p, q = distances.two_normals(41)
    found, value = distances.optimal_discriminator(p, q)
    torch.testing.assert_close(found, p / (p + q))
    assert value == pytest.approx(2 * distances.jensen_shannon(p, q) - math.log(4))


def test_progress_and_ranks():
    assert progress.rank_correlation(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.5, 0.6])) == pytest.approx(1)
    assert progress.rank_correlation(torch.arange(9.0), -torch.arange(9.0)) == pytest.approx(-1)
    a, b = torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.tensor([[5.0, 3.0], [0.0, 1.0]])
    assert progress.wasserstein_of_samples(a, b) == pytest.approx(2)
    curve = progress.curve("wgan-gp", 40)
    assert curve.gain.shape == curve.distance.shape == (20,)


def test_modes_are_counted(tmp_path):
    generator = torch.Generator().manual_seed(0)
    assert ring.modes_of(ring.draw(2000, generator)) == (8, pytest.approx(1, abs=0.02))
    one = ring.centres()[:1].expand(500, -1)
    assert ring.modes_of(one) == (1, 1.0)
    assert ring.modes_of(one * 0.5) == (0, 0.0)
    runs = ring.compare(16, (3, 5), {"a": ToyRun("gan-ns", hidden=8, batch=8)})
    assert [run.seed for run in runs] == [3, 5]
    assert [moment[0] for moment in runs[0].moments] == [1, 2, 4, 8, 16]
    assert not runs[0].moments[-1][1].equal(runs[1].moments[-1][1])
    pytest.importorskip("matplotlib")
    from gankernels.lab import figures

    assert figures.ring(tmp_path / "ring.png", runs).stat().st_size > 1000
    assert figures.steps(tmp_path / "steps.png", sizes=(0.5, 1.8, 2.2)).stat().st_size > 1000
    text = ring.write(runs)
    assert "| a | 3 | 0 | 0 | 0 | 0 | 0 | 0% |" in text
    assert "- a: after 16 steps 0 of 8 modes; all of them in 0 of 2 runs" in text


def test_the_ring_loses_modes_unregularised_and_keeps_them_with_r1():
    """The page says so of every seed that was run."""
    lines = (DOCS / "convergence-ring.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    found = {}
    for title, seed, *modes, _ in cells[2:]:
        found.setdefault(title, {})[int(seed)] = int(modes[-1])
    assert set(found) == set(ring.RUNS)
    assert all(set(seeds) == {0, 1, 2, 3} for seeds in found.values())
    plain, r1 = (list(found[title].values()) for title in list(ring.RUNS)[:2])
    assert max(plain) < min(r1)
    assert (DOCS / "convergence-ring.png").exists()


def test_the_page_holds_every_cell_and_agrees_with_itself():
    text = (DOCS / "convergence.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    cells = {(row[0], row[1]): row[-1] for row in rows if len(row) == 8 and row[0] in BY_NAME}
    assert set(cells) == {(m.name, g.name) for m in METHODS for g in GAMES}
    for method in METHODS:
        (verdict,) = [row[1:] for row in rows if row[0] == method.name and len(row) == 3]
        for said, lecture, column in zip(verdict, method.lecture, (True, False), strict=True):
            ours = all(cells[method.name, g.name] == "yes" for g in GAMES if g.continuous == column)
            expected = (
                report.YES[ours] if ours == lecture else f"**{report.YES[ours]}** (lecture: {report.YES[lecture]})"
            )
            assert said == expected
    for name in ("fields", "steps", "distances"):
        assert f"](convergence-{name}.png)" in text
        assert (DOCS / f"convergence-{name}.png").exists()


def test_bad_input(tmp_path, capsys):
    with pytest.raises(ConfigError, match="only must be one of convergence, ring, got 'rings'"):
        lab(tmp_path, "rings")
    (tmp_path / "file").write_text("")
    assert main(["lab", "--out", str(tmp_path / "file" / "x"), "--only", "ring"]) == 2
    assert "cannot write to" in capsys.readouterr().err
