"""Turn the tracks of one camera into what happens in its zones and on its lines.

Knows no queue, no process and no pixel; what is asked for is declared in view.py.
"""

from streamer.analytics.analytics import Analytics, Sight
from streamer.analytics.totals import Counters, Totals

__all__ = ["Analytics", "Counters", "Sight", "Totals"]
