"""Makes tests/models/golden_counts.json: parameters and multiply-adds of every registered network.

Look at the difference before you commit it: what changes here is another network.

    python scripts/make_golden_counts.py
"""

import json
from pathlib import Path

from cnnjax.models import names
from cnnjax.models.summary import summarise

if __name__ == "__main__":
    counts = {}
    for name in names():
        summary = summarise(name)
        counts[name] = {"parameters": summary.parameters, "multiply_adds": summary.macs}
    path = Path(__file__).parents[1] / "tests" / "models" / "golden_counts.json"
    path.write_text(json.dumps(counts, indent=1) + "\n")
