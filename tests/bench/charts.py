"""The figures of the benchmark as two drawings (SVG), which docs/performance.md shows."""

from html import escape

WIDTH, LEFT, ROW, GAP = 860, 330, 18, 10
COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#e45756")
STYLE = "text{font:12px sans-serif;fill:#444}.t{font-weight:bold;font-size:14px}.g{stroke:#bbb;stroke-dasharray:3 3}"


def _svg(height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
            f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>' + "".join(parts) + "</svg>\n")


def _text(x, y, text, kind="", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(str(text))}</text>'


def bars(path, title, series, groups):
    """`groups`: (name, one value for each of the series, None for one that was not measured)."""
    most = max(value for _, values in groups for value in values if value)
    scale = (WIDTH - LEFT - 60) / most
    height = 64 + len(groups) * (ROW * len(series) + GAP)
    parts = [_text(10, 22, title, "t")]
    for at, name in enumerate(series):
        parts += [f'<rect x="{LEFT + 150 * at}" y="32" width="12" height="12" fill="{COLORS[at]}"/>', _text(LEFT + 150 * at + 18, 43, name)]
    one = LEFT + scale
    parts.append(f'<line class="g" x1="{one:.0f}" y1="52" x2="{one:.0f}" y2="{height - 8}"/>')
    y = 56
    for name, values in groups:
        parts.append(_text(LEFT - 8, y + 13 + ROW * (len(series) - 1) / 2, name, anchor="end"))
        for at, value in enumerate(values):
            if value:
                parts.append(f'<rect x="{LEFT}" y="{y + 2}" width="{value * scale:.1f}" height="{ROW - 4}" fill="{COLORS[at]}"/>')
                parts.append(_text(LEFT + value * scale + 5, y + 13, f"{value:.2f}"))
            y += ROW
        y += GAP
    path.write_text(_svg(height, parts))


def lines(path, title, panels):
    """`panels`: (what is counted, [(name, [(how many, relative cost)])])."""
    across, width, height = 2, WIDTH // 2, 230
    parts = [_text(10, 22, title, "t")]
    for number, (what, series) in enumerate(panels):
        x0, y0 = (number % across) * width + 55, 50 + (number // across) * height
        points = [point for _, one in series for point in one]
        places = sorted({count for count, _ in points})
        most = max(2.0, max(value for _, value in points) * 1.1)
        step = (width - 190) / max(1, len(places) - 1)
        down = (height - 70) / most

        def at(count, value):
            return x0 + places.index(count) * step, y0 + (height - 70) - value * down

        parts.append(_text(x0, y0 - 6, what))
        for value in range(0, int(most) + 1, max(1, int(most) // 4)):
            y = at(places[0], value)[1]
            parts += [f'<line class="g" x1="{x0}" y1="{y:.0f}" x2="{x0 + width - 190}" y2="{y:.0f}"/>', _text(x0 - 8, y + 4, value, anchor="end")]
        parts += [_text(at(count, 0)[0], y0 + height - 52, f"{count:,}", anchor="middle") for count in places]
        for color, (name, one) in zip(COLORS, series):
            path_of = " ".join("{:.0f},{:.0f}".format(*at(*point)) for point in one)
            parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{path_of}"/>')
            parts += ['<circle cx="{:.0f}" cy="{:.0f}" r="3" fill="{}"/>'.format(*at(*point), color) for point in one]
            parts.append(f'<text x="{x0 + width - 182}" y="{at(*one[-1])[1] + 4:.0f}" style="fill:{color}">{escape(name)}</text>')
    path.write_text(_svg(60 + height * ((len(panels) + across - 1) // across), parts))
