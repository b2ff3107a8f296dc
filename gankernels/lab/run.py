"""`gankernels lab`: computes and writes everything."""

from __future__ import annotations

from pathlib import Path

from gankernels.errors import ConfigError, need

PARTS = ("convergence", "ring")


def lab(out: Path, part: str = "convergence") -> list[Path]:
    """Write a part's Markdown and pictures into a folder; returns their paths.

    Args:
        out: made where it is missing.
        part: "convergence": the table of methods, distances and progress (about a minute on one core). "ring": mode
            collapse on a ring of Gaussians, with several seeds (a minute and a half).

    Raises: ConfigError for another part or a folder that cannot be; MissingDependency without scipy or matplotlib.
    """
    if part not in PARTS:
        raise ConfigError(f"only must be one of {', '.join(PARTS)}, got {part!r}")
    need("matplotlib", "lab")
    need("scipy", "lab")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {out} ({error.strerror}); name another folder with --out") from error
    return _convergence(out) if part == "convergence" else _ring(out)


def _convergence(out: Path) -> list[Path]:
    from gankernels.lab import figures, progress, report

    curves = [progress.curve(objective, seed=seed) for objective in ("wgan-gp", "gan-ns") for seed in range(3)]
    text = out / "convergence.md"
    text.write_text(report.write(report.evidence(), curves), encoding="utf-8")
    return [
        text,
        figures.fields(out / "convergence-fields.png"),
        figures.steps(out / "convergence-steps.png"),
        figures.distances_and_progress(out / "convergence-distances.png", [one for one in curves if one.seed == 0]),
    ]


def _ring(out: Path) -> list[Path]:
    from gankernels.lab import figures, ring

    runs = ring.compare()
    text = out / "convergence-ring.md"
    text.write_text(ring.write(runs), encoding="utf-8")
    return [text, figures.ring(out / "convergence-ring.png", runs)]
