"""What happened in a seed, for people: a timeline as text, and as a sequence diagram (SVG).

Not for: telling what is wrong; violations are events like others, in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from syncpoint.simulation.world import Event

EVENTS_MAX = 400
"""A diagram of more is none."""
_COLUMN, _ROW, _TOP, _LEFT = 190, 18, 46, 80
_LOUD = ("fault", "checker", "run")


def select(
    events: Sequence[Event], *, about: str = "", since_s: float = 0.0, until_s: float = float("inf")
) -> list[Event]:
    """Events in a stretch of time that name `about`; faults, healing and violations in it always belong to it."""
    return [
        event
        for event in events
        if since_s <= event.at_s <= until_s
        and (not about or event.who in _LOUD or about in event.what or about in event.who)
    ]


def lines(events: Sequence[Event]) -> Iterator[str]:
    """One line an event."""
    width = max((len(event.who) for event in events), default=0)
    for event in events:
        what = f"{event.what} --> {event.to}" if event.to else event.what
        mark = "!!" if event.who == "checker" else "**" if event.who in _LOUD else "  "
        yield f"{event.at_s:11.6f} {mark} {event.who:<{width}}  {what}"


def svg(events: Sequence[Event], title: str) -> str:
    """A sequence diagram: a line for each process and server, an arrow for each request, from top to bottom. Of more
    than EVENTS_MAX events, the last."""
    shown = list(events)[-EVENTS_MAX:]
    left_out = len(events) - len(shown)
    actors = _actors(shown)
    width, height = _LEFT + _COLUMN * max(1, len(actors)), _TOP + 30 + _ROW * (len(shown) + 1)
    note = f" (the first {left_out} events are left out)" if left_out else ""
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="11">',
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">',
        '<path d="M0,0 L7,3 L0,6 z" fill="#456"/></marker></defs>',
        f'<rect {size} fill="white"/>',
        f'<text x="8" y="16" font-size="13">{escape(title + note)}</text>',
    ]
    for actor, x in actors.items():
        parts.append(f'<text x="{x}" y="36" text-anchor="middle" font-weight="bold">{escape(actor)}</text>')
        parts.append(f'<line x1="{x}" y1="42" x2="{x}" y2="{height}" stroke="#ccd"/>')
    for row, event in enumerate(shown):
        parts += _row(event, actors, _TOP + 16 + _ROW * row, width)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _actors(events: Sequence[Event]) -> dict[str, int]:
    names: dict[str, None] = {}
    for event in events:
        for name in (event.who, event.to):
            if name and name not in _LOUD:
                names.setdefault(_place(name))
    return {name: _LEFT + _COLUMN // 2 + _COLUMN * number for number, name in enumerate(names)}


def _place(name: str) -> str:
    """A client stands in its process's line."""
    return name.partition(":")[0]


def _row(event: Event, actors: dict[str, int], y: int, width: int) -> Iterator[str]:
    text = escape(event.what)
    yield f'<text x="4" y="{y}" fill="#999">{event.at_s:.4f}</text>'
    if event.who in _LOUD:
        colour = "#c00" if event.who == "checker" else "#b60"
        yield f'<line x1="{_LEFT}" y1="{y - 4}" x2="{width}" y2="{y - 4}" stroke="{colour}" stroke-dasharray="3"/>'
        yield f'<text x="{_LEFT}" y="{y}" fill="{colour}">{text}</text>'
        return
    x = actors[_place(event.who)]
    if not event.to:
        yield f'<text x="{x + 5}" y="{y}">{text}</text>'
        return
    to = actors[_place(event.to)]
    yield f'<line x1="{x}" y1="{y}" x2="{to}" y2="{y}" stroke="#456" marker-end="url(#head)"/>'
    yield f'<text x="{(x + to) // 2}" y="{y - 3}" text-anchor="middle" fill="#456">{text}</text>'
