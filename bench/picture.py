"""The results as a picture: a hand-made SVG, bars of the main cases and curves of growth, all on logarithmic scales."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from bench.cases_single import DURABLE, TOGETHER
from bench.measure import DECENT, FLOOR, NAIVE, NAIVE_FAN, OURS, Result

WIDTH, LEFT, RIGHT = 960, 300, 130
COLOURS = {
    OURS: "#1f5fa8", DURABLE: "#4a90d9", TOGETHER: "#8fbce8", NAIVE: "#c8553d", NAIVE_FAN: "#d98c5f", DECENT: "#e0b45c",
    FLOOR: "#8a949e",
}  # fmt: skip
BAR, GAP = 15, 14
MAIN = (
    ("fan-out/shared/in-app/100000", "fan-out to 100,000, in-app"),
    ("fan-out/own/in-app/100000", "the same, own contexts"),
    ("fan-out/shared/with mail/100000", "fan-out to 100,000, with mail"),
    ("single/queued/in-app/4", "single, already queued, in-app"),
    ("single/queued/with mail/4", "single, already queued, with mail"),
    ("single/running/in-app", "single, publishers running"),
    ("enqueue/many", "enqueue many"),
    ("mail/near", "mails of one process"),
    ("mail/far", "mails, 10 ms round trip"),
)
PLOT_HEIGHT = 190


class Canvas:
    """Shapes from top to bottom."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = 34.0

    def text(
        self, x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", colour: str = "#222"
    ) -> None:
        """One line of words."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
            f"{escape(words)}</text>"
        )

    def rect(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        """A polyline."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        """A point of a curve."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def svg(self) -> str:
        """The whole."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y:.0f}" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
            f'<rect width="{WIDTH}" height="{self.y:.0f}" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def short(value: float) -> str:
    """A number for a label."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def main_cases(results: Mapping[str, Result]) -> list[tuple[str, Result]]:
    """What is there of them; in place of a size that was not measured the largest one that was."""
    shown = []
    for key, label in MAIN:
        kind, _, size = key.rpartition("/")
        measured = [int(k.rpartition("/")[2]) for k in results if size.isdigit() and k.rpartition("/")[0] == kind]
        if key not in results and measured:
            key, label = f"{kind}/{max(measured)}", label.replace(f"{int(size):,}", f"{max(measured):,}")
        if key in results and results[key].values:
            shown.append((label, results[key]))
    return shown


def bars(canvas: Canvas, results: Mapping[str, Result]) -> None:
    """The main cases, a bar for each contender, longer is better."""
    shown = main_cases(results)
    if not shown:
        return
    values = [found.median(name) or 1 for _, found in shown for name in found.values if name in COLOURS]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    span = WIDTH - LEFT - RIGHT

    def at(value: float) -> float:
        return LEFT + span * math.log(max(value, low) / low) / max(math.log(high / low), 1e-9)

    canvas.text(20, canvas.y, "How many per second, logarithmic: each step is ten times more", size=17)
    canvas.y += 22
    _legend(canvas, [name for name in COLOURS if any(name in found.values for _, found in shown)])
    top = canvas.y
    for label, found in shown:
        names = [name for name in COLOURS if name in found.values]
        canvas.text(LEFT - 12, canvas.y + len(names) * BAR / 2 + 4, label, anchor="end")
        for name in names:
            value = found.median(name) or 0
            canvas.rect(LEFT, canvas.y, max(at(value) - LEFT, 2), BAR - 2, COLOURS[name])
            times = found.times(name, NAIVE) if name != NAIVE else None
            words = short(value) + (f"  ({short(times)}x)" if times and name not in (FLOOR,) else "")
            canvas.text(at(value) + 6, canvas.y + BAR - 4, words, size=11, colour="#444")
            canvas.y += BAR
        canvas.y += GAP
    grid = [10**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    lines = Canvas()
    for value in grid:
        lines.line([(at(value), top - 4), (at(value), canvas.y - GAP + 4)], "#e3e6ea")
        canvas.text(at(value), canvas.y + 4, short(value), size=11, anchor="middle", colour="#666")
    canvas.parts = lines.parts + canvas.parts
    canvas.y += 20
    canvas.text(20, canvas.y, "In brackets: times the hand-written worker.", size=12, colour="#666")
    canvas.y += 44


def _legend(canvas: Canvas, names: Sequence[str]) -> None:
    x = 20.0
    for name in names:
        width = 34 + 7.2 * len(name)
        if x + width > WIDTH - 20:
            x, canvas.y = 20.0, canvas.y + 20
        canvas.rect(x, canvas.y - 10, 12, 12, COLOURS[name])
        canvas.text(x + 18, canvas.y, name, size=12)
        x += width
    canvas.y += 22


Curves = Mapping[str, tuple[str, Sequence[tuple[float, float]]]]


def plot(canvas: Canvas, title: str, unit: str, curves: Curves) -> None:
    """Curves by name, each with its colour, on logarithmic axes."""
    points = [point for _, curve in curves.values() for point in curve]
    if len(points) < 2:
        return
    left, right = 90, WIDTH - 300
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    x_low, x_high = math.log10(min(xs)), math.log10(max(xs))
    y_low, y_high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    y_high = max(y_high, y_low + 1)
    canvas.text(20, canvas.y, title, size=17)
    top = canvas.y + 24
    bottom = top + PLOT_HEIGHT

    def at(point: Sequence[float]) -> tuple[float, float]:
        across = (math.log10(point[0]) - x_low) / max(x_high - x_low, 1e-9)
        up = (math.log10(point[1]) - y_low) / (y_high - y_low)
        return left + across * (right - left), bottom - up * PLOT_HEIGHT

    for power in range(y_low, y_high + 1):
        y = at((10**x_low, 10**power))[1]
        canvas.line([(left, y), (right, y)], "#e3e6ea")
        canvas.text(left - 8, y + 4, short(10**power), size=11, anchor="end", colour="#666")
    for x in sorted(set(xs)):
        canvas.text(at((x, 10**y_low))[0], bottom + 18, short(x), size=11, anchor="middle", colour="#666")
    canvas.text(left, top - 6, unit, size=11, colour="#666")
    lowest = 0.0
    for name, (colour, curve) in sorted(curves.items(), key=lambda item: -item[1][1][-1][1]):
        places = [at(point) for point in curve]
        canvas.line(places, colour, 2)
        for place in places:
            canvas.dot(*place, colour)
        lowest = max(places[-1][1] + 4, lowest + 15)
        canvas.text(right + 14, lowest, f"{name}: {short(curve[-1][1])}", size=12, colour=colour)
    canvas.y = bottom + 60


def audiences(results: Mapping[str, Result]) -> dict[str, tuple[str, list[tuple[float, float]]]]:
    """Microseconds per recipient, by audience."""
    kinds = {
        "in-app, shared context": ("shared/in-app", "#1f5fa8"),
        "in-app, own contexts": ("own/in-app", "#4a90d9"),
        "with mail, shared context": ("shared/with mail", "#c8553d"),
        "with mail, own contexts": ("own/with mail", "#d98c5f"),
    }
    curves = {}
    for name, (kind, colour) in kinds.items():
        found = {key: result for key, result in results.items() if key.startswith(f"fan-out/{kind}/")}
        points = [
            (float(key.rpartition("/")[2]), 1e6 / rate)
            for key, result in found.items()
            if (rate := result.median(OURS))
        ]
        if points:
            curves[name] = (colour, sorted(points))
    return curves


def growth(results: Mapping[str, Result]) -> dict[str, tuple[str, list[tuple[float, float]]]]:
    """Microseconds each, by rows in the table."""
    kinds = {
        "single": ("growth/single", "#c8553d"),
        "recipient of a fan-out": ("growth/fan-out", "#1f5fa8"),
        "first page": ("growth/page", "#6b8e23"),
        "unseen count": ("growth/unseen", "#7a5aa6"),
    }
    curves = {}
    for name, (key, colour) in kinds.items():
        if (found := results.get(key)) and found.curve:
            cost = [(x, 1e6 / y if found.better == "more" else 1e3 * y) for x, y in found.curve]
            curves[name] = (colour, cost)
    return curves


def draw(results: Mapping[str, Result]) -> str:
    """The whole picture."""
    canvas = Canvas()
    bars(canvas, results)
    plot(canvas, "Fan-out: cost of each recipient, by the number of recipients", "microseconds", audiences(results))
    plot(canvas, "Growth: cost of one more, by rows in the table", "microseconds", growth(results))
    return canvas.svg()
