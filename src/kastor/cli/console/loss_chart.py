"""Draws the loss curve in the terminal."""

from collections.abc import Sequence

from kastor.cli.client.messages import Step

MAX_WIDTH = 78
HEIGHT = 14
NUM_TICKS = 4
MAX_POINTS = 400  # beyond this, several steps share a point, which is their mean


def loss_chart(steps: Sequence[Step], width: int) -> str:
    """A chart of the mean loss per step, at most `width` columns wide; empty for fewer than two steps."""
    if len(steps) < 2:
        return ""
    import plotext  # slow to import

    points = _averaged_points(steps)
    figure = plotext.figure
    figure.clear()  # the library has one figure per process
    figure.theme("colorless")
    figure.plot_size(min(width, MAX_WIDTH), HEIGHT)
    figure.draw(figure.signal([x for x, _ in points], [y for _, y in points], marker="braille").lines())
    first, last, most = points[0][0], points[-1][0], max(y for _, y in points)
    heights = [most * part / NUM_TICKS for part in range(NUM_TICKS + 1)]
    places = [round(first + (last - first) * part / NUM_TICKS) for part in range(NUM_TICKS + 1)]
    figure.ruler("y").lim(0, most).ticks(heights, [f"{height:.2f}" for height in heights])
    figure.ruler("x").ticks(places, [str(place) for place in places])
    figure.axes(False, side=1)
    figure.title("mean loss per step")
    chart = str(figure.build().string(colorless=True))
    return "\n".join(line.rstrip() for line in chart.splitlines())


def _averaged_points(steps: Sequence[Step]) -> list[tuple[float, float]]:
    group = -(-len(steps) // MAX_POINTS)
    groups = [steps[i : i + group] for i in range(0, len(steps), group)]
    return [(some[-1].step, sum(step.mean_loss for step in some) / len(some)) for some in groups]
