"""`a2s serve`: answer images that are sent by HTTP with their saliency map or cut-out."""

from __future__ import annotations

from a2s.config.servers import ServeConfig
from a2s.parallel.progress import say

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


def run(config: ServeConfig) -> int:
    """Answer until Ctrl-C.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: the port is in use, or the machine has no such address.
    """
    from a2s.data.isolation import isolated
    from a2s.evaluation.listening import is_loopback, listen, open_socket
    from a2s.evaluation.service import MAX_PIXELS, make_service
    from a2s.models.bundled import find_model
    from a2s.models.predict import new_step

    network, _ = find_model(config.model)
    listener = open_socket("serve", config.host, config.port)
    port = listener.getsockname()[1]
    step = new_step(network, MAX_PIXELS)
    hosts = LOCAL_NAMES if is_loopback(config.host) else None
    app = make_service(step, model=str(config.model), hosts=hosts)
    shown = f"[{config.host}]" if ":" in config.host else config.host

    def started() -> None:
        print(f"serve: {config.model} at http://{shown}:{port}; Ctrl-C ends", flush=True)
        if hosts is None:
            say(
                "serve: whoever reaches this address may use it; put a proxy in front for passwords"
            )

    # A codec that crashes or hangs costs only its request.
    with isolated():
        listen(app, listener, started=started)
    say("serve: ended")
    return 0
