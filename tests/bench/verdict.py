"""Whether a target is met, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.figure import BEST_PEER, OURS, Figure, Target


def verdict(target: Target, figure: Figure, medians: Mapping[tuple[str, str], float]) -> str:
    """The target, what there is, and whether that is enough; `medians` are by (measure, system)."""
    measure = next(measure for measure in figure.measures if measure.name == target.measure)
    bound = f"{measure.name} {'≥' if measure.higher_is_better else '≤'} {target.bound:,g}"
    ours = medians.get((measure.name, OURS))
    if target.of is None and target.system is None:
        asked, unit, base = f"{bound} {measure.unit}", f" {measure.unit}", 1.0
    else:
        of, system = target.of or measure.name, target.system or OURS
        other = of if system == OURS else f"{system}'s" if of == measure.name else f"{of} of {system}"
        asked, unit = f"{bound} × {other}", " ×"
        if system == BEST_PEER:
            peers = [value for (name, peer), value in medians.items() if name == of and peer != OURS]
            found = (max if measure.higher_is_better else min)(peers, default=None)
        else:
            found = medians.get((of, system))
        if found is None:
            return f"{asked}: not known without that one"
        base = found
    if ours is None:
        return f"{asked}: not known, as it was not measured"
    reached = ours / base
    met = reached >= target.bound if measure.higher_is_better else reached <= target.bound
    return f"{asked}: {reached:,.2f}{unit}, {'met' if met else 'not met'}"
