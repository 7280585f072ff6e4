"""Plots as SVG: bars, and lines on two logarithmic axes. No more than the bench needs.

Colours are told apart by the colour-blind (Okabe and Ito); the background is white, since pages may be dark.
"""
import html
import math

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#666666", "#8a6d00", "#000000")
WIDTH = 900
FONT = 'font-family="DejaVu Sans, Arial, sans-serif" font-size="13"'


def text(x, y, content, anchor="start", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{html.escape(content)}</text>'


def line(x1, y1, x2, y2, colour="#cccccc", width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def document(height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" {FONT}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>\n"])


def short(value):
    """A number with as many digits as one reads."""
    if value >= 1000 and value < 1e5:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def bars(title, unit, groups):
    """Groups of (label, value, least, most, colour); a group is (heading, bars). One scale for all."""
    left, right, top, step = 250, 90, 50, 24
    most = max(bar[3] for _, rows in groups for bar in rows)
    scale = (WIDTH - left - right) / most
    parts, y = [text(16, 26, title, extra='font-weight="bold" font-size="16"')], top
    below = top + sum(34 + step * len(rows) for _, rows in groups)
    for tick in ticks(most):
        x = left + tick * scale
        parts += [line(x, top, x, below), text(x, below + 18, f"{tick:g}", "middle")]
    for heading, rows in groups:
        parts.append(text(16, y + 20, heading, extra='font-weight="bold"'))
        y += 28
        for label, value, least, greatest, colour in rows:
            middle = y + step / 2
            width = max(value * scale, 1)
            parts.append(f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="{step - 6}" fill="{COLOURS[colour]}"/>')
            if greatest > least:
                parts += [line(left + least * scale, middle, left + greatest * scale, middle, "#333333", 2)]
            parts += [text(left - 8, middle + 4, label, "end"), text(left + max(width, greatest * scale) + 8, middle + 4, short(value))]
            y += step
        y += 6
    parts += [line(left, top, left, below, "#333333"), text((left + WIDTH - right) / 2, below + 38, unit, "middle")]
    return document(below + 52, parts)


def ticks(most):
    """About six round numbers from 0."""
    raw = most / 6
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [step * number for number in range(int(most / step) + 1)]


def lines(title, across, unit, series):
    """Lines of (x, y) by name, both axes logarithmic; names stand at their lines' ends, apart from each other."""
    left, right, top, bottom, height = 70, 230, 50, 60, 560
    points = [point for _, row in series for point in row]
    low_x, high_x = min(x for x, _ in points) / 1.15, max(x for x, _ in points) * 1.05
    low_y = 10 ** math.floor(math.log10(min(y for _, y in points)))
    high_y = 10 ** math.ceil(math.log10(max(y for _, y in points)))

    def place(x, y):
        along = math.log(x / low_x) / math.log(high_x / low_x)
        up = math.log(y / low_y) / math.log(high_y / low_y)
        return left + along * (WIDTH - left - right), height - bottom - up * (height - top - bottom)

    parts = [text(16, 26, title, extra='font-weight="bold" font-size="16"')]
    for exponent in range(round(math.log10(low_y)), round(math.log10(high_y)) + 1):
        _, y = place(low_x, 10**exponent)
        parts += [line(left, y, WIDTH - right, y), text(left - 8, y + 4, f"{10 ** exponent:g}", "end")]
    for x in sorted({x for x, _ in points}):
        at, _ = place(x, low_y)
        parts += [line(at, top, at, height - bottom), text(at, height - bottom + 20, f"{x:,}", "middle")]
    parts += [text((left + WIDTH - right) / 2, height - 14, across, "middle"), text(left, top - 8, unit)]
    labels = []
    for number, (name, row) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(x, y) for x, y in row]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        labels.append([places[-1][1], places[-1], f"{name}: {short(row[-1][1])}", colour])
    previous = top - 20
    for label in sorted(labels, key=lambda label: label[0]):
        y = max(label[0], previous + 18)
        previous = y
        x = WIDTH - right + 24
        parts += [line(label[1][0] + 4, label[1][1], x - 4, y, label[3]), text(x, y + 4, label[2], extra=f'fill="{label[3]}"')]
    return document(height, parts)
