"""The command ``captioner serve``."""

import argparse
import importlib.util
import logging
import sys
from dataclasses import fields

from captioner.commands.model_options import add_model_options, check_model_options
from captioner.errors import OptionError
from captioner.serve.settings import BOUND, Limits, flag

_NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "fastapi_offline": "fastapi-offline",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Serve the page for pictures that you drop on it, and an HTTP API. Nothing is stored."
    parser.epilog = BOUND
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default 8000)")
    add_model_options(parser, default="default")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name that the server is called by, as behind a proxy; may be repeated",
    )
    parser.add_argument("--access-log", action="store_true", help="print a line for each request")
    limits = parser.add_argument_group("limits")
    for field in fields(Limits):
        limits.add_argument(
            flag(field.name),
            type=int,
            default=field.default,
            metavar="N",
            help=f"{field.metadata['help']} (default {field.default:,})",
        )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, and return 0. Raises CheckpointError, OptionError."""
    check_model_options(options)
    limits = Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})
    missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise OptionError(f"the server needs {', '.join(missing)}", remedy="pip install 'captioner[serve]'")
    from captioner.serve.server import listen

    with listen(options.host, options.port) as sock:
        from captioner.serve.app import create_app
        from captioner.serve.connections import Connections
        from captioner.serve.guard import hosts_of
        from captioner.serve.models import Models
        from captioner.serve.server import make_server, serve_until_signal
        from captioner.serve.service import Service

        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs each damaged form
        models = Models(
            options.model,
            device=options.device,
            backend=options.backend,
            threads=options.threads,
            map_heads=options.map_heads or "",
        )
        service = Service(models, limits)
        # Where it listens, not what it was called: 127.1 and ip6-localhost are loopback too.
        app = create_app(service, hosts=hosts_of(sock.getsockname()[0], options.allow_host, name=options.host))
        shown = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{shown}:{sock.getsockname()[1]}/"
        print(f"captioner: serving on {address} (Ctrl-C stops)", file=sys.stderr, flush=True)
        server = make_server(app, Connections(limits.max_connections), access_log=options.access_log)
        serve_until_signal(server, service, sock)
    return 0
