"""`disk demo`: running the whole pipeline on photographs with ground truth."""

from __future__ import annotations

from disk.cli.app import run
from disk.errors import PartialFailureError
from disk.pipeline import demo as stage
from disk.pipeline.demo import DemoOptions
from disk.pipeline.demo.page import Facts, scene_facts, stereo_facts


def demo(options: DemoOptions = DemoOptions()) -> None:
    """Match a real stereo pair and reconstruct a scene of twelve views, offline, and compare both with ground truth.

    The photographs come with scikit-image. Writes pictures, a 3D model and a report.

    Args:
        options: Options of the demo.
    """
    result = stage.demo(options)
    _print("A real stereo pair (Middlebury motorcycle)", stereo_facts(result.stereo))
    _print(f"A rendered scene of {result.scene.views} views", scene_facts(result.scene))
    print(f"\nDone in {result.seconds:.0f} s. Open these:")
    print(f"  {result.report}  everything on one page")
    print(f"  {result.stereo.matches_picture}  the matches of the stereo pair")
    if result.scene.model is None:
        raise PartialFailureError(f"the scene could not be reconstructed: {result.scene.problem}")
    print(f"  {options.output / 'scene' / 'model' / 'points.ply'}  the 3D points")


def _print(title: str, facts: Facts) -> None:
    print(f"\n{title}")
    width = max(len(what) for what, _ in facts)
    for what, value in facts:
        print(f"  {what:<{width}}  {value}")


def main(argv: list[str]) -> int:
    run(demo, argv, "demo", "disk demo --output disk-demo")
    return 0
