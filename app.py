"""LSSGen Studio's web page: `python app.py`, then open the address it prints.

Defaults and bounds come from the Spacefile. GRADIO_SERVER_NAME and GRADIO_SERVER_PORT are honoured, as on a Hugging
Face Space.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from dataclasses import replace

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of loading models
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # its downloads cannot be stopped

from lssgen.options import add_placement
from lssgen.spacefile import SpacefileError, read

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(argv: list[str] | None = None) -> int:
    """Build the page, launch it, and warm the model up behind it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    host, port = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", os.environ.get("GRADIO_SERVER_PORT") or None
    parser.add_argument("--host", default=host, help="address to listen on (127.0.0.1, or GRADIO_SERVER_NAME)")
    parser.add_argument(
        "--port", type=int, default=port, help="port (the first free one from 7860 on, or GRADIO_SERVER_PORT)"
    )
    parser.add_argument("--model", help="'embedded', a diffusers folder or a hub id, in place of the Spacefile's")
    add_placement(parser)
    parser.add_argument("--no-warm-up", action="store_true", help="load the model at the first run only")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        config = read().app
    except SpacefileError as error:
        print(error, file=sys.stderr)
        return 1
    named = args.model not in (None, config.model)
    config = replace(config, model=args.model or config.model, allow_paths=config.allow_paths and is_private(args.host))

    print("LSSGen Studio is starting …", flush=True)
    from lssgen.ui.controls import default_request, fitting
    from lssgen.ui.layout import build_ui
    from lssgen.ui.models import Models
    from lssgen.ui.theme import CSS, theme

    try:
        models = Models(config.model, device=args.device, dtype=args.dtype, offload=args.offload)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    config = fitting(config, models.own(), named=named)
    page = build_ui(models, config).queue(max_size=config.queue)
    try:
        check_address(args.host, args.port or 0)
        _, address, _ = page.launch(
            server_name=args.host,
            server_port=args.port,
            theme=theme(),
            css=CSS,
            footer_links=["api", "settings"],
            run_history=False,
            show_error=True,
            ssr_mode=False,
            share=False,
            max_file_size="1mb",
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:  # a taken port, another machine's address, a port above 65535
        where = f"{args.host} port {args.port}" if args.port else args.host
        why = " ".join(str(error).split())
        print(f"No page at {where} ({why}). Name another --port or --host, or leave them out.", file=sys.stderr)
        return 1
    print(f"LSSGen Studio is at {address}", flush=True)
    if not args.no_warm_up:
        models.warm_up(default_request(config))
    page.block_thread()
    return 0


def check_address(host: str, port: int) -> None:
    """Raise OSError if nothing can listen there (0: any port); Gradio itself tries a hundred ports at a wrong host."""
    for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            with socket.create_server(address[:2], family=family):
                return
        except OSError as error:
            failure = error
    raise failure


def is_private(host: str) -> bool:
    """Whether only people on this machine reach the page; elsewhere visitors must not name this machine's paths."""
    return host in LOOPBACK and "SPACE_ID" not in os.environ


if __name__ == "__main__":
    sys.exit(main())
