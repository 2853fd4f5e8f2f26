"""`a2s review`: look at labels in a browser; accept, reject or fix them."""

from __future__ import annotations

import secrets

from a2s.config.servers import ReviewConfig
from a2s.labels.review import FILE_NAME
from a2s.parallel.progress import say

HOST = "127.0.0.1"


def run(config: ReviewConfig) -> int:
    """Answer the browser until Ctrl-C; decisions are on disk when the page shows them.

    Raises:
        DataError: a folder is missing or unfinished, they are no pair, or a decision is wrong.
        ConfigError: the port is in use.
    """
    from a2s.evaluation.listening import listen, open_socket
    from a2s.evaluation.review.app import make_app
    from a2s.evaluation.review.desk import Desk
    from a2s.evaluation.review.guard import Guard

    desk = Desk(config.labels, config.data)
    token = secrets.token_urlsafe(24)
    listener = open_socket("review", HOST, config.port)
    port = listener.getsockname()[1]
    decided = len(desk) - desk.counts()["undecided"]

    def started() -> None:
        say(f"review: {len(desk):,} labels, {decided:,} of them decided; Ctrl-C ends")
        print(f"review: open http://{HOST}:{port}/?token={token}", flush=True)

    listen(Guard(make_app(desk), token=token, port=port), listener, started=started)
    counts = desk.counts()
    listed = ", ".join(f"{counts[name]:,} {name}" for name in ("accepted", "rejected", "fixed"))
    print(f"review: {listed}, in {config.labels / FILE_NAME}")
    return 0
