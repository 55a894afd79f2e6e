"""The method in one picture and four sentences, for a reader who has never heard of it."""

INTRODUCTION = (
    "LAPA learns robot skills from video that carries no action labels. First, a small "
    "autoencoder (LAQ) looks at two frames a moment apart and must squeeze what changed between "
    "them into one of a few discrete codes: latent actions. Second, a vision-language model "
    "learns to predict these codes from a single image and an instruction, so it learns what to "
    "do next without ever seeing a robot command. Third, a few episodes with real actions teach "
    "it what each intention means in this robot's own units, and the result is driven in closed "
    "loop in the simulator."
)

_PROMPT = "image + instruction"
_STAGES = (
    ("1", "Quantise", "two frames", "LAQ", "latent action codes", "no labels"),
    ("2", "Pretrain", _PROMPT, "vision-language model", "predicted codes", "no labels"),
    ("3", "Finetune", _PROMPT, "model + action head", "robot actions", "few labels"),
)
_WIDTH, _GAP = 260, 60


def picture() -> str:
    """The three stages as inline SVG in the page's colours."""
    boxes = "".join(_box(i * (_WIDTH + _GAP), *stage) for i, stage in enumerate(_STAGES))
    arrows = _arrow(0, "codes as labels") + _arrow(1, "weights")
    return (
        '<svg class="flow" viewBox="0 0 900 209" role="img" aria-label="LAPA in three stages: '
        'quantise frame pairs, pretrain on codes, finetune on actions">'
        "<style>.flow text{font:13px var(--sans);fill:var(--ink)}.flow .dim{fill:var(--muted)}"
        ".flow .big{font-size:16px;font-weight:650}.flow .mid{text-anchor:middle}"
        ".flow .small{font-size:10.5px}"
        ".flow .box{fill:var(--tint);stroke:var(--line)}.flow .model{fill:var(--series0)}"
        ".flow .onmodel{fill:var(--page);font-weight:600}.flow .line{fill:none;stroke:var(--muted);"
        f"stroke-width:1.5}}.flow .head{{fill:var(--muted)}}</style>{boxes}{arrows}</svg>"
    )


def _box(x: int, index: str, verb: str, source: str, model: str, target: str, labels: str) -> str:
    middle = x + _WIDTH / 2
    return (
        f'<rect class="box" x="{x + 0.5}" y=".5" width="{_WIDTH - 1}" height="207" rx="12"/>'
        f'<text class="big" x="{x + 18}" y="31">{index}  {verb}</text>'
        f'<text class="dim" x="{x + _WIDTH - 18}" y="31" text-anchor="end">{labels}</text>'
        f'<text class="mid" x="{middle}" y="70">{source}</text>{_down(middle, 78)}'
        f'<rect class="model" x="{x + 36}" y="98" width="{_WIDTH - 72}" height="36" rx="8"/>'
        f'<text class="mid onmodel" x="{middle}" y="121">{model}</text>{_down(middle, 138)}'
        f'<text class="mid" x="{middle}" y="176">{target}</text>'
    )


def _down(x: float, y: float) -> str:
    return (
        f'<path class="line" d="M{x} {y}v10"/><path class="head" d="M{x - 4} {y + 9}h8l-4 7z"/>'
    )


def _arrow(index: int, label: str) -> str:
    """From stage `index` to the next, in the gap between the boxes."""
    start = (index + 1) * _WIDTH + index * _GAP + 4
    end, middle = start + _GAP - 8, start + _GAP / 2 - 4
    words = label.split(" ", 1)
    lines = "".join(
        f'<tspan x="{middle}" dy="{0 if i == 0 else 12}">{word}</tspan>'
        for i, word in enumerate(words)
    )
    return (
        f'<path class="line" d="M{start} 116H{end - 6}"/>'
        f'<path class="head" d="M{end - 7} 112v8l7-4z"/>'
        f'<text class="mid dim small" y="{118 - 12 * len(words)}">{lines}</text>'
    )
