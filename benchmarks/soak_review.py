"""A reviewer for `soak.py`: decides about every label by `a2s review`, until all are decided.

    python benchmarks/soak_review.py LABELS DATA

What the server has confirmed is written to LABELS/confirmed.txt, and must be there whenever the
server starts again. Exit codes: 0 all is decided, 3 the server ended before, 4 a decision is lost.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

VERDICTS = ("accepted", "rejected", "fixed")


class Reviewer:
    """The only client of a server."""

    def __init__(self, labels: Path, data: Path) -> None:
        self.confirmed = labels / "confirmed.txt"
        command = [sys.executable, "-m", "a2s", "review", str(labels), "--data", str(data)]
        self.server = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        assert self.server.stdout is not None
        found = re.search(r":(\d+)/\S*token=([^\s;]+)", self.server.stdout.readline())
        if found is None:
            raise OSError("no server")
        self.connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        self.token = found[2]

    def ask(self, path: str, body: object = None) -> bytes:
        """The body of an answer."""
        headers = {"X-A2S-Token": self.token, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        how = "GET" if body is None else "POST"
        self.connection.request(how, path, body=content, headers=headers)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {said[:300]!r}")
        return said

    def decide_all(self) -> bool:
        """Decide about the rows without decision; return whether none is lost."""
        before = self.confirmed.read_text().split("\n") if self.confirmed.exists() else []
        query = json.loads(self.ask("/api/find"))["query"]
        found = json.loads(self.ask(f"/api/rows?query={query}&first=0&count=500"))
        rows: list[dict[str, Any]] = found["rows"]
        rows.sort(key=lambda row: row["row"])
        for row in rows:
            if row["state"] == "undecided" and row["name"] in before:
                return False
            if row["state"] == "undecided":
                self._decide(row)
            if row["name"] not in before:
                with self.confirmed.open("a") as file:
                    file.write(f"{row['name']}\n")
        return True

    def _decide(self, row: dict[str, Any]) -> None:
        verdict = VERDICTS[row["row"] % 3]
        body = {"row": row["row"], "version": row["version"], "verdict": verdict}
        if verdict == "fixed":
            inverse = bytes(255 - byte for byte in self.ask(f"/mask/{row['row']}"))
            body["mask_bits"] = base64.b64encode(inverse).decode()
        self.ask("/api/decide", body)


def main() -> int:
    try:
        reviewer = Reviewer(Path(sys.argv[1]), Path(sys.argv[2]))
        if not reviewer.decide_all():
            print("a confirmed decision is lost", file=sys.stderr)
            return 4
    except (OSError, http.client.HTTPException):
        return 3
    reviewer.server.send_signal(signal.SIGINT)
    return reviewer.server.wait(60)


if __name__ == "__main__":
    sys.exit(main())
